//! Watching processes: probes, snapshots, model and detectors composed.

mod budget;
mod watcher;

pub use budget::{Demotion, TRAP_NS, trap_ns};
pub use watcher::{Notice, Options, Summary, WatchError, Watcher};
