//! Reading a live Go process from outside: goroutines, stacks, scheduler and GC figures. Reads only: the
//! target is never stopped, written to or probed.

mod check;
mod details;
mod figures;
mod goroutine;
mod holders;
mod labels;
mod live;
mod lock;
mod parked;
mod reader;
mod runtime;
mod sampler;
mod semaphore;
mod snapshot;
mod stack;
mod symbolizer;
mod threads;
mod wait;

pub use details::{Details, Want};
pub use figures::Figures;
pub use goroutine::{Goroutine, Park, Status};
pub use holders::Holders;
pub use labels::{Labels, MAX_LABELS};
pub use live::LiveMemory;
pub use lock::{Lock, LockState};
pub use reader::{ReadError, Reader};
pub use runtime::{Runtime, RuntimeError};
pub use sampler::{LEFT_OUT, Look, NONE, Sampler, Sight};
pub use snapshot::Snapshot;
pub use stack::{Pc, Stack};
pub use symbolizer::Symbolizer;
pub use threads::Threads;
pub use wait::{Case, Channel, Direction, MAX_CASES, Target, Wait};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of Go's `nanotime` and of the probes' records (TIME-1).
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of a monotonic time is negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
