//! A process at work, whoever drives it, and how it fares: see `tests/fixtures/workload`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::children::Guarded;
use crate::scratch::Scratch;

/// How long a server may take to answer at all.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// A read of a key that is not there, by etcd's JSON gateway.
const ETCD_REQUEST: &str = "{\"key\":\"Z290cmFpbA==\"}";

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Http,
    PingPong,
    Spawn,
    Etcd,
}

impl Work {
    pub(super) const ALL: [Self; 4] = [Self::Http, Self::PingPong, Self::Spawn, Self::Etcd];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::PingPong => "pingpong",
            Self::Spawn => "spawn",
            Self::Etcd => "etcd",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Http => "HTTP server, 16 connections, a goroutine for each request: requests a second",
            Self::PingPong => {
                "two pairs of goroutines, a token to and fro over channels: round trips a second"
            }
            Self::Spawn => "goroutines that end at once, 100 000 a second: goroutines a second",
            Self::Etcd => "etcd, 16 connections that read a key by JSON: requests a second",
        }
    }

    /// Whether it can be told to record itself.
    pub(super) fn is_ours(self) -> bool {
        self != Self::Etcd
    }
}

/// What a phase was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Things done a second.
    pub(super) rate: f64,
    /// The target's CPU time for each, seconds.
    pub(super) cpu: f64,
    /// How long one took, seconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// A target, and who measures its work: itself, or the client that it serves.
pub(super) struct Running {
    // In the order in which they are to go.
    client: Option<Fixture>,
    target: Target,
    _data: Option<Scratch>,
    cpu_then: Duration,
}

enum Target {
    Ours(Fixture),
    Foreign(Guarded),
}

impl Running {
    /// Starts it, at full work.
    pub(super) fn start(work: Work, fixture: &Path, etcd: &Path, folder: &Path) -> Result<Self> {
        // Of a file of its own: what hooks the target's must not hook it.
        let copy = folder.join("workload-client");
        if !copy.exists() {
            fs::copy(fixture, &copy).with_context(|| format!("can't copy {}", fixture.display()))?;
        }
        let (target, url, body, data) = if work == Work::Etcd {
            let (process, url, data) = start_etcd(etcd, &folder.join("etcd.log"))?;
            (Target::Foreign(process), Some(url), ETCD_REQUEST, Some(data))
        } else {
            let mut fixture = Fixture::start(fixture, &["-do", work.name()])?;
            let url = fixture.url.take();
            (Target::Ours(fixture), url, "", None)
        };
        let client = match url {
            Some(url) => Some(Fixture::start(&copy, &["-client", &url, "-body", body])?),
            None => None,
        };
        Ok(Self { client, target, _data: data, cpu_then: Duration::ZERO })
    }

    /// The target's process id.
    pub(super) fn pid(&self) -> u32 {
        match &self.target {
            Target::Ours(fixture) => fixture.process.id(),
            Target::Foreign(process) => process.id(),
        }
    }

    /// Tells the target itself something; only ours listens.
    pub(super) fn tell(&mut self, what: &str) -> Result<()> {
        match &mut self.target {
            Target::Ours(fixture) => fixture.ask(what).map(drop),
            Target::Foreign(_) => bail!("this program can't be told to {what}"),
        }
    }

    /// Measures for a while.
    pub(super) fn phase(&mut self, length: Duration) -> Result<Figures> {
        let pid = self.pid();
        self.cpu_then = cpu_time(pid)?;
        self.measured()?.ask("begin")?;
        thread::sleep(length);
        let said = self.measured()?.ask("end")?;
        let cpu = cpu_time(pid)?.saturating_sub(self.cpu_then);
        let number =
            |name: &str| said[name].as_f64().with_context(|| format!("the workload gave no {name}: {said}"));
        let (done, seconds) = (number("done")?, number("for_ns")? / 1e9);
        if done == 0.0 {
            bail!("nothing was done in {seconds:.1} s");
        }
        Ok(Figures {
            rate: done / seconds,
            cpu: cpu.as_secs_f64() / done,
            p50: number("p50_ns")? / 1e9,
            p99: number("p99_ns")? / 1e9,
        })
    }

    fn measured(&mut self) -> Result<&mut Fixture> {
        match (&mut self.client, &mut self.target) {
            (Some(client), _) => Ok(client),
            (None, Target::Ours(fixture)) => Ok(fixture),
            (None, Target::Foreign(_)) => bail!("nobody measures this program"),
        }
    }
}

/// A process of the fixture.
struct Fixture {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    url: Option<String>,
    // Last: it is stopped when its pipes are closed.
    process: Guarded,
}

impl Fixture {
    fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Guarded::start("workload", &mut command)?;
        let (input, output) = process.pipes().context("the workload was started without pipes")?;
        let mut fixture = Self { input, output: BufReader::new(output), url: None, process };
        let line = fixture.line()?;
        let mut words = line.split(' ');
        if words.next() != Some("ready") {
            bail!("the workload said {line:?} instead of `ready`");
        }
        fixture.url = words.nth(1).map(str::to_owned);
        Ok(fixture)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).context("can't read what the workload says")?;
        if count == 0 {
            bail!("the workload has ended: see its words above");
        }
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, what: &str) -> Result<Value> {
        let told = || format!("can't tell the workload to {what}");
        self.input
            .write_all(format!("{what}\n").as_bytes())
            .and_then(|()| self.input.flush())
            .with_context(told)?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("the workload answered {line:?} to {what}"))
    }
}

fn start_etcd(program: &Path, log: &Path) -> Result<(Guarded, String, Scratch)> {
    let data = Scratch::new("etcd")?;
    // Free now; that another process takes one until etcd does is possible, and then it says so.
    let listeners = [free_port()?, free_port()?];
    let ports = listeners.each_ref().map(|listener| listener.local_addr().map(|address| address.port()));
    drop(listeners);
    let [client, peer] = ports;
    let (client, peer) = (client?, peer?);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let mut command = Command::new(program);
    command
        .arg("--data-dir")
        .arg(data.path())
        .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
        .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
        .args(["--initial-cluster", &format!("default={}", url(peer)), "--log-level", "error"]);
    let mut process = Guarded::start_logged("etcd", &mut command, log)?;
    let begun = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, client)).is_err() {
        if process.ended()?.is_some() || begun.elapsed() > STARTS_WITHIN {
            bail!("etcd does not listen: see {}", log.display());
        }
        thread::sleep(Duration::from_millis(100));
    }
    // It listens before it has elected itself.
    thread::sleep(Duration::from_secs(3));
    Ok((process, format!("{}/v3/kv/range", url(client)), data))
}

fn free_port() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("can't find a free port of the loopback")
}

/// CPU time that a process has used so far, by /proc/PID/stat, in ticks of 10 ms.
fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {path}"))?;
    ticks(&text)
        .map(|ticks| Duration::from_millis(ticks * 10))
        .with_context(|| format!("{path} has no CPU time: {text}"))
}

/// utime and stime, the 14th and 15th field; the 2nd may have anything in its parentheses.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_name() {
        let stat = "42 (a) b 1 (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 31 7 7 20 0 5 0 1 1 1";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(ticks("42 (a"), None);
        assert!(cpu_time(std::process::id()).is_ok());
    }
}
