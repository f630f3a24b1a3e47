//! `bench NAME`: what gotrail costs and how long it takes, beside what else there is for the same purpose.
//!
//! A figure of one machine says little about another, so each benchmark measures the alternatives in the same run,
//! in turns, and tells ratios, and how much the machine itself was astir. Nothing here decides whether a test passes.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::workspace::Workspace;

mod attach;
mod common;
mod crowd;
mod events;
mod inspect;
mod load;
mod machine;
mod many;
mod measure;
mod plot;
mod report;
mod snapshot;
mod spread;
mod tool;
mod usage;

/// Options of `bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    which: Which,
}

#[derive(Subcommand)]
enum Which {
    /// `gotrail attach` and idle programs: how long it takes to come and to go, and what it takes meanwhile.
    Attach(attach::Arguments),
    /// Events through ring, drain and model: how many a second, and what each takes.
    Events(events::Arguments),
    /// `gotrail inspect` of large programs, as they are and stripped.
    Inspect(inspect::Arguments),
    /// Programs at full work, watched in each way and not at all.
    Load(load::Arguments),
    /// `gotrail attach --exe` of many processes, idle and busy: what it takes itself.
    Many(many::Arguments),
    /// Dumps of a process with many goroutines: from outside, from inside, by a debugger.
    Snapshot(snapshot::Arguments),
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    match &arguments.which {
        Which::Attach(arguments) => attach::run(arguments, workspace),
        Which::Events(arguments) => events::run(arguments, workspace),
        Which::Inspect(arguments) => inspect::run(arguments, workspace),
        Which::Load(arguments) => load::run(arguments, workspace),
        Which::Many(arguments) => many::run(arguments, workspace),
        Which::Snapshot(arguments) => snapshot::run(arguments, workspace),
    }
}
