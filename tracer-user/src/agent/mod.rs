//! Watching processes: probes, snapshots, model and detectors composed.

mod budget;
mod executable;
mod pace;
mod profiler;
mod watcher;

pub use budget::{Demotion, TRAP_NS, trap_ns};
pub use executable::understand;
pub use profiler::{CpuCounts, ProfileOptions, ProfileSummary, Profiler};
pub use watcher::{Notice, Options, Summary, WatchError, Watcher};
