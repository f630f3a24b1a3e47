//! The smallest HTTP client that can ask a backend on this host a question.
//!
//! HTTP/1.0, so that the answer is neither chunked nor kept open; no TLS, as nothing leaves the host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PATIENCE: Duration = Duration::from_secs(10);

/// The body of a successful GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let told = || format!("can't GET http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(told)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(told)?;
    stream.set_write_timeout(Some(PATIENCE)).with_context(told)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(told)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(told)?;
    body(&String::from_utf8_lossy(&answer)).with_context(told)
}

/// Escapes a value for the query part of a URL.
pub(crate) fn escape(value: &str) -> String {
    value.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

fn body(answer: &str) -> Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no end of its header")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the answer was {}: {}", head.lines().next().unwrap_or_default(), body.trim());
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers one request and returns it.
    fn served(answer: &'static str) -> (Result<String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (get(address, "/api?q=1"), server.join().unwrap())
    }

    #[test]
    fn the_body_of_a_200_comes_back() {
        let (answer, request) = served("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}");
        assert_eq!(answer.unwrap(), "{\"a\":1}");
        assert!(request.starts_with("GET /api?q=1 HTTP/1.0\r\n"), "{request}");
    }

    #[test]
    fn any_other_status_is_an_error_with_the_servers_words() {
        let (answer, _) = served("HTTP/1.1 404 Not Found\r\n\r\nno such page");
        let text = format!("{:#}", answer.expect_err("404 is no success"));
        assert!(text.contains("404 Not Found") && text.contains("no such page"), "{text}");
    }

    #[test]
    fn values_are_escaped() {
        assert_eq!(escape("{__name__=~\".+\"}"), "%7B__name__%3D~%22.%2B%22%7D");
    }
}
