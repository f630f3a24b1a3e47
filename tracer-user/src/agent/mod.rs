//! Watching processes: probes, snapshots, model and detectors composed.

mod executable;
mod first;
mod fleet;
mod governor;
mod idle;
mod pace;
mod profiler;
mod rings;
mod subject;
mod watcher;

pub use executable::understand;
pub use fleet::{Arrival, Fleet, FleetError, Moved};
pub use governor::{Costs, Ledger, Mode, Numbers, Prices, Step, Stretch, TierState};
pub use profiler::{CpuCounts, ProfileOptions, ProfileSummary, Profiler};
pub use rings::{Reached, Ring, Rings, Waited, find_rings};
pub use subject::{CoreSubject, Subject, SubjectError};
pub use watcher::{Ended, Notice, Options, Summary, SwitchesFor, WatchError, Watcher};
