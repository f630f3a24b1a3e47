//! `cargo xtask VERB`: everything a developer or a CI machine does with this project.
//!
//! One file per verb. The knowledge of how the eBPF programs and aya are built on compilers that neither was
//! made for lives here and nowhere else, so that the rest of the project stays ordinary Rust.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command runner is for")]

mod backends;
mod bench;
mod build;
mod cells;
mod children;
mod command;
mod demo;
mod fixtures;
mod fnv;
mod fuzz;
mod go;
mod http;
mod interrupt;
mod layouts;
mod lint;
mod metrics;
mod scratch;
mod setup;
mod shim;
mod support;
mod tally;
mod test;
mod toolchain;
mod version;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// Declares the verbs: each is a module with a clap type `Arguments` and a function
/// `run(&Arguments, &Workspace) -> Result<ExitCode>`. A new verb is one line below (and its `mod` above,
/// which stays outside so that rustfmt finds the file).
macro_rules! verbs {
    ($($(#[$doc:meta])* $variant:ident => $module:ident,)*) => {
        #[derive(Subcommand)]
        enum Verb {
            $($(#[$doc])* $variant($module::Arguments),)*
        }

        impl Verb {
            fn run(&self, workspace: &Workspace) -> Result<ExitCode> {
                match self {
                    $(Self::$variant(arguments) => $module::run(arguments, workspace),)*
                }
            }
        }
    };
}

verbs! {
    /// Installs what the project needs, or says what to install; a second run does nothing.
    Setup => setup,
    /// Builds the eBPF programs and then the workspace around them.
    Build => build,
    /// Checks format, lints (the eBPF programs too) and licences.
    Lint => lint,
    /// Builds the Go programs that the tests and the demo look at.
    Fixtures => fixtures,
    /// Measures the layouts of the Go runtime that gotrail knows, or checks them.
    Layouts => layouts,
    /// Builds the real backends and Go services that the tests talk to.
    Backends => backends,
    /// Writes the table of what is supported as the tests have found it.
    Support => support,
    /// Writes the table of which figure is which in runtime/metrics.
    Metrics => metrics,
    /// Shows gotrail diagnosing a leaking Go service until it panics.
    Demo => demo,
    /// Measures gotrail beside what else there is, and writes the figures down.
    Bench => bench,
    /// Runs every check and test; the last line is the sum.
    Test => test,
    /// Tries every parser on hostile input for some minutes each.
    Fuzz => fuzz,
    /// Tries gotrail on other kernels and on arm64, in emulated machines.
    Vm => vm,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match Workspace::locate().and_then(|workspace| arguments.verb.run(&workspace)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
