//! gotrail watches Go runtimes from outside: memory reads and eBPF probes, no code change, no restart.
//!
//! Data flows one way: `target`, `binary`, `probe` and `memory`, `model`, `detect`, `export` and the command
//! line. `binary`, `model` and `detect` are pure.

#[cfg(feature = "probe")]
pub mod agent;
pub mod binary;
pub mod detect;
#[cfg(any(feature = "probe", feature = "otlp"))]
pub mod export;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod memory;
pub mod model;
#[cfg(feature = "probe")]
pub mod probe;
#[cfg(any(feature = "probe", feature = "fuzzing"))]
mod record;
pub mod target;
pub mod text;
