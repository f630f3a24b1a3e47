//! What a CPU's timer makes of the thread that it interrupts: which goroutine, in which state, on which stack.
//!
//! Unlike a probe the timer hits anywhere: in C code, in the kernel, in the vdso, on any stack. So nothing is taken
//! from the register that holds g but where what it points to holds together.

use crate::abi::{
    EventHeader, FLAG_NO_GOID, FLAG_PARTIAL, FLAG_PROCID_MATCHES, FLAG_SYSTEM_STACK, Frames,
    ON_CPU_FOREIGN_STACK, ON_CPU_KERNEL, ON_CPU_MAYBE_RETURN, ON_CPU_NO_M, ProcConfig, StackEvent,
};
use crate::decide::{Current, Fault, Memory, Registers, at, creation};
use crate::walk::walk;

/// A state that could not be read.
const UNKNOWN: u64 = u32::MAX as u64;

/// Fills the record of one interrupt. `m` is the thread's M as the agent knows it, 0 if it does not; `registers` are
/// those of user space, on amd64 with 0 for the link register.
#[inline(always)]
pub fn sample<M: Memory>(
    m: u64,
    registers: &Registers,
    in_kernel: bool,
    config: &ProcConfig,
    memory: &M,
    event: &mut StackEvent,
) {
    event.args = [UNKNOWN | if in_kernel { ON_CPU_KERNEL } else { 0 }, 0];
    (event.gopc, event.startpc) = (0, 0);
    only(registers.pc, &mut event.frames);
    let m = if m == 0 { m_by_register(registers.g, &event.header, config, memory) } else { m };
    if m == 0 {
        event.header.flags |= FLAG_NO_GOID;
        event.args[0] |= ON_CPU_NO_M;
        return;
    }
    if memory.read_u64(at(m, config.m_procid)) == Ok(u64::from(event.header.tid)) {
        event.header.flags |= FLAG_PROCID_MATCHES;
    }
    // None while the scheduler looks for one.
    let curg = memory.read_u64(at(m, config.m_curg)).unwrap_or(0);
    if curg == 0 {
        event.header.flags |= FLAG_NO_GOID;
        return;
    }
    let (Ok(goid), Ok(status), Ok(low), Ok(high)) = (
        memory.read_u64(at(curg, config.g_goid)),
        memory.read_u32(at(curg, config.g_atomicstatus)),
        memory.read_u64(at(curg, config.g_stack_lo)),
        memory.read_u64(at(curg, config.g_stack_hi)),
    ) else {
        event.header.flags |= FLAG_NO_GOID | FLAG_PARTIAL;
        return;
    };
    event.header.goid = goid;
    event.args[0] = event.args[0] & !UNKNOWN | u64::from(status);
    event.args[1] = memory.read_u64(at(curg, config.g_labels)).unwrap_or(0);
    let mut flags =
        creation(&Current { g: curg, goid, flags: 0 }, config, memory, &mut event.gopc, &mut event.startpc);
    let begin = begin(m, curg, Range { low, high }, registers, config, memory);
    flags |= begin.current.flags | walk(&begin.registers, &begin.current, config, memory, &mut event.frames);
    if begin.foreign {
        only(registers.pc, &mut event.frames);
    }
    event.args[0] |= begin.bits();
    event.header.flags |= flags;
}

/// Addresses of a stack.
#[derive(Clone, Copy)]
struct Range {
    low: u64,
    high: u64,
}

impl Range {
    #[inline(always)]
    const fn has(self, address: u64) -> bool {
        self.low <= address && address < self.high
    }
}

/// From where a stack is walked. Whole also where there is none: a part that is left undefined is one that the
/// verifier finds read.
struct Begin {
    registers: Registers,
    current: Current,
    /// The first return address is one only if the function has no frame.
    maybe_return: bool,
    /// On none that Go walks.
    foreign: bool,
}

impl Begin {
    #[inline(always)]
    const fn bits(&self) -> u64 {
        match (self.foreign, self.maybe_return) {
            (true, _) => ON_CPU_FOREIGN_STACK,
            (false, true) => ON_CPU_MAYBE_RETURN,
            (false, false) => 0,
        }
    }
}

