//! A tool that watches a process from outside: its start, its end, and what it took.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{measure, usage};
use crate::command;
use crate::interrupt;

/// How long a tool may take to attach.
const PATIENCE: Duration = Duration::from_secs(60);

/// After this a tool that was told to end is told once more.
const AGAIN: Duration = Duration::from_secs(5);

/// What a tool said of itself, and the kernel of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Its CPU time, as a share of the time that it ran.
    pub(super) cpu: Option<f64>,
    /// The CPU time that it took until it was at work, seconds.
    pub(super) start_cpu: Option<f64>,
    /// Its CPU time from then on, as a share of that time.
    pub(super) work_cpu: Option<f64>,
    /// Its resident memory at most, bytes.
    pub(super) peak: Option<f64>,
    /// Its resident memory while it was at work, bytes.
    pub(super) resident: Option<f64>,
    /// Seconds.
    pub(super) attached: Option<f64>,
    pub(super) detached: Option<f64>,
    /// What it says that it costs, as a share of the process's CPU time.
    pub(super) predicted: Option<f64>,
    /// A second.
    pub(super) hits: Option<f64>,
    pub(super) lost: Option<f64>,
}

/// A tool at work.
pub(super) struct Tool {
    child: Child,
    begun: Instant,
    at_work: Instant,
    start_cpu: f64,
    said: PathBuf,
    read: fn(&str) -> Account,
}

