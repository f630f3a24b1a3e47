//! What leaves gotrail for other systems. One exporter can't slow or break another, nor the drain.

#[cfg(feature = "otlp")]
pub mod otlp;
pub mod pprof;
