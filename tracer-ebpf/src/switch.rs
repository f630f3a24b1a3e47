//! What T3 makes of registers and memory: who parks and where, who wakes whom, who runs. Pure, as [`crate::decide`].

use crate::abi::{
    FLAG_COROUTINE, FLAG_NO_GOID, FLAG_PARTIAL, FLAG_STACK_TRUNCATED, MAX_SWITCH_FRAMES, ProcConfig,
    SwitchStack,
};
use crate::decide::{Fault, Memory, Registers, Step, at};

/// A goroutine that parks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Park {
    /// Who.
    pub goid: u64,
    /// Number of the wait reason.
    pub reason: u8,
    /// Where it left its own stack: the program counter,
    pub pc: u64,
    /// and the frame pointer.
    pub bp: u64,
    /// `FLAG_` bits.
    pub flags: u8,
}

/// A goroutine that parks, at `park_m(gp)`.
///
/// By then `gopark` has set `gp.waitreason` and `mcall` has saved the registers in `gp.sched`; the lock that its waker
/// needs is not released yet, so that nobody changes them (runtime/proc.go, Go 1.18 to 1.27).
///
/// # Errors
/// [`Fault`] if the descriptor can't be read.
#[inline(always)]
pub fn park<M: Memory>(g: u64, config: &ProcConfig, memory: &M) -> Result<Park, Fault> {
    let goid = memory.read_u64(at(g, config.g_goid))?;
    let reason = memory.read_u8(at(g, config.g_waitreason))?;
    let (pc, bp) = (memory.read_u64(at(g, config.g_sched_pc)), memory.read_u64(at(g, config.g_sched_bp)));
    let flags = if pc.is_err() || bp.is_err() { FLAG_PARTIAL } else { 0 };
    Ok(Park { goid, reason, pc: pc.unwrap_or(0), bp: bp.unwrap_or(0), flags })
}

/// A goroutine that is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Who.
    pub goid: u64,
    /// By whom; 0 if by the scheduler itself: a timer, the network poller.
    pub waker: u64,
    /// `FLAG_` bits.
    pub flags: u8,
}

/// A goroutine that is woken, at `ready(gp)` or a call that it ends in; `current_g` is the g of the current stack.
///
/// # Errors
/// [`Fault`] if the descriptor can't be read.
#[inline(always)]
pub fn ready<M: Memory>(g: u64, current_g: u64, config: &ProcConfig, memory: &M) -> Result<Ready, Fault> {
    let goid = memory.read_u64(at(g, config.g_goid))?;
    let waker = memory
        .read_u64(at(current_g, config.g_m))
        .and_then(|m| memory.read_u64(at(m, config.m_curg)))
        .and_then(|curg| if curg == 0 { Ok(0) } else { memory.read_u64(at(curg, config.g_goid)) });
    let flags = if waker.is_err() { FLAG_NO_GOID | FLAG_PARTIAL } else { 0 };
    Ok(Ready { goid, waker: waker.unwrap_or(0), flags })
}

/// What a call of `gogo` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// This goroutine begins to run, or goes on.
    Runs {
        /// Who.
        goid: u64,
        /// `FLAG_` bits.
        flags: u8,
    },
    /// Nobody who had ceased to: a stack has grown, a panic was recovered, or it is a system stack.
    Resumes,
}

/// A goroutine that is about to run, at the jump of `gogo`.
///
/// # Errors
/// [`Fault`] if the descriptor or the return address can't be read.
#[inline(always)]
pub fn run<M: Memory>(g: u64, registers: &Registers, config: &ProcConfig, memory: &M) -> Result<Run, Fault> {
    // gogo has no frame (runtime/asm_amd64.s, asm_arm64.s).
    let caller = if registers.lr == 0 { memory.read_u64(registers.sp)? } else { registers.lr };
    let [a, b, c, d, e, f] = config.resumes;
    if caller == a || caller == b || caller == c || caller == d || caller == e || caller == f {
        return Ok(Run::Resumes);
    }
    let goid = memory.read_u64(at(g, config.g_goid))?;
    if goid == 0 {
        return Ok(Run::Resumes);
    }
    let [first, second] = config.coroutine_calls;
    let flags = if caller == first || caller == second { FLAG_COROUTINE } else { 0 };
    Ok(Run::Runs { goid, flags })
}

