//! The program under test: `gotrail attach` on a process, and its other commands.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::json::{array, number, text, truth};
use crate::markers::Place;
use crate::process::Process;
use crate::{bpf, env};

/// Exit code when a backend took nothing.
pub const BACKEND_FAILED: i32 = 6;

/// What a command left.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its exit code; `None` if a signal killed it.
    pub code: Option<i32>,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl Answer {
    /// The answer, if the command ended well.
    ///
    /// # Errors
    /// It did not.
    pub fn well(self) -> Result<Self> {
        ensure!(self.code == Some(0), "gotrail ended with {:?}\n{}\n{}", self.code, self.output, self.errors);
        Ok(self)
    }

    /// Its output as one JSON object.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.output).with_context(|| format!("no JSON object: {:?}", self.output))
    }
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    let told = || format!("can't read {folder}");
    let mut children = Vec::new();
    for thread in std::fs::read_dir(&folder).with_context(told)? {
        // Threads come and go.
        let list = std::fs::read_to_string(thread.with_context(told)?.path().join("children"));
        children.extend(
            list.unwrap_or_default().split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    Ok(children)
}

/// The process ids of the holders of probes that a gotrail or a keeper has started.
///
/// # Errors
/// It is gone.
pub fn holders_of(pid: u32) -> Result<Vec<u32>> {
    Ok(children(pid)?.into_iter().filter(|pid| is_called(*pid, "gotrail-holder")).collect())
}

fn is_called(pid: u32, name: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// Runs a command to its end.
///
/// # Errors
/// It does not start or does not end.
pub fn run(arguments: &[&str]) -> Result<Answer> {
    run_as(Command::new(env::gotrail()?).args(arguments))
}

/// Likewise, a command that was put together by the caller.
///
/// # Errors
/// It does not start or does not end.
pub fn run_as(command: &mut Command) -> Result<Answer> {
    finish(Process::start("gotrail", command)?)
}

/// Bounds the address space that a command may have: what asks for more is refused.
pub fn bound(command: &mut Command, bytes: u64) -> &mut Command {
    // SAFETY: between fork and exec only setrlimit is called, which is safe there.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            if libc::setrlimit(libc::RLIMIT_AS, &raw const limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

fn finish(mut process: Process) -> Result<Answer> {
    let status = process.wait()?;
    Ok(Answer { code: status.code(), output: process.output(), errors: process.errors() })
}

/// A running `gotrail attach --format json`.
#[derive(Debug)]
pub struct Attach {
    process: Process,
}

impl Attach {
    /// Attaches to a process and returns once the probes are on.
    ///
    /// # Errors
    /// gotrail does not get there.
    pub fn start(pid: u32, arguments: &[&str]) -> Result<Self> {
        let mut attach = Self::spawn(pid, arguments)?;
        attach.process.await_errors("`attached`", |line| line.starts_with("attached").then_some(()))?;
        Ok(attach)
    }

    /// Attaches to all processes of an executable and returns once the probes are on; none may be watched yet.
    ///
    /// # Errors
    /// gotrail does not get there.
    pub fn start_all(executable: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::gotrail()?);
        command.args(["attach", "--format", "json", "--exe"]).arg(executable).args(arguments);
        let mut attach = Self { process: Process::start("gotrail attach --exe", &mut command)? };
        attach.process.await_errors("`attached`", |line| line.starts_with("attached").then_some(()))?;
        Ok(attach)
    }

    /// Likewise, with a bound on the address space that gotrail may have.
    ///
    /// # Errors
    /// gotrail does not get there.
    pub fn start_bounded(pid: u32, arguments: &[&str], bytes: u64) -> Result<Self> {
        let mut command = Command::new(env::gotrail()?);
        command.args(["attach", &pid.to_string(), "--format", "json"]).args(arguments);
        let mut attach = Self { process: Process::start("gotrail attach", bound(&mut command, bytes))? };
        attach.process.await_errors("`attached`", |line| line.starts_with("attached").then_some(()))?;
        Ok(attach)
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(pid: u32, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::gotrail()?);
        command.args(["attach", &pid.to_string(), "--format", "json"]).args(arguments);
        Ok(Self { process: Process::start(&format!("gotrail attach {pid}"), &mut command)? })
    }

    /// Its own process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process ids of its children: the keeper of its dear probes, and for a moment the child that it measures.
    ///
    /// # Errors
    /// It is gone.
    pub fn children(&self) -> Result<Vec<u32>> {
        children(self.pid())
    }

    /// The process id of the keeper of its dear probes, if it has one.
    ///
    /// # Errors
    /// It is gone.
    pub fn keeper(&self) -> Result<Option<u32>> {
        Ok(self.children()?.into_iter().find(|pid| is_called(*pid, "gotrail-keeper")))
    }

    /// The ids of the programs that it and its children hold.
    ///
    /// # Errors
    /// It is gone.
    pub fn programs(&self) -> Result<BTreeSet<u32>> {
        let mut ids = bpf::held_by(self.pid())?;
        for child in self.children()? {
            // Children come and go.
            ids.extend(bpf::held_by(child).unwrap_or_default());
        }
        Ok(ids)
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits for a JSON line.
    ///
    /// # Errors
    /// It does not come.
    pub fn await_line(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.process.await_output(what, |line| serde_json::from_str(line).ok().filter(|value| wanted(value)))
    }

    /// Waits for its end, which something else brings about.
    ///
    /// # Errors
    /// It does not end, or says what is no JSON.
    pub fn finish(self) -> Result<Report> {
        Report::new(finish(self.process)?)
    }

    /// Likewise, if it may take long.
    ///
    /// # Errors
    /// It does not end, or says what is no JSON.
    pub fn finish_within(mut self, patience: Duration) -> Result<Report> {
        self.process.wait_for(patience)?;
        self.finish()
    }

    /// Ends it with Ctrl-C.
    ///
    /// # Errors
    /// It does not end, or says what is no JSON.
    pub fn stop(self) -> Result<Report> {
        self.process.signal(Signal::INT)?;
        self.finish()
    }
}

/// Watches a program while it does its work, which it begins upon a line and ends with its own figures; it exits upon another
/// line. Returns those figures, and what gotrail said.
///
/// # Errors
/// Either of the two fails.
pub fn watch(mut target: Process, arguments: &[&str]) -> Result<(Value, Report)> {
    let attach = Attach::start(target.pid(), arguments)?;
    target.tell("")?;
    let own = target
        .await_output("its figures", |line| serde_json::from_str(line).ok().filter(Value::is_object))?;
    let report = attach.stop()?;
    target.tell("")?;
    ensure!(target.wait()?.success(), "the program failed: {}", target.words());
    Ok((own, report))
}

/// What `gotrail attach` said from its begin to its end.
#[derive(Clone, Debug)]
pub struct Report {
    /// All of it.
    pub answer: Answer,
    /// Its JSON lines.
    pub lines: Vec<Value>,
}

impl Report {
    pub(crate) fn new(answer: Answer) -> Result<Self> {
        let lines = answer
            .output
            .lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("no JSON: {line:?}\n{}", answer.errors))
            })
            .collect::<Result<_>>()?;
        Ok(Self { answer, lines })
    }

    /// What it said of one process of many.
    #[must_use]
    pub fn of(&self, pid: impl Into<u64>) -> Self {
        let pid = pid.into();
        let lines = self.lines.iter().filter(|line| line["pid"] == pid && line["type"] != "cost");
        Self { answer: self.answer.clone(), lines: lines.cloned().collect() }
    }

    /// The lines of one type.
    pub fn lines_of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(move |line| line["type"] == kind)
    }

    /// The summary.
    ///
    /// # Errors
    /// There is none, or gotrail ended with another code than 0; or than 6, if it was to export.
    pub fn summary(&self) -> Result<&Value> {
        let summary = self.lines.last().filter(|line| line["type"] == "summary");
        let summary = summary.with_context(|| format!("the last line is no summary: {:?}", self.answer))?;
        if summary["export"].is_null() || self.answer.code != Some(BACKEND_FAILED) {
            self.answer.clone().well()?;
        }
        Ok(summary)
    }

    /// A number of the summary.
    ///
    /// # Errors
    /// There is none.
    pub fn number(&self, pointer: &str) -> Result<u64> {
        number(self.summary()?, pointer)
    }

    /// All findings, as they were at the end.
    ///
    /// # Errors
    /// There is no summary.
    pub fn findings(&self) -> Result<Vec<Finding>> {
        Ok(array(self.summary()?, "/findings")?.iter().cloned().map(Finding).collect())
    }

    /// The only finding of a kind.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn finding(&self, id: &str) -> Result<Finding> {
        let all = self.findings()?;
        let mut found = all.iter().filter(|finding| finding.0["id"] == id);
        match (found.next(), found.next()) {
            (Some(finding), None) => Ok(finding.clone()),
            (None, _) => bail!("no finding {id} among {:?}", titles(&all)),
            (Some(_), Some(_)) => bail!("more than one finding {id}: {:?}", titles(&all)),
        }
    }

    /// How the target ended, as told in its own line and in the summary.
    ///
    /// # Errors
    /// It was not told in both, or not alike.
    pub fn exit(&self) -> Result<&Value> {
        let told = self.lines_of("exit").next().context("no `exit` line")?;
        let again = &self.summary()?["exit"];
        ensure!(told["exit"] == *again, "the exit line says {}, the summary {again}", told["exit"]);
        Ok(again)
    }

    /// Checks that the account is exact (LOSS-1) and that nothing was lost.
    ///
    /// # Errors
    /// It is not, with the account.
    pub fn check_nothing_lost(&self) -> Result<()> {
        self.check_balance()?;
        let losses = &self.summary()?["losses"];
        for zero in ["/lost", "/lost_ring", "/refused", "/gaps"] {
            ensure!(number(losses, zero)? == 0, "{zero} is not 0 in {losses}");
        }
        ensure!(number(losses, "/received")? == number(losses, "/delivered")?, "records vanished: {losses}");
        Ok(())
    }

    /// Checks that the account is exact (LOSS-1): by our own sums, not by its verdict alone.
    ///
    /// # Errors
    /// It is not, with the account.
    pub fn check_balance(&self) -> Result<()> {
        let losses = &self.summary()?["losses"];
        ensure!(truth(losses, "/balances")?, "the account does not balance: {losses}");
        let mut sums = [0; 4];
        for probe in array(losses, "/probes")? {
            let [hits, delivered, received, lost] =
                ["/hits", "/delivered", "/received", "/lost"].map(|field| number(probe, field));
            let row = [hits?, delivered?, received?, lost?];
            let aside = number(probe, "/summed")? + number(probe, "/skipped")?;
            ensure!(row[0] == row[1] + aside + row[3], "hits are not delivered, set aside or lost: {probe}");
            ensure!(row[1] == row[2], "delivered is not received: {probe}");
            let causes = ["/lost_ring", "/lost_map", "/faulted"].map(|cause| number(probe, cause));
            let [ring, map, faulted] = causes;
            ensure!(row[3] >= ring? + map? + faulted?, "lost is less than its causes: {probe}");
            sums.iter_mut().zip(row).for_each(|(sum, n)| *sum += n);
        }
        let total = [
            number(losses, "/hits")?,
            number(losses, "/delivered")?,
            number(losses, "/received")?,
            number(losses, "/lost")?,
        ];
        ensure!(sums == total, "the probes sum to {sums:?}, the total is {total:?}: {losses}");
        for zero in ["/self_check_failures", "/undecodable"] {
            ensure!(number(losses, zero)? == 0, "{zero} is not 0 in {losses}");
        }
        Ok(())
    }
}

