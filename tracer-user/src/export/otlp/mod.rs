//! OTLP: spans for findings, stops of the world and GC cycles, metrics under semantic-convention names, logs
//! for crashes.
//!
//! [`Exporter::offer`] puts an item into a bounded queue and never blocks; one worker thread encodes, sends and
//! retries. Each signal has a queue, a backoff and an account of its own, so that a dead metrics backend does
//! not hold spans up. The messages are built here and not by the SDK: it can't export histograms that others
//! aggregated, nor spans with given times and ids together with the state of each request.
//!
//! Times come in as `CLOCK_MONOTONIC` ns and become wall time when a batch is encoded (TIME-1). Whatever the
//! target could have written (names, texts) is escaped and bounded (SEC-1).

mod attributes;
mod backoff;
mod clock;
mod cycles;
mod endpoints;
mod error;
mod exporter;
#[cfg(feature = "grpc")]
mod grpc;
mod headers;
mod histogram;
mod http;
mod identity;
mod ids;
mod item;
mod lane;
mod logs;
mod metrics;
mod points;
mod spans;
mod state;
mod stories;
mod transport;
mod worker;

#[cfg(test)]
mod backends;
#[cfg(test)]
mod tests;

pub use endpoints::Endpoints;
pub use error::ExportError;
pub use exporter::Exporter;
pub use identity::Identity;
pub use item::{
    Account, Cost, CrashLog, EndLog, Item, LeakGroup, Lifetimes, Metrics, Population, TierShare, Told,
};
pub use lane::{LOGS_CAPACITY, METRICS_CAPACITY, TRACES_CAPACITY, TRACES_RESERVED};
pub use state::{ExportState, Signal, SignalState};
