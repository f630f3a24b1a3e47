//! `bench events`: how many events a second come through the ring, the drain and the model, and what each takes of
//! gotrail's own CPU time.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::common::Common;
use super::machine::Machine;
use super::spread::Spread;
use super::tool::Tool;
use super::usage::cpu_time_of_threads;
use crate::cells::Mode;
use crate::children::Guarded;
use crate::fixtures;
use crate::go;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `bench events`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each load is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each time, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    #[command(flatten)]
    common: Common,
}

/// What the target does all the time, how it is watched, and which thread empties the ring.
struct Load {
    name: &'static str,
    told: &'static str,
    options: &'static [&'static str],
    drain: &'static str,
}

const LOADS: [Load; 3] = [
    Load {
        name: "creations and exits (T2)",
        told: "spawn\n",
        options: &["--budget", "100", "--ring-kib", "65536"],
        drain: "ring-drain",
    },
    Load {
        name: "switches, a record of each (T3)",
        told: "switch\n",
        options: &["--budget", "100", "--ring-kib", "65536", "--switches", "1h"],
        drain: "switch-drain",
    },
    Load {
        name: "switches, summed up in the kernel (T3)",
        told: "switch\n",
        options: &["--budget", "100", "--switches", "1h", "--switches-as", "sums"],
        drain: "switch-drain",
    },
];

struct Row {
    load: &'static Load,
    /// Events a second, and those lost of all.
    events: Spread,
    lost: Spread,
    /// CPU time for each, seconds: of the thread that empties the ring, and of the one that has the model.
    drain: Spread,
    model: Spread,
}

/// Runs it.
pub(super) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = arguments.common.gotrail(workspace, &ready)?;
    let program = fixtures::build(workspace, "storm", go::NEWEST, Mode::Stripped)?;
    let scratch = Scratch::new("bench")?;
    let mut machine = Machine::look(workspace);
    let mut rows = Vec::new();
    for load in &LOADS {
        let [events, lost, drain, model] = Default::default();
        let mut row = Row { load, events, lost, drain, model };
        for round in 1..=arguments.rounds {
            eprintln!("{}, {round} of {}", load.name, arguments.rounds);
            row.measure(&gotrail, &program, Duration::from_secs(arguments.seconds), scratch.path())?;
        }
        rows.push(row);
    }
    machine.look_again();
    let files = [("events.md", markdown(&rows, &machine, arguments)), ("events.json", json(&rows, &machine))];
    arguments.common.write(workspace, &table(&rows), files)?;
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn measure(&mut self, gotrail: &Path, program: &Path, time: Duration, folder: &Path) -> Result<()> {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut target = Guarded::start("storm", &mut command)?;
        let (mut input, output) = target.pipes().context("it was started without pipes")?;
        let tool = Tool::gotrail(gotrail, target.id(), self.load.options, folder)?;
        std::io::Write::write_all(&mut input, self.load.told.as_bytes())
            .context("can't tell storm to begin")?;
        thread::sleep(time);
        let of = |thread: &str| cpu_time_of_threads(tool.id(), thread);
        // The model is the main thread's, which has the name of the program.
        let (drain, model) = (of(self.load.drain)?, of("gotrail")?);
        let account = tool.end()?;
        drop((input, output));
        let (hits, lost) = (account.hits.context("no hits")?, account.lost.context("no losses")?);
        let all = hits * time.as_secs_f64();
        self.events.add(hits);
        self.lost.add(lost / all);
        self.drain.add(drain / all);
        self.model.add(model / all);
        Ok(())
    }

    /// Events a second that one CPU takes in for drain and model, by what each takes.
    fn capacity(&self) -> Option<f64> {
        Some(1.0 / (self.drain.median()? + self.model.median()?))
    }
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| events | a second | lost | drain, each | model, each | one CPU would take in, a second |\n|---|---|---|---|---|---|\n",
    );
    let thousands = |n: f64| format!("{:.0} 000", n / 1e3);
    let nanos = |seconds: f64| format!("{:.0} ns", seconds * 1e9);
    for row in rows {
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            row.load.name,
            row.events.range(thousands),
            row.lost.most().map(|share| format!("{:.4} %", share * 100.0)).unwrap_or_default(),
            row.drain.range(nanos),
            row.model.range(nanos),
            row.capacity().map(thousands).unwrap_or_default(),
        );
    }
    out
}

fn markdown(rows: &[Row], machine: &Machine, arguments: &Arguments) -> String {
    let Arguments { rounds, seconds, .. } = arguments;
    format!(
        "# Events through ring, drain and model\n\n\
         Written by `cargo xtask bench events`: a program that does nothing but create goroutines, or switch between them, \
         watched by `gotrail attach` without a budget for {seconds} s, {rounds} times; program and gotrail share the processors. \
         *Lost* is the largest share of events for which a buffer had no room. *Each* is the processor time that the thread \
         which empties the ring, and the one that has the model (with its looks at memory), took for an event: the median, the \
         least and the most. The last column is what one processor would take in if it did nothing else.\n\n{}.\n\n{}",
        machine.text(),
        table(rows)
    )
}

fn json(rows: &[Row], machine: &Machine) -> String {
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "events": row.load.name,
                "a_second": row.events.json(),
                "lost_share": row.lost.json(),
                "drain_s": row.drain.json(),
                "model_s": row.model.json(),
                "one_cpu_a_second": row.capacity(),
            })
        })
        .collect();
    format!("{:#}\n", json!({ "schema": "gotrail.bench.events/1", "machine": machine.json(), "rows": rows }))
}
