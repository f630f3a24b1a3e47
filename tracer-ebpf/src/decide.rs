//! What a probe makes of registers and memory: pure functions, run in the kernel and tested on the host.

use crate::abi::{
    CONFIG_CAPTURE_TEXT, CrashEvent, EventHeader, FLAG_NO_GOID, FLAG_PARTIAL, FLAG_PROCID_MATCHES,
    FLAG_SYSTEM_STACK, FLAG_TEXT_FAULTED, FLAG_VALUE_FAULTED, MAX_TEXT, NO_OFFSET, PlainEvent, Probe,
    ProcConfig, StackEvent,
};
use crate::walk::walk;

const GC_START: u8 = Probe::GcStart as u8;
const GC_MARK_END: u8 = Probe::GcMarkEnd as u8;
const GC_LIVE: u8 = Probe::GcLive as u8;
const GC_SWEEP: u8 = Probe::GcSweep as u8;
const STW_STOP: u8 = Probe::StwStop as u8;
const STW_START: u8 = Probe::StwStart as u8;
const GOPANIC: u8 = Probe::Gopanic as u8;
const FATALPANIC: u8 = Probe::Fatalpanic as u8;
const THROW: u8 = Probe::Throw as u8;
const FATAL: u8 = Probe::Fatal as u8;
const SIGPANIC: u8 = Probe::Sigpanic as u8;
const PROCRESIZE: u8 = Probe::Procresize as u8;
const FORCED_GC: u8 = Probe::ForcedGc as u8;
const SET_GC_PERCENT: u8 = Probe::SetGcPercent as u8;

/// Registers at a probe site, by their role in Go's `ABIInternal`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    /// Integer argument registers in order. amd64: rax, rbx, rcx, rdi, rsi; arm64: x0..x4.
    pub args: [u64; 5],
    /// The g of the current stack. amd64: r14; arm64: x28.
    pub g: u64,
    /// Program counter of the site.
    pub pc: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer of the *caller*: sites are placed before the callee sets up its own.
    pub bp: u64,
    /// Link register on arm64; on amd64 the return address is at `[sp]` and this is 0.
    pub lr: u64,
}

/// A read of the process's memory failed: not resident, or not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// Something done again and again.
pub trait Step {
    /// Does it once; `false` when there is no more to do.
    fn step(&mut self) -> bool;
}

/// The memory of the probed process, and the kernel's loop.
pub trait Memory {
    /// Takes at most `times` steps.
    fn repeat<S: Step>(times: u32, state: &mut S);

    /// Reads eight bytes.
    ///
    /// # Errors
    /// [`Fault`] if they are not resident.
    fn read_u64(&self, address: u64) -> Result<u64, Fault>;

    /// Reads four bytes.
    ///
    /// # Errors
    /// [`Fault`] if they are not resident.
    fn read_u32(&self, address: u64) -> Result<u32, Fault>;

    /// Reads two words, one behind the other.
    ///
    /// # Errors
    /// [`Fault`] if they are not resident.
    fn read_pair(&self, address: u64) -> Result<[u64; 2], Fault>;

    /// Reads four words, one behind the other: each call costs as much as the rest of a small decision.
    ///
    /// # Errors
    /// [`Fault`] if they are not resident.
    fn read_four(&self, address: u64) -> Result<[u64; 4], Fault>;

    /// Reads one byte.
    ///
    /// # Errors
    /// [`Fault`] if it is not resident.
    fn read_u8(&self, address: u64) -> Result<u8, Fault>;

    /// Reads the first `min(len, MAX_TEXT)` bytes of a text and returns how many.
    ///
    /// # Errors
    /// [`Fault`] if they are not resident.
    fn read_text(&self, address: u64, len: u64, into: &mut [u8; MAX_TEXT]) -> Result<u32, Fault>;
}

/// The address of a field. Wraps: a register may hold anything.
#[inline(always)]
pub(crate) const fn at(structure: u64, offset: u32) -> u64 {
    structure.wrapping_add(offset as u64)
}

/// The goroutine on whose behalf a probe hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// Its `*g`, 0 if none.
    pub g: u64,
    /// Its goid, 0 if none.
    pub goid: u64,
    /// `FLAG_` bits learned on the way.
    pub flags: u8,
}

