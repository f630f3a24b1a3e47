//! `bench snapshot`: how long a dump of many goroutines takes, and what it does to the process that is looked at.
//!
//! In each round each way has its turn, so that a machine that is slower for a while is so for all of them. A turn
//! is as many runs as fit into a second, at least one, while a goroutine of the process notes how late it wakes.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::common::Common;
use super::crowd::Crowd;
use super::machine::Machine;
use super::measure::{self, Run};
use super::report;
use super::spread::Spread;
use crate::backends::{self, DELVE};
use crate::cells::Mode;
use crate::fixtures;
use crate::go;
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// How long a turn lasts, but for its last run.
const TURN: Duration = Duration::from_secs(1);
/// How long one run may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What takes longer than this has one turn only.
const DEAR: Duration = Duration::from_secs(20);

/// Options of `bench snapshot`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// A million goroutines too, which takes some gigabytes of memory and minutes.
    #[arg(long)]
    full: bool,
    /// These numbers of goroutines instead.
    #[arg(long = "goroutines", value_name = "NUMBER")]
    sizes: Vec<u64>,
    /// Turns that each way has.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Leave delve out: it takes minutes to build, and stops the process for seconds.
    #[arg(long)]
    without_delve: bool,
    /// The Go version that the process is built with.
    #[arg(long = "go", value_name = "VERSION", default_value = go::NEWEST)]
    version: String,
    #[command(flatten)]
    common: Common,
}

/// A way to see all goroutines, or something to compare it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Idle,
    Control,
    States,
    Stacks,
    Profile,
    Traceback,
    Collection,
    Delve,
}

impl Way {
    pub(super) const ALL: [Self; 8] = [
        Self::Idle,
        Self::Control,
        Self::States,
        Self::Stacks,
        Self::Profile,
        Self::Traceback,
        Self::Collection,
        Self::Delve,
    ];

    /// Its name in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Control => "control",
            Self::States => "gotrail_states",
            Self::Stacks => "gotrail_stacks",
            Self::Profile => "debug_0",
            Self::Traceback => "debug_2",
            Self::Collection => "gc",
            Self::Delve => "delve",
        }
    }

    /// What it is.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Idle => "nothing",
            Self::Control => "another process that computes",
            Self::States => "`gotrail dump --no-stacks`",
            Self::Stacks => "`gotrail dump`",
            Self::Profile => "in the process: pprof, debug=0",
            Self::Traceback => "in the process: pprof, debug=2",
            Self::Collection => "in the process: one GC cycle",
            Self::Delve => "delve: attach, `goroutines`",
        }
    }
}

/// What was measured of a way with a number of goroutines.
#[derive(Default)]
pub(super) struct Cell {
    /// One run, in seconds, from the start of its process if it has one.
    pub(super) took: Spread,
    /// The snapshot alone, as gotrail says it.
    pub(super) snapshot: Spread,
    /// Processor time of a run that is a process, in seconds.
    pub(super) cpu: Spread,
    /// Its resident memory at most, in bytes.
    pub(super) peak: Spread,
    /// Of each turn: by how much the process's own goroutine woke too late, in seconds.
    pub(super) p50: Spread,
    pub(super) p99: Spread,
    pub(super) p999: Spread,
    pub(super) most: Spread,
    /// Stops of the world in a turn, for each run, and how long they took, in seconds.
    pub(super) stops: Spread,
    pub(super) stopped: Spread,
    /// Why there is nothing.
    pub(super) missing: Option<String>,
}

/// All cells of a number of goroutines.
pub(super) struct Row {
    pub(super) goroutines: u64,
    pub(super) cells: Vec<(Way, Cell)>,
}

impl Row {
    pub(super) fn cell(&self, way: Way) -> Option<&Cell> {
        self.cells.iter().find(|(found, _)| *found == way).map(|(_, cell)| cell)
    }
}

/// The programs that are measured.
struct Programs {
    gotrail: PathBuf,
    crowd: PathBuf,
    delve: Result<PathBuf, String>,
    scratch: Scratch,
}

/// Runs it.
pub(super) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = arguments.common.gotrail(workspace, &ready)?;
    let crowd = fixtures::build(workspace, "crowd", &arguments.version, Mode::Default)?;
    let delve = if arguments.without_delve {
        Err("not asked for".to_owned())
    } else {
        setup::ensure_go(workspace)
            .and_then(|go| backends::build(workspace, &go, &DELVE))
            .map(|backend| backend.path)
            .map_err(|error| format!("{error:#}"))
    };
    if let Err(why) = &delve {
        eprintln!("left out: delve: {why}");
    }
    let programs = Programs { gotrail, crowd, delve, scratch: Scratch::new("bench")? };
    let sizes = match (arguments.sizes.as_slice(), arguments.full) {
        ([], false) => vec![1_000, 10_000, 100_000],
        ([], true) => vec![1_000, 10_000, 100_000, 1_000_000],
        (sizes, _) => sizes.to_vec(),
    };
    let mut machine = Machine::look(workspace);
    let mut rows = Vec::new();
    for goroutines in sizes {
        rows.push(measure(&programs, goroutines, arguments.rounds)?);
    }
    machine.look_again();
    let go = &arguments.version;
    let files = [
        ("snapshot.md", report::markdown(&rows, &machine, go)),
        ("snapshot.json", report::json(&rows, &machine, go)),
        ("snapshot.svg", report::plot(&rows)),
    ];
    arguments.common.write(workspace, &report::table(&rows), files)?;
    Ok(ExitCode::SUCCESS)
}

