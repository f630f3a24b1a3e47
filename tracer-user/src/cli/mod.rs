//! The command line: arguments in, text or JSON out. Standard output is the answer, standard error the talk
//! about it. The only place that prints.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line is for")]

mod args;
mod attach;
#[cfg(feature = "bpf-log")]
mod bpf_log;
mod doctor;
mod dump;
#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
#[path = "no_export.rs"]
mod export;
mod failure;
mod human;
mod inspect;
mod json;
mod ps;
mod signals;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use failure::Failure;

/// Parses the arguments, runs the command, and turns its end into an exit code.
pub(crate) fn run() -> ExitCode {
    // A reader that closes the pipe (`gotrail dump 1 | head`) ends us quietly, as it does any other tool.
    // SAFETY: no other thread runs yet, and SIG_DFL is always a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let cli = Cli::parse();
    #[cfg(feature = "bpf-log")]
    bpf_log::install();
    let result = match cli.command {
        Command::Attach(args) => attach::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Ps(args) => ps::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            eprintln!("gotrail: {message}");
            ExitCode::from(code)
        }
    }
}
