//! `bench load`: what it costs a program at full work to be watched, in each way, beside others for the same purpose.
//!
//! Each way is measured between two phases without anybody, and told as a ratio to their mean: a machine that is
//! slower for a while is so for all three.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::common::Common;
use super::machine::Machine;
use super::spread::Spread;
use super::tool::Account;
use crate::backends::{self, ETCD};
use crate::cells::Mode;
use crate::fixtures;
use crate::go;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;
use prices::Prices;
use watcher::{Watcher, Watching};
use work::{Figures, Running, Work};

mod dots;
mod prices;
mod report;
mod watcher;
mod work;

/// From the begin of the watch to the begin of the measurement: a governor has found its measure by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Options of `bench load`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each way is measured with each program.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long a phase lasts, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only these programs: http, pingpong, spawn, etcd.
    #[arg(long = "work", value_name = "NAME", value_parser = ["http", "pingpong", "spawn", "etcd"])]
    works: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// What was measured of a way with a program; ratios are to nobody.
#[derive(Default)]
struct Cell {
    rate: Spread,
    cpu: Spread,
    p50: Spread,
    p99: Spread,
    /// CPU time that a hit costs the program, seconds.
    hit: Spread,
    watcher_cpu: Spread,
    watcher_peak: Spread,
    attached: Spread,
    detached: Spread,
    predicted: Spread,
    hits: Spread,
    lost: Spread,
    missing: Option<String>,
}

/// A program with all ways.
struct Row {
    work: Work,
    /// Of the phases without anybody.
    bare: Spread,
    cells: Vec<(Watcher, Cell)>,
}

/// Runs it.
pub(super) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = arguments.common.gotrail(workspace, &ready)?;
    if let Err(error) = setup::ensure_packages(&[("/usr/bin/bpftrace", "bpftrace")]) {
        eprintln!("left out: bpftrace: {error:#}");
    }
    let workload = fixtures::build(workspace, "workload", go::NEWEST, Mode::Default)?;
    let etcd = backends::build(workspace, &setup::ensure_go(workspace)?, &ETCD)?.path;
    let scratch = Scratch::new("bench")?;
    let mut machine = Machine::look(workspace);
    let prices = Prices::measure(&gotrail, arguments.rounds)?;
    let mut rows = Vec::new();
    for work in Work::ALL {
        if !arguments.works.is_empty() && !arguments.works.iter().any(|name| name == work.name()) {
            continue;
        }
        let programs =
            Programs { gotrail: &gotrail, workload: &workload, etcd: &etcd, folder: scratch.path() };
        rows.push(measure(work, &programs, arguments.rounds, Duration::from_secs(arguments.seconds))?);
    }
    machine.look_again();
    let files = [
        ("load.md", report::markdown(&rows, &prices, &machine)),
        ("load.json", report::json(&rows, &prices, &machine)),
        ("load.svg", report::plot(&rows)),
    ];
    arguments.common.write(workspace, &report::table(&rows, &prices), files)?;
    Ok(ExitCode::SUCCESS)
}

struct Programs<'a> {
    gotrail: &'a Path,
    workload: &'a Path,
    etcd: &'a Path,
    folder: &'a Path,
}

fn measure(work: Work, programs: &Programs<'_>, rounds: u32, length: Duration) -> Result<Row> {
    eprintln!("{}", work.title());
    let mut running = Running::start(work, programs.workload, programs.etcd, programs.folder)?;
    // Connections, heap and scheduler find their size.
    running.phase(length)?;
    let ways = Watcher::ALL.into_iter().filter(|watcher| work.is_ours() || watcher.inside().is_none());
    let mut row = Row {
        work,
        bare: Spread::default(),
        cells: ways.map(|watcher| (watcher, Cell::default())).collect(),
    };
    let mut before = running.phase(length)?;
    for round in 0..rounds as usize {
        // Each begins once, so that none is always behind the same other.
        for turn in 0..row.cells.len() {
            let at = (turn + round) % row.cells.len();
            let (watcher, cell) = &mut row.cells[at];
            if cell.missing.is_some() {
                continue;
            }
            eprintln!("  round {}: {}", round + 1, watcher.title());
            let watched = take_turn(*watcher, programs, &mut running, length);
            let after = running.phase(length)?;
            row.bare.add(after.rate);
            match watched {
                Ok((figures, account)) => cell.note(&figures, &[before, after], &account),
                // A rival that can't be had here is left out; gotrail has to work.
                Err(why) if *watcher == Watcher::Bpftrace => cell.missing = Some(format!("{why:#}")),
                Err(why) => return Err(why),
            }
            before = after;
        }
    }
    Ok(row)
}

fn take_turn(
    watcher: Watcher,
    programs: &Programs<'_>,
    running: &mut Running,
    length: Duration,
) -> Result<(Figures, Account)> {
    let watching = Watching::begin(watcher, programs.gotrail, running, programs.folder)?;
    thread::sleep(SETTLE);
    let figures = running.phase(length)?;
    Ok((figures, watching.end(running)?))
}

impl Cell {
    fn note(&mut self, watched: &Figures, bare: &[Figures; 2], account: &Account) {
        let mean = |of: fn(&Figures) -> f64| f64::midpoint(of(&bare[0]), of(&bare[1]));
        let cpu = mean(|bare| bare.cpu);
        self.rate.add(watched.rate / mean(|bare| bare.rate));
        self.cpu.add(watched.cpu / cpu);
        self.p50.add(watched.p50 / mean(|bare| bare.p50));
        self.p99.add(watched.p99 / mean(|bare| bare.p99));
        // Where there are few, the difference is the machine's noise.
        if let Some(hits) = account.hits.filter(|hits| *hits > 10_000.0) {
            self.hit.add((watched.cpu - cpu) * watched.rate / hits);
        }
        for (spread, value) in [
            (&mut self.watcher_cpu, account.cpu),
            (&mut self.watcher_peak, account.peak),
            (&mut self.attached, account.attached),
            (&mut self.detached, account.detached),
            (&mut self.predicted, account.predicted),
            (&mut self.hits, account.hits),
            (&mut self.lost, account.lost),
        ] {
            if let Some(value) = value {
                spread.add(value);
            }
        }
    }
}
