//! One goroutine looked at closely: its state and its stack in one moment.

use super::super::goroutine::Status;
use super::super::reader::{Reader, u8_at, u32_at, u64_at};
use super::super::runtime::{Runtime, RuntimeError};
use super::super::stack::{End, Stack, StackCopy, Unwinder};

/// Goroutines that are read together.
pub(super) const GROUP: usize = 256;
/// Bytes at the begin of a stack that are read of one that has run since its stack pointer was saved.
const UNKNOWN_DEPTH: u64 = 2048;
/// Bytes that are read beyond the stack pointer that was known, as it may have gone there since.
const SLACK: u64 = 512;
/// Bytes of a stack that are read at first, and where that is not enough.
const WINDOW: u64 = 16 * 1024;
const LONG_WINDOW: u64 = 256 * 1024;
/// Bytes of stacks that are read once more in one look: some tenths of a second.
pub(super) const LONG_STACKS: u64 = 1 << 28;

/// Where a goroutine is: what stays the same exactly as long as it does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// `g.atomicstatus`.
    word: u32,
    pub(super) wait_reason: u8,
    /// `g.trackingSeq`, counted at each transition out of running (casgstatus, runtime/proc.go).
    tracking: u8,
    pc: u64,
    /// Bytes of stack in use: the same after the stack was moved.
    depth: u64,
}

impl Place {
    pub(super) fn of<R: Reader>(runtime: &Runtime<'_, R>, g: &[u8]) -> Self {
        let layout = &runtime.binary.layout().g;
        let status = runtime.status(g);
        let (pc, sp) = match status {
            Status::Syscall => (layout.syscallpc, layout.syscallsp),
            _ => (layout.sched_pc, layout.sched_sp),
        };
        Self {
            word: u32_at(g, layout.atomicstatus) & !SCAN,
            wait_reason: if status.is_parked() { u8_at(g, layout.waitreason) } else { 0 },
            tracking: u8_at(g, layout.tracking_seq),
            pc: u64_at(g, pc),
            depth: u64_at(g, layout.stack_hi).wrapping_sub(u64_at(g, sp)),
        }
    }

    pub(super) fn status(&self) -> Status {
        Status::from_word(self.word)
    }

    /// Whether nothing happened between the two. One that runs may have done anything.
    pub(super) fn is_same(&self, before: &Self) -> bool {
        !matches!(self.status(), Status::Running | Status::CopyStack) && self == before
    }
}

/// `_Gscan` (runtime/runtime2.go).
const SCAN: u32 = 0x1000;

/// What was found of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It runs: its stack is being written.
    Runs,
    /// It moved while it was read, or there was more of it than may be read.
    Torn,
    /// Its stack.
    Stack(Stack),
}

/// A goroutine that is to be looked at closely, and where its stack is likely to be, by what its g structure said a
/// moment ago.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near {
    pub(super) index: usize,
    /// Of its g structure.
    address: u64,
    from: u64,
    len: usize,
}

/// A goroutine in one moment.
pub(super) struct Seen {
    /// Its g structure then.
    pub(super) g: Vec<u8>,
    pub(super) stack: Found,
}

impl<R: Reader> Runtime<'_, R> {
    pub(super) fn near(&self, index: usize, address: u64, g: &[u8]) -> Near {
        let layout = &self.binary.layout().g;
        let (lo, hi) = (u64_at(g, layout.stack_lo), u64_at(g, layout.stack_hi));
        if lo >= hi || hi - lo > 1 << 40 {
            return Near { index, address, from: 0, len: 0 };
        }
        let outermost = hi.saturating_sub(UNKNOWN_DEPTH);
        let wanted = self.start(g).map_or(outermost, |start| start.sp.saturating_sub(SLACK).min(outermost));
        let from = wanted.max(lo).max(hi.saturating_sub(WINDOW));
        Near { index, address, from, len: (hi - from) as usize }
    }

    /// Looks at some goroutines; `None` for those that can't be read. The state is that of the moment at which each is
    /// read, whether its stack is found or not.
    pub(super) fn see(
        &self,
        group: &[Near],
        unwinder: &mut Unwinder<'_>,
        long: &mut u64,
    ) -> Result<Vec<Option<Seen>>, RuntimeError> {
        let size = self.binary.layout().g.size as usize;
        // The kernel copies them in this order: what is in between is of that moment if both ends are alike.
        let parts: Vec<(u64, usize)> = group
            .iter()
            .flat_map(|near| [(near.address, size), (near.from, near.len), (near.address, size)])
            .collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut rest = bytes.as_slice();
        let mut take = |len: usize| {
            let (part, after) = rest.split_at(len);
            rest = after;
            part
        };
        let mut all = Vec::with_capacity(group.len());
        for (near, read) in group.iter().zip(read.chunks_exact(3)) {
            let (g, stack, again) = (take(size), take(near.len), take(size));
            if !read[0] || !read[2] {
                all.push(None);
                continue;
            }
            let stack = match self.start(g) {
                None => Found::Runs,
                Some(start) => {
                    let copy = StackCopy { start: near.from, bytes: if read[1] { stack } else { &[] } };
                    let at_once = (self.unchanged(g, again) && near.from <= start.sp).then(|| {
                        let end = unwinder.unwind(start.pc, start.sp, start.exact, &copy);
                        (unwinder.copy(), end)
                    });
                    match at_once {
                        Some((stack, end))
                            if end != End::NeedsMore || stack.pcs.len() > 1 && copy.end() >= start.hi =>
                        {
                            Found::Stack(stack)
                        }
                        _ => self.see_again(g, near.address, unwinder, long)?,
                    }
                }
            };
            all.push(Some(Seen { g: g.to_vec(), stack }));
        }
        Ok(all)
    }

    /// Reads the stack of a goroutine that was just seen, if it is still there.
    fn see_again(
        &self,
        g: &[u8],
        address: u64,
        unwinder: &mut Unwinder<'_>,
        long: &mut u64,
    ) -> Result<Found, RuntimeError> {
        let Some(start) = self.start(g) else { return Ok(Found::Runs) };
        let size = self.binary.layout().g.size as usize;
        for most in [WINDOW, LONG_WINDOW] {
            let len = start.len(most);
            if len as u64 > *long {
                break;
            }
            *long -= len as u64;
            let parts = [(address, size), (start.sp, len), (address, size)];
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            let (before, rest) = bytes.split_at(size);
            let (stack, after) = rest.split_at(len);
            if !read.iter().all(|ok| *ok) || !self.unchanged(g, before) || !self.unchanged(before, after) {
                break;
            }
            let copy = StackCopy { start: start.sp, bytes: stack };
            let end = unwinder.unwind(start.pc, start.sp, start.exact, &copy);
            if end != End::NeedsMore || most == LONG_WINDOW || copy.end() >= start.hi {
                return Ok(Found::Stack(unwinder.copy()));
            }
        }
        Ok(Found::Torn)
    }
}