/// Where a goroutine makes a system call: as if it parked there, for no reason of the runtime's. `None` if none does: the
/// thread is on a system stack, which C code is too. There the register that holds g may still have the goroutine
/// (`asmcgocall` of amd64 leaves r14, which C keeps), so the stack pointer decides.
///
/// A goroutine stays `m.curg` while it is in a system call (runtime/proc.go, `reentersyscall`, Go 1.18 to 1.27).
#[inline(always)]
pub fn in_system_call<M: Memory>(registers: &Registers, config: &ProcConfig, memory: &M) -> Option<Park> {
    let g = registers.g;
    let m = memory.read_u64(at(g, config.g_m)).ok()?;
    if memory.read_u64(at(m, config.m_curg)).ok()? != g {
        return None;
    }
    let low = memory.read_u64(at(g, config.g_stack_lo)).ok()?;
    let high = memory.read_u64(at(g, config.g_stack_hi)).ok()?;
    if registers.sp < low || registers.sp >= high {
        return None;
    }
    let goid = memory.read_u64(at(g, config.g_goid)).ok()?;
    // Its frame pointer is its caller's, whom following that would pass over: as if the caller had made the call.
    let [a, b, c, d] = config.frameless;
    let is_in = |[begin, end]: [u64; 2]| registers.pc >= begin && registers.pc < end;
    let pc = if !(is_in(a) || is_in(b) || is_in(c) || is_in(d)) {
        registers.pc
    } else if registers.lr != 0 {
        registers.lr
    } else {
        // A call is no less a goroutine's where its caller can't be read.
        memory.read_u64(registers.sp).unwrap_or(registers.pc)
    };
    Some(Park { goid, reason: 0, pc, bp: registers.bp, flags: 0 })
}

/// A stack as it is told apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackId {
    /// Half of the hash, never 0: its name in records.
    pub id: u32,
    /// All of the hash: two stacks of one id are known by it.
    pub hash: u64,
    /// `FLAG_` bits.
    pub flags: u8,
    /// Frames that were walked.
    pub frames: u32,
}

/// Follows frame pointers from where a goroutine left its stack, and hashes the program counters. `seed` keeps the
/// stacks of two processes apart.
#[inline(always)]
pub fn identify<M: Memory>(park: &Park, seed: u64, memory: &M) -> StackId {
    let mut walk = Hashing { memory, bp: park.bp, hash: mix(seed, park.pc), frames: 0, flags: 0 };
    M::repeat(MAX_SWITCH_FRAMES as u32, &mut walk);
    // The finalizer of MurmurHash3: every bit of the input changes every bit of the id.
    let mut hash = walk.hash;
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    StackId { id: (hash as u32).max(1), hash, flags: walk.flags, frames: walk.frames }
}

/// Follows them again and keeps the program counters.
#[inline(always)]
pub fn copy<M: Memory>(park: &Park, memory: &M, into: &mut SwitchStack) {
    into.pcs[0] = park.pc;
    into.len = 1;
    let mut walk = Copying { memory, bp: park.bp, into };
    M::repeat(MAX_SWITCH_FRAMES as u32 - 1, &mut walk);
}

#[inline(always)]
const fn mix(hash: u64, pc: u64) -> u64 {
    (hash.rotate_left(5) ^ pc).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The frame at `bp`: its return address, and where the next one is. `None` at the end of the chain.
#[inline(always)]
fn frame<M: Memory>(memory: &M, bp: u64) -> Result<Option<(u64, u64)>, Fault> {
    if bp == 0 || bp & 7 != 0 || bp >> 47 != 0 {
        return Ok(None);
    }
    let [next, pc] = memory.read_pair(bp)?;
    if pc == 0 {
        return Ok(None);
    }
    // A chain only climbs; anything else is not a chain of frames.
    Ok(Some((pc, if next > bp { next } else { 0 })))
}

/// The state of the first walk. Its steps are counted by the kernel's loop alone, so that the verifier looks at one.
struct Hashing<'a, M> {
    memory: &'a M,
    bp: u64,
    hash: u64,
    frames: u32,
    flags: u8,
}

