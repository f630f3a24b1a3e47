//! The Go program that is looked at: see `tests/fixtures/crowd`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::children::Guarded;

/// A running one.
pub(super) struct Crowd {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    // Last: it is stopped when its pipes are closed.
    process: Guarded,
}

/// What a phase was like for it.
pub(super) struct Figures {
    /// By how much a goroutine that sleeps woke too late, in seconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) most: f64,
    /// Stops of the world by the runtime itself, and how long they were at most in all, in seconds.
    pub(super) stops: f64,
    pub(super) stopped: f64,
}

impl Crowd {
    /// Starts it and waits until all are parked.
    pub(super) fn start(program: &Path, goroutines: u64) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["-n", &goroutines.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Guarded::start("crowd", &mut command)?;
        let (input, output) = process.pipes().context("crowd was started without pipes")?;
        let mut crowd = Self { input, output: BufReader::new(output), process };
        let line = crowd.line()?;
        if !line.starts_with("ready") {
            bail!("crowd said {line:?} instead of `ready`");
        }
        Ok(crowd)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).context("can't read what crowd says")?;
        if count == 0 {
            bail!("crowd has ended: is there enough memory for so many goroutines?");
        }
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, command: &str) -> Result<Value> {
        let told = || format!("can't tell crowd to {command}");
        self.input
            .write_all(format!("{command}\n").as_bytes())
            .and_then(|()| self.input.flush())
            .with_context(told)?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("crowd answered {line:?} to {command}"))
    }

    /// Has it do something; how long that took it.
    pub(super) fn have(&mut self, command: &str) -> Result<Duration> {
        Ok(Duration::from_nanos(number(&self.ask(command)?, "took_ns")?))
    }

    /// Begins a phase.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.ask("begin").map(drop)
    }

    /// Ends it.
    pub(super) fn end(&mut self) -> Result<Figures> {
        let said = self.ask("end")?;
        let seconds = |name| number(&said, name).map(|ns| ns as f64 / 1e9);
        Ok(Figures {
            p50: seconds("p50_ns")?,
            p99: seconds("p99_ns")?,
            p999: seconds("p999_ns")?,
            most: seconds("most_ns")?,
            stops: number(&said, "stops")? as f64,
            stopped: seconds("stopped_max_ns")?,
        })
    }
}

fn number(value: &Value, name: &str) -> Result<u64> {
    // A clock may give a little less than nothing.
    let number = value[name].as_i64().with_context(|| format!("crowd gave no {name}: {value}"))?;
    Ok(number.max(0).unsigned_abs())
}
