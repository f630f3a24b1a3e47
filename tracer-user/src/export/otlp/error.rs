//! Why export can't start. What goes wrong later is in [`super::ExportState`].

/// Why export can't start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// An endpoint is no URL that can be used.
    #[error(
        "tried to use {url:?} given by {option} as an OTLP endpoint: {why}; give http://HOST:4318 or the like"
    )]
    BadUrl {
        /// The option.
        option: &'static str,
        /// What it was given, without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// gRPC was asked for, but is not built in.
    #[error(
        "tried to use {url:?} given by {option} as an OTLP endpoint: this gotrail was built without gRPC; give an http:// URL (port 4318 by convention), or build with the cargo feature `grpc`"
    )]
    NoGrpc {
        /// The option.
        option: &'static str,
        /// What it was given, without credentials.
        url: String,
    },
    /// The environment asks for request headers that make no sense.
    #[error(
        "tried to read request headers from {variable}: {why}; write name=value,name=value with percent-encoded values"
    )]
    BadHeaders {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The environment asks for request headers, but gRPC requests carry none here.
    #[error(
        "tried to export over gRPC with request headers from {variable}: headers are sent over HTTP only; use an http:// URL, or unset it"
    )]
    HeadersOverGrpc {
        /// The variable.
        variable: &'static str,
    },
    /// The HTTP client can't be set up.
    #[error("tried to set up the HTTP client for OTLP: {why}; for https:// the host needs CA certificates")]
    Client {
        /// What it said.
        why: String,
    },
    /// The worker can't be started.
    #[error("tried to start the thread that exports: {source}; look at the limits on threads and memory")]
    Worker {
        /// What the system said.
        source: std::io::Error,
    },
}
