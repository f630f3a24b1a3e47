//! Where things are, and what this machine lets a test do.
//!
//! `GOTRAIL_BIN` is the program under test, `GOTRAIL_FIXTURES` and `GOTRAIL_BACKENDS` name JSON lists of what it
//! is tested on, `GOTRAIL_ORACLE` is a program that knows the truth about executables, `GOTRAIL_STACKPARSE` one that reads
//! tracebacks as other tools do. Where something is missing a test is skipped by name, with the reason; with `CI=true` or `GOTRAIL_REQUIRE` set everything is known to be there,
//! and a test that would be skipped fails instead.

use std::env;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::bpf;
use crate::core_file;
use crate::gotool;
use crate::memory_limit;
use crate::overlay;

/// Names the list of emulated machines that were run.
const MACHINES: &str = "GOTRAIL_MACHINES";

/// What a test can't do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The program under test, and fixtures to try it on.
    Fixtures,
    /// The program that knows what is true of an executable.
    Oracle,
    /// The program that reads tracebacks as other tools do.
    StackParser,
    /// A Go toolchain.
    Go,
    /// Root, and a kernel that lets it load eBPF programs.
    Root,
    /// A program of the outside world.
    Backend(&'static str),
    /// A kernel thread that can be seen from here: not in a container.
    KernelThread,
    /// That threads may be real-time threads.
    RealTime,
    /// A kernel that writes core files where a process runs.
    Cores,
    /// gdb's gcore.
    Gcore,
    /// A kernel and a temporary folder that overlays can be mounted with.
    Overlay,
    /// A cgroup whose memory can be limited.
    MemoryLimit,
    /// What an emulated machine wrote on its console.
    Machine(&'static str),
}

impl Need {
    /// Why it can't be had here, if it can't.
    fn lacks(self) -> Option<String> {
        match self {
            Self::Fixtures => {
                gotrail().and_then(|_| list("GOTRAIL_FIXTURES")).err().map(|e| format!("{e:#}"))
            }
            Self::Oracle => oracle().err().map(|e| format!("{e:#}")),
            Self::StackParser => stack_parser().err().map(|e| format!("{e:#}")),
            Self::Go => gotool::go().err().map(|e| format!("{e:#}")),
            Self::Root => no_root().or_else(no_bpf),
            Self::KernelThread => no_kernel_thread(),
            Self::Backend(name) => backend(name).err().map(|e| format!("{e:#}")),
            Self::RealTime => no_real_time(),
            Self::Cores => core_file::kernel_lacks(),
            Self::Gcore => core_file::gcore_lacks(),
            Self::Overlay => overlay::lacks(),
            Self::MemoryLimit => memory_limit::lacks(),
            Self::Machine(name) => no_machine(name),
        }
    }
}

/// Process 2 is the father of all kernel threads, where the host's own processes are to be seen.
fn no_kernel_thread() -> Option<String> {
    let is_seen = fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd");
    (!is_seen).then(|| "no kernel thread can be seen from here".to_owned())
}

/// As `gotrail doctor` says; where it says nothing the test is to find out.
fn no_real_time() -> Option<String> {
    let output = Command::new(gotrail().ok()?).args(["doctor", "--format", "json"]).output().ok()?;
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    let mut checks = answer["host"].as_array()?.iter();
    let is_refused = checks.any(|check| check["name"] == "real time" && check["ok"] == false);
    is_refused.then(|| "real-time threads are not allowed here".to_owned())
}

fn no_machine(name: &str) -> Option<String> {
    if env::var_os(MACHINES).is_none() {
        return Some(
            "no emulated machine was run: `cargo xtask test --vm` or `cargo xtask vm` does it".to_owned(),
        );
    }
    machine(name).err().map(|e| format!("{e:#}"))
}

fn no_root() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned())
}

fn no_bpf() -> Option<String> {
    bpf::next_id(0).err().map(|error| {
        let why = error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), ToString::to_string);
        format!("the kernel does not let root use eBPF here: {why}")
    })
}

/// Whether everything has to be there, so that nothing may be skipped.
#[must_use]
pub fn is_everything_required() -> bool {
    env::var("CI").is_ok_and(|value| value == "true")
        || env::var_os("GOTRAIL_REQUIRE").is_some_and(|v| !v.is_empty())
}

