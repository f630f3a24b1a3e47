//! `lint`: format, clippy for the host and for the eBPF programs, licences.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::command;
use crate::setup::install_command;
use crate::shim;
use crate::workspace::Workspace;

const CARGO_DENY: &str = "0.20.2";

/// Options of `lint`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Leave out cargo-deny, which takes minutes to install the first time.
    #[arg(long)]
    no_deny: bool,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let complaints = lint(workspace, !arguments.no_deny);
    for complaint in &complaints {
        eprintln!("error: {complaint:#}");
    }
    if !complaints.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    println!("no complaints");
    Ok(ExitCode::SUCCESS)
}

/// All checks that need no test to run. Each runs whatever the others say; the result is what failed.
pub(crate) fn lint(workspace: &Workspace, with_deny: bool) -> Vec<anyhow::Error> {
    let mut checks: Vec<fn(&Workspace) -> Result<()>> = vec![format, host, programs];
    if with_deny {
        checks.push(deny);
    }
    checks.iter().filter_map(|check| check(workspace).err()).collect()
}

fn format(workspace: &Workspace) -> Result<()> {
    find(workspace, "fmt")?;
    let mut cargo = workspace.cargo();
    cargo.args(["fmt", "--all", "--check"]);
    command::run(&mut cargo, "call the format right", "run `cargo fmt --all`")
}

fn host(workspace: &Workspace) -> Result<()> {
    find(workspace, "clippy")?;
    let mut cargo = shim::cargo(workspace)?;
    cargo.arg("clippy").args(shim::FLAGS).args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
    command::run(&mut cargo, "call the workspace clean", "mend what clippy names above")
}

/// Both tools are parts of the toolchain that a minimal installation lacks.
fn find(workspace: &Workspace, subcommand: &str) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args([subcommand, "--version"]);
    command::capture(&mut cargo, &format!("find `cargo {subcommand}`")).map(drop).context(
        "a part of the Rust toolchain is missing: rustup has rustfmt and clippy as components, Debian as the \
         packages rustfmt-web and rust-web-clippy",
    )
}

/// Host builds skip the programs (a bin with required features), so clippy has to be told of them. They are
/// checked as host code: no eBPF toolchain is needed for that.
fn programs(workspace: &Workspace) -> Result<()> {
    find(workspace, "clippy")?;
    let mut cargo = workspace.cargo();
    cargo
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"\u{1f}-Cpanic=abort", std::env::consts::ARCH),
        )
        .args(["clippy", "--locked", "--ignore-rust-version", "-p", "tracer-ebpf", "--bin", "gotrail-bpf"])
        .args(["--features", "programs", "--target-dir"])
        .arg(workspace.target.join("lint-bpf"))
        .args(["--", "-D", "warnings"]);
    command::run(&mut cargo, "call the eBPF programs clean", "mend what clippy names above")
}

/// Licences, sources and bans; not the advisories, which would make the outcome depend on the day.
fn deny(workspace: &Workspace) -> Result<()> {
    let tool = workspace.tool("cargo-deny", CARGO_DENY);
    if !command::is_executable(&tool) {
        println!("installing cargo-deny {CARGO_DENY} into the cache (about three minutes)");
        let mut install = install_command(workspace, "cargo-deny", CARGO_DENY);
        command::run(&mut install, "install cargo-deny", "leave it out with --no-deny")?;
    }
    // cargo-deny looks at the crates of every platform; cargo has fetched those of this one only.
    let mut fetch = workspace.cargo();
    fetch.args(["fetch", "--locked", "--quiet"]);
    command::run(&mut fetch, "fetch the sources of all dependencies", "is the crates registry reachable?")?;

    let mut check = Command::new(tool);
    check.current_dir(&workspace.root).args([
        "--offline",
        "--locked",
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    command::run(&mut check, "accept the dependencies' licences and sources", "see deny.toml")
}
