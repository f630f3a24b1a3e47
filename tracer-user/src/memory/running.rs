//! Stacks of threads in a core file, from their registers.
//!
//! A thread may be on its goroutine's stack, on its g0's, where the runtime works on itself, or on its gsignal's, in
//! a signal handler. The stack below is found by where each was left: the kernel puts the interrupted registers on
//! the signal stack, and `systemstack`, `mcall` and `morestack` put the goroutine's into `g.sched`. That is how the
//! runtime's own unwinder goes from stack to stack (`unwindJumpStack`, runtime/traceback.go).

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::goroutine::{Goroutine, Status};
use super::reader::{Reader, field, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::stack::{End, MAX_DEPTH, Reached, Stack, StackCopy, Unwinder};
use crate::binary::Architecture;
use crate::target::{CoreSignal, Registers};

/// Bytes of one stack that are read: more than a g0 or gsignal has, and as much as of a parked goroutine.
const STACK_MOST: usize = 256 * 1024;
/// What memory is read by where it is not known how far it goes.
const PAGE: usize = 4096;
/// Stacks that one thread is followed through: signal, g0, goroutine, each once, and one more.
const MOST_STACKS: usize = 4;
/// More Ms than any process has.
const MOST_THREADS: usize = 1 << 16;

/// What the process died of.
#[derive(Clone, Debug)]
pub struct Crash {
    /// The signal.
    pub signal: CoreSignal,
    /// The thread that got it.
    pub thread_id: u32,
    /// Where that was.
    pub pc: u64,
    /// The goroutine that it ran, if it ran one.
    pub goid: Option<u64>,
    /// The thread's whole stack, through the stacks of signal handler, runtime and goroutine. Empty in C code.
    pub stack: Stack,
    /// Whether the thread is one of the Go runtime's.
    pub is_go_thread: bool,
}

/// One M, as far as it matters here.
struct Thread {
    id: u32,
    g0: Range<u64>,
    gsignal: Range<u64>,
    curg: Option<Current>,
}

/// The goroutine that an M runs.
struct Current {
    goid: u64,
    status: Status,
    stack: Range<u64>,
    sched: (u64, u64),
}

/// The stack that an address is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Goroutine,
    System,
    Signal,
    /// One of C, or of a signal handler that is not Go's.
    Other,
}

