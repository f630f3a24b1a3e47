//! OTLP over gRPC. A connection for each batch: batches are seconds apart, and it needs no care in between.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use reqwest::Url;
use tokio::time::timeout;

use super::endpoints::without_credentials;
use super::transport::{Accepted, Refusal, Request, shown, with_causes};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The way to one backend.
#[derive(Debug)]
pub(super) struct Grpc {
    /// With the scheme that the connection needs: `http` or `https`.
    endpoint: String,
    shown: String,
}

/// Connects and sends; the three services differ in their types alone.
macro_rules! export {
    ($self:ident, $client:ident, $request:expr) => {{
        let connected = timeout(CONNECT, $client::connect($self.endpoint.clone())).await;
        let mut client = connected
            .map_err(|_| $self.later("no connection within 2 s"))?
            .map_err(|e| $self.later(&with_causes(&e)))?;
        let answered = timeout(TIMEOUT, client.export($request.clone())).await;
        match answered.map_err(|_| $self.later("no answer within 5 s"))? {
            Ok(response) => Ok(response.into_inner().into()),
            Err(status) => Err($self.classify(status.code() as i32, status.message())),
        }
    }};
}

impl Grpc {
    pub(super) fn new(url: &Url) -> Self {
        let shown = without_credentials(url.as_str());
        let scheme = if url.scheme() == "grpcs" { "https" } else { "http" };
        let host = url.host_str().unwrap_or_default();
        let port = url.port().unwrap_or(4317);
        Self { endpoint: format!("{scheme}://{host}:{port}"), shown }
    }

    /// Sends a batch once.
    pub(super) async fn send(&self, request: &Request) -> Result<Accepted, Refusal> {
        match request {
            Request::Traces(request) => export!(self, TraceServiceClient, request),
            Request::Metrics(request) => export!(self, MetricsServiceClient, request),
            Request::Logs(request) => export!(self, LogsServiceClient, request),
        }
    }

    fn later(&self, why: &str) -> Refusal {
        Refusal::Later { why: self.say(why), asked: None }
    }

    /// By the status code: which ones may be retried is the OTLP specification's to say.
    fn classify(&self, code: i32, message: &str) -> Refusal {
        let why = self.say(&format!("gRPC status {code}: {message}"));
        match code {
            // Cancelled, deadline exceeded, resource exhausted, aborted, out of range, unavailable, data loss.
            1 | 4 | 8 | 10 | 11 | 14 | 15 => Refusal::Later { why, asked: None },
            // Unimplemented.
            12 => Refusal::Unsupported { why },
            _ => Refusal::Never { why },
        }
    }

    fn say(&self, why: &str) -> String {
        shown(&format!("export to {}: {why}", self.shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_codes() {
        let grpc = Grpc::new(&Url::parse("grpc://collector").unwrap());
        assert_eq!(grpc.endpoint, "http://collector:4317");
        assert_eq!(Grpc::new(&Url::parse("grpcs://c:443").unwrap()).endpoint, "https://c:443");
        assert!(matches!(grpc.classify(14, ""), Refusal::Later { .. }));
        assert!(matches!(grpc.classify(12, ""), Refusal::Unsupported { .. }));
        assert!(matches!(grpc.classify(3, ""), Refusal::Never { .. }));
    }
}
