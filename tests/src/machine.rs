//! Emulated machines, by what they wrote on their consoles.
//!
//! `cargo xtask vm` ran them; in there `tests/vm/init` did what a test does here, and told what came of it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::attach::{Answer, Report};
use crate::env;
use crate::json::{array, text};

/// Begins each line of the init's; the kernel has the others.
const MARK: &str = "gotrail-vm ";

/// A machine that has run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Its architecture, by Go's name.
    pub architecture: String,
    /// Its kernel's release.
    pub kernel: String,
    records: Vec<Value>,
}

/// What was done with one program.
#[derive(Clone, Debug)]
pub struct Check {
    /// `arm64-6.12: spawn 1.27.3 stripped`.
    title: String,
    /// The machine's architecture, by Go's name.
    pub architecture: String,
    /// The Go version that built the program, without `go` in front.
    pub go: String,
    /// How: `default` or `stripped`.
    pub mode: String,
    /// What the program was told to do, where it has kinds.
    pub kind: String,
    records: Vec<Value>,
}

impl Machine {
    /// The machine of a name.
    ///
    /// # Errors
    /// It was not run, or what it wrote is not whole.
    pub fn find(name: &str) -> Result<Self> {
        let entry = env::machine(name)?;
        let console = Path::new(text(&entry, "/console")?);
        let written = fs::read(console).with_context(|| format!("can't read {}", console.display()))?;
        let records = parse(&String::from_utf8_lossy(&written))
            .with_context(|| format!("on the console of {name}, {}", console.display()))?;
        Ok(Self {
            name: name.to_owned(),
            architecture: text(&entry, "/architecture")?.to_owned(),
            kernel: text(&entry, "/kernel")?.to_owned(),
            records,
        })
    }

    /// The only record of a type.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn record(&self, kind: &str) -> Result<&Value> {
        let mut found = self.records.iter().filter(|record| record["type"] == kind);
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(record),
            _ => bail!("the machine {} has not one record {kind}", self.name),
        }
    }

    /// What a command said that was run beside all programs.
    ///
    /// # Errors
    /// It was not run.
    pub fn answer(&self, name: &str) -> Result<Answer> {
        answer(self.records.iter().filter(|record| record["check"] == "host"), name)
    }

    /// What was done with the programs of a fixture: all that the plan has of it.
    ///
    /// # Errors
    /// There is none.
    pub fn checks(&self, fixture: &str) -> Result<Vec<Check>> {
        let names: BTreeSet<&str> = array(self.record("plan")?, "/checks")?
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| name.split(' ').next() == Some(fixture))
            .collect();
        ensure!(!names.is_empty(), "nothing was done with {fixture} in the machine {}", self.name);
        names.into_iter().map(|name| self.check(name)).collect()
    }

    fn check(&self, name: &str) -> Result<Check> {
        let (go, mode, kind) = match *name.split(' ').collect::<Vec<_>>() {
            [_, go, mode] => (go, mode, ""),
            [_, go, mode, kind] => (go, mode, kind),
            _ => bail!("no check: {name:?}"),
        };
        Ok(Check {
            title: format!("{}: {name}", self.name),
            architecture: self.architecture.clone(),
            go: go.to_owned(),
            mode: mode.to_owned(),
            kind: kind.to_owned(),
            records: self.records.iter().filter(|record| record["check"] == name).cloned().collect(),
        })
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

impl Check {
    /// The same, if all of its steps could be done.
    ///
    /// # Errors
    /// One could not, with the words of gotrail and of the program.
    pub fn well(&self) -> Result<&Self> {
        match self.records.iter().find(|record| record["type"] == "failed") {
            None => Ok(self),
            Some(failed) => bail!("{}\n{:#?}", failed["why"], self.records),
        }
    }

    /// What a command of gotrail's said.
    ///
    /// # Errors
    /// It was not run.
    pub fn answer(&self, name: &str) -> Result<Answer> {
        answer(self.records.iter(), name)
    }

    /// What `gotrail attach` said.
    ///
    /// # Errors
    /// It was not run, or said what is no JSON.
    pub fn report(&self) -> Result<Report> {
        Report::new(self.answer("attach")?)
    }

    /// What the program said; it has ended well.
    ///
    /// # Errors
    /// It has not.
    pub fn output(&self) -> Result<String> {
        let answer = self.answer("target")?;
        ensure!(answer.code == Some(0), "the program ended with {:?}: {answer:?}", answer.code);
        Ok(answer.output)
    }

    /// The JSON line that the program wrote about itself.
    ///
    /// # Errors
    /// It wrote none.
    pub fn own(&self) -> Result<Value> {
        let output = self.output()?;
        let line = output.lines().find(|line| line.starts_with(['{', '[']));
        let line = line.with_context(|| format!("the program wrote no JSON line: {output}"))?;
        serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))
    }

    /// The number of the process.
    ///
    /// # Errors
    /// It was not started.
    pub fn pid(&self) -> Result<u64> {
        let target = self.records.iter().find(|record| record["name"] == "target");
        target.and_then(|record| record["pid"].as_u64()).context("the program was not started")
    }
}

fn answer<'a>(mut records: impl Iterator<Item = &'a Value>, name: &str) -> Result<Answer> {
    let record = records.find(|record| record["type"] == "process" && record["name"] == name);
    let record = record.with_context(|| format!("{name} was not run"))?;
    Ok(Answer {
        code: record["code"].as_i64().and_then(|code| i32::try_from(code).ok()),
        output: text(record, "/output")?.to_owned(),
        errors: text(record, "/errors")?.to_owned(),
    })
}

/// The init's records. It ends with one that says so.
fn parse(console: &str) -> Result<Vec<Value>> {
    let lines = console.lines().filter_map(|line| line.strip_prefix(MARK));
    let records: Vec<Value> = lines
        .map(|line| {
            let begin: String = line.chars().take(200).collect();
            serde_json::from_str(line).with_context(|| format!("a line that is no JSON: {begin}"))
        })
        .collect::<Result<_>>()?;
    ensure!(records.last().is_some_and(|last| last["type"] == "end"), "it ends before the init's end");
    Ok(records)
}
