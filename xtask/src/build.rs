//! `build`: the eBPF object first, then the workspace that embeds it.

use std::env::consts::ARCH;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::command;
use crate::setup::{self, Ready};
use crate::shim;
use crate::workspace::Workspace;

/// Options of `build`.
#[derive(Args, Default)]
pub(crate) struct Arguments {
    /// Build with optimisations, into target/release.
    #[arg(long)]
    release: bool,
    /// Features of the workspace's packages, as cargo takes them.
    #[arg(long, value_name = "FEATURES")]
    features: Option<String>,
}

impl Arguments {
    /// With optimisations.
    pub(crate) fn release() -> Self {
        Self { release: true, features: None }
    }
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = setup::ensure(workspace)?;
    let gotrail = build(arguments, workspace, &ready)?;
    println!("{}", gotrail.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds everything; the result is the gotrail binary with the eBPF object inside.
pub(crate) fn build(arguments: &Arguments, workspace: &Workspace, ready: &Ready) -> Result<PathBuf> {
    // Log lines need both sides: the programs that write them, and the agent that reads them.
    let logged = arguments.features.as_deref().is_some_and(|f| f.contains("bpf-log"));
    build_programs(workspace, ready, if logged { "programs,log" } else { "programs" }, ARCH)?;

    let mut cargo = shim::cargo(workspace)?;
    cargo.arg("build").args(shim::FLAGS).arg("--workspace");
    if arguments.release {
        cargo.arg("--release");
    }
    if let Some(features) = &arguments.features {
        cargo.args(["--features", features]);
    }
    command::run(&mut cargo, "build the workspace", "see the compiler's words above")?;

    let gotrail = workspace.target.join(if arguments.release { "release" } else { "debug" }).join("gotrail");
    if !gotrail.is_file() {
        bail!(
            "the build ended well but left no {}; does tracer-user still build a bin `gotrail`?",
            gotrail.display()
        );
    }
    Ok(gotrail)
}

/// Builds the eBPF object for kernels of an architecture, by Rust's name, and returns where it is. A missing
/// one is an error here: a gotrail without it could not attach.
pub(crate) fn build_programs(
    workspace: &Workspace,
    ready: &Ready,
    features: &str,
    architecture: &str,
) -> Result<PathBuf> {
    let mut cargo = ready.toolchain.build(workspace, features, architecture)?;
    command::run(&mut cargo, "build the eBPF programs", "see the compiler's words above")?;
    let object = workspace.bpf_object(architecture);
    if !object.is_file() {
        bail!("the eBPF build ended well but left no {}; is its bin still `gotrail-bpf`?", object.display());
    }
    Ok(object)
}
