//! `test`: every check and every test, and one line that sums them.
//!
//! A step that fails does not hide the ones behind it: all that can still run runs, and the last line and the
//! exit code tell. Only setup and build end it early, as nothing is left to test without them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::backends;
use crate::build;
use crate::cells::Wanted;
use crate::command::line;
use crate::fixtures;
use crate::lint;
use crate::setup::{self, Ready};
use crate::shim;
use crate::support;
use crate::tally::{Counter, Tally};
use crate::vm;
use crate::workspace::Workspace;

/// Options of `test`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only the integration tests whose name contains this, without the lints.
    name_filter: Option<String>,
    /// Leave out the lints.
    #[arg(long)]
    no_lint: bool,
    /// Every Go version in every way of building, instead of each at least once.
    #[arg(long)]
    full: bool,
    /// Run what is tried in emulated machines with other kernels too, not on arm64 alone; and fail where a machine
    /// can't be made.
    #[arg(long)]
    vm: bool,
}

/// Runs the verb. The sum is the last line, however it ends.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let mut session = Session { workspace, tally: Tally::default() };
    if let Err(error) = session.run(arguments) {
        session.fail(&error);
    }
    println!("{}", session.tally);
    Ok(if session.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the emulated machines of these names, or all, and the tests that read what they told.
pub(crate) fn run_machines(names: &[String], workspace: &Workspace) -> Result<ExitCode> {
    let mut session = Session { workspace, tally: Tally::default() };
    if let Err(error) = session.machines_only(names) {
        session.fail(&error);
    }
    println!("{}", session.tally);
    Ok(if session.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Session<'a> {
    workspace: &'a Workspace,
    tally: Tally,
}

impl Session<'_> {
    fn run(&mut self, arguments: &Arguments) -> Result<()> {
        let workspace = self.workspace;
        heading("setup");
        let ready = setup::ensure(workspace)?;
        if !arguments.no_lint && arguments.name_filter.is_none() {
            heading("lint");
            for complaint in lint::lint(workspace, true) {
                self.fail(&complaint);
            }
        }
        heading("build");
        let gotrail = build::build(&build::Arguments::default(), workspace, &ready)?;

        if arguments.name_filter.is_none() {
            for (package, targets) in
                [("tracer-ebpf", &["--lib"][..]), ("xtask", &[]), ("tracer-user", &["--lib", "--bins"])]
            {
                heading(&format!("test {package}"));
                let mut cargo = shim::cargo(workspace)?;
                cargo.arg("test").args(shim::FLAGS).args(["-p", package]).args(targets);
                self.runner(&mut cargo);
            }
        }
        self.integration(arguments, &ready, &gotrail)
    }

    /// The package below `tests`: one test at a time, as they measure and attach; with its output shown, as that is
    /// where a test says that it was skipped and why.
    fn integration(&mut self, arguments: &Arguments, ready: &Ready, gotrail: &Path) -> Result<()> {
        let workspace = self.workspace;
        heading("fixtures");
        let fixtures = fixtures::build_matrix(workspace, &Wanted::all(arguments.full))?;
        println!("{} fixtures are there", fixtures.built());
        for reason in &fixtures.skipped {
            println!("no fixture: {reason}");
        }
        for reason in &fixtures.failed {
            self.fail(&anyhow::anyhow!("{reason}"));
        }
        let oracle = fixtures::build_helper(workspace, "oracle")?;
        // It has a library of the outside world in it, which may not be to be had here.
        let stackparse = fixtures::build_helper(workspace, "stackparse");
        if let Err(error) = &stackparse {
            println!("no parser of tracebacks: {error:#}");
        }
        heading("backends");
        let (backends, failed) = backends::build_all(workspace, &ready.go);
        println!("{} backends are there", backends.len());
        for reason in failed {
            self.fail(&anyhow::anyhow!("{reason}"));
        }

        let machines = match (arguments.vm, &arguments.name_filter) {
            (true, _) => Some(self.machines(ready, &[])?),
            (false, None) => self.foreign_machine(ready)?,
            (false, Some(_)) => None,
        };

        heading("test the whole");
        let mut cargo = self.suite()?;
        cargo
            .args(&arguments.name_filter)
            .env("GOTRAIL_BIN", gotrail)
            .env("GOTRAIL_FIXTURES", self.list("fixtures.json", &fixtures.json())?)
            .env("GOTRAIL_ORACLE", oracle)
            .envs(stackparse.ok().map(|path| ("GOTRAIL_STACKPARSE", path)))
            .env("GOTRAIL_GO", ready.go.goroot().join("bin/go"))
            .env("GOTRAIL_MATRIX", support::fresh(workspace)?)
            .env("GOTRAIL_BACKENDS", self.list("backends.json", &backends::json(&backends))?);
        if let Some(machines) = machines {
            cargo.env("GOTRAIL_MACHINES", machines);
        }
        self.runner(&mut cargo);
        if arguments.name_filter.is_none() {
            for difference in support::differences(workspace)? {
                self.fail(&anyhow::anyhow!(difference));
            }
        }
        Ok(())
    }

    /// The package below `tests`; a filter may follow.
    fn suite(&self) -> Result<Command> {
        let mut cargo = shim::cargo(self.workspace)?;
        cargo.arg("test").args(shim::FLAGS);
        cargo.args(["-p", "gotrail-tests", "--", "--test-threads=1", "--nocapture"]);
        Ok(cargo)
    }

    fn machines_only(&mut self, names: &[String]) -> Result<()> {
        heading("setup");
        let ready = setup::ensure(self.workspace)?;
        let list = self.machines(&ready, names)?;
        heading("test what the machines told");
        let mut cargo = self.suite()?;
        cargo.arg("vm_").env("GOTRAIL_MACHINES", list);
        self.runner(&mut cargo);
        Ok(())
    }

    /// Makes and runs emulated machines; the result is the list of them for the tests.
    fn machines(&mut self, ready: &Ready, names: &[String]) -> Result<PathBuf> {
        heading("machines");
        let outcome = vm::run_all(self.workspace, ready, names);
        for reason in &outcome.failed {
            self.fail(&anyhow::anyhow!("{reason}"));
        }
        self.list("machines.json", &outcome.json())
    }

    /// The machine of the architecture that the host is not; where it can't be made here, its tests are skipped by
    /// name.
    fn foreign_machine(&mut self, ready: &Ready) -> Result<Option<PathBuf>> {
        heading("machines");
        let outcome = vm::run_all(self.workspace, ready, &[vm::FOREIGN.to_owned()]);
        for reason in &outcome.failed {
            println!("no machine: {reason}");
        }
        if outcome.ran.is_empty() {
            return Ok(None);
        }
        self.list("machines.json", &outcome.json()).map(Some)
    }

    /// Writes a list for the tests and returns where.
    fn list(&self, name: &str, value: &Value) -> Result<PathBuf> {
        let path = self.workspace.generated()?.join(name);
        fs::write(&path, format!("{value:#}\n"))
            .with_context(|| format!("can't write the list {} for the tests", path.display()))?;
        Ok(path)
    }

    /// Runs one runner, passing its lines on as they come and counting what they say.
    fn runner(&mut self, command: &mut Command) {
        match count_output(command, std::io::stdout(), std::io::stderr()) {
            Ok((counter, true)) => self.tally += counter.finish(true),
            Ok((counter, false)) => {
                eprintln!("failed: `{}`", line(command));
                self.tally += counter.finish(false);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// A step that failed counts as one failed test.
    fn fail(&mut self, error: &anyhow::Error) {
        eprintln!("failed: {error:#}");
        self.tally.failed += 1;
    }
}

fn heading(text: &str) {
    println!("== {text}");
}

/// Runs a command with both of its outputs passed through; true if it ended well.
fn count_output(
    command: &mut Command,
    output: impl Write + Send + 'static,
    errors: impl Write + Send + 'static,
) -> Result<(Counter, bool)> {
    let typed = line(command);
    let told = || format!("can't run `{typed}`");
    let counter = Arc::new(Mutex::new(Counter::default()));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(told)?;
    let (sender, readers) = mpsc::channel();
    pass_through(child.stdout.take().with_context(told)?, output, &counter, sender.clone());
    pass_through(child.stderr.take().with_context(told)?, errors, &counter, sender);
    let status = child.wait().with_context(told)?;
    // Both readers end when the last holder of the pipe does. A process that a test left behind would hold it
    // for ever, which must not hold us.
    let ended = (0..2).all(|_| readers.recv_timeout(LAST_WORDS) == Ok(()));
    if !ended {
        eprintln!(
            "failed: `{}` ended, but a process that it started lives on with its output",
            line(command)
        );
    }
    let counter = counter.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((counter, status.success() && ended))
}

/// How long the readers may lag behind the end of the runner.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Copies and counts lines from a thread of its own, and sends a word when the stream has ended.
fn pass_through(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    counter: &Arc<Mutex<Counter>>,
    ended: mpsc::Sender<()>,
) {
    let counter = Arc::clone(counter);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            // Our own output being closed must not stop the counting.
            drop(to.write_all(&[&line, &b"\n"[..]].concat()).and_then(|()| to.flush()));
            let text = String::from_utf8_lossy(&line);
            counter.lock().unwrap_or_else(PoisonError::into_inner).line(&text);
        }
        // No one waits any more: then no one needs to know.
        let _ = ended.send(());
    });
}

#[cfg(test)]
mod tests {
    use std::io::sink;

    use super::*;

    // The outputs go to sinks: what these commands print looks like results and would be counted as ours.

    #[test]
    fn both_outputs_are_counted_and_the_exit_is_known() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'; \
                      echo 'SKIPPED vm_boot: no qemu' >&2; exit 7";
        let mut command = Command::new("sh");
        let (counter, well) = count_output(command.args(["-c", script]), sink(), sink()).unwrap();
        assert!(!well);
        assert_eq!(counter.finish(well), Tally { passed: 1, failed: 1, skipped: 1 });
    }

    #[test]
    fn lines_are_passed_through_unchanged() {
        let scratch = crate::scratch::Scratch::new("test-test").unwrap();
        let copy = scratch.path().join("copy");
        let mut command = Command::new("printf");
        let file = fs::File::create(&copy).unwrap();
        count_output(command.arg("a\\n\\nb \\303\\244\\n"), file, sink()).unwrap();
        assert_eq!(fs::read_to_string(copy).unwrap(), "a\n\nb \u{e4}\n");
    }

    #[test]
    fn a_runner_that_does_not_start_is_an_error() {
        assert!(count_output(&mut Command::new("/nowhere/cargo"), sink(), sink()).is_err());
    }
}
