//! What a CPU's timer found on it.

use crate::memory::Status;

/// A thread of the process was on a CPU. Addresses are linked ones.
#[derive(Clone, Debug, PartialEq)]
pub struct OnCpu {
    /// When, `CLOCK_MONOTONIC` ns.
    pub time_ns: u64,
    /// On which thread, as gotrail's PID namespace numbers it.
    pub thread: u32,
    /// Of which goroutine; `None` in the scheduler, and on threads that are not Go's.
    pub goid: Option<u64>,
    /// The goroutine's state, `None` if it could not be read.
    pub status: Option<Status>,
    /// The goroutine's `g.labels`, 0 if it has none.
    pub labels: u64,
    /// Entry of the goroutine's start function, 0 if unknown.
    pub startpc: u64,
    /// The thread belongs to an M.
    pub has_m: bool,
    /// `m.procid` was that thread, as the process's own PID namespace numbers it.
    pub procid_matches: bool,
    /// The thread was in the kernel: a system call, a page fault, an interrupt.
    pub in_kernel: bool,
    /// The thread was on no stack that Go walks: C code, or a signal handler.
    pub foreign_stack: bool,
    /// The second address is a return address only if the function has taken nothing of the stack.
    pub maybe_return: bool,
    /// The stack, innermost first, of which the first is the instruction itself.
    pub pcs: Vec<u64>,
    /// Index of the first address of the goroutine's own stack.
    pub user_from: usize,
    /// There are more frames further out.
    pub truncated: bool,
}