impl Drop for Tool {
    fn drop(&mut self) {
        // Not reaped yet, or it would have been forgotten.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Tool {
    /// gotrail, attached to a process.
    pub(super) fn gotrail(program: &Path, pid: u32, arguments: &[&str], folder: &Path) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["attach", &pid.to_string(), "--format", "json"]).args(arguments);
        let is_ready = |said: &str| said.contains("\"type\":\"attached\"");
        Self::start(&mut command, is_ready, account, &folder.join("gotrail"))
    }

    /// gotrail, attached to so many processes of an executable.
    pub(super) fn gotrail_of_all(
        program: &Path,
        executable: &Path,
        count: usize,
        folder: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["attach", "--format", "json", "--most", &count.to_string(), "--exe"]).arg(executable);
        let is_ready = move |said: &str| said.matches("\"type\":\"attached\"").count() == count;
        Self::start(&mut command, is_ready, account_of_all, &folder.join("gotrail"))
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// bpftrace, which counts the calls of a function at its entry.
    pub(super) fn bpftrace(pid: u32, function: &str, folder: &Path) -> Result<Self> {
        let program = format!(
            "uprobe:/proc/{pid}/exe:{function} {{ @hits = count(); }} BEGIN {{ printf(\"ready\\n\"); }}"
        );
        let mut command = Command::new("bpftrace");
        command.args(["-p", &pid.to_string(), "-e", &program]);
        let read = |said: &str| Account { hits: counted(said), ..Account::default() };
        Self::start(&mut command, |said| said.contains("ready"), read, &folder.join("bpftrace"))
    }

    /// Returns when it has said that it is ready.
    fn start(
        command: &mut Command,
        is_ready: impl Fn(&str) -> bool,
        read: fn(&str) -> Account,
        files: &Path,
    ) -> Result<Self> {
        let (said, words) = (files.with_extension("out"), files.with_extension("err"));
        let file =
            |path: &Path| File::create(path).with_context(|| format!("can't write {}", path.display()));
        command.stdin(Stdio::null()).stdout(file(&said)?).stderr(file(&words)?);
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("can't start `{}`", command::line(command)))?;
        let mut tool = Self { child, begun, at_work: begun, start_cpu: 0.0, said, read };
        while !is_ready(&fs::read_to_string(&tool.said).unwrap_or_default()) {
            let ended = tool.child.try_wait().context("can't wait for the tool")?.is_some();
            if ended || begun.elapsed() > PATIENCE {
                let words = fs::read_to_string(&words).unwrap_or_default();
                bail!("`{}` is not at work: {}", command::line(command), words.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        tool.at_work = Instant::now();
        tool.start_cpu = usage::cpu_time(tool.id())?;
        Ok(tool)
    }

    /// Ends it as Ctrl-C does, and returns when it has gone.
    pub(super) fn end(self) -> Result<Account> {
        let pid = self.child.id();
        let worked = self.at_work.elapsed().as_secs_f64();
        let start_cpu = self.start_cpu;
        let work_cpu = (usage::cpu_time(pid)? - start_cpu) / worked;
        let resident = usage::memory(pid, "VmRSS")?;
        interrupt::send(pid, libc::SIGINT);
        // bpftrace does not always hear the first.
        let (over, ended) = mpsc::channel::<()>();
        let again = thread::spawn(move || {
            while ended.recv_timeout(AGAIN) == Err(RecvTimeoutError::Timeout) {
                interrupt::send(pid, libc::SIGINT);
            }
        });
        // Not reaped before nobody sends any more, so that no other process can have its id by then.
        let waited = measure::await_end(pid);
        drop(over);
        drop(again.join());
        waited.context("can't wait for the tool")?;
        let usage = measure::reap(pid).context("can't wait for the tool")?;
        let ran = self.begun.elapsed().as_secs_f64();
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        let read = self.read;
        // Its id may be another's by now.
        std::mem::forget(self);
        let mut account = read(&said);
        account.hits = account.hits.map(|hits| hits / worked);
        account.cpu = Some(usage.cpu.as_secs_f64() / ran);
        account.peak = Some(usage.peak as f64);
        (account.start_cpu, account.work_cpu) = (Some(start_cpu), Some(work_cpu));
        account.resident = Some(resident);
        Ok(account)
    }
}

/// What gotrail's lines tell.
fn account(lines: &str) -> Account {
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |kind: &str| lines.iter().rfind(|line| line["type"] == kind).unwrap_or(&Value::Null);
    let seconds = |value: &Value| value.as_f64().map(|ns| ns / 1e9);
    let summary = of("summary");
    Account {
        attached: seconds(&of("attached")["attached_in_ns"]),
        detached: seconds(&summary["detached_in_ns"]),
        predicted: summary["cost"]["predicted_share"].as_f64(),
        hits: summary["losses"]["hits"].as_f64(),
        lost: summary["losses"]["lost"].as_f64(),
        ..Account::default()
    }
}

/// What its lines tell of many processes, summed up.
fn account_of_all(lines: &str) -> Account {
    let lines: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let sum = |field: &str| {
        let summaries = lines.iter().filter(|line| line["type"] == "summary");
        summaries.map(|line| line["losses"][field].as_f64()).sum::<Option<f64>>()
    };
    let last = lines.iter().rfind(|line| line["type"] == "fleet").unwrap_or(&Value::Null);
    Account {
        detached: last["detached_in_ns"].as_f64().map(|ns| ns / 1e9),
        hits: sum("hits"),
        lost: sum("lost"),
        ..Account::default()
    }
}

/// N of `@hits: N`.
fn counted(said: &str) -> Option<f64> {
    said.split_once("@hits: ")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_tool_says_of_itself_is_read() {
        assert_eq!(counted("Attaching 2 probes...\nready\n\n\n@hits: 4711\n"), Some(4711.0));
        let said = account(
            "{\"type\":\"attached\",\"attached_in_ns\":2e8}\nnot JSON\n\
             {\"type\":\"summary\",\"detached_in_ns\":5e7,\"losses\":{\"hits\":9,\"lost\":2},\"cost\":{\"predicted_share\":0.01}}",
        );
        assert_eq!(
            (said.attached, said.detached, said.hits, said.lost, said.predicted),
            (Some(0.2), Some(0.05), Some(9.0), Some(2.0), Some(0.01))
        );
    }
}
