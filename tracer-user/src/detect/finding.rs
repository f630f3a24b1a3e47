//! What a finding says (TRUTH-1).

use crate::binary::Frame;

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Degree {
    /// The pattern of the fault is there; something else might look the same.
    Suspected,
    /// It was observed long or often enough, or from the runtime's own word.
    Confirmed,
    /// It can't be otherwise.
    Proved,
}

impl Degree {
    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Suspected => "suspected",
            Self::Confirmed => "confirmed",
            Self::Proved => "proved",
        }
    }
}

/// Whether a finding still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Active,
    /// It did.
    Resolved,
}

impl State {
    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Resolved => "resolved",
        }
    }
}

/// What a place in the source has to do with a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The goroutines were created here.
    Created,
    /// They wait here.
    Blocked,
    /// This call does it.
    Called,
    /// The process died here.
    Died,
}

impl Role {
    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Blocked => "blocked",
            Self::Called => "called",
            Self::Died => "died",
        }
    }
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteRef {
    /// What it has to do with the finding.
    pub role: Role,
    /// Function.
    pub function: String,
    /// File.
    pub file: String,
    /// Line.
    pub line: u32,
}

impl SiteRef {
    /// From a frame.
    #[must_use]
    pub fn new(role: Role, frame: &Frame) -> Self {
        Self { role, function: frame.function.clone(), file: frame.file.clone(), line: frame.line }
    }
}

/// How a population of goroutines developed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trend {
    /// Since when the longest parked one has been parked, `CLOCK_MONOTONIC` ns.
    pub oldest_ns: u64,
    /// The runtime's words for what they wait for.
    pub wait_reason: String,
    /// When (`CLOCK_MONOTONIC` ns), and how many there were, oldest first.
    pub samples: Vec<(u64, u64)>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable slug of its kind: `goroutine-leak`.
    pub id: &'static str,
    /// What makes it this one and no other of its kind; stays the same as it develops.
    pub key: String,
    /// One sentence.
    pub title: String,
    /// How sure.
    pub degree: Degree,
    /// The facts, one a line.
    pub evidence: Vec<String>,
    /// Goroutines concerned, some if there are many.
    pub goids: Vec<u64>,
    /// How many are concerned.
    pub count: u64,
    /// Places in the source.
    pub sites: Vec<SiteRef>,
    /// The stack of one of the goroutines, innermost first.
    pub stack: Vec<Frame>,
    /// How the population developed, for findings about one.
    pub trend: Option<Trend>,
    /// What to do.
    pub advice: &'static str,
    /// What would show that it is none.
    pub disproof: &'static str,
}