/// Finds the goroutine: the g of the current stack, or on a system stack the one that its M runs.
///
/// Source: `getg` and `m.curg`, runtime/runtime2.go, Go 1.18 to 1.27.
#[inline(always)]
pub fn current<M: Memory>(registers: &Registers, tid: u32, config: &ProcConfig, memory: &M) -> Current {
    let mut current = Current { g: registers.g, goid: 0, flags: 0 };
    let Ok(m) = memory.read_u64(at(registers.g, config.g_m)) else {
        return Current { flags: FLAG_NO_GOID | FLAG_PARTIAL, ..Current::default() };
    };
    if memory.read_u64(at(m, config.m_procid)) == Ok(u64::from(tid)) {
        current.flags |= FLAG_PROCID_MATCHES;
    }
    let curg = memory.read_u64(at(m, config.m_curg)).unwrap_or(0);
    if curg != registers.g {
        current.flags |= FLAG_SYSTEM_STACK;
        current.g = curg;
    }
    if current.g == 0 {
        current.flags |= FLAG_NO_GOID;
        return current;
    }
    match memory.read_u64(at(current.g, config.g_goid)) {
        Ok(goid) => current.goid = goid,
        Err(Fault) => current.flags |= FLAG_NO_GOID | FLAG_PARTIAL,
    }
    current
}

/// Fills a record of registers.
#[inline(always)]
pub fn plain<M: Memory>(
    probe: u8,
    registers: &Registers,
    config: &ProcConfig,
    memory: &M,
    event: &mut PlainEvent,
) {
    let [a, b, c, d, e] = registers.args;
    event.args = [0; 5];
    match probe {
        GC_START => {
            match memory.read_u64(at(a, config.gc_heap_live)) {
                Ok(heap) => event.args[0] = heap,
                Err(Fault) => event.header.flags |= FLAG_PARTIAL,
            }
            event.args[1] = if config.gc_start_has_trigger == 1 { d & 0xff } else { u64::MAX };
            event.args[2] = b;
            event.args[3] = c;
        }
        GC_MARK_END => {
            event.args[0] = b;
            event.args[1] = c;
            // endCycle(now, procs, userForced bool), up to Go 1.26 (runtime/mgcpacer.go): of use where the start of
            // the cycle does not tell what set it off.
            event.args[2] = if config.gc_start_has_trigger == 1 { u64::MAX } else { d & 0xff };
        }
        GC_LIVE => event.args[0] = b,
        GC_SWEEP => event.args[0] = a & 0xff,
        STW_START => match config.stw_registers {
            2 => event.args = [a, b & 0xff, c, d, e],
            1 => event.args = [a, b & 0xff, c, 0, 0],
            _ => event.args[1] = u64::MAX,
        },
        _ => {}
    }
}

/// Fills the record of a goroutine's creation or exit from its `*g`.
///
/// At a creation site nobody can run the goroutine yet, and at an exit nobody has cleared it: the fields
/// are at rest.
#[inline(always)]
pub fn lifetime<M: Memory>(g: u64, config: &ProcConfig, memory: &M, is_exit: bool, event: &mut PlainEvent) {
    let mut partial = false;
    let mut read = |offset: u32| match memory.read_u64(at(g, offset)) {
        Ok(value) => value,
        Err(Fault) => {
            partial = true;
            0
        }
    };
    let goid = read(config.g_goid);
    // runtime/runtime2.go, `g`: parentGoid (since 1.21), gopc, ancestors, startpc lie next to each other up to 1.27, and
    // there is always something before gopc.
    let next_to_each_other = config.g_startpc == config.g_gopc.wrapping_add(16)
        && (config.g_parent_goid == NO_OFFSET || config.g_parent_goid.wrapping_add(8) == config.g_gopc);
    let (before, gopc, startpc) = if next_to_each_other {
        match memory.read_four(at(g, config.g_gopc).wrapping_sub(8)) {
            Ok([before, gopc, _, startpc]) => (before, gopc, startpc),
            Err(Fault) => {
                partial = true;
                (0, 0, 0)
            }
        }
    } else {
        let parent = if config.g_parent_goid == NO_OFFSET { 0 } else { read(config.g_parent_goid) };
        (parent, read(config.g_gopc), read(config.g_startpc))
    };
    let parent = if config.g_parent_goid == NO_OFFSET { 0 } else { before };
    event.args = [goid, gopc, startpc, 0, 0];
    event.header.goid = if is_exit { goid } else { parent };
    if partial {
        event.header.flags |= FLAG_PARTIAL;
    }
}

