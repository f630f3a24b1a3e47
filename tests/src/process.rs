//! Child processes whose lines can be awaited, and that end with the test.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// How long anything is waited for. Generous: the machine may be slow, and what is awaited comes at once
/// where it comes at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a stream that are shown in an error.
const SHOWN: usize = 40;

/// Held while a process is started, and while a program is written: a child that is just being started holds a
/// copy of every open file of ours, and what someone has open for writing can't be executed (`ETXTBSY`).
static STARTING: Mutex<()> = Mutex::new(());

/// Keeps processes from being started for as long as the guard lives.
pub(crate) fn hold_starts() -> MutexGuard<'static, ()> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Lines,
    errors: Lines,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts it, with all three standard streams held by us.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let starting = hold_starts();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} does not start: {command:?}"))?;
        drop(starting);
        let input = child.stdin.take();
        let output = Lines::read(child.stdout.take());
        let errors = Lines::read(child.stderr.take());
        Ok(Self { name: name.to_owned(), child, input, output, errors, status: None })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It does not listen any more.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let told = || format!("{} does not take the line {line:?}", self.name);
        let input = self.input.as_mut().with_context(told)?;
        input.write_all(format!("{line}\n").as_bytes()).and_then(|()| input.flush()).with_context(told)
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for a line of its standard output of which `found` makes something. Lines before it are passed over
    /// and not looked at again.
    ///
    /// # Errors
    /// No such line came before the stream ended or the time was up.
    pub fn await_output<T>(&mut self, what: &str, found: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let result = self.output.wait_for(found);
        self.told(what, result)
    }

    /// Likewise, of its standard error.
    ///
    /// # Errors
    /// As [`Self::await_output`].
    pub fn await_errors<T>(&mut self, what: &str, found: impl FnMut(&str) -> Option<T>) -> Result<T> {
        let result = self.errors.wait_for(found);
        self.told(what, result)
    }

    fn told<T>(&self, what: &str, result: Result<T, Missed>) -> Result<T> {
        result.map_err(|missed| {
            let why = match missed {
                Missed::Ended => "the stream ended before it".to_owned(),
                Missed::Late => format!("it did not come within {PATIENCE:?}"),
            };
            anyhow::anyhow!("waited for {what} from {}: {why}\n{}", self.name, self.words())
        })
    }

    /// Everything on its standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Everything on its standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        self.errors.text()
    }

    /// The end of what it said, for error messages.
    #[must_use]
    pub fn words(&self) -> String {
        format!(
            "--- standard output of {0}\n{1}\n--- standard error of {0}\n{2}\n---",
            self.name,
            tail(&self.output.text()),
            tail(&self.errors.text())
        )
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has been waited for already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.status.is_some() {
            bail!("{} has ended and can't be sent a signal", self.name);
        }
        kill_process(self.handle()?, signal).with_context(|| format!("can't send a signal to {}", self.name))
    }

    /// The CPU time that it has used, to 10 ms.
    ///
    /// # Errors
    /// The kernel does not say, which it does until the process is waited for.
    pub fn cpu_time(&self) -> Result<Duration> {
        const TICK: Duration = Duration::from_millis(10);
        let told = || format!("can't read the CPU time of {}", self.name);
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).with_context(told)?;
        // proc_pid_stat(5): utime and stime are the fields 14 and 15, and the name before them may hold anything.
        let fields = stat.rsplit_once(')').with_context(told)?.1.split_whitespace().skip(11).take(2);
        let ticks: Vec<u32> = fields.map(|field| field.parse().with_context(told)).collect::<Result<_>>()?;
        Ok(TICK * ticks.iter().sum())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("can't wait for {}", self.name))?;
        }
        Ok(self.status.is_none())
    }

    /// Waits for its end and the end of its streams.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.wait_for(PATIENCE)
    }

    /// Likewise, with a time limit of the caller's.
    ///
    /// # Errors
    /// It did not end in time.
    pub fn wait_for(&mut self, patience: Duration) -> Result<ExitStatus> {
        if self.status.is_none() {
            let told = || format!("can't wait for {}", self.name);
            let pidfd = pidfd_open(self.handle()?, PidfdFlags::empty()).with_context(told)?;
            let limit = Timespec::try_from(patience).with_context(told)?;
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            if poll(&mut fds, Some(&limit)).with_context(told)? == 0 {
                bail!("{} did not end within {patience:?}\n{}", self.name, self.words());
            }
            self.status = Some(self.child.wait().with_context(told)?);
        }
        self.input = None;
        for (stream, lines) in [("output", &self.output), ("error", &self.errors)] {
            if !lines.wait_until_ended() {
                bail!("{} ended, but its standard {stream} is still held by someone", self.name);
            }
        }
        self.status.with_context(|| format!("{} has no status", self.name))
    }

    fn handle(&self) -> Result<Pid> {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id out of range")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            // An error means that it is gone already.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let skipped = lines.len().saturating_sub(SHOWN);
    let head = if skipped == 0 { String::new() } else { format!("({skipped} lines before)\n") };
    head + &lines[skipped..].join("\n")
}

/// Why a line was not found.
enum Missed {
    Ended,
    Late,
}

/// The lines of a stream, read by a thread of their own so that the writer never has to wait.
#[derive(Debug)]
struct Lines {
    shared: Arc<Shared>,
    /// How many have been looked at.
    seen: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn read(stream: Option<impl Read + Send + 'static>) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let lines = stream.into_iter().flat_map(|s| BufReader::new(s).split(b'\n').map_while(Result::ok));
            for line in lines {
                writer.state().lines.push(String::from_utf8_lossy(&line).into_owned());
                writer.changed.notify_all();
            }
            writer.state().ended = true;
            writer.changed.notify_all();
        });
        Self { shared, seen: 0 }
    }

    fn wait_for<T>(&mut self, mut found: impl FnMut(&str) -> Option<T>) -> Result<T, Missed> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.state();
        loop {
            while let Some(line) = state.lines.get(self.seen) {
                self.seen += 1;
                if let Some(value) = found(line) {
                    return Ok(value);
                }
            }
            if state.ended {
                return Err(Missed::Ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Late);
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    /// Whether the stream ended in time.
    fn wait_until_ended(&self) -> bool {
        let state = self.shared.state();
        self.shared
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.ended)
            .map_or_else(|poisoned| poisoned.into_inner().0.ended, |(state, _)| state.ended)
    }

    fn text(&self) -> String {
        self.shared.state().lines.join("\n")
    }
}