fn measure(programs: &Programs, goroutines: u64, rounds: u32) -> Result<Row> {
    eprintln!("{goroutines} goroutines");
    let mut crowd = Crowd::start(&programs.crowd, goroutines)?;
    let mut cells: Vec<(Way, Cell)> = Way::ALL.map(|way| (way, Cell::default())).into();
    for round in 0..rounds as usize {
        // Each begins once, so that none is always behind the same other.
        for turn in 0..cells.len() {
            let at = (turn + round) % cells.len();
            let (way, cell) = &mut cells[at];
            if cell.missing.is_some() || cell.took.most().is_some_and(|most| most > DEAR.as_secs_f64()) {
                continue;
            }
            eprintln!("  round {}: {}", round + 1, way.title());
            if let Err(why) = take_turn(programs, &mut crowd, *way, cell) {
                // The debugger is the only one that a benchmark of gotrail can do without.
                match way {
                    Way::Delve => cell.missing = Some(format!("{why:#}")),
                    _ => return Err(why),
                }
            }
        }
    }
    Ok(Row { goroutines, cells })
}

fn take_turn(programs: &Programs, crowd: &mut Crowd, way: Way, cell: &mut Cell) -> Result<()> {
    let pid = crowd.pid().to_string();
    let folder = programs.scratch.path();
    crowd.begin()?;
    let begun = Instant::now();
    let mut runs = 0;
    while runs == 0 || begun.elapsed() < TURN {
        runs += 1;
        let mut command = match way {
            Way::Idle => {
                std::thread::sleep(TURN);
                continue;
            }
            Way::Control => {
                while begun.elapsed() < TURN {
                    std::hint::spin_loop();
                }
                continue;
            }
            Way::Profile | Way::Traceback | Way::Collection => {
                let command = match way {
                    Way::Profile => "dump0",
                    Way::Traceback => "dump2",
                    _ => "gc",
                };
                cell.took.add(crowd.have(command)?.as_secs_f64());
                continue;
            }
            Way::States | Way::Stacks => {
                let mut command = Command::new(&programs.gotrail);
                command.args(["dump", &pid]);
                if way == Way::States {
                    command.arg("--no-stacks");
                }
                command
            }
            Way::Delve => delve(programs, &pid)?,
        };
        // What delve reads; gotrail does not.
        let input = "goroutines\nquit\nn\n";
        let Some(run) = measure::run(&mut command, input, folder, PATIENCE)? else {
            bail!("not ready after {} s", PATIENCE.as_secs());
        };
        note(way, cell, &run)?;
    }
    let figures = crowd.end()?;
    cell.p50.add(figures.p50);
    cell.p99.add(figures.p99);
    cell.p999.add(figures.p999);
    cell.most.add(figures.most);
    cell.stops.add(figures.stops / f64::from(runs));
    cell.stopped.add(figures.stopped / f64::from(runs));
    Ok(())
}

fn delve(programs: &Programs, pid: &str) -> Result<Command> {
    let path: &Path = match &programs.delve {
        Ok(path) => path,
        Err(why) => bail!("{why}"),
    };
    let mut command = Command::new(path);
    command.args(["attach", "--allow-non-terminal-interactive=true", pid]);
    // Its settings and history are nothing of the user's.
    command.env("XDG_CONFIG_HOME", programs.scratch.path()).env("HOME", programs.scratch.path());
    Ok(command)
}

fn note(way: Way, cell: &mut Cell, run: &Run) -> Result<()> {
    cell.took.add(run.wall.as_secs_f64());
    cell.cpu.add(run.cpu.as_secs_f64());
    cell.peak.add(run.peak as f64);
    if way != Way::Delve {
        let said = snapshot_took(&run.words);
        cell.snapshot
            .add(said.with_context(|| format!("gotrail does not say how long it took: {:?}", run.words))?);
    }
    Ok(())
}

/// `12.3 ms` of `100009 goroutines (6 of the runtime itself) read in 12.3 ms without stopping`, in seconds.
fn snapshot_took(words: &str) -> Option<f64> {
    let (_, rest) = words.split_once(" read in ")?;
    let mut parts = rest.split_whitespace();
    let number: f64 = parts.next()?.parse().ok()?;
    let unit = match parts.next()? {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(number * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gotrail_says_of_its_time_is_read() {
        let took = |words| snapshot_took(words).map(|took| (took * 1e6).round());
        assert_eq!(
            took("9 goroutines (6 of the runtime itself) read in 12.3 ms without stopping"),
            Some(12_300.0)
        );
        assert_eq!(took("9 goroutines read in 1.5 s without"), Some(1_500_000.0));
        assert_eq!(took("nothing"), None);
    }
}
