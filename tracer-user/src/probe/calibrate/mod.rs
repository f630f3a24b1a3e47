//! What a trap costs on this host: measured with a throw-away child of our own, in some milliseconds.
//!
//! The child calls a function that is probed and one that is not in turns, and takes the time; the median of the
//! differences is what a hit costs. The probes are our own programs, linked as those of a target are.

mod loops;
mod measure;

use std::sync::OnceLock;

pub(super) use loops::run;

/// First argument by which gotrail runs as the child.
pub(super) const VERB: &str = "calibration-target";

/// What a hit costs on this host, in nanoseconds: medians.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calibration {
    /// An emulated trap of a process that is not watched: what neighbours pay for a link that is not scoped.
    pub trap_ns: u64,
    /// An emulated trap with the record of a goroutine's creation.
    pub record_ns: u64,
    /// An emulated trap with the deepest stack that is captured.
    pub stack_ns: u64,
    /// A trap whose instruction the kernel steps over.
    pub stepped_ns: u64,
    /// Distance of the quartiles of the emulated trap: how noisy the host is.
    pub spread_ns: u64,
    /// How long the measurements took, without what was prepared for them.
    pub took_ns: u64,
}

static RESULT: OnceLock<Result<Calibration, String>> = OnceLock::new();
static BEGUN: OnceLock<()> = OnceLock::new();

/// Measures on a thread of its own, once in a process's life: a host does not change meanwhile.
pub fn begin() {
    BEGUN.get_or_init(|| {
        let started = std::thread::Builder::new().name("calibration".to_owned()).spawn(|| drop(result()));
        if let Err(error) = started {
            drop(RESULT.set(Err(format!("can't start a thread: {error}"))));
        }
    });
}

/// What was measured, or why nothing was; `None` if it is not there yet.
#[must_use]
pub fn known() -> Option<Result<Calibration, String>> {
    RESULT.get().cloned()
}

/// Measures, or waits for who does.
///
/// # Errors
/// Why it can't be measured.
pub fn result() -> Result<Calibration, String> {
    RESULT.get_or_init(|| measure::measure().map_err(|error| error.to_string())).clone()
}
