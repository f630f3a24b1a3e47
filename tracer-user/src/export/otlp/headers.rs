//! Request headers from the standard environment variables: how backends are given their tokens.

use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_LOGS_HEADERS, OTEL_EXPORTER_OTLP_METRICS_HEADERS,
    OTEL_EXPORTER_OTLP_TRACES_HEADERS,
};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::ExportError;
use super::state::Signal;

/// The headers for a signal, and the variable that they come from: the signal's own, else the common one.
pub(super) fn headers(signal: Signal) -> Result<Option<(&'static str, HeaderMap)>, ExportError> {
    let own = match signal {
        Signal::Traces => OTEL_EXPORTER_OTLP_TRACES_HEADERS,
        Signal::Metrics => OTEL_EXPORTER_OTLP_METRICS_HEADERS,
        Signal::Logs => OTEL_EXPORTER_OTLP_LOGS_HEADERS,
    };
    let set =
        [own, OTEL_EXPORTER_OTLP_HEADERS].into_iter().find_map(|name| Some((name, std::env::var_os(name)?)));
    let Some((variable, value)) = set else { return Ok(None) };
    let value = value.to_str().ok_or_else(|| bad(variable, "it is not UTF-8"))?;
    Ok(Some((variable, parse(variable, value)?)).filter(|(_, headers)| !headers.is_empty()))
}

fn bad(variable: &'static str, why: &str) -> ExportError {
    ExportError::BadHeaders { variable, why: why.to_owned() }
}

/// `name=value,name=value`, the values percent-encoded. No value is ever shown.
fn parse(variable: &'static str, list: &str) -> Result<HeaderMap, ExportError> {
    let mut headers = HeaderMap::new();
    for (number, pair) in list.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty()) {
        let number = number + 1;
        let (name, value) =
            pair.split_once('=').ok_or_else(|| bad(variable, &format!("entry {number} has no =")))?;
        let name = HeaderName::try_from(name.trim())
            .map_err(|_| bad(variable, &format!("entry {number} has a name that no header can have")))?;
        let mut value = HeaderValue::from_bytes(&percent_decoded(value.trim()))
            .map_err(|_| bad(variable, &format!("entry {number} has a value that no header can have")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) if *byte == b'%' => {
                out.push(decoded);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let headers = parse("V", "Authorization=Bearer%20abc%2Cd, x-scope-orgid = 7,,").unwrap();
        assert_eq!(headers["authorization"], "Bearer abc,d");
        assert_eq!(headers["x-scope-orgid"], "7");
        assert!(headers["authorization"].is_sensitive());
        assert_eq!(percent_decoded("100%"), b"100%");
        assert_eq!(percent_decoded("%zz日"), "%zz日".as_bytes());
    }

    #[test]
    fn nonsense_is_refused_without_showing_it() {
        for list in ["secret", "a b=secret", "a=secret%0a"] {
            let error = parse("V", list).unwrap_err().to_string();
            assert!(error.contains('V') && !error.contains("secret"), "{error}");
        }
    }
}
