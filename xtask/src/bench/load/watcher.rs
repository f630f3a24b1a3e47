//! Who watches while the process works: gotrail in its ways, and others for the same purpose.

use std::path::Path;

use anyhow::Result;

use super::super::tool::{Account, Tool};
use super::work::Running;

/// Room for the hits of a program at full work.
const RING: [&str; 2] = ["--ring-kib", "65536"];

/// A way to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watcher {
    Nobody,
    Rare,
    Default,
    Lifetimes,
    Switches,
    Sums,
    Bpftrace,
    Trace,
    Flight,
}

impl Watcher {
    pub(super) const ALL: [Self; 9] = [
        Self::Nobody,
        Self::Rare,
        Self::Default,
        Self::Lifetimes,
        Self::Switches,
        Self::Sums,
        Self::Bpftrace,
        Self::Trace,
        Self::Flight,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Rare => "gotrail_rare",
            Self::Default => "gotrail_default",
            Self::Lifetimes => "gotrail_lifetimes",
            Self::Switches => "gotrail_switches",
            Self::Sums => "gotrail_switches_sums",
            Self::Bpftrace => "bpftrace_gopark",
            Self::Trace => "runtime_trace",
            Self::Flight => "flight_recorder",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nobody => "nobody: the noise of the machine",
            Self::Rare => "rare probes and a snapshot a second: `attach --budget 0.2`",
            Self::Default => "`attach`",
            Self::Lifetimes => "each creation and exit (T2): `attach --budget 100`",
            Self::Switches => "each switch (T3): `attach --budget 0.2 --switches`",
            Self::Sums => "each switch, summed in the kernel: `--switches-as sums`",
            Self::Bpftrace => "bpftrace, counts `runtime.gopark` at its entry",
            Self::Trace => "in the process: runtime/trace, into nothing",
            Self::Flight => "in the process: FlightRecorder",
        }
    }

    /// Whether it is switched on in the process itself.
    pub(super) fn inside(self) -> Option<&'static str> {
        match self {
            Self::Trace => Some("trace"),
            Self::Flight => Some("flight"),
            _ => None,
        }
    }

    /// Arguments of `gotrail attach PID`.
    fn gotrail(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Rare => Some(&["--budget", "0.2"]),
            Self::Default => Some(&[]),
            Self::Lifetimes => Some(&["--budget", "100"]),
            Self::Switches => Some(&["--budget", "0.2", "--switches", "10m"]),
            Self::Sums => Some(&["--budget", "0.2", "--switches", "10m", "--switches-as", "sums"]),
            Self::Nobody | Self::Bpftrace | Self::Trace | Self::Flight => None,
        }
    }
}

/// A watcher at work.
pub(super) struct Watching {
    watcher: Watcher,
    tool: Option<Tool>,
}

impl Watching {
    /// Begins, and returns when it is at work.
    pub(super) fn begin(
        watcher: Watcher,
        gotrail: &Path,
        running: &mut Running,
        folder: &Path,
    ) -> Result<Self> {
        if let Some(word) = watcher.inside() {
            running.tell(word)?;
        }
        let tool = match watcher.gotrail() {
            Some(arguments) => {
                let arguments = [arguments, &RING].concat();
                Some(Tool::gotrail(gotrail, running.pid(), &arguments, folder)?)
            }
            None if watcher == Watcher::Bpftrace => {
                Some(Tool::bpftrace(running.pid(), "runtime.gopark", folder)?)
            }
            None => None,
        };
        Ok(Self { watcher, tool })
    }

    /// Ends it, and returns when it has gone.
    pub(super) fn end(self, running: &mut Running) -> Result<Account> {
        if self.watcher.inside().is_some() {
            running.tell("plain")?;
        }
        self.tool.map_or_else(|| Ok(Account::default()), Tool::end)
    }
}
