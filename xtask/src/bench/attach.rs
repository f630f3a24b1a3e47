//! `bench attach`: how long gotrail takes to come and to go by the size of the program, and what it takes itself while
//! nothing happens.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::common::Common;
use super::machine::Machine;
use super::spread::Spread;
use super::tool::Tool;
use crate::backends::{self, CADDY, ETCD, ETCD_STRIPPED, PROMETHEUS, Source, VICTORIA_METRICS};
use crate::children::Guarded;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// How long a program has to come to rest.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// Programs, and what they are to be told; `{}` is a folder of their own.
const PROGRAMS: [(Source, &[&str]); 7] = [
    (VICTORIA_METRICS, &["-storageDataPath={}", "-httpListenAddr=127.0.0.1:0"]),
    (ETCD, ETCD_ARGUMENTS),
    (ETCD_STRIPPED, ETCD_ARGUMENTS),
    (CADDY, CADDY_ARGUMENTS),
    (CADDY.stripped("caddy-stripped"), CADDY_ARGUMENTS),
    (PROMETHEUS, PROMETHEUS_ARGUMENTS),
    (PROMETHEUS.stripped("prometheus-stripped"), PROMETHEUS_ARGUMENTS),
];
const ETCD_ARGUMENTS: &[&str] = &[
    "--data-dir={}",
    "--listen-client-urls=unix://{}/client",
    "--advertise-client-urls=unix://{}/client",
    "--listen-peer-urls=unix://{}/peer",
];
const CADDY_ARGUMENTS: &[&str] = &["run", "--config={}/config", "--adapter=caddyfile"];
const PROMETHEUS_ARGUMENTS: &[&str] =
    &["--config.file={}/config", "--storage.tsdb.path={}/data", "--web.listen-address=127.0.0.1:0"];
/// What caddy and prometheus read.
const CONFIG: &str = "# nothing\n";

/// Options of `bench attach`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each is attached to.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each time, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[command(flatten)]
    common: Common,
}

struct Row {
    name: &'static str,
    bytes: u64,
    attached: Spread,
    detached: Spread,
    start_cpu: Spread,
    work_cpu: Spread,
    resident: Spread,
    peak: Spread,
    lost: Spread,
}

/// Runs it.
pub(super) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = arguments.common.gotrail(workspace, &ready)?;
    let go = setup::ensure_go(workspace)?;
    let scratch = Scratch::new("bench")?;
    let mut programs = Vec::new();
    for (source, given) in PROGRAMS {
        programs.push((source.name, backends::build(workspace, &go, &source)?.path, given));
    }
    let mut machine = Machine::look(workspace);
    let mut rows = Vec::new();
    for (name, path, given) in programs {
        eprintln!("{name}");
        let running = start(name, &path, given, &scratch)?;
        let mut row = Row::new(name, &path)?;
        let pid = running.id();
        for _ in 0..arguments.rounds {
            let tool = Tool::gotrail(&gotrail, pid, &[], scratch.path())?;
            thread::sleep(Duration::from_secs(arguments.seconds));
            row.note(tool)?;
        }
        rows.push(row);
    }
    machine.look_again();
    let files = [("attach.md", markdown(&rows, &machine, arguments)), ("attach.json", json(&rows, &machine))];
    arguments.common.write(workspace, &table(&rows), files)?;
    Ok(ExitCode::SUCCESS)
}

fn start(name: &'static str, program: &Path, given: &[&str], scratch: &Scratch) -> Result<Guarded> {
    let folder = scratch.path().join(name);
    fs::create_dir_all(&folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let config = folder.join("config");
    fs::write(&config, CONFIG).with_context(|| format!("can't write {}", config.display()))?;
    let log = folder.join("log");
    let mut command = Command::new(program);
    let place = folder.display().to_string();
    command.args(given.iter().map(|argument| argument.replace("{}", &place))).env("HOME", &folder);
    let mut process = Guarded::start_logged(name, &mut command, &log)?;
    thread::sleep(STARTS_WITHIN);
    if let Some(status) = process.ended()? {
        bail!("{name} ended with {status}: see {}", fs::read_to_string(&log).unwrap_or_default());
    }
    Ok(process)
}

impl Row {
    fn new(name: &'static str, path: &Path) -> Result<Self> {
        let bytes = fs::metadata(path).with_context(|| format!("can't look at {}", path.display()))?.len();
        let [attached, detached, start_cpu, work_cpu, resident, peak, lost] = Default::default();
        Ok(Self { name, bytes, attached, detached, start_cpu, work_cpu, resident, peak, lost })
    }

    fn note(&mut self, tool: Tool) -> Result<()> {
        let account = tool.end()?;
        for (spread, value) in [
            (&mut self.attached, account.attached),
            (&mut self.detached, account.detached),
            (&mut self.start_cpu, account.start_cpu),
            (&mut self.work_cpu, account.work_cpu),
            (&mut self.resident, account.resident),
            (&mut self.peak, account.peak),
            (&mut self.lost, account.lost),
        ] {
            spread.add(value.with_context(|| format!("gotrail did not tell all of {}", self.name))?);
        }
        Ok(())
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| program | file | attached in | gone in | gotrail's CPU to come | and then | its memory | at most | events lost |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let ms = |seconds: f64| format!("{:.0} ms", seconds * 1e3);
    let mib = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
    for row in rows {
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            mib(row.bytes as f64),
            row.attached.range(ms),
            row.detached.range(ms),
            row.start_cpu.median().map(ms).unwrap_or_default(),
            row.work_cpu.range(|share| format!("{:.2} %", share * 100.0)),
            row.resident.median().map(mib).unwrap_or_default(),
            row.peak.most().map(mib).unwrap_or_default(),
            row.lost.most().map(|lost| format!("{lost:.0}")).unwrap_or_default(),
        );
    }
    out
}

fn markdown(rows: &[Row], machine: &Machine, arguments: &Arguments) -> String {
    let Arguments { rounds, seconds, .. } = arguments;
    format!(
        "# Coming, going, and waiting\n\n\
         Written by `cargo xtask bench attach`: `gotrail attach` of idle programs for {seconds} s, {rounds} times. *Attached in* \
         is from the begin of the attach to the last probe in place, *gone in* from Ctrl-C to the last probe gone: the median, \
         the least and the most. *gotrail's CPU* is the processor time until it is at work, and then its share of one processor. \
         *Its memory* is what was resident at the end, of which some 17 MiB are its own program; *at most*, what was resident \
         while it read the program's file, which it reads whole and then lets go of.\n\n{}.\n\n{}",
        machine.text(),
        table(rows)
    )
}

fn json(rows: &[Row], machine: &Machine) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "program": row.name,
                "bytes": row.bytes,
                "attached_in_s": row.attached.json(),
                "detached_in_s": row.detached.json(),
                "start_cpu_s": row.start_cpu.json(),
                "work_cpu_share": row.work_cpu.json(),
                "resident_bytes": row.resident.json(),
                "peak_bytes": row.peak.json(),
                "lost": row.lost.json(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "schema": "gotrail.bench.attach/1", "machine": machine.json(), "rows": rows }))
}
