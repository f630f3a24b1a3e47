//! Probes: planning is `binary`'s, placing them, draining their records and counting losses is done here.
//! The only part of gotrail that names aya.

mod config;
mod cpu;
mod drain;
mod error;
mod kernel;
mod losses;
mod object;
mod session;
mod switching;

pub use cpu::{CpuSamples, HERTZ, SAMPLE_NS};
pub use error::ProbeError;
pub use kernel::{Kernel, Links};
pub use losses::{Accounting, ProbeAccount, SwitchAccount};
pub use session::{Detacher, Options, Session, Stream, SwitchMode, SwitchStream};
