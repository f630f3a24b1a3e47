//! Processes: finding one, telling it from another, and noticing its end. Knows nothing of Go layouts.

mod container;
mod exit;
mod identity;
mod limits;
mod maps;

pub use container::{Container, container_of};
pub use exit::{Exit, Watch, signal_name};
pub use identity::{Identity, Look, Target, TargetError, process_ids};
pub use limits::{CpuLimit, cpu_limit};
pub use maps::{Mapping, executable_mappings};
