//! Reading a Go process from outside, live or from its core file: goroutines, stacks, scheduler and GC figures.
//! Reads only: the target is never stopped, written to or probed.

mod ancestors;
mod check;
mod core_file;
mod details;
mod figures;
mod gather;
mod goroutine;
mod hash;
mod holders;
mod labels;
mod live;
mod lock;
mod mark;
mod ms;
mod parked;
mod reach;
mod reader;
mod roots;
mod running;
mod runtime;
mod sampler;
mod semaphore;
mod snapshot;
mod source;
mod spans;
mod stack;
pub mod stats;
mod stopped;
mod stranded;
mod symbolizer;
mod threads;
mod wait;

pub use ancestors::Ancestor;
pub use core_file::CoreMemory;
pub use details::{Details, Want};
pub use figures::{Figures, GOID_BATCH};
pub use goroutine::{Goroutine, Park, Status};
pub use holders::Holders;
pub use labels::{Labels, MAX_LABELS};
pub use live::LiveMemory;
pub use lock::{Lock, LockState};
pub use ms::Ms;
pub use reach::{LONGEST, Reach, Reached, ReachedFrame, Sought};
pub use reader::{ReadError, Reader};
pub use running::Crash;
pub use runtime::{Runtime, RuntimeError};
pub use sampler::{LEFT_OUT, Look, NONE, Sampler, Sight};
pub use snapshot::Snapshot;
pub use source::Source;
pub use spans::{Object, Span, Spans};
pub use stack::{Pc, Stack};
pub use stranded::{NEEDED, Prover, Scan, Unproven};
pub use symbolizer::Symbolizer;
pub use threads::Thread;
pub use wait::{Case, Channel, Direction, MAX_CASES, Poll, Target, Timer, Wait};

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of Go's `nanotime` and of the probes' records (TIME-1).
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of a monotonic time is negative.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
