//! The smallest HTTP/1.1 client that can load a service and ask a backend: loopback only, no TLS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer that is read.
const LIMIT: usize = 256 << 20;

/// A connection that is kept open from request to request.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200 is good.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// No one listens.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let told = || format!("can't connect to {address}");
        let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(told)?;
        stream.set_read_timeout(Some(PATIENCE)).with_context(told)?;
        stream.set_write_timeout(Some(PATIENCE)).with_context(told)?;
        stream.set_nodelay(true).with_context(told)?;
        Ok(Self { address, stream: BufReader::new(stream) })
    }

    /// Sends a request and reads its answer, whatever its status.
    ///
    /// # Errors
    /// The connection broke, or the answer is not HTTP.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let told = || format!("{method} http://{}{path} failed", self.address);
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.stream.get_mut().write_all((head + body).as_bytes()).with_context(told)?;
        read_answer(&mut self.stream).with_context(told)
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<Answer> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.with_context(|| format!("no status in {first:?}"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(stream)?;
        let Some((name, value)) = header.split_once(':') else {
            ensure!(header.is_empty(), "no header: {header:?}");
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse().context("Content-Length")?),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let body = match (chunked, length) {
        (true, _) => chunks(stream)?,
        (false, Some(length)) => exactly(stream, length)?,
        (false, None) if status == 204 => Vec::new(),
        (false, None) => bail!("an answer without a length"),
    };
    Ok(Answer { status, body: String::from_utf8(body).context("an answer that is no text")? })
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    ensure!(stream.read_line(&mut line)? != 0, "the server closed the connection");
    Ok(line.trim_end().to_owned())
}

fn exactly(stream: &mut BufReader<TcpStream>, length: usize) -> Result<Vec<u8>> {
    ensure!(length <= LIMIT, "an answer of {length} bytes");
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn chunks(stream: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(stream)?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
            .with_context(|| format!("{size:?} is no size of a chunk"))?;
        body.extend(exactly(stream, size)?);
        ensure!(line(stream)?.is_empty() && body.len() <= LIMIT, "a chunk that does not end where it should");
        if size == 0 {
            return Ok(body);
        }
    }
}

/// The body of one successful GET.
///
/// # Errors
/// There is no answer, or its status is not 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let answer = Client::connect(address)?.request("GET", path, "")?;
    ensure!(answer.status == 200, "GET http://{address}{path}: {} {}", answer.status, answer.body);
    Ok(answer.body)
}

/// Likewise, if it is JSON.
///
/// # Errors
/// As [`get`], or it is not.
pub fn get_json(address: SocketAddr, path: &str) -> Result<Value> {
    let body = get(address, path)?;
    serde_json::from_str(&body).with_context(|| format!("http://{address}{path} gave no JSON: {body:?}"))
}

/// Escapes a value for the query part of a URL.
#[must_use]
pub fn escape(value: &str) -> String {
    value.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

/// Addresses on loopback that are free now. All are held until all are known, so that none is given twice.
///
/// # Errors
/// There is none.
pub fn free_addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let mut held = Vec::with_capacity(COUNT);
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); COUNT];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("can't find a free port on 127.0.0.1")?;
        *address = listener.local_addr().context("can't tell the port of a listener")?;
        held.push(listener);
    }
    Ok(addresses)
}