/// The titles of findings, for messages.
#[must_use]
pub fn titles(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|f| format!("{} ({}): {}", f.0["id"], f.0["degree"], f.0["title"])).collect()
}

/// One finding, as JSON.
#[derive(Clone, Debug)]
pub struct Finding(pub Value);

impl Finding {
    /// How sure it is.
    ///
    /// # Errors
    /// It does not say.
    pub fn degree(&self) -> Result<&str> {
        text(&self.0, "/degree")
    }

    /// Whether it names this place in this role.
    ///
    /// # Errors
    /// It has no sites at all.
    pub fn names(&self, role: &str, place: &Place) -> Result<bool> {
        Ok(array(&self.0, "/sites")?.iter().any(|site| {
            let (file, line) =
                (site["file"].as_str().unwrap_or_default(), site["line"].as_u64().unwrap_or_default());
            site["role"] == role && place.is(file, line)
        }))
    }

    /// Fails unless it names this place in this role.
    ///
    /// # Errors
    /// It does not, with the places that it names.
    pub fn must_name(&self, role: &str, place: &Place) -> Result<()> {
        ensure!(
            self.names(role, place)?,
            "{} names {}, not {place} as {role}",
            self.0["id"],
            self.0["sites"]
        );
        Ok(())
    }

    /// What the process printed behind `panic: ` or `fatal error: `, taken out of the title, which ends with the
    /// place where it died.
    ///
    /// # Errors
    /// The title is not of that form.
    pub fn crash_text(&self) -> Result<&str> {
        let title = text(&self.0, "/title")?;
        let rest = ["the process died: panic: ", "the process died: fatal error: "]
            .iter()
            .find_map(|start| title.strip_prefix(start))
            .with_context(|| format!("not the title of a crash: {title:?}"))?;
        let Some(died) = array(&self.0, "/sites")?.iter().find(|site| site["role"] == "died") else {
            return Ok(rest);
        };
        let (function, file) = (text(died, "/function")?, text(died, "/file")?);
        let mut parts = file.rsplit('/');
        let (name, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let end = format!(" in {function} at {folder}/{name}:{}", number(died, "/line")?);
        rest.strip_suffix(&end).with_context(|| format!("{title:?} does not end with {end:?}"))
    }
}
