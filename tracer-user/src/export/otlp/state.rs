//! How export is doing.

use serde::Serialize;

/// A kind of telemetry; each has an endpoint and a queue of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// Spans.
    #[default]
    Traces,
    /// Metrics.
    Metrics,
    /// Logs.
    Logs,
}

impl Signal {
    /// The name used in outputs and in endpoints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// How one signal is doing. `offered = sent + dropped + waiting`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SignalState {
    /// Which.
    pub signal: Signal,
    /// Where it goes, without credentials; `None` if it is not exported, then nothing is counted.
    pub endpoint: Option<String>,
    /// Items that were offered.
    pub offered: u64,
    /// Items that the backend took.
    pub sent: u64,
    /// Items that were lost: no room, refused by the backend, or not sent in time at the end.
    pub dropped: u64,
    /// Items that wait or are under way.
    pub waiting: u64,
    /// Requests that the backend took.
    pub batches: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Spans, data points or records in requests that the backend took, but that it refused one by one.
    pub rejected: u64,
    /// The backend has no such endpoint; what is offered is dropped, and one request a minute asks again.
    pub unsupported: bool,
    /// Since when no request has succeeded, `CLOCK_MONOTONIC` ns; `None` while all is well.
    pub failing_since_ns: Option<u64>,
    /// The last thing that went wrong, escaped.
    pub last_error: Option<String>,
}

/// How export is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExportState {
    /// Spans.
    pub traces: SignalState,
    /// Metrics.
    pub metrics: SignalState,
    /// Logs.
    pub logs: SignalState,
}

impl ExportState {
    /// The signals that are exported.
    pub fn active(&self) -> impl Iterator<Item = &SignalState> {
        [&self.traces, &self.metrics, &self.logs].into_iter().filter(|s| s.endpoint.is_some())
    }

    /// Items lost, all signals together.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.active().map(|s| s.dropped).sum()
    }

    /// Whether anything went wrong that the user should know of.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.active()
            .any(|s| s.dropped != 0 || s.rejected != 0 || s.failing_since_ns.is_some() || s.unsupported)
    }
}
