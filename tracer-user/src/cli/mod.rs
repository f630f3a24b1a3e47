//! The command line: arguments in, text or JSON out. Standard output is the answer, standard error the talk
//! about it. The only place that prints.

/// Prints a line of the answer. A reader that has gone (`gotrail dump 1 | head`) ends us quietly, as it does any
/// other tool; SIGPIPE itself stays ignored, since an export's connection may break too.
macro_rules! outln {
    ($($arg:tt)*) => { $crate::cli::write_out(format_args!("{}\n", format_args!($($arg)*))) };
}

/// The same without the line break.
macro_rules! out {
    ($($arg:tt)*) => { $crate::cli::write_out(format_args!($($arg)*)) };
}

/// Prints a line of the talk. Nobody need listen to it.
macro_rules! errln {
    ($($arg:tt)*) => { $crate::cli::write_err(format_args!("{}\n", format_args!($($arg)*))) };
}

mod ability;
mod args;
mod attach;
#[cfg(feature = "bpf-log")]
mod bpf_log;
mod cost;
mod doctor;
mod dump;
#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
#[path = "no_export.rs"]
mod export;
mod failure;
mod fleet;
mod human;
mod inspect;
mod json;
mod mapping;
mod profile;
mod ps;
mod signals;
mod stats;
mod switches;
mod system_calls;

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use failure::Failure;

/// Parses the arguments, runs the command, and turns its end into an exit code.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    #[cfg(feature = "bpf-log")]
    bpf_log::install();
    let result = match cli.command {
        Command::Attach(args) => attach::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Profile(args) => profile::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Ps(args) => ps::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            errln!("gotrail: {message}");
            ExitCode::from(code)
        }
    }
}

fn write_out(text: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) else { return };
    // Either way probes go with the process.
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    errln!(
        "gotrail: tried to write the answer to standard output: {error}; what was written is not all of it"
    );
    std::process::exit(failure::BACKEND.into());
}

fn write_err(text: std::fmt::Arguments<'_>) {
    // A terminal that has gone, or a full disk, is no reason to end.
    drop(std::io::stderr().lock().write_fmt(text));
}