/// Finds out on which stack the thread is.
#[inline(always)]
fn begin<M: Memory>(
    m: u64,
    curg: u64,
    own: Range,
    registers: &Registers,
    config: &ProcConfig,
    memory: &M,
) -> Begin {
    let read = |address: u64| memory.read_u64(address).unwrap_or(0);
    // The link register is the return address of a function that has no frame; on amd64 it is on the stack.
    let maybe = if registers.lr == 0 { read(registers.sp) } else { registers.lr };
    let g0 = read(at(m, config.m_g0));
    let system = Range { low: read(at(g0, config.g_stack_lo)), high: read(at(g0, config.g_stack_hi)) };
    let on_system = system.has(registers.sp);
    let mut begin = Begin {
        registers: Registers { g: curg, lr: maybe, ..*registers },
        current: Current { g: curg, goid: 0, flags: 0 },
        maybe_return: maybe != 0,
        foreign: !on_system && !own.has(registers.sp),
    };
    // A call of the vdso changes to the system stack by itself and leaves the frame pointer of the goroutine, or one
    // frame that leads to it (nanotime1 and walltime, runtime/sys_linux_amd64.s and sys_linux_arm64.s).
    if !on_system || own.has(registers.bp) {
        return begin;
    }
    let (next, pc) = (read(registers.bp), read(at(registers.bp, 8)));
    if system.has(registers.bp) && own.has(next) && pc != 0 {
        begin.registers.lr = pc;
        begin.registers.bp = next;
        begin.maybe_return = false;
        return begin;
    }
    // gogo and the return from systemstack clear what they used (runtime/asm_amd64.s, asm_arm64.s): where there is
    // none, the goroutine did not leave its stack in a way that says where. gobuf begins with sp and pc.
    let saved = read(at(curg, config.g_sched_pc).wrapping_sub(8));
    begin.registers.g = g0;
    begin.current = Current { g: if own.has(saved) { curg } else { 0 }, goid: 0, flags: FLAG_SYSTEM_STACK };
    begin
}

/// The M of the g in its register, if the two know each other.
#[inline(always)]
fn m_by_register<M: Memory>(g: u64, header: &EventHeader, config: &ProcConfig, memory: &M) -> u64 {
    let Ok(m) = memory.read_u64(at(g, config.g_m)) else { return 0 };
    let is = |offset: u32| memory.read_u64(at(m, offset)) == Ok(g);
    if is(config.m_curg) || is(config.m_g0) || procid(m, config, memory) == Ok(u64::from(header.tid)) {
        m
    } else {
        0
    }
}

#[inline(always)]
fn procid<M: Memory>(m: u64, config: &ProcConfig, memory: &M) -> Result<u64, Fault> {
    memory.read_u64(at(m, config.m_procid))
}

