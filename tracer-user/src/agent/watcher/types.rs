//! How a process is to be watched, what is told of it, and what is left.

use std::time::Duration;

use crate::agent::governor::{self, Step};
use crate::binary::BinaryError;
use crate::detect::{Change, Thresholds};
use crate::memory::RuntimeError;
use crate::probe::{Accounting, LostEvents, ProbeError, Relink, Why};
use crate::target::{Exit, Sent, TargetError};

/// Why a process can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It can't be looked at.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its executable is not understood.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// Its program is not Go, but a library that it has loaded is.
    #[error(
        "process {pid} runs a program that is not Go, with a Go library ({version}) in it: {path}; gotrail watches Go programs, not libraries in other ones (`gotrail inspect` reads the library's file)"
    )]
    GoLibrary {
        /// The process.
        pid: u32,
        /// The library, as the process sees it.
        path: String,
        /// The version of its toolchain.
        version: String,
    },
    /// Its memory can't be read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Probes can't be placed.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// How a process is watched.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between snapshots; longer ones make it longer by themselves.
    pub snapshot_every: Duration,
    /// Share of the target's CPU time that probes may cost.
    pub budget: f64,
    /// Limits of the detectors.
    pub thresholds: Thresholds,
    /// How the probes are attached.
    pub probes: crate::probe::Options,
    /// How switches between goroutines are observed; `None`: not at all.
    pub switches: Option<SwitchesFor>,
    /// For how long from attach on the system calls of goroutines are observed; `None`: not at all.
    pub syscalls: Option<Duration>,
}

/// How switches between goroutines are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchesFor {
    /// All of them for this long from attach on, whatever that costs.
    Time(Duration),
    /// In bursts, as the budget allows.
    Bursts,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub exit: Exit,
    /// When that was seen, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// The signal behind it, if there is one.
    pub upon: Option<Sent>,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.upon {
            Some(sent) => write!(f, "{}, {}", self.exit, sent.describe(self.exit, self.at_ns)),
            None => self.exit.fmt(f),
        }
    }
}

/// Something to tell.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A finding changed; look it up by key.
    Finding(String, Change),
    /// The governor decided something, or something came of it.
    Governed(Step),
    /// A tier that is observed all the time was not, from one time to another (`CLOCK_MONOTONIC` ns), since its lease
    /// ran out or its keeper ended.
    Gap {
        /// `TIER_` bit.
        tier: u32,
        /// The last moment before.
        from_ns: u64,
        /// The first moment after.
        to_ns: u64,
        /// Why.
        why: Why,
    },
    /// The link of the rare tier was made anew, which was a gap for all that it serves.
    Relinked(Relink),
    /// A tier of probes is off, because it could not be put back without those that cost too much.
    ProbesLost(String),
    /// The ring had no room for so many records since the last look: that interval has gaps.
    Lost(u64),
    /// Switches are no longer observed.
    SwitchesEnded,
    /// The process was stopped by a signal, or goes on.
    Stopped(bool),
    /// A snapshot could not be taken.
    SnapshotFailed(String),
    /// The process ended.
    Ended(Ended),
}

/// What is left when the watch is over.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Events of the first two tiers that were lost on their way.
    pub lost: LostEvents,
    /// How often no rare probe was on for a while.
    pub rare_gaps: u64,
    /// The account of the probes: exact.
    pub accounting: Accounting,
    /// How long detaching took.
    pub detached_in: Duration,
    /// How long the process was watched.
    pub watched: Duration,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// That with what led to it.
    pub ended: Option<Ended>,
    /// Signals that kill where nobody handles them, as far as it was sent any ([`crate::probe::Endings::signals`]).
    pub signals: Vec<Sent>,
    /// Whether that is known at all.
    pub senders_known: bool,
    /// What the probes cost.
    pub cost: governor::Ledger,
    /// Goroutine ids that the runtime handed out while the process was watched, where memory could still be read at
    /// the end: creations, but for [`crate::memory::GOID_BATCH`] for each P.
    pub goids: Option<u64>,
}
