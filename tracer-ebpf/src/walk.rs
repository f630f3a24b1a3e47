//! Stacks, by frame pointers.

use crate::abi::{FLAG_PARTIAL, FLAG_STACK_TRUNCATED, FLAG_SYSTEM_STACK, Frames, MAX_FRAMES, ProcConfig};
use crate::decide::{Current, Fault, Memory, Registers, Step, at};

/// Walks the frame pointers from a probe site, then those of the goroutine if the site is on a system stack.
///
/// A Go frame keeps the caller's frame pointer at `[bp]` and the return address at `[bp + 8]` on both
/// architectures (cmd/internal/obj/x86/obj6.go, arm64/obj7.go). The chain ends with a zero, which the
/// assembly at the base of each stack sets (`runtime/asm_amd64.s`).
#[inline(always)]
pub fn walk<M: Memory>(
    registers: &Registers,
    current: &Current,
    config: &ProcConfig,
    memory: &M,
    frames: &mut Frames,
) -> u8 {
    frames.pcs[0] = registers.pc;
    frames.len = 1;
    let first_return = if registers.lr == 0 { memory.read_u64(registers.sp) } else { Ok(registers.lr) };
    let on_user_stack = current.flags & FLAG_SYSTEM_STACK == 0;
    frames.user_from = if on_user_stack { 0 } else { NEVER };
    let mut walker = Walker {
        memory,
        frames,
        bp: registers.bp,
        // Where the goroutine left its own stack, while the system stack is still being walked.
        resume_pc: if on_user_stack || current.g == 0 { 0 } else { at(current.g, config.g_sched_pc) },
        resume_bp: at(current.g, config.g_sched_bp),
        // Up to Go 1.20 mcall and systemstack leave the goroutine's frame pointer in its register: the chain of the
        // system stack goes on into the other one.
        end: if on_user_stack {
            u64::MAX
        } else {
            memory.read_u64(at(registers.g, config.g_stack_hi)).unwrap_or(u64::MAX)
        },
        begin: if on_user_stack { 0 } else { registers.sp },
        systemstack_switch: config.systemstack_switch,
        flags: 0,
    };
    match first_return {
        Ok(pc) => walker.push(pc),
        Err(Fault) => walker.flags = FLAG_PARTIAL,
    }
    // One step more than frames: the switch from one stack to the other is a step too.
    M::repeat(MAX_FRAMES as u32 + 1, &mut walker);
    let Walker { frames, flags, .. } = walker;
    if frames.user_from == NEVER {
        frames.user_from = frames.len;
    }
    flags
}

/// Bytes of `runtime.systemstack_switch`, at most.
const SYSTEMSTACK_SWITCH_SIZE: u64 = 32;

/// `user_from` while the goroutine's own stack has not been reached.
const NEVER: u32 = u32::MAX;

/// The state of a walk; the kernel's loop helper takes one step at a time, so that the verifier looks at one
/// step only. The number of frames is kept in the record, whose contents the verifier does not follow: with a
/// number that it knows it would look at each step of each length.
struct Walker<'a, M> {
    memory: &'a M,
    frames: &'a mut Frames,
    bp: u64,
    /// Address of `g.sched.pc` to go on from when this stack is done, 0 if there is no other.
    resume_pc: u64,
    resume_bp: u64,
    /// Frames lie from here
    begin: u64,
    /// up to here.
    end: u64,
    systemstack_switch: u64,
    flags: u8,
}

impl<M: Memory> Walker<'_, M> {
    #[inline(always)]
    fn push(&mut self, pc: u64) {
        let len = self.frames.len;
        self.frames.pcs[len as usize & MAX_FRAMES_MASK] = pc;
        self.frames.len = len + 1;
    }

    /// The stack is done: go on where the goroutine left its own (mcall and systemstack save pc and bp in
    /// g.sched), if there is another one.
    #[inline(always)]
    fn switch(&mut self) -> bool {
        if self.resume_pc == 0 {
            return false;
        }
        let saved = self.resume_pc;
        self.resume_pc = 0;
        let Ok(pc) = self.memory.read_u64(saved) else {
            self.flags |= FLAG_PARTIAL;
            return false;
        };
        self.frames.user_from = self.frames.len;
        self.push(pc);
        // systemstack saves a pc that is not its caller's, and a stack pointer at the return address to that
        // (runtime/asm_amd64.s and asm_arm64.s); mcall saves its caller's own. gobuf begins with sp and pc.
        if self.frames.len < MAX_FRAMES as u32
            && pc.wrapping_sub(self.systemstack_switch) < SYSTEMSTACK_SWITCH_SIZE
            && let Ok(sp) = self.memory.read_u64(saved.wrapping_sub(8))
            && let Ok(caller) = self.memory.read_u64(sp)
        {
            self.push(caller);
        }
        self.bp = self.memory.read_u64(self.resume_bp).unwrap_or(0);
        (self.begin, self.end) = (0, u64::MAX);
        true
    }
}

impl<M: Memory> Step for Walker<'_, M> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        if self.frames.len >= MAX_FRAMES as u32 {
            self.flags |= FLAG_STACK_TRUNCATED;
            return false;
        }
        let bp = self.bp;
        if bp == 0 || bp & 7 != 0 || bp >> 47 != 0 || bp < self.begin || bp >= self.end {
            return self.switch();
        }
        let (Ok(pc), Ok(next)) = (self.memory.read_u64(at(bp, 8)), self.memory.read_u64(bp)) else {
            self.flags |= FLAG_PARTIAL;
            return self.switch();
        };
        if pc == 0 {
            return self.switch();
        }
        self.push(pc);
        // A chain only climbs; anything else is not a chain of frames.
        self.bp = if next > bp { next } else { 0 };
        true
    }
}

