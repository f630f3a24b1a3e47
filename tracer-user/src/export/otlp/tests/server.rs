//! A small HTTP/1.1 server that answers by a script and keeps what it was sent.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A request that was received.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) at: Instant,
}

/// How to answer a request: status line with further headers, and a body.
pub(super) type Script = fn(path: &str, number: usize) -> (String, Vec<u8>);

pub(super) struct Server {
    pub(super) base: String,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// Listens on a free port; the thread ends with the test.
    pub(super) fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                thread::spawn(move || serve(&stream, script, &log));
            }
        });
        Self { base, received }
    }

    /// What was received for a path so far.
    pub(super) fn received(&self, path: &str) -> Vec<Received> {
        self.received.lock().unwrap().iter().filter(|r| r.path == path).cloned().collect()
    }

    /// Waits until `count` requests for a path are there.
    pub(super) fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let received = self.received(path);
            if received.len() >= count {
                return received;
            }
            assert!(Instant::now() < deadline, "{path}: {} of {count} requests came", received.len());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(super) fn ok(_: &str, _: usize) -> (String, Vec<u8>) {
    ("200 OK".to_owned(), Vec::new())
}

fn serve(stream: &TcpStream, script: Script, log: &Mutex<Vec<Received>>) {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let number = {
            let mut log = log.lock().unwrap();
            let number = log.iter().filter(|r| r.path == path).count();
            log.push(Received { path: path.clone(), headers, body, at: Instant::now() });
            number
        };
        let (head, body) = script(&path, number);
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
        if writer.write_all(answer.as_bytes()).and_then(|()| writer.write_all(&body)).is_err() {
            return;
        }
    }
}
