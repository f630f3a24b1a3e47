//! What the governor decided, with its numbers, and what came of it.

use tracer_ebpf::Probe;

use super::costs::Prices;
use crate::probe::{Calibration, Why};

/// How a tier is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All the time.
    Steady,
    /// In sampling windows.
    Windows,
    /// Not at all: what memory shows is all that is known.
    Off,
}

impl Mode {
    /// What it is called in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Windows => "windows",
            Self::Off => "off",
        }
    }
}

/// The numbers behind a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// Hits a second of the probes concerned, while they were on, or as memory tells.
    pub hits_per_second: f64,
    /// What they cost, or would cost, as a share of the target's CPU time.
    pub predicted: f64,
    /// The budget of all probes, likewise.
    pub budget: f64,
    /// CPUs that the target uses.
    pub cpus: f64,
}

/// A stretch of time in which a tier was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// `TIER_` bit.
    pub tier: u32,
    /// Since when all of its probes were on, `CLOCK_MONOTONIC` ns.
    pub begin_ns: u64,
    /// Until when.
    pub end_ns: u64,
    /// Hits by probe, with those of the moments in which the probes came and went.
    pub hits: Vec<(Probe, u64)>,
    /// What these hits cost the target, ns.
    pub cost_ns: u64,
    /// It is a sampling window.
    pub sampled: bool,
    /// Why it ended.
    pub why: Why,
}

/// One step of the governor.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A tier is observed in another way from now on.
    Mode {
        /// `TIER_` bit.
        tier: u32,
        /// Before.
        from: Mode,
        /// From now on.
        to: Mode,
        /// Why.
        numbers: Numbers,
    },
    /// A tier's probes are on.
    Begun {
        /// `TIER_` bit.
        tier: u32,
        /// Since when, `CLOCK_MONOTONIC` ns.
        at_ns: u64,
    },
    /// A tier's probes went.
    Ended(Stretch),
    /// What a tier costs that is on because it was asked for, whatever it costs.
    Asked {
        /// `TIER_` bit.
        tier: u32,
        /// For how long it will still be on, ns.
        left_ns: u64,
        /// What it costs.
        numbers: Numbers,
    },
    /// A tier's probes could not be put on.
    Refused {
        /// `TIER_` bit.
        tier: u32,
        /// Why.
        why: String,
    },
    /// Probes of the rare tier are hit too often.
    TakeOff {
        /// Which.
        probes: Vec<Probe>,
        /// Why.
        numbers: Numbers,
    },
    /// Probes of the rare tier get another try.
    PutBack {
        /// Which.
        probes: Vec<Probe>,
    },
    /// A tier whose probes are linked one by one is to be put on again.
    Relink {
        /// `TIER_` bit.
        tier: u32,
    },
    /// What a hit costs was measured, or could not be.
    Priced {
        /// From now on.
        prices: Prices,
        /// The measurement, or why there is none.
        calibration: Result<Calibration, String>,
    },
}
