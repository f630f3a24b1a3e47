//! The Go programs below `tests/fixtures`, as built by `cargo xtask fixtures`.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::env;
use crate::process::Process;

/// The Go versions that everything is tried with.
pub const VERSIONS: [&str; 4] = ["1.21.13", "1.23.9", "1.25.5", "1.27.3"];
/// The ways of building.
pub const MODES: [&str; 2] = ["default", "stripped"];
/// The oldest and the newest version.
pub const OLDEST_AND_NEWEST: [&str; 2] = ["1.21.13", "1.27.3"];

/// This machine's architecture, as Go names it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// One built program.
#[derive(Clone, Debug)]
pub struct Build {
    /// Which fixture.
    pub name: String,
    /// The Go version that built it, without `go` in front.
    pub go: String,
    /// How: `default` or `stripped`, and more for the fixture `matrix`.
    pub mode: String,
    /// For which architecture, as Go names it.
    pub arch: String,
    /// Where it is.
    pub path: PathBuf,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.name, self.go, self.arch, self.mode)
    }
}

impl Build {
    /// The build of a fixture with one Go version in one mode.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str, go: &str, mode: &str) -> Result<Self> {
        all(name)?.into_iter().find(|build| build.go == go && build.mode == mode).with_context(|| {
            format!("no fixture {name} built with Go {go} ({mode}): see `cargo xtask fixtures`")
        })
    }

    /// Its minor Go version: the 21 of 1.21.13.
    ///
    /// # Errors
    /// The version has none.
    pub fn minor(&self) -> Result<u32> {
        self.go
            .split('.')
            .nth(1)
            .and_then(|minor| minor.parse().ok())
            .with_context(|| format!("{:?} is no version of Go", self.go))
    }

    /// Starts it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        Process::start(&self.to_string(), Command::new(&self.path).args(arguments))
    }

    /// Starts it and waits until it says `ready`.
    ///
    /// # Errors
    /// It does not get there.
    pub fn start_ready(&self, arguments: &[&str]) -> Result<Process> {
        let mut process = self.start(arguments)?;
        process.await_output("`ready`", |line| line.starts_with("ready").then_some(()))?;
        Ok(process)
    }
}

/// A combination of fixture, Go version, architecture and mode.
#[derive(Clone, Debug)]
pub enum Cell {
    /// It was built.
    Built(Build),
    /// Go does not make it, or it does not run here.
    NotByGo {
        /// What it would be, but for the path.
        build: Build,
        /// Go's own words.
        words: String,
    },
}

/// All combinations of a fixture that were tried.
///
/// # Errors
/// The list of fixtures can't be read.
pub fn cells(name: &str) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for entry in env::list("GOTRAIL_FIXTURES")?.iter().filter(|entry| entry["name"] == name) {
        let field = |name: &str| {
            let text = entry[name].as_str().map(str::to_owned);
            text.with_context(|| format!("a fixture without {name}: {entry}"))
        };
        let words = entry["na"].as_str();
        let path = if words.is_some() { PathBuf::new() } else { field("path")?.into() };
        let (name, go, mode, arch) = (field("name")?, field("go")?, field("mode")?, field("arch")?);
        let build = Build { name, go, mode, arch, path };
        cells.push(match words {
            Some(words) => Cell::NotByGo { build, words: words.to_owned() },
            None => Cell::Built(build),
        });
    }
    Ok(cells)
}

/// The builds of a fixture for this machine.
fn all(name: &str) -> Result<Vec<Build>> {
    let here = |cell: Cell| match cell {
        Cell::Built(build) if build.arch == ARCHITECTURE => Some(build),
        _ => None,
    };
    Ok(cells(name)?.into_iter().filter_map(here).collect())
}

/// The builds of a fixture with these versions and modes. Those that this machine does not have are named on
/// standard output.
///
/// # Errors
/// There is none at all; or one is missing where everything is required.
#[expect(clippy::print_stdout, reason = "who reads the result must see what it does not cover")]
pub fn builds(name: &str, versions: &[&str], modes: &[&str]) -> Result<Vec<Build>> {
    let all = all(name)?;
    let mut found = Vec::new();
    for go in versions {
        for mode in modes {
            match all.iter().find(|b| b.go == *go && b.mode == *mode) {
                Some(build) => found.push(build.clone()),
                None if env::is_everything_required() => {
                    bail!(
                        "no fixture {name} built with Go {go} ({mode}), although everything is required here"
                    )
                }
                None => println!("left out: {name} {go} {mode}: it was not built here"),
            }
        }
    }
    if found.is_empty() {
        bail!("no fixture {name} at all was built with {versions:?} {modes:?}");
    }
    Ok(found)
}

/// Runs a check on each item, some at a time, all of them even where some fail.
///
/// # Panics
/// If a check panicked; with the names of all that did.
#[expect(clippy::panic, reason = "a failed check is a failed test")]
pub fn each<T: fmt::Display + Sync>(items: &[T], at_once: usize, check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(item))) {
                let words = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("a panic without words");
                let first: String = words.chars().take(400).collect();
                if let Ok(mut failed) = failed.lock() {
                    failed.push(format!("{item}: {first}"));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    if !failed.is_empty() {
        panic!("{} of {} failed:\n{}", failed.len(), items.len(), failed.join("\n"));
    }
}