impl<R: Reader> Runtime<'_, R> {
    /// Gives the goroutines that ran when the process stopped their stacks.
    pub(super) fn fill_running(
        &self,
        goroutines: &mut [Goroutine],
        unwinder: &mut Unwinder<'_>,
    ) -> Result<(), RuntimeError> {
        let Some(stopped) = &self.stopped else { return Ok(()) };
        let mut stacks = HashMap::new();
        for thread in self.stopped_threads()? {
            let Some(current) = thread.curg.as_ref().filter(|g| g.status == Status::Running) else {
                continue;
            };
            if let Some(registers) = stopped.threads.get(&thread.id) {
                stacks.insert(current.goid, self.thread_stack(&thread, *registers, unwinder));
            }
        }
        for g in goroutines.iter_mut().filter(|g| g.status == Status::Running && g.stack.pcs.is_empty()) {
            if let Some(stack) = stacks.remove(&g.goid) {
                g.stack = stack.into();
            }
        }
        Ok(())
    }

    /// What the process died of; `None` for a live one, and where its core was written without a signal.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn crash(&self) -> Result<Option<Crash>, RuntimeError> {
        let Some((signal, thread_id)) = self.stopped.as_ref().and_then(|stopped| stopped.crash) else {
            return Ok(None);
        };
        let registers = self.stopped.as_ref().and_then(|stopped| stopped.threads.get(&thread_id).copied());
        let registers = registers.unwrap_or_default();
        let thread = self.stopped_threads()?.into_iter().find(|thread| thread.id == thread_id);
        let mut unwinder = Unwinder::new(self.binary, self.bias);
        let stack = thread.as_ref().map(|thread| self.thread_stack(thread, registers, &mut unwinder));
        Ok(Some(Crash {
            signal,
            thread_id,
            pc: registers.pc,
            goid: thread.as_ref().and_then(|thread| Some(thread.curg.as_ref()?.goid)),
            stack: stack.unwrap_or_default(),
            is_go_thread: thread.is_some(),
        }))
    }

    /// All Ms, with their stacks.
    fn stopped_threads(&self) -> Result<Vec<Thread>, RuntimeError> {
        let (m_layout, layout) = (&self.binary.layout().m, &self.binary.layout().g);
        let read = |address: u64| self.memory.u64(address).map_err(|e| self.read_error(e));
        let size = layout.size as usize;
        let mut threads = Vec::new();
        let mut seen = HashSet::new();
        let mut m = read(self.global(self.binary.globals().allm))?;
        while m != 0 && seen.insert(m) && seen.len() <= MOST_THREADS {
            let of_m = |offset: u32| read(field(m, offset));
            let (id, next) = (of_m(m_layout.procid)?, of_m(m_layout.alllink)?);
            let gs = [of_m(m_layout.g0)?, of_m(m_layout.gsignal)?, of_m(m_layout.curg)?];
            let (bytes, is_read) =
                self.memory.read_batch(&gs.map(|g| (g, size))).map_err(|e| self.read_error(e))?;
            let g = |index: usize| bytes.get(index * size..).filter(|_| is_read[index] && gs[index] != 0);
            let stack =
                |g: Option<&[u8]>| g.map_or(0..0, |g| u64_at(g, layout.stack_lo)..u64_at(g, layout.stack_hi));
            threads.push(Thread {
                id: u32::try_from(id).unwrap_or(0),
                g0: stack(g(0)),
                gsignal: stack(g(1)),
                curg: g(2).map(|bytes| Current {
                    goid: u64_at(bytes, layout.goid),
                    status: self.status(bytes),
                    stack: stack(Some(bytes)),
                    sched: (u64_at(bytes, layout.sched_pc), u64_at(bytes, layout.sched_sp)),
                }),
            });
            m = next;
        }
        Ok(threads)
    }

    /// Unwinds a thread through its stacks, innermost first.
    fn thread_stack(&self, thread: &Thread, registers: Registers, unwinder: &mut Unwinder<'_>) -> Stack {
        let mut stack = Stack::default();
        // What was interrupted is where it is; what left its stack is behind a call.
        let (mut at, mut exact) = (registers, true);
        for _ in 0..MOST_STACKS {
            let on = thread.on(at.sp);
            let copy = self.copy_from(at.sp, thread.end(on));
            let copy = StackCopy { start: at.sp, bytes: &copy };
            let (part, end, reached) = unwinder.unwind_thread(at, exact, on != On::Goroutine, &copy);
            let room = MAX_DEPTH - stack.pcs.len();
            stack.truncated |= part.pcs.len() > room;
            stack.pcs.extend(part.pcs.into_iter().take(room));
            stack.truncated |= part.truncated || end != End::Complete && on == On::Goroutine;
            if on == On::Goroutine || end == End::TooDeep {
                return stack;
            }
            let next = match reached {
                Reached::SignalFrame { at } => self.interrupted(at),
                // Also from C code, whose frames can't be followed: what called it left the goroutine there.
                Reached::Switch | Reached::Other => thread.left().filter(|_| on != On::Signal),
            };
            let Some(next) = next else {
                // The runtime's own stack has an end too; elsewhere the goroutine's frames are missing.
                stack.truncated |= end != End::Complete || thread.curg.is_some();
                return stack;
            };
            (at, exact) = (next, matches!(reached, Reached::SignalFrame { .. }));
        }
        stack.truncated = true;
        stack
    }

    /// The registers that the kernel put behind the frame of a signal handler (`struct rt_sigframe`,
    /// arch/x86/include/asm/sigframe.h and arch/arm64/kernel/signal.c).
    fn interrupted(&self, frame: u64) -> Option<Registers> {
        let word = |offset: u64| self.memory.u64(frame.wrapping_add(offset)).ok();
        Some(match self.binary.architecture() {
            // The return address, then a ucontext, with a sigcontext at 40: sp is its word 15, pc 16.
            Architecture::Amd64 => {
                Registers { sp: word(8 + 40 + 15 * 8)?, pc: word(8 + 40 + 16 * 8)?, link: None }
            }
            // A siginfo of 128 bytes, then a ucontext, with a sigcontext at 176: the fault's address, x0 to x30, sp,
            // pc.
            Architecture::Arm64 => {
                let register = |number: u64| word(128 + 176 + 8 + number * 8);
                Registers { link: Some(register(30)?), sp: register(31)?, pc: register(32)? }
            }
        })
    }

    /// The memory from an address on, as far as it can be read, and to an end if there is one that is known.
    fn copy_from(&self, sp: u64, end: Option<u64>) -> Vec<u8> {
        let most = end.map_or(STACK_MOST as u64, |end| end.saturating_sub(sp).min(STACK_MOST as u64));
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < most {
            let at = sp.wrapping_add(bytes.len() as u64);
            // To the end of the page, where the next may be missing.
            let len = (PAGE as u64 - at % PAGE as u64).min(most - bytes.len() as u64);
            let had = bytes.len();
            bytes.resize(had + usize::try_from(len).unwrap_or(0), 0);
            if self.memory.read(at, &mut bytes[had..]).is_err() {
                bytes.truncate(had);
                break;
            }
        }
        bytes
    }
}

impl Thread {
    fn on(&self, sp: u64) -> On {
        let holds = |stack: &Range<u64>| stack.start < sp && sp <= stack.end;
        match &self.curg {
            Some(current) if holds(&current.stack) => On::Goroutine,
            _ if holds(&self.gsignal) => On::Signal,
            _ if holds(&self.g0) => On::System,
            _ => On::Other,
        }
    }

    fn end(&self, on: On) -> Option<u64> {
        match on {
            On::Goroutine => self.curg.as_ref().map(|current| current.stack.end),
            // The kernel's frame is on it too.
            On::Signal => Some(self.gsignal.end),
            // That of a process's first thread is the kernel's, whose end the runtime only guesses.
            On::System | On::Other => None,
        }
    }

    /// Where the runtime left the goroutine's stack for its own. It clears the stack pointer when it is back
    /// (`gogo` and `systemstack`, runtime/asm_*.s), so that an old one is not taken for it.
    fn left(&self) -> Option<Registers> {
        let Current { stack, sched: (pc, sp), .. } = self.curg.as_ref()?;
        (stack.start < *sp && *sp < stack.end).then_some(Registers { pc: *pc, sp: *sp, link: None })
    }
}
