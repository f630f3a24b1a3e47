//! OTLP over HTTP with protobuf bodies.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::backoff::retry_after;
use super::endpoints::without_credentials;
use super::error::ExportError;
use super::transport::{Accepted, Refusal, Request, shown, with_causes};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a request may take, connection included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read.
const ANSWER: usize = 64 * 1024;

/// The way to one backend.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    url: Url,
    shown: String,
}

impl Http {
    pub(super) fn new(url: Url, mut headers: HeaderMap) -> Result<Self, ExportError> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let mut builder = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("gotrail/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1);
        if url.scheme() == "http" {
            // Else a container without CA certificates could not even export in plain text.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|e| ExportError::Client { why: shown(&with_causes(&e)) })?;
        let shown = without_credentials(url.as_str());
        Ok(Self { client, url, shown })
    }

    /// Sends a batch once.
    pub(super) async fn send(&self, request: &Request, body: &[u8]) -> Result<Accepted, Refusal> {
        let sent = self.client.post(self.url.clone()).body(body.to_vec()).send().await;
        let mut response = sent.map_err(|e| {
            let why = self.say(&with_causes(&e.without_url()));
            Refusal::Later { why, asked: None }
        })?;
        let status = response.status();
        if status.is_success() {
            // The status says that the batch was taken; an answer that breaks off does not change that.
            return Ok(request.accepted(&read(&mut response).await));
        }
        let asked = header(&response, &RETRY_AFTER).and_then(|value| retry_after(&value, SystemTime::now()));
        let location = header(&response, &LOCATION);
        let words = read(&mut response).await;
        let why = match (location, status.is_redirection()) {
            (Some(location), true) => format!("{status}, it points to {}", without_credentials(&location)),
            _ => format!("{status} {}", String::from_utf8_lossy(&words).trim()),
        };
        Err(classify(status, self.say(why.trim_end()), asked))
    }

    fn say(&self, why: &str) -> String {
        shown(&format!("POST to {}: {why}", self.shown))
    }
}

fn classify(status: StatusCode, why: String, asked: Option<Duration>) -> Refusal {
    match status.as_u16() {
        404 | 405 | 501 => Refusal::Unsupported { why },
        408 | 429 | 500..=599 => Refusal::Later { why, asked },
        _ => Refusal::Never { why },
    }
}

fn header(response: &Response, name: &reqwest::header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

async fn read(response: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < ANSWER
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_decide_what_becomes_of_a_batch() {
        let of = |status: u16| classify(StatusCode::from_u16(status).unwrap(), String::new(), None);
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(of(status), Refusal::Later { .. }), "{status}");
        }
        for status in [400, 401, 403, 413, 415, 301] {
            assert!(matches!(of(status), Refusal::Never { .. }), "{status}");
        }
        for status in [404, 405, 501] {
            assert!(matches!(of(status), Refusal::Unsupported { .. }), "{status}");
        }
    }
}
