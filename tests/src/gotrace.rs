//! The runtime's own execution trace: what became of each goroutine, in its words.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::env;

/// A goroutine goes from one state to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When, `CLOCK_MONOTONIC` ns.
    pub time_ns: u64,
    /// Which goroutine.
    pub goid: u64,
    /// From `Running`, `Runnable`, `Waiting`, `Syscall` or `NotExist`,
    pub from: String,
    /// to one of these.
    pub to: String,
    /// Why, where it says so.
    pub reason: String,
}

/// All transitions that a trace tells, in its order.
///
/// Traces before Go 1.22 have times of their own: the program must have logged the time of the monotonic clock, as the
/// fixture `switches` does.
///
/// # Errors
/// `go tool trace` can't read it, or no time is known.
pub fn transitions(trace: &str) -> Result<Vec<Transition>> {
    let answer = Command::new(env::go()?)
        .args(["tool", "trace", "-d=parsed", trace])
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env_remove("GOROOT")
        .output()
        .with_context(|| format!("can't run go tool trace on {trace}"))?;
    ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let text = String::from_utf8_lossy(&answer.stdout);
    let mark =
        text.lines().find(|line| line.contains("Category=\"monotonic\"")).context("no mark of the time")?;
    let logged: u64 = between(mark, "Message=\"", "\"")?.parse()?;
    // The mark is some microseconds after the time that it has.
    let ahead = logged.wrapping_sub(time(mark)?);
    text.lines()
        .filter(|line| line.contains(" StateTransition ") && line.contains(" GoID="))
        .map(|line| {
            let goid = between(line, " GoID=", " ")?;
            let rest =
                line.split_once(" GoID=").and_then(|(_, rest)| rest.split_once(' ')).context("no state")?.1;
            let (from, rest) = rest.split_once("->").with_context(|| format!("no transition: {line}"))?;
            let (to, _) = rest.split_once(' ').unwrap_or((rest, ""));
            Ok(Transition {
                time_ns: time(line)?.wrapping_add(ahead),
                goid: goid.parse()?,
                from: from.to_owned(),
                to: to.to_owned(),
                reason: between(line, "Reason=\"", "\"").unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

fn time(line: &str) -> Result<u64> {
    Ok(between(line, " Time=", " ")?.parse()?)
}

fn between<'a>(line: &'a str, begin: &str, end: &str) -> Result<&'a str> {
    let rest = line.split_once(begin).with_context(|| format!("no {begin:?} in {line}"))?.1;
    Ok(rest.split(end).next().unwrap_or(rest))
}
