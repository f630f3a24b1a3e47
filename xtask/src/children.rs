//! Child processes that end with us, whatever way we end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::line;
use crate::interrupt;

/// How often a wait looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// A process that is stopped and reaped when its guard goes.
pub(crate) struct Guarded {
    name: String,
    child: Child,
}

impl Guarded {
    /// Starts it with whatever the command says about its input and output.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("can't start {name}: `{}` does not start", line(command)))?;
        Ok(Self { name: name.to_owned(), child })
    }

    /// Starts a server whose words go to a file.
    pub(crate) fn start_logged(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let told = || format!("can't write the log {}", log.display());
        let file = File::create(log).with_context(told)?;
        let again = file.try_clone().with_context(told)?;
        Self::start(name, command.stdin(Stdio::null()).stdout(file).stderr(again))
    }

    /// Starts it with its lines shown as `name | line`; those of its standard output are also returned.
    pub(crate) fn start_shown(name: &str, command: &mut Command) -> Result<(Self, Receiver<String>)> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut guarded = Self::start(name, command)?;
        let (sender, lines) = mpsc::channel();
        if let Some(output) = guarded.child.stdout.take() {
            forward(name, output, Some(sender));
        }
        if let Some(errors) = guarded.child.stderr.take() {
            forward(name, errors, None);
        }
        Ok((guarded, lines))
    }

    /// Its standard input and output, if it was started with pipes for both; once.
    pub(crate) fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its end, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("can't wait for {}", self.name))
    }

    /// Waits for its end. When a signal comes meanwhile it is passed on (the process may not be in the
    /// terminal's foreground group) and the process gets `patience` to end by itself.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut deadline = None;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            match deadline {
                None if interrupt::interrupted() => {
                    interrupt::send(self.child.id(), libc::SIGINT);
                    deadline = Some(Instant::now() + patience);
                }
                Some(deadline) if Instant::now() > deadline => {
                    bail!("{} did not end within {patience:?} of SIGINT", self.name)
                }
                _ => {}
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Failing means that it is gone already, which is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Shows a stream line by line from a thread of its own, which ends with the stream.
fn forward(name: &str, stream: impl Read + Send + 'static, copy: Option<mpsc::Sender<String>>) {
    let name = name.to_owned();
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            eprintln!("{name} | {line}");
            if let Some(copy) = &copy {
                // No one listens any more: showing is enough.
                drop(copy.send(line));
            }
        }
    });
}

/// Waits until `ready` gives something, while the process lives and no signal comes.
pub(crate) fn wait_until<T>(
    process: &mut Guarded,
    what: &str,
    within: Duration,
    mut ready: impl FnMut() -> Option<T>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if let Some(status) = process.ended()? {
            bail!("{} ended with {status} before {what}; see its words", process.name);
        }
        if interrupt::interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        if Instant::now() > deadline {
            bail!("{} has not reached this within {within:?}: {what}", process.name);
        }
        thread::sleep(LOOK);
    }
}

/// The end of a log, for error messages.
pub(crate) fn tail(log: &PathBuf) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_leaves_no_process() {
        let guarded = Guarded::start("sleep", Command::new("sleep").arg("600")).unwrap();
        let process = PathBuf::from(format!("/proc/{}", guarded.id()));
        assert!(process.exists());
        drop(guarded);
        assert!(!process.exists());
    }

    #[test]
    fn a_child_that_dies_early_is_reported_at_once() {
        let mut guarded = Guarded::start("false", &mut Command::new("false")).unwrap();
        let error = wait_until(&mut guarded, "its greeting", Duration::from_secs(60), || None::<()>)
            .expect_err("it never greets");
        let text = format!("{error:#}");
        assert!(text.contains("false ended") && text.contains("its greeting"), "{text}");
    }

    #[test]
    fn lines_are_passed_on() {
        let (mut guarded, lines) =
            Guarded::start_shown("echo", Command::new("sh").args(["-c", "echo ready; exec sleep 600"]))
                .unwrap();
        let line =
            wait_until(&mut guarded, "a line", Duration::from_secs(60), || lines.try_recv().ok()).unwrap();
        assert_eq!(line, "ready");
    }
}
