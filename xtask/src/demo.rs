//! `demo`: gotrail beside a Go service that leaks until it panics, with nothing set up by hand.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::backends::{self, JAEGER, VICTORIA_METRICS};
use crate::build;
use crate::cells::Mode;
use crate::children::{Guarded, tail, wait_until};
use crate::fixtures;
use crate::go;
use crate::http;
use crate::interrupt;
use crate::scratch::Scratch;
use crate::setup::{self, Ready};
use crate::workspace::Workspace;

mod digest;

/// How long the service may take to say that it is ready.
const START: Duration = Duration::from_secs(20);
/// How long a backend may take to answer.
const BACKEND_START: Duration = Duration::from_secs(60);
/// How long gotrail may take to end after Ctrl-C, its summary included.
const LEAVE: Duration = Duration::from_secs(10);

/// Options of `demo`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Export to a Jaeger and a VictoriaMetrics started for the purpose, and show what they got.
    #[arg(long)]
    backends: bool,
    /// The Go version that the service is built with.
    #[arg(long = "go", value_name = "VERSION", default_value = go::NEWEST)]
    version: String,
    /// Strip the service of symbols and DWARF.
    #[arg(long)]
    stripped: bool,
    /// How long to watch, in seconds; the service panics after 40.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 50)]
    seconds: u32,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = build::build(&build::Arguments::default(), workspace, &ready)?;
    let mode = if arguments.stripped { Mode::Stripped } else { Mode::Default };
    let shop = fixtures::build(workspace, "shop", &arguments.version, mode)?;
    let shopload = fixtures::build(workspace, "shopload", go::NEWEST, Mode::Default)?;

    // From here on there is something to clean up, so no signal may end us at once. All guards below are
    // dropped in reverse order: processes first, then the folder that holds their files.
    interrupt::watch()?;
    let scratch = Scratch::new("demo")?;
    let backends =
        if arguments.backends { Some(Backends::start(workspace, &ready, scratch.path())?) } else { None };

    let mut service = Command::new(&shop);
    service.args(["-addr", "127.0.0.1:0", "-panic-after", "40s"]);
    let (mut service, lines) = Guarded::start_shown("shop", &mut service)?;
    let address = wait_for_shop(&mut service, &lines)?;

    let mut load = Command::new(&shopload);
    load.args([
        "-target",
        &address,
        "-rate",
        "20",
        "-for",
        &format!("{}s", u64::from(arguments.seconds) + 10),
    ]);
    let (_load, _) = Guarded::start_shown("shopload", &mut load)?;

    let mut attach = Command::new(&gotrail);
    attach.args(["attach", &service.id().to_string(), "--for", &arguments.seconds.to_string()]);
    if let Some(backends) = &backends {
        attach.args(backends.export_options());
    }
    eprintln!("demo: {}", crate::command::line(&attach));
    let mut attach = Guarded::start("gotrail attach", &mut attach)?;
    let status = attach.wait(LEAVE)?;

    if interrupt::interrupted() {
        bail!("the demo was interrupted");
    }
    if let Some(backends) = &backends {
        println!("{}", backends.digest()?);
    }
    if !status.success() {
        bail!("gotrail attach ended with {status}; see its words above (attaching needs root)");
    }
    Ok(ExitCode::SUCCESS)
}

/// The service says `listening ADDRESS` and then `ready`.
fn wait_for_shop(service: &mut Guarded, lines: &Receiver<String>) -> Result<String> {
    let mut address = None;
    wait_until(service, "`listening ADDRESS` and `ready`", START, || {
        for line in lines.try_iter() {
            if let Some(said) = line.strip_prefix("listening ") {
                address = Some(said.trim().to_owned());
            } else if line.trim() == "ready" {
                return address.take();
            }
        }
        None
    })
}

/// The two backends, alive as long as this is.
struct Backends {
    _jaeger: Guarded,
    _metrics: Guarded,
    jaeger_query: SocketAddr,
    jaeger_otlp: SocketAddr,
    metrics: SocketAddr,
}

