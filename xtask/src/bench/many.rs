//! `bench many`: what gotrail takes while it watches many processes of one executable, idle and busy.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::common::Common;
use super::machine::Machine;
use super::spread::Spread;
use super::tool::Tool;
use super::usage::{cpu_time, memory};
use crate::cells::Mode;
use crate::children::Guarded;
use crate::fixtures;
use crate::go;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Processes at a time.
const COUNTS: [usize; 4] = [1, 10, 100, 500];
/// From the last process watched to the begin of the measurement: what is done once for each is over by then.
const SETTLE: Duration = Duration::from_secs(3);

/// Options of `bench many`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each number is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each time, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[command(flatten)]
    common: Common,
}

/// What the processes do.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    /// It waits to be told to begin.
    waits: bool,
}

const LOADS: [Load; 2] = [
    Load { name: "idle", program: "population", arguments: &["-n", "3"], waits: false },
    Load {
        name: "busy: a GC cycle a second",
        program: "gcstw",
        arguments: &["-interval", "1s", "-gcs", "1000000", "-ballast", "1048576", "-garbage", "65536"],
        waits: true,
    },
];

/// One number of processes with one load.
struct Row {
    load: Load,
    count: usize,
    /// Shares of one CPU.
    cpu: Spread,
    targets_cpu: Spread,
    resident: Spread,
    own: Spread,
    hits: Spread,
    lost: Spread,
    gone: Spread,
}

/// Runs it.
pub(super) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = arguments.common.gotrail(workspace, &ready)?;
    let scratch = Scratch::new("bench")?;
    let mut machine = Machine::look(workspace);
    let mut rows = Vec::new();
    for load in LOADS {
        let program = fixtures::build(workspace, load.program, go::NEWEST, Mode::Stripped)?;
        for count in COUNTS {
            let [cpu, targets_cpu, resident, own, hits, lost, gone] = Default::default();
            let mut row = Row { load, count, cpu, targets_cpu, resident, own, hits, lost, gone };
            for round in 1..=arguments.rounds {
                eprintln!("{count} {}, {round} of {}", load.name, arguments.rounds);
                row.measure(&gotrail, &program, Duration::from_secs(arguments.seconds), scratch.path())?;
            }
            rows.push(row);
        }
    }
    machine.look_again();
    let files = [("many.md", markdown(&rows, &machine, arguments)), ("many.json", json(&rows, &machine))];
    arguments.common.write(workspace, &table(&rows), files)?;
    Ok(ExitCode::SUCCESS)
}

/// A process, and its pipes: it ends with them.
type Running = (ChildStdin, ChildStdout, Guarded);

fn start(program: &Path, load: Load) -> Result<Running> {
    let mut command = Command::new(program);
    command.args(load.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = Guarded::start(load.program, &mut command)?;
    let (mut input, output) = process.pipes().context("it was started without pipes")?;
    if load.waits {
        std::io::Write::write_all(&mut input, b"\n")
            .with_context(|| format!("can't tell {} to begin", load.program))?;
    }
    Ok((input, output, process))
}

impl Row {
    fn measure(&mut self, gotrail: &Path, program: &Path, time: Duration, folder: &Path) -> Result<()> {
        let processes: Vec<Running> =
            (0..self.count).map(|_| start(program, self.load)).collect::<Result<_>>()?;
        let pids: Vec<u32> = processes.iter().map(|(.., process)| process.id()).collect();
        let tool = Tool::gotrail_of_all(gotrail, program, self.count, folder)?;
        thread::sleep(SETTLE);
        let targets = || pids.iter().map(|pid| cpu_time(*pid)).sum::<Result<f64>>();
        let before = (cpu_time(tool.id())?, targets()?);
        thread::sleep(time);
        let after = (cpu_time(tool.id())?, targets()?);
        self.resident.add(memory(tool.id(), "VmRSS")?);
        self.own.add(memory(tool.id(), "RssAnon")?);
        let account = tool.end()?;
        self.cpu.add((after.0 - before.0) / time.as_secs_f64());
        self.targets_cpu.add((after.1 - before.1) / time.as_secs_f64());
        for (spread, value) in [
            (&mut self.hits, account.hits),
            (&mut self.lost, account.lost),
            (&mut self.gone, account.detached),
        ] {
            spread.add(value.context("gotrail did not tell all")?);
        }
        Ok(())
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| processes | they do | their CPU | gotrail's CPU | its memory | of that, its own | hits a second | lost | gone in |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let median =
        |spread: &Spread, text: &dyn Fn(f64) -> String| spread.median().map(text).unwrap_or_default();
    for row in rows {
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.count,
            row.load.name,
            median(&row.targets_cpu, &percent),
            row.cpu.range(percent),
            row.resident.range(mib),
            median(&row.own, &mib),
            median(&row.hits, &|hits| format!("{hits:.0}")),
            row.lost.most().map(|lost| format!("{lost:.0}")).unwrap_or_default(),
            median(&row.gone, &|seconds| format!("{:.0} ms", seconds * 1e3)),
        );
    }
    out
}

fn markdown(rows: &[Row], machine: &Machine, arguments: &Arguments) -> String {
    let Arguments { rounds, seconds, .. } = arguments;
    format!(
        "# Many processes\n\n\
         Written by `cargo xtask bench many`: `gotrail attach --exe` of one executable and so many of its processes, for \
         {seconds} s from {} s after the last was watched, {rounds} times. CPU is in shares of one processor: the median, the \
         least and the most. *Its memory* is what was resident then, of which all but *its own* is its program, which it shares \
         with whoever else runs it. *Gone in* is how long the probes took to go.\n\n{}.\n\n{}",
        SETTLE.as_secs(),
        machine.text(),
        table(rows)
    )
}

fn json(rows: &[Row], machine: &Machine) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "processes": row.count,
                "load": row.load.name,
                "targets_cpu_share": row.targets_cpu.json(),
                "cpu_share": row.cpu.json(),
                "resident_bytes": row.resident.json(),
                "own_bytes": row.own.json(),
                "hits_a_second": row.hits.json(),
                "lost": row.lost.json(),
                "detached_in_s": row.gone.json(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "schema": "gotrail.bench.many/1", "machine": machine.json(), "rows": rows }))
}
