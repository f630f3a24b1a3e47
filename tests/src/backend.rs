//! Programs of the outside world on free ports of the loopback interface: Jaeger, VictoriaMetrics, etcd.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::env;
use crate::http::{free_addresses, get};
use crate::process::{PATIENCE, Process};
use crate::scratch::Scratch;

/// Time between two looks whether a server answers.
const LOOK: Duration = Duration::from_millis(50);

/// Jaeger, all in one, with its spans in memory.
#[derive(Debug)]
pub struct Jaeger {
    /// The process.
    pub process: Process,
    /// Where it answers queries.
    pub query: SocketAddr,
    /// Where it takes OTLP over HTTP.
    pub otlp: SocketAddr,
}

impl Jaeger {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start() -> Result<Self> {
        let [query, otlp, spare @ ..] = free_addresses::<7>()?;
        let mut command = Command::new(env::backend("jaeger")?);
        command.env("SPAN_STORAGE_TYPE", "memory").args([
            format!("--query.http-server.host-port={query}"),
            format!("--collector.otlp.http.host-port={otlp}"),
            "--collector.otlp.enabled=true".to_owned(),
        ]);
        // Ports that no one has a use for here, moved away from their public defaults.
        let others = [
            "--collector.otlp.grpc.host-port",
            "--collector.grpc-server.host-port",
            "--collector.http-server.host-port",
            "--query.grpc-server.host-port",
            "--admin.http.host-port",
        ];
        command.args(others.iter().zip(spare).map(|(option, address)| format!("{option}={address}")));
        let mut process = Process::start("jaeger", &mut command)?;
        wait_for(&mut process, query, "/api/services")?;
        Ok(Self { process, query, otlp })
    }
}

/// VictoriaMetrics, single node.
#[derive(Debug)]
pub struct VictoriaMetrics {
    /// The process.
    pub process: Process,
    /// Where it does everything.
    pub address: SocketAddr,
    _data: Scratch,
}

impl VictoriaMetrics {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start() -> Result<Self> {
        let [address] = free_addresses()?;
        let data = Scratch::new("victoria")?;
        let mut command = Command::new(env::backend("victoria-metrics")?);
        command.args([
            format!("-httpListenAddr={address}"),
            format!("-storageDataPath={}", data.path().display()),
            // By default the last 30 s are held back from queries.
            "-search.latencyOffset=0s".to_owned(),
        ]);
        let mut process = Process::start("victoria-metrics", &mut command)?;
        wait_for(&mut process, address, "/health")?;
        Ok(Self { process, address, _data: data })
    }
}

/// etcd, single node.
#[derive(Debug)]
pub struct Etcd {
    /// The process.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    _data: Scratch,
}

impl Etcd {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start() -> Result<Self> {
        Self::start_build("etcd")
    }

    /// Starts one of its builds, `etcd` or `etcd-stripped`, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub fn start_build(name: &str) -> Result<Self> {
        let [address, peers] = free_addresses()?;
        let data = Scratch::new("etcd")?;
        let mut command = Command::new(env::backend(name)?);
        command.args([
            "--name=one".to_owned(),
            format!("--data-dir={}", data.path().join("data").display()),
            format!("--listen-client-urls=http://{address}"),
            format!("--advertise-client-urls=http://{address}"),
            format!("--listen-peer-urls=http://{peers}"),
            format!("--initial-advertise-peer-urls=http://{peers}"),
            format!("--initial-cluster=one=http://{peers}"),
        ]);
        let mut process = Process::start("etcd", &mut command)?;
        wait_for(&mut process, address, "/health")?;
        Ok(Self { process, address, _data: data })
    }
}

/// A server that takes connections and never answers: the worst kind of slow.
#[derive(Debug)]
pub struct Silent {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Silent {
    /// Starts it; it listens until the tests end.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("can't listen on 127.0.0.1")?;
        let address = listener.local_addr().context("can't tell the port of a listener")?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::Relaxed);
                held.push(stream);
            }
        });
        Ok(Self { address, connections })
    }

    /// How many connections it holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Waits until a server answers a GET.
fn wait_for(process: &mut Process, address: SocketAddr, path: &str) -> Result<()> {
    let why = until(|| if process.is_running()? { get(address, path).map(|_| ()) } else { Ok(()) });
    why.with_context(|| format!("no answer of http://{address}{path}\n{}", process.words()))?;
    if !process.is_running()? {
        bail!("the server ended before it answered on {address}\n{}", process.words());
    }
    Ok(())
}

/// Tries something again and again until it works, for what gives no sign when it is ready.
///
/// # Errors
/// It did not work in time: the last reason.
pub fn until<T>(mut try_it: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_it() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(LOOK),
        }
    }
}