/// `len` stays below [`MAX_FRAMES`] anyway; masking it tells the compiler and the verifier so.
const MAX_FRAMES_MASK: usize = MAX_FRAMES - 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::fake::{Fake, G, G0, config, process};
    use bytemuck::Zeroable as _;

    fn walked(registers: &Registers, current: &Current, memory: &Fake) -> (Vec<u64>, u32, u8) {
        let mut frames = Frames::zeroed();
        let flags = walk(registers, current, &config(), memory, &mut frames);
        (frames.pcs[..frames.len as usize].to_vec(), frames.user_from, flags)
    }

    #[test]
    fn walks_a_user_stack_to_its_end() {
        let mut memory = process();
        // [sp] is the return address of the probed function; then two frames, the last with bp 0.
        for (at, value) in [(0x8000, 0xa1), (0x8100, 0x8200), (0x8108, 0xa2), (0x8200, 0), (0x8208, 0xa3)] {
            memory.0.insert(at, value);
        }
        let registers = Registers { g: G, pc: 0xa0, sp: 0x8000, bp: 0x8100, ..Registers::default() };
        let current = Current { g: G, goid: 7, flags: 0 };
        assert_eq!(walked(&registers, &current, &memory), (vec![0xa0, 0xa1, 0xa2, 0xa3], 0, 0));
    }

    #[test]
    fn goes_on_from_the_system_stack_to_the_goroutines() {
        let mut memory = process();
        for (at, value) in [
            (0x8000, 0xa1),
            (0x8100, 0),
            (0x8108, 0xa2),
            (G + 64, 0xb0),
            (G + 96, 0x9000),
            (0x9000, 0),
            (0x9008, 0xb1),
        ] {
            memory.0.insert(at, value);
        }
        let registers = Registers { g: G0, pc: 0xa0, sp: 0x8000, bp: 0x8100, ..Registers::default() };
        let current = Current { g: G, goid: 7, flags: FLAG_SYSTEM_STACK };
        assert_eq!(walked(&registers, &current, &memory), (vec![0xa0, 0xa1, 0xa2, 0xb0, 0xb1], 3, 0));
    }

    #[test]
    fn the_caller_of_systemstack_is_not_lost() {
        let mut memory = process();
        for (at, value) in [
            (0x8000, 0xa1),
            (G + 56, 0x8f00),
            (G + 64, 0x5008),
            (0x8f00, 0xc1),
            (G + 96, 0x9000),
            (0x9000, 0),
            (0x9008, 0xb1),
        ] {
            memory.0.insert(at, value);
        }
        let registers = Registers { g: G0, pc: 0xa0, sp: 0x8000, bp: 0, ..Registers::default() };
        let current = Current { g: G, goid: 7, flags: FLAG_SYSTEM_STACK };
        let config = ProcConfig { systemstack_switch: 0x5000, ..config() };
        let mut frames = Frames::zeroed();
        walk(&registers, &current, &config, &memory, &mut frames);
        assert_eq!(frames.pcs[..frames.len as usize], [0xa0, 0xa1, 0x5008, 0xc1, 0xb1]);
    }

    #[test]
    fn a_system_stacks_chain_that_leaves_it_is_not_followed() {
        let mut memory = process();
        for (at, value) in [
            (0x8000, 0xa1),
            (G0 + 8, 0x8800),
            // Into the goroutine's own stack, which is reached by way of g.sched.
            (0x8100, 0x9000),
            (0x8108, 0xa2),
            (G + 64, 0xb0),
            (G + 96, 0x9000),
            (0x9000, 0),
            (0x9008, 0xb1),
        ] {
            memory.0.insert(at, value);
        }
        let registers = Registers { g: G0, pc: 0xa0, sp: 0x8000, bp: 0x8100, ..Registers::default() };
        let current = Current { g: G, goid: 7, flags: FLAG_SYSTEM_STACK };
        assert_eq!(walked(&registers, &current, &memory), (vec![0xa0, 0xa1, 0xa2, 0xb0, 0xb1], 3, 0));
    }

    #[test]
    fn a_chain_that_does_not_climb_ends() {
        let mut memory = process();
        for (at, value) in [(0x8000, 0xa1), (0x8100, 0x8100), (0x8108, 0xa2)] {
            memory.0.insert(at, value);
        }
        let registers = Registers { g: G, pc: 0xa0, sp: 0x8000, bp: 0x8100, ..Registers::default() };
        let (pcs, ..) = walked(&registers, &Current { g: G, goid: 7, flags: 0 }, &memory);
        assert_eq!(pcs, [0xa0, 0xa1, 0xa2]);
    }

    #[test]
    fn a_deep_stack_is_cut_and_says_so() {
        let mut memory = process();
        memory.0.insert(0x8000, 0xa1);
        for i in 0..200_u64 {
            memory.0.insert(0x1_0000 + i * 16, 0x1_0000 + (i + 1) * 16);
            memory.0.insert(0x1_0008 + i * 16, 0xb00 + i);
        }
        let registers = Registers { g: G, pc: 0xa0, sp: 0x8000, bp: 0x1_0000, ..Registers::default() };
        let (pcs, _, flags) = walked(&registers, &Current { g: G, goid: 7, flags: 0 }, &memory);
        assert_eq!(pcs.len(), MAX_FRAMES);
        assert_eq!(flags, FLAG_STACK_TRUNCATED);
    }
}
