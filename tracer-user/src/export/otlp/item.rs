//! What can be exported. All times are `CLOCK_MONOTONIC` ns.

use crate::binary::Frame;
use crate::detect::{Change, Reported, SiteRef};
use crate::memory::Figures;
use crate::model::{GcCycle, Pause, PauseSum};
use crate::target::{Exit, Sent};

/// Something to export.
#[derive(Clone, Debug)]
pub enum Item {
    /// A finding that changed: a span; a group of leaked goroutines: a second one.
    Finding(Box<Told>),
    /// A stop of the world: a span, and part of the histogram of pauses.
    Pause {
        /// The stop.
        pause: Pause,
        /// Who asked for it, for those that are not the GC's own.
        caller: Option<SiteRef>,
    },
    /// A GC cycle: a span.
    Cycle(GcCycle),
    /// The end of the process by panic or fatal error: a log record.
    Crash(Box<CrashLog>),
    /// The end of the process, however it came: a log record.
    End(Box<EndLog>),
    /// Everything counted and measured at one moment: metrics.
    Metrics(Box<Metrics>),
}

/// A finding that changed.
#[derive(Clone, Debug)]
pub struct Told {
    /// The finding as it is now.
    pub reported: Reported,
    /// What changed.
    pub change: Change,
    /// When that was noticed.
    pub at_ns: u64,
    /// For a leak: the goroutines.
    pub group: Option<LeakGroup>,
}

/// Leaked goroutines with one creation and one blocking site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeakGroup {
    /// Since when the longest parked one has been parked.
    pub oldest_ns: u64,
    /// The runtime's words for what they wait for.
    pub wait_reason: String,
    /// How many there were, and when, oldest first; only the last 64 are sent.
    pub samples: Vec<(u64, u64)>,
}

/// A panic or fatal error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashLog {
    /// When.
    pub at_ns: u64,
    /// In which goroutine, if any.
    pub goid: Option<u64>,
    /// Whether the process dies of it; if not, it was recovered.
    pub fatal: bool,
    /// The text that the process prints.
    pub text: String,
    /// `exception.type`: the type of the panic value, or `fatal error`.
    pub exception_type: Option<String>,
    /// The stack, innermost first.
    pub stack: Vec<Frame>,
    /// Where the goroutine was created.
    pub created_by: Option<SiteRef>,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndLog {
    /// When that was seen.
    pub at_ns: u64,
    /// How it ended.
    pub exit: Exit,
    /// The signal behind it, if there is one.
    pub upon: Option<Sent>,
    /// Both in words.
    pub text: String,
}

/// How many goroutines are in one state for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Population {
    /// The runtime's name of the state.
    pub state: &'static str,
    /// The runtime's words for the wait reason; empty unless parked.
    pub wait_reason: String,
    /// Whether they belong to the runtime.
    pub system: bool,
    /// How many.
    pub count: u64,
}

/// Creations and exits since attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// Created.
    pub created: u64,
    /// Ended.
    pub exited: u64,
}

/// The account of the probes since attach (LOSS-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Executions past the process filter.
    pub hits: u64,
    /// Records handed over.
    pub delivered: u64,
    /// Hits without a record.
    pub lost: u64,
    /// Records missing from the numbering.
    pub gaps: u64,
}

/// How a dear tier of probes is observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierShare {
    /// Its name.
    pub tier: &'static str,
    /// `steady`, `windows` or `off`.
    pub mode: &'static str,
    /// For how long it was observed, ns.
    pub observed_ns: u64,
}

/// What the probes cost the target since attach, as predicted by hits (COST-1).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// CPU time that the hits took, ns.
    pub predicted_ns: u64,
    /// CPU time that the target used, ns.
    pub target_cpu_ns: u64,
    /// Share of it that the probes may cost.
    pub budget: f64,
    /// Decisions by what was decided.
    pub steps: Vec<(&'static str, u64)>,
    /// The dear tiers.
    pub tiers: Vec<TierShare>,
    /// Creations a second by sampling windows: the estimate and the ends of its 95 % interval.
    pub created_per_second: Option<[f64; 3]>,
}

/// Everything counted and measured at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// When.
    pub at_ns: u64,
    /// Since when gotrail counts: the attach.
    pub since_ns: u64,
    /// The runtime's own figures.
    pub figures: Option<Figures>,
    /// Goroutines by state and wait reason; empty before the first snapshot.
    pub population: Vec<Population>,
    /// Creations and exits, where they are observed.
    pub lifetimes: Option<Lifetimes>,
    /// The account of the probes, where there are any.
    pub account: Option<Account>,
    /// What they cost, where there are any.
    pub cost: Option<Cost>,
    /// How long the last snapshot took, ns.
    pub snapshot_took_ns: Option<u64>,
    /// Active findings by id.
    pub findings: Vec<(&'static str, u64)>,
    /// Stops of the world by reason.
    pub pauses: Vec<(&'static str, PauseSum)>,
}