/// A stack of one address.
#[inline(always)]
fn only(pc: u64, frames: &mut Frames) {
    frames.pcs[0] = pc;
    frames.len = 1;
    frames.user_from = 0;
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;
    use crate::decide::fake::{Fake, G, G0, M, config, process};

    /// Where the goroutine's stack and that of the system are.
    const OWN: u64 = 0xa_0000;
    const SYSTEM: u64 = 0x8_0000;

    fn on_cpu_config() -> ProcConfig {
        ProcConfig {
            g_stack_lo: 16,
            g_stack_hi: 8,
            g_atomicstatus: 144,
            g_labels: 160,
            m_g0: 8,
            systemstack_switch: 0x5000,
            ..config()
        }
    }

    /// Goroutine 7 runs; `words` are what is on the stacks.
    fn running(words: &[(u64, u64)]) -> Fake {
        let mut memory = process();
        let structures = [
            (G + 16, OWN),
            (G + 8, OWN + 0x1000),
            (G + 144, 2),
            (G + 160, 0x1ab),
            (M + 8, G0),
            (G0 + 16, SYSTEM),
            (G0 + 8, SYSTEM + 0x1000),
        ];
        memory.0.extend(structures.iter().chain(words).copied());
        memory
    }

    fn taken(m: u64, registers: Registers, memory: &Fake) -> StackEvent {
        let mut event = StackEvent::zeroed();
        event.header.tid = 42;
        sample(m, &registers, false, &on_cpu_config(), memory, &mut event);
        event
    }

    fn pcs(event: &StackEvent) -> &[u64] {
        &event.frames.pcs[..event.frames.len as usize]
    }

    fn at(pc: u64, sp: u64, bp: u64) -> Registers {
        Registers { g: G, pc, sp, bp, ..Registers::default() }
    }

    #[test]
    fn go_code_on_its_own_stack_is_walked_with_what_may_be_a_return_address() {
        let memory = running(&[(OWN + 0x100, 0xa1), (OWN + 0x200, 0), (OWN + 0x208, 0xa2)]);
        for m in [M, 0] {
            let event = taken(m, at(0xa0, OWN + 0x100, OWN + 0x200), &memory);
            assert_eq!(
                (event.header.goid, event.args, event.startpc),
                (7, [2 | ON_CPU_MAYBE_RETURN, 0x1ab], 0x222)
            );
            assert_eq!(pcs(&event), [0xa0, 0xa1, 0xa2]);
            assert_eq!(event.header.flags, FLAG_PROCID_MATCHES);
        }
    }

    #[test]
    fn a_thread_that_is_no_m_has_no_goroutine() {
        let event = taken(0, Registers { g: 0x77, pc: 0xa0, ..Registers::default() }, &running(&[]));
        assert_eq!((event.header.goid, event.args[0]), (0, UNKNOWN | ON_CPU_NO_M));
        assert_eq!((pcs(&event), event.header.flags), (&[0xa0][..], FLAG_NO_GOID));
    }

    #[test]
    fn c_code_clobbers_the_register_and_the_agent_knows_the_m() {
        let memory = running(&[]);
        let event = taken(M, Registers { g: 0x77, ..at(0xc0, 0x1234_0000, 3) }, &memory);
        assert_eq!((event.header.goid, event.args[0]), (7, 2 | ON_CPU_FOREIGN_STACK));
        assert_eq!(pcs(&event), [0xc0]);
    }

    #[test]
    fn the_vdso_leaves_the_frame_pointer_or_one_frame_above_it() {
        let own = [(OWN + 0x200, 0), (OWN + 0x208, 0xa2)];
        let memory = running(&own);
        let event = taken(M, at(0xf0, SYSTEM + 0x100, OWN + 0x200), &memory);
        assert_eq!((pcs(&event), event.args[0]), (&[0xf0, 0xa2][..], 2));
        let framed = [(SYSTEM + 0x180, OWN + 0x200), (SYSTEM + 0x188, 0xa1)];
        let memory = running(&[&own[..], &framed].concat());
        let event = taken(M, at(0xf0, SYSTEM + 0x100, SYSTEM + 0x180), &memory);
        assert_eq!((pcs(&event), event.args[0]), (&[0xf0, 0xa1, 0xa2][..], 2));
    }

    #[test]
    fn from_the_system_stack_to_the_goroutine_only_where_it_was_saved() {
        let system = [(SYSTEM + 0x180, 0), (SYSTEM + 0x188, 0xe1)];
        let saved = [
            (G + 56, OWN + 0x300),
            (G + 64, 0x5008),
            (G + 96, OWN + 0x400),
            (OWN + 0x300, 0xa1),
            (OWN + 0x400, 0),
            (OWN + 0x408, 0xa2),
        ];
        let registers = Registers { g: G0, ..at(0xe0, SYSTEM + 0x100, SYSTEM + 0x180) };
        let event = taken(M, registers, &running(&[&system[..], &saved].concat()));
        assert_eq!(pcs(&event), [0xe0, 0xe1, 0x5008, 0xa1, 0xa2]);
        assert_eq!((event.frames.user_from, event.header.flags & FLAG_SYSTEM_STACK), (2, FLAG_SYSTEM_STACK));
        // gogo has cleared it.
        let event = taken(M, registers, &running(&[&system[..], &saved[1..], &[(G + 56, 0)]].concat()));
        assert_eq!(pcs(&event), [0xe0, 0xe1]);
    }

    #[test]
    fn a_scheduler_without_goroutine_is_told_as_such() {
        let memory = running(&[(M + 184, 0)]);
        let event = taken(M, Registers { g: G0, ..at(0xe0, SYSTEM + 0x100, 0) }, &memory);
        assert_eq!((event.header.goid, event.args[0]), (0, UNKNOWN));
        assert_eq!(event.header.flags, FLAG_NO_GOID | FLAG_PROCID_MATCHES);
    }
}