impl<M: Memory> Step for Hashing<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        match frame(self.memory, self.bp) {
            Ok(Some((pc, next))) => {
                self.hash = mix(self.hash, pc);
                self.frames += 1;
                self.bp = next;
                true
            }
            Ok(None) => false,
            Err(Fault) => {
                self.flags |= FLAG_PARTIAL;
                false
            }
        }
    }
}

/// The state of the second walk. The number of frames is in the record, whose contents the verifier does not follow.
struct Copying<'a, M> {
    memory: &'a M,
    bp: u64,
    into: &'a mut SwitchStack,
}

impl<M: Memory> Step for Copying<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let Ok(Some((pc, next))) = frame(self.memory, self.bp) else { return false };
        let len = self.into.len;
        self.into.pcs[len as usize & (MAX_SWITCH_FRAMES - 1)] = pc;
        self.into.len = len + 1;
        self.bp = next;
        if len + 1 >= MAX_SWITCH_FRAMES as u32 && next != 0 {
            self.into.header.flags |= FLAG_STACK_TRUNCATED;
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fake::{Fake, G, G0, M, config, process};
    use bytemuck::Zeroable as _;

    /// Goroutine 7 parked with wait reason 14 in a chain of three frames.
    fn parked() -> Fake {
        let mut memory = process();
        for (at, value) in [
            (G + 176, 0x0100_000e),
            (G + 64, 0xa0),
            (G + 96, 0x8000),
            (0x8000, 0x8100),
            (0x8008, 0xa1),
            (0x8100, 0),
            (0x8108, 0xa2),
        ] {
            memory.0.insert(at, value);
        }
        memory
    }

    #[test]
    fn a_park_tells_who_why_and_where() {
        let memory = parked();
        let park = park(G, &config(), &memory).unwrap();
        assert_eq!(park, Park { goid: 7, reason: 14, pc: 0xa0, bp: 0x8000, flags: 0 });
        let mut stack = SwitchStack::zeroed();
        copy(&park, &memory, &mut stack);
        assert_eq!(stack.pcs[..stack.len as usize], [0xa0, 0xa1, 0xa2]);
        assert_eq!(stack.header.flags, 0);
    }

    #[test]
    fn ident_1_a_park_of_nobody_is_none() {
        let mut memory = parked();
        memory.0.remove(&(G + 152));
        assert_eq!(park(G, &config(), &memory), Err(Fault));
    }

    #[test]
    fn stacks_that_differ_in_one_frame_have_different_names() {
        let (mut memory, config) = (parked(), config());
        let park = park(G, &config, &memory).unwrap();
        let first = identify(&park, 0, &memory);
        assert_eq!(first, identify(&park, 0, &memory));
        assert_ne!(first.id, identify(&park, 1, &memory).id, "the same addresses in another process");
        memory.0.insert(0x8108, 0xa3);
        assert_ne!(first.id, identify(&park, 0, &memory).id);
        memory.0.remove(&0x8108);
        assert_eq!(identify(&park, 0, &memory).flags, FLAG_PARTIAL);
    }

    #[test]
    fn a_deep_stack_is_cut_and_says_so() {
        let mut memory = parked();
        for i in 0..100_u64 {
            memory.0.insert(0x8000 + i * 16, 0x8000 + (i + 1) * 16);
            memory.0.insert(0x8008 + i * 16, 0xb00 + i);
        }
        let park = park(G, &config(), &memory).unwrap();
        let mut stack = SwitchStack::zeroed();
        copy(&park, &memory, &mut stack);
        assert_eq!((stack.len as usize, stack.header.flags), (MAX_SWITCH_FRAMES, FLAG_STACK_TRUNCATED));
    }

    #[test]
    fn who_wakes_is_what_the_thread_runs_and_may_be_nobody() {
        let mut memory = parked();
        memory.0.insert(0x5000 + 152, 9);
        let config = config();
        assert_eq!(ready(0x5000, G0, &config, &memory), Ok(Ready { goid: 9, waker: 7, flags: 0 }));
        memory.0.insert(M + 184, 0);
        assert_eq!(ready(0x5000, G0, &config, &memory), Ok(Ready { goid: 9, waker: 0, flags: 0 }));
        memory.0.remove(&(M + 184));
        let unknown = Ready { goid: 9, waker: 0, flags: FLAG_NO_GOID | FLAG_PARTIAL };
        assert_eq!(ready(0x5000, G0, &config, &memory), Ok(unknown));
        assert_eq!(ready(0x6000, G0, &config, &memory), Err(Fault));
    }

    #[test]
    fn a_system_call_is_a_goroutines_only_on_its_own_stack() {
        let mut memory = parked();
        let config = ProcConfig { g_stack_lo: 16, g_stack_hi: 8, ..config() };
        memory.0.extend([(G + 16, 0x7000), (G + 8, 0x9000)]);
        let called = |g: u64, sp: u64| {
            let registers = Registers { g, pc: 0xb0, sp, bp: 0x8000, ..Registers::default() };
            in_system_call(&registers, &config, &memory)
        };
        let own = Some(Park { goid: 7, reason: 0, pc: 0xb0, bp: 0x8000, flags: 0 });
        assert_eq!((called(G, 0x7000), called(G, 0x8ff8)), (own, own));
        assert_eq!(called(G0, 0x8000), None, "the runtime's own");
        assert_eq!(called(0x77, 0x8000), None, "C code that uses the register");
        assert_eq!((called(G, 0x9000), called(G, 0x6ff8)), (None, None), "C code that does not");
    }

    #[test]
    fn a_system_call_of_assembly_without_a_frame_is_its_callers() {
        let mut memory = parked();
        let config = ProcConfig {
            g_stack_lo: 16,
            g_stack_hi: 8,
            frameless: [[0xa0, 0xb0], [0, 0], [0xb8, 0xc0], [0, 0]],
            ..config()
        };
        memory.0.extend([(G + 16, 0x7000), (G + 8, 0x9000), (0x8000, 0x1234)]);
        let place = |pc: u64, lr: u64| {
            let registers = Registers { g: G, pc, lr, sp: 0x8000, bp: 0x8100, ..Registers::default() };
            in_system_call(&registers, &config, &memory).map(|park| (park.pc, park.bp))
        };
        for pc in [0xa0, 0xaf, 0xb8] {
            assert_eq!(place(pc, 0), Some((0x1234, 0x8100)), "{pc:#x}");
            assert_eq!(place(pc, 0x77), Some((0x77, 0x8100)), "{pc:#x} on arm64");
        }
        for pc in [0x9f, 0xb0, 0xc0] {
            assert_eq!(place(pc, 0), Some((pc, 0x8100)), "{pc:#x}");
        }
        let unread = Registers { g: G, pc: 0xa0, sp: 0x8018, bp: 0x8100, ..Registers::default() };
        assert_eq!(in_system_call(&unread, &config, &memory).map(|park| park.pc), Some(0xa0));
    }

    #[test]
    fn a_grown_stack_is_no_run_and_a_coroutine_says_so() {
        let mut memory = parked();
        let config = ProcConfig { resumes: [0xe1, 0xe2, 0, 0, 0, 0], coroutine_calls: [0xc0, 0], ..config() };
        let mut called_from = |caller: u64, g: u64| {
            memory.0.insert(0x9000, caller);
            run(g, &Registers { sp: 0x9000, ..Registers::default() }, &config, &memory)
        };
        assert_eq!(called_from(0xd0, G), Ok(Run::Runs { goid: 7, flags: 0 }));
        assert_eq!(called_from(0xc0, G), Ok(Run::Runs { goid: 7, flags: FLAG_COROUTINE }));
        assert_eq!(called_from(0xe2, G), Ok(Run::Resumes));
        assert_eq!(called_from(0xd0, 0x7000), Err(Fault));
        let lr = Registers { lr: 0xe1, ..Registers::default() };
        assert_eq!(run(G, &lr, &config, &memory), Ok(Run::Resumes), "arm64 has it in a register");
    }
}