/// Fills a record with a stack.
#[inline(always)]
pub fn stacked<M: Memory>(
    probe: u8,
    registers: &Registers,
    current: &Current,
    config: &ProcConfig,
    memory: &M,
    event: &mut StackEvent,
) {
    event.args = match probe {
        STW_STOP if config.stop_has_reason == 1 => [registers.args[0] & 0xff, 0],
        STW_STOP => [u64::MAX, 0],
        PROCRESIZE | SET_GC_PERCENT => [i64::from(registers.args[0] as i32) as u64, 0],
        _ => [0, 0],
    };
    let mut flags = creation(current, config, memory, &mut event.gopc, &mut event.startpc);
    // GC's own two stops come with every cycle and always from the same place.
    if probe == STW_STOP && matches!(event.args[0], 1 | 2) {
        event.frames.len = 0;
        event.frames.user_from = 0;
    } else {
        flags |= walk(registers, current, config, memory, &mut event.frames);
    }
    event.header.flags |= flags;
}

#[inline(always)]
pub(crate) fn creation<M: Memory>(
    current: &Current,
    config: &ProcConfig,
    memory: &M,
    gopc: &mut u64,
    startpc: &mut u64,
) -> u8 {
    *gopc = 0;
    *startpc = 0;
    if current.g == 0 {
        return 0;
    }
    let mut flags = 0;
    match memory.read_u64(at(current.g, config.g_gopc)) {
        Ok(pc) => *gopc = pc,
        Err(Fault) => flags |= FLAG_PARTIAL,
    }
    match memory.read_u64(at(current.g, config.g_startpc)) {
        Ok(pc) => *startpc = pc,
        Err(Fault) => flags |= FLAG_PARTIAL,
    }
    flags
}

/// Fills the record of a panic, throw, fatal error or fault.
///
/// Constants that the process never touched are not resident and fault here; the flags say so, and user
/// space reads them from the ELF file.
#[inline(always)]
pub fn crash<M: Memory>(
    probe: u8,
    registers: &Registers,
    current: &Current,
    config: &ProcConfig,
    memory: &M,
    event: &mut CrashEvent,
) {
    let mut flags = creation(current, config, memory, &mut event.gopc, &mut event.startpc);
    event.type_ptr = 0;
    event.data_word = 0;
    event.value = [0; 2];
    event.text_ptr = 0;
    event.text_len = 0;
    event.text_captured = 0;
    match probe {
        GOPANIC => {
            event.type_ptr = registers.args[0];
            event.data_word = registers.args[1];
            flags |= panic_value(config, memory, event);
        }
        FATALPANIC => {
            let arg = at(registers.args[0], config.panic_arg);
            match (memory.read_u64(arg), memory.read_u64(at(arg, 8))) {
                (Ok(type_ptr), Ok(data)) => {
                    event.type_ptr = type_ptr;
                    event.data_word = data;
                    flags |= panic_value(config, memory, event);
                }
                _ => flags |= FLAG_PARTIAL | FLAG_VALUE_FAULTED,
            }
        }
        THROW | FATAL => {
            event.text_ptr = registers.args[0];
            event.text_len = registers.args[1];
        }
        _ => {}
    }
    if config.flags & CONFIG_CAPTURE_TEXT == 0 {
        event.data_word = 0;
        event.text_ptr = 0;
        event.text_len = 0;
    } else if event.text_len != 0 {
        match memory.read_text(event.text_ptr, event.text_len, &mut event.text) {
            Ok(captured) => event.text_captured = captured,
            Err(Fault) => flags |= FLAG_TEXT_FAULTED,
        }
    }
    event.signal = 0;
    event.fault_address = 0;
    event.fault_pc = 0;
    if current.g != 0 {
        let g = current.g;
        event.signal = memory.read_u32(at(g, config.g_sig)).unwrap_or(0);
        event.fault_address = memory.read_u64(at(g, config.g_sigcode1)).unwrap_or(0);
        event.fault_pc = memory.read_u64(at(g, config.g_sigpc)).unwrap_or(0);
    }
    flags |= walk(registers, current, config, memory, &mut event.frames);
    event.header.flags |= flags;
}

/// Longest panic text that is believed; beyond it the two words are not a string header.
const MAX_BELIEVED_TEXT: u64 = 1 << 30;

