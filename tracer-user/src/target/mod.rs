//! Processes: finding one, telling it from another, and noticing its end. Knows nothing of Go layouts.

mod container;
mod exit;
mod files;
mod identity;
mod limits;
mod maps;

pub use container::{Container, container_of};
pub use exit::{Exit, Watch, signal_name};
pub use files::{debug_file, mapped_libraries, read_file};
pub use identity::{Identity, Look, Target, TargetError, process_ids};
pub use limits::{CpuLimit, cpu_limit};
pub use maps::{Mapping, executable_mappings};