/// Says whether the test called `path` has to end here, and prints the reason; use [`needs!`](crate::needs).
///
/// # Panics
/// If something is missing where everything is required.
#[must_use]
#[expect(clippy::print_stdout, clippy::panic, reason = "this is how a test says that it was skipped")]
pub fn skip(path: &str, needs: &[Need]) -> bool {
    let Some((need, why)) = needs.iter().find_map(|need| Some((need, need.lacks()?))) else { return false };
    // The path of a function inside the test: `suite::counts::root_x::here`.
    let name = path.strip_suffix("::here").unwrap_or(path);
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    // Where a machine was made for these tests, it may still be a container, whose kernel's settings are the host's.
    // Which emulated ones are run is for the task runner to say, which fails itself where one that it was told to run
    // can't be made.
    let may_lack = match need {
        Need::KernelThread
        | Need::RealTime
        | Need::Machine(_)
        | Need::Cores
        | Need::Overlay
        | Need::MemoryLimit => true,
        Need::Fixtures
        | Need::Oracle
        | Need::StackParser
        | Need::Go
        | Need::Root
        | Need::Backend(_)
        | Need::Gcore => false,
    };
    if is_everything_required() && !may_lack {
        panic!("{name} can't run, although everything is required here: {why}");
    }
    println!("SKIPPED {name}: {why}");
    true
}

/// Ends the calling test, as skipped by its name, where something that it needs is missing.
#[macro_export]
macro_rules! needs {
    ($($need:expr),+ $(,)?) => {{
        fn here() {}
        if $crate::env::skip(std::any::type_name_of_val(&here), &[$($need),+]) {
            return;
        }
    }};
}

/// The program under test.
///
/// # Errors
/// It is not named, or not there.
pub fn gotrail() -> Result<PathBuf> {
    path("GOTRAIL_BIN")
}

/// The program that knows what is true of an executable.
///
/// # Errors
/// It is not named, or not there.
pub fn oracle() -> Result<PathBuf> {
    path("GOTRAIL_ORACLE")
}

/// The program that reads tracebacks as other tools do.
///
/// # Errors
/// It is not named, or not there.
pub fn stack_parser() -> Result<PathBuf> {
    path("GOTRAIL_STACKPARSE")
}

/// The newest Go's own `go`.
///
/// # Errors
/// It is not named, or not there.
pub fn go() -> Result<PathBuf> {
    path("GOTRAIL_GO")
}

/// A program that a variable names.
fn path(variable: &str) -> Result<PathBuf> {
    let path = PathBuf::from(
        env::var_os(variable)
            .with_context(|| format!("{variable} is not set: run these tests with `cargo xtask test`"))?,
    );
    if !path.is_file() {
        bail!("{variable} is {}: there is no such file", path.display());
    }
    Ok(path)
}

/// A program of the outside world, by name.
///
/// # Errors
/// The list has no such program.
pub fn backend(name: &str) -> Result<PathBuf> {
    list("GOTRAIL_BACKENDS")?
        .iter()
        .find(|entry| entry["name"] == name)
        .and_then(|entry| entry["path"].as_str())
        .map(PathBuf::from)
        .with_context(|| format!("GOTRAIL_BACKENDS has no {name}: build it with `cargo xtask backends`"))
}

/// An emulated machine's entry in the list of those that were run.
///
/// # Errors
/// The list has no such machine.
pub fn machine(name: &str) -> Result<Value> {
    list(MACHINES)?
        .into_iter()
        .find(|entry| entry["name"] == name)
        .with_context(|| format!("the machine {name} was not run: `cargo xtask vm` says why"))
}

/// The JSON list in the file that a variable names.
///
/// # Errors
/// There is none, or it is empty.
pub fn list(variable: &str) -> Result<Vec<Value>> {
    let path = env::var_os(variable)
        .with_context(|| format!("{variable} is not set: run these tests with `cargo xtask test`"))?;
    let told = || format!("{variable} is {}: no JSON list can be read there", PathBuf::from(&path).display());
    let entries: Vec<Value> =
        serde_json::from_str(&fs::read_to_string(&path).with_context(told)?).with_context(told)?;
    if entries.is_empty() {
        bail!("the list that {variable} names is empty");
    }
    Ok(entries)
}
