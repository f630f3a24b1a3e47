//! One request to one backend, and what came of it.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;

use super::attributes::text;
use super::endpoints::{is_grpc, parse, without_credentials};
use super::error::ExportError;
use super::http::Http;
use super::state::Signal;

/// Longest error text that is kept.
const ERROR_LIMIT: usize = 300;

/// A batch, ready to be sent.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

impl Request {
    pub(super) fn encoded(&self) -> Vec<u8> {
        match self {
            Self::Traces(request) => request.encode_to_vec(),
            Self::Metrics(request) => request.encode_to_vec(),
            Self::Logs(request) => request.encode_to_vec(),
        }
    }

    /// What the backend says of a batch that it took. A body that can't be read means that all is well: some
    /// backends answer with text.
    pub(super) fn accepted(&self, body: &[u8]) -> Accepted {
        match self {
            Self::Traces(_) => {
                ExportTraceServiceResponse::decode(body).map(Accepted::from).unwrap_or_default()
            }
            Self::Metrics(_) => {
                ExportMetricsServiceResponse::decode(body).map(Accepted::from).unwrap_or_default()
            }
            Self::Logs(_) => ExportLogsServiceResponse::decode(body).map(Accepted::from).unwrap_or_default(),
        }
    }
}

/// What the backend took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    /// But for this many spans, data points or records.
    pub(super) rejected: u64,
    /// What it said of them.
    pub(super) complaint: Option<String>,
}

impl Accepted {
    fn new(rejected: i64, message: &str) -> Self {
        let complaint = (rejected > 0 || !message.is_empty()).then(|| {
            shown(&format!(
                "the backend took the request but for {} of its entries: {message}",
                rejected.max(0)
            ))
        });
        Self { rejected: rejected.max(0).unsigned_abs(), complaint }
    }
}

impl From<ExportTraceServiceResponse> for Accepted {
    fn from(response: ExportTraceServiceResponse) -> Self {
        response.partial_success.map(|p| Self::new(p.rejected_spans, &p.error_message)).unwrap_or_default()
    }
}

impl From<ExportMetricsServiceResponse> for Accepted {
    fn from(response: ExportMetricsServiceResponse) -> Self {
        response
            .partial_success
            .map(|p| Self::new(p.rejected_data_points, &p.error_message))
            .unwrap_or_default()
    }
}

impl From<ExportLogsServiceResponse> for Accepted {
    fn from(response: ExportLogsServiceResponse) -> Self {
        response
            .partial_success
            .map(|p| Self::new(p.rejected_log_records, &p.error_message))
            .unwrap_or_default()
    }
}

/// Why the backend did not take a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It may take it later, not before the time that it asked for.
    Later { why: String, asked: Option<Duration> },
    /// It never will.
    Never { why: String },
    /// It has no place for this signal.
    Unsupported { why: String },
}

/// The way to one backend.
#[derive(Debug)]
pub(super) enum Transport {
    Http(Http),
    #[cfg(feature = "grpc")]
    Grpc(super::grpc::Grpc),
}

impl Transport {
    /// To this endpoint.
    pub(super) fn new(signal: Signal, endpoint: &str) -> Result<Self, ExportError> {
        let option = match signal {
            Signal::Traces => "--otlp-traces",
            Signal::Metrics => "--otlp-metrics",
            Signal::Logs => "--otlp-logs",
        };
        let url = parse(option, endpoint)?;
        let headers = super::headers::headers(signal)?;
        if is_grpc(&url) {
            #[cfg(feature = "grpc")]
            return match headers {
                Some((variable, _)) => Err(ExportError::HeadersOverGrpc { variable }),
                None => Ok(Self::Grpc(super::grpc::Grpc::new(&url))),
            };
            #[cfg(not(feature = "grpc"))]
            return Err(ExportError::NoGrpc { option, url: without_credentials(endpoint) });
        }
        Ok(Self::Http(Http::new(url, headers.map(|(_, headers)| headers).unwrap_or_default())?))
    }

    /// Sends a batch once.
    pub(super) async fn send(&self, request: &Request, body: &[u8]) -> Result<Accepted, Refusal> {
        match self {
            Self::Http(http) => http.send(request, body).await,
            #[cfg(feature = "grpc")]
            Self::Grpc(grpc) => grpc.send(request).await,
        }
    }
}

/// What may be shown of an endpoint.
pub(super) fn shown_endpoint(endpoint: &str) -> String {
    text(&without_credentials(endpoint), ERROR_LIMIT)
}

/// What may be shown of an error text: a backend's words are as little to be trusted as a target's.
pub(super) fn shown(error: &str) -> String {
    text(error, ERROR_LIMIT)
}

/// An error with all its causes.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !out.contains(&words) {
            out.push_str(": ");
            out.push_str(&words);
        }
        cause = next.source();
    }
    out
}