impl Backends {
    /// Starts both on free ports of the loopback interface and waits until they answer.
    fn start(workspace: &Workspace, ready: &Ready, folder: &Path) -> Result<Self> {
        let [jaeger_query, jaeger_otlp, metrics, spare @ ..] = free_addresses::<9>()?;

        let mut jaeger = Command::new(backends::build(workspace, &ready.go, &JAEGER)?.path);
        jaeger.args([
            format!("--query.http-server.host-port={jaeger_query}"),
            format!("--collector.otlp.http.host-port={jaeger_otlp}"),
            "--collector.otlp.enabled=true".to_owned(),
        ]);
        // The ports that the demo has no use for, moved away from their public defaults.
        let others = [
            "--collector.otlp.grpc.host-port",
            "--collector.grpc-server.host-port",
            "--collector.http-server.host-port",
            "--query.grpc-server.host-port",
            "--admin.http.host-port",
        ];
        jaeger.args(others.iter().zip(spare).map(|(option, address)| format!("{option}={address}")));
        jaeger.env("SPAN_STORAGE_TYPE", "memory");
        let jaeger = start_server("jaeger", &mut jaeger, folder, jaeger_query, "/api/services")?;

        let mut server = Command::new(backends::build(workspace, &ready.go, &VICTORIA_METRICS)?.path);
        server.args([
            format!("-httpListenAddr={metrics}"),
            format!("-storageDataPath={}", folder.join("metrics").display()),
            // By default the last 30 s are held back from queries: most of the demo.
            "-search.latencyOffset=0s".to_owned(),
        ]);
        let server = start_server("victoria-metrics", &mut server, folder, metrics, "/health")?;
        eprintln!("demo: Jaeger is at http://{jaeger_query}, VictoriaMetrics at http://{metrics}/vmui");
        Ok(Self { _jaeger: jaeger, _metrics: server, jaeger_query, jaeger_otlp, metrics })
    }

    fn export_options(&self) -> [String; 4] {
        [
            "--otlp-traces".to_owned(),
            format!("http://{}/v1/traces", self.jaeger_otlp),
            "--otlp-metrics".to_owned(),
            format!("http://{}/opentelemetry/v1/metrics", self.metrics),
        ]
    }

    fn digest(&self) -> Result<String> {
        // What came last may still be in memory that queries don't look at, and a query for now means the
        // start of this second.
        http::get(self.metrics, "/internal/force_flush")?;
        std::thread::sleep(Duration::from_secs(1));
        let traces = digest::traces(|path| http::get(self.jaeger_query, path))?;
        let metrics = digest::metrics(|path| http::get(self.metrics, path))?;
        Ok(format!("{traces}\n{metrics}"))
    }
}

fn start_server(
    name: &str,
    command: &mut Command,
    folder: &Path,
    address: SocketAddr,
    health: &str,
) -> Result<Guarded> {
    let log = folder.join(format!("{name}.log"));
    let mut server = Guarded::start_logged(name, command, &log)?;
    wait_until(&mut server, &format!("its answer on {address}"), BACKEND_START, || {
        http::get(address, health).ok()
    })
    .with_context(|| format!("{name} is not there; the end of its log:\n{}", tail(&log)))?;
    Ok(server)
}

/// Ports that are free now. All are held until all are known, so that none is given twice.
fn free_addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let mut held = Vec::with_capacity(COUNT);
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); COUNT];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("can't find a free port on 127.0.0.1")?;
        *address = listener.local_addr().context("can't tell the port of a listener")?;
        held.push(listener);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_addresses_differ_and_are_on_loopback() {
        let addresses = free_addresses::<9>().unwrap();
        let distinct: std::collections::BTreeSet<_> = addresses.iter().collect();
        assert_eq!(distinct.len(), 9);
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() != 0));
    }

    #[test]
    fn the_services_address_is_read_from_its_words() {
        let script = "echo hello; echo listening 127.0.0.1:4711; echo ready; exec sleep 600";
        let (mut service, lines) =
            Guarded::start_shown("shop", Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(wait_for_shop(&mut service, &lines).unwrap(), "127.0.0.1:4711");
    }
}
