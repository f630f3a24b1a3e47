//! Watching processes: probes, snapshots, model and detectors composed.

mod budget;
mod executable;
mod pace;
mod profiler;
mod rings;
mod subject;
mod watcher;

pub use budget::{Demotion, TRAP_NS, trap_ns};
pub use executable::understand;
pub use profiler::{CpuCounts, ProfileOptions, ProfileSummary, Profiler};
pub use rings::{Reached, Ring, Rings, Waited, find_rings};
pub use subject::{CoreSubject, Subject, SubjectError};
pub use watcher::{Notice, Options, Summary, WatchError, Watcher};
