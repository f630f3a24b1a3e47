//! Where each signal goes.

use reqwest::Url;

use super::error::ExportError;
use super::state::Signal;
use crate::text::printable;

/// Where each signal goes; a signal without an endpoint is not exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Full URL for spans.
    pub traces: Option<String>,
    /// Full URL for metrics.
    pub metrics: Option<String>,
    /// Full URL for logs.
    pub logs: Option<String>,
}

impl Endpoints {
    /// From the options `--otlp` (a base, to which `/v1/traces`, `/v1/metrics` and `/v1/logs` are appended;
    /// if it already ends in one of them, it stands for that signal alone) and `--otlp-traces`,
    /// `--otlp-metrics`, `--otlp-logs` (full URLs, which win). `http` and `https` mean HTTP/protobuf, `grpc`
    /// and `grpcs` mean gRPC and take no path. `None` if nothing was asked for.
    ///
    /// # Errors
    /// [`ExportError::BadUrl`], [`ExportError::NoGrpc`].
    pub fn new(
        base: Option<&str>,
        traces: Option<&str>,
        metrics: Option<&str>,
        logs: Option<&str>,
    ) -> Result<Option<Self>, ExportError> {
        let mut endpoints = base.map(from_base).transpose()?.unwrap_or_default();
        for (option, given, slot) in [
            ("--otlp-traces", traces, &mut endpoints.traces),
            ("--otlp-metrics", metrics, &mut endpoints.metrics),
            ("--otlp-logs", logs, &mut endpoints.logs),
        ] {
            if let Some(given) = given {
                *slot = Some(parse(option, given)?.to_string());
            }
        }
        Ok((endpoints != Self::default()).then_some(endpoints))
    }

    /// The endpoint of a signal.
    #[must_use]
    pub fn of(&self, signal: Signal) -> Option<&str> {
        match signal {
            Signal::Traces => self.traces.as_deref(),
            Signal::Metrics => self.metrics.as_deref(),
            Signal::Logs => self.logs.as_deref(),
        }
    }
}

fn from_base(given: &str) -> Result<Endpoints, ExportError> {
    let url = parse("--otlp", given)?;
    if is_grpc(&url) {
        let all = Some(url.to_string());
        return Ok(Endpoints { traces: all.clone(), metrics: all.clone(), logs: all });
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let mut endpoints = Endpoints::default();
    if path.ends_with("/v1/traces") {
        endpoints.traces = Some(url.to_string());
    } else if path.ends_with("/v1/metrics") {
        endpoints.metrics = Some(url.to_string());
    } else if path.ends_with("/v1/logs") {
        endpoints.logs = Some(url.to_string());
    } else {
        let with = |signal: Signal| {
            let mut full = url.clone();
            full.set_path(&format!("{path}/v1/{}", signal.name()));
            Some(full.to_string())
        };
        endpoints.traces = with(Signal::Traces);
        endpoints.metrics = with(Signal::Metrics);
        endpoints.logs = with(Signal::Logs);
    }
    Ok(endpoints)
}

/// Whether the scheme asks for gRPC.
pub(super) fn is_grpc(url: &Url) -> bool {
    matches!(url.scheme(), "grpc" | "grpcs")
}

/// Checks an endpoint.
pub(super) fn parse(option: &'static str, given: &str) -> Result<Url, ExportError> {
    let bad = |why: String| ExportError::BadUrl { option, url: without_credentials(given), why };
    let url = Url::parse(given).map_err(|e| bad(e.to_string()))?;
    match url.scheme() {
        "http" | "https" => {}
        "grpc" | "grpcs" if cfg!(feature = "grpc") => {}
        "grpc" | "grpcs" => return Err(ExportError::NoGrpc { option, url: without_credentials(given) }),
        other => return Err(bad(format!("{other:?} is no scheme for OTLP"))),
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("it names no host".to_owned()));
    }
    Ok(url)
}

/// A URL as it may be shown: user, password and query can be secrets.
pub(super) fn without_credentials(given: &str) -> String {
    let shown = match given.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => given.to_owned(),
    };
    printable(shown.split_once('?').map_or(shown.as_str(), |(before, _)| before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(url: &str) -> Endpoints {
        Endpoints::new(Some(url), None, None, None).unwrap().unwrap()
    }

    #[test]
    fn a_base_stands_for_all_signals() {
        for url in ["http://c:4318", "http://c:4318/"] {
            let all = base(url);
            assert_eq!(all.traces.as_deref(), Some("http://c:4318/v1/traces"));
            assert_eq!(all.metrics.as_deref(), Some("http://c:4318/v1/metrics"));
            assert_eq!(all.logs.as_deref(), Some("http://c:4318/v1/logs"));
        }
        let prefixed = base("https://vm/opentelemetry/");
        assert_eq!(prefixed.metrics.as_deref(), Some("https://vm/opentelemetry/v1/metrics"));
    }

    #[test]
    fn a_full_url_stands_for_its_signal() {
        let only = base("http://vm:8428/opentelemetry/v1/metrics");
        assert_eq!(only.metrics.as_deref(), Some("http://vm:8428/opentelemetry/v1/metrics"));
        assert_eq!((only.traces, only.logs), (None, None));
    }

    #[test]
    fn single_signals_win() {
        let both =
            Endpoints::new(Some("http://c:4318"), None, Some("http://vm:8428/x"), None).unwrap().unwrap();
        assert_eq!(both.metrics.as_deref(), Some("http://vm:8428/x"));
        assert_eq!(both.traces.as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(Endpoints::new(None, None, None, None).unwrap(), None);
    }

    #[test]
    fn bad_urls_are_refused_without_showing_secrets() {
        for (bad, why) in
            [("localhost:4318", "scheme"), ("c", "relative"), ("ftp://c", "scheme"), ("http://", "host")]
        {
            let error = Endpoints::new(Some(bad), None, None, None).unwrap_err().to_string();
            assert!(error.contains("--otlp") && error.contains(why), "{error}");
        }
        let error = Endpoints::new(Some("ftp://me:secret@c/x?token=secret"), None, None, None).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[cfg(not(feature = "grpc"))]
    #[test]
    fn grpc_must_be_built_in() {
        assert!(matches!(
            Endpoints::new(Some("grpc://c:4317"), None, None, None),
            Err(ExportError::NoGrpc { .. })
        ));
    }

    #[cfg(feature = "grpc")]
    #[test]
    fn grpc_takes_no_path() {
        assert_eq!(base("grpc://c:4317").logs.as_deref(), Some("grpc://c:4317"));
    }
}
