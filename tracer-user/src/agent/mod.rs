//! Watching processes: probes, snapshots, model and detectors composed.

mod executable;
mod governor;
mod watcher;

pub use executable::understand;
pub use governor::{Costs, Ledger, Mode, Numbers, Prices, Step, Stretch, TierState};
pub use watcher::{Notice, Options, Summary, WatchError, Watcher};