#[inline(always)]
fn panic_value<M: Memory>(config: &ProcConfig, memory: &M, event: &mut CrashEvent) -> u8 {
    if config.flags & CONFIG_CAPTURE_TEXT == 0 {
        return 0;
    }
    // Whether the data word points to a string is told by the type, which user space knows; the two words
    // are copied in any case, since the process will be gone by then.
    let (Ok(first), Ok(second)) = (memory.read_u64(event.data_word), memory.read_u64(at(event.data_word, 8)))
    else {
        return FLAG_VALUE_FAULTED;
    };
    event.value = [first, second];
    if first != 0 && second < MAX_BELIEVED_TEXT {
        event.text_ptr = first;
        event.text_len = second;
    }
    0
}

/// Whether a probe's record is a [`CrashEvent`].
#[must_use]
#[inline(always)]
pub const fn is_crash(probe: u8) -> bool {
    matches!(probe, GOPANIC | FATALPANIC | THROW | FATAL | SIGPANIC)
}

/// Whether a probe's record is a [`StackEvent`].
#[must_use]
#[inline(always)]
pub const fn is_stacked(probe: u8) -> bool {
    matches!(probe, STW_STOP | PROCRESIZE | FORCED_GC | SET_GC_PERCENT)
}

/// The header of a record.
#[inline(always)]
pub fn header(probe: u8, time_ns: u64, pid_tgid: u64, cpu: u32, sequence: u32) -> EventHeader {
    EventHeader {
        time_ns,
        goid: 0,
        tgid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        sequence,
        cpu: cpu as u16,
        probe,
        flags: 0,
    }
}

/// A process in a few words of memory, for tests.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use bytemuck::Zeroable as _;
    use std::collections::BTreeMap;

    /// Words of memory; anything else faults.
    #[derive(Default)]
    pub(crate) struct Fake(pub(crate) BTreeMap<u64, u64>, pub(crate) BTreeMap<u64, &'static [u8]>);

    impl Memory for Fake {
        fn repeat<S: Step>(times: u32, state: &mut S) {
            for _ in 0..times {
                if !state.step() {
                    break;
                }
            }
        }
        fn read_u64(&self, address: u64) -> Result<u64, Fault> {
            self.0.get(&address).copied().ok_or(Fault)
        }
        fn read_u32(&self, address: u64) -> Result<u32, Fault> {
            self.0.get(&address).map(|word| *word as u32).ok_or(Fault)
        }
        fn read_pair(&self, address: u64) -> Result<[u64; 2], Fault> {
            Ok([self.read_u64(address)?, self.read_u64(address.wrapping_add(8))?])
        }
        fn read_four(&self, address: u64) -> Result<[u64; 4], Fault> {
            let word = |i: u64| self.read_u64(address.wrapping_add(8 * i));
            Ok([word(0)?, word(1)?, word(2)?, word(3)?])
        }
        fn read_u8(&self, address: u64) -> Result<u8, Fault> {
            self.read_u64(address).map(|word| word as u8)
        }
        fn read_text(&self, address: u64, len: u64, into: &mut [u8; MAX_TEXT]) -> Result<u32, Fault> {
            let bytes = self.1.get(&address).ok_or(Fault)?;
            let len = (len as usize).min(MAX_TEXT);
            into[..len].copy_from_slice(&bytes[..len]);
            Ok(len as u32)
        }
    }

    pub(crate) const G: u64 = 0x1000;
    pub(crate) const G0: u64 = 0x2000;
    pub(crate) const M: u64 = 0x3000;

    pub(crate) fn config() -> ProcConfig {
        ProcConfig {
            g_m: 48,
            g_goid: 152,
            g_gopc: 280,
            g_startpc: 296,
            g_parent_goid: 272,
            g_sched_pc: 64,
            g_sched_bp: 96,
            m_curg: 184,
            m_procid: 64,
            flags: CONFIG_CAPTURE_TEXT,
            g_stack_hi: 8,
            g_waitreason: 176,
            ..ProcConfig::zeroed()
        }
    }

    /// Goroutine 7 on thread 42, with its M.
    pub(crate) fn process() -> Fake {
        let mut memory = Fake::default();
        for (at, value) in [
            (G + 48, M),
            (G0 + 48, M),
            (M + 184, G),
            (M + 64, 42),
            (G + 152, 7),
            (G + 272, 3),
            (G + 280, 0x111),
            (G + 288, 0),
            (G + 296, 0x222),
        ] {
            memory.0.insert(at, value);
        }
        memory
    }
}

#[cfg(test)]
mod tests;
