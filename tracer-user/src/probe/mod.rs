//! Probes: planning is `binary`'s, placing them, draining their records and counting losses is done here.
//! The only part of gotrail that names aya.

mod alarm;
mod btf;
pub mod calibrate;
mod check;
mod config;
mod cpu;
mod detacher;
mod drain;
mod endings;
mod error;
mod fleet;
mod keeper;
mod kernel;
mod links;
mod losses;
mod maps;
mod object;
mod options;
mod session;
mod switching;

pub use alarm::Alarm;
pub use calibrate::Calibration;
pub use cpu::{CpuSamples, HERTZ, SAMPLE_NS};
pub use detacher::Detacher;
pub use endings::Endings;
pub use error::ProbeError;
pub use fleet::{Execs, Fleet, Gate};
pub use keeper::{Leases, Report, Why, may_be_real_time};
pub use kernel::{Kernel, Links};
pub use losses::{Accounting, Counters, ProbeAccount, SwitchAccount};
pub use options::{Options, SwitchMode};
pub use session::{LostEvents, Mended, Relink, Session, Stream, SwitchStream};
pub use switching::Stretches;

/// Runs as one of gotrail's own helpers, if this process was started as one: call it first of all in `main`. Whoever
/// attaches needs it, since the helpers are the same executable run again.
#[must_use]
pub fn helper() -> Option<std::process::ExitCode> {
    // Whoever starts us may have it ignored, and the ends of our own children would be nobody's to hear of then.
    // SAFETY: no function is installed that could be run.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    let mut arguments = std::env::args_os().skip(1);
    let verb = arguments.next()?;
    let number = arguments.next().and_then(|text| text.to_str()?.parse().ok());
    match verb.to_str()? {
        keeper::VERB => Some(keeper::run(number)),
        keeper::HOLDER_VERB => Some(keeper::run_holder()),
        calibrate::VERB => Some(calibrate::run(number)),
        _ => None,
    }
}
