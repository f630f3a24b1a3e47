//! What the runtime's own execution trace says of the time of goroutines, as `go tool trace -d=parsed` prints it.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::env;

/// What a goroutine was at: `waiting` and `syscall` with the stack of that, `running` and `runnable` with the function
/// where the goroutine began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Activity {
    /// `running`, `runnable`, `syscall` or `waiting`.
    pub state: String,
    /// `function:line` of its frames in the program, innermost first; or one function.
    pub place: Vec<String>,
}

impl Activity {
    /// From the frames of a goroutine: function and line, innermost first. `None` for one that the program did not
    /// start.
    ///
    /// Only the program's own frames are looked at: a trace leaves out some of those further in, by version other
    /// ones, and the wrappers that the compiler makes for `go f(x)`.
    #[must_use]
    pub fn of(state: &str, frames: &[(String, u64)]) -> Option<Self> {
        let is_own =
            |name: &str| name.starts_with("main.") && !name.contains(".func") && !name.contains(".gowrap");
        let own: Vec<&(String, u64)> = frames.iter().filter(|(name, _)| is_own(name)).collect();
        let outermost = own.last()?;
        let place = match state {
            "running" | "runnable" => vec![outermost.0.clone()],
            _ => own.iter().map(|(name, line)| format!("{name}:{line}")).collect(),
        };
        Some(Self { state: state.to_owned(), place })
    }
}

/// Nanoseconds by activity, of goroutines of the program whose stack the trace has told.
pub type Times = BTreeMap<Activity, f64>;

#[derive(Default)]
struct Goroutine {
    state: String,
    since: u64,
    frames: Vec<(String, u64)>,
}

/// The times between two moments by a trace's clock.
///
/// # Errors
/// The trace can't be read.
pub fn times(trace: &str, from: u64, to: u64) -> Result<Times> {
    let answer = Command::new(env::go()?)
        .args(["tool", "trace", "-d=parsed", trace])
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env_remove("GOROOT")
        .output()
        .context("`go tool trace` does not start")?;
    ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    Ok(of(&String::from_utf8_lossy(&answer.stdout), from, to))
}

fn of(text: &str, from: u64, to: u64) -> Times {
    let mut times = Times::new();
    let mut goroutines: BTreeMap<u64, Goroutine> = BTreeMap::new();
    let mut lines = text.lines().peekable();
    let mut close = |goroutine: &Goroutine, until: u64| {
        let (begin, end) = (goroutine.since.clamp(from, to), until.clamp(from, to));
        if let Some(activity) = Activity::of(&goroutine.state, &goroutine.frames) {
            *times.entry(activity).or_default() += end.saturating_sub(begin) as f64;
        }
    };
    while let Some(line) = lines.next() {
        let Some((goid, time, before, after)) = transition(line) else { continue };
        let goroutine = goroutines.entry(goid).or_default();
        close(goroutine, time);
        after.clone_into(&mut goroutine.state);
        goroutine.since = time;
        // The stack of a transition is the goroutine's own if it was running.
        if before == "Running" && lines.next_if(|line| *line == "TransitionStack=").is_some() {
            goroutine.frames = stack(&mut lines);
        }
    }
    for goroutine in goroutines.values() {
        close(goroutine, to);
    }
    times
}

fn transition(line: &str) -> Option<(u64, u64, &str, &'static str)> {
    let time = line.split_once(" Time=")?.1.split(' ').next()?.parse().ok()?;
    let rest = line.split_once(" GoID=")?.1;
    let mut words = rest.split(' ');
    let goid = words.next()?.parse().ok()?;
    let (before, after) = words.next()?.split_once("->")?;
    let after = match after {
        "Running" => "running",
        "Runnable" => "runnable",
        "Syscall" => "syscall",
        "Waiting" => "waiting",
        _ => "",
    };
    Some((goid, time, before, after))
}

/// `function @ address`, and below it `file:line`, until an empty line.
fn stack<'t>(lines: &mut impl Iterator<Item = &'t str>) -> Vec<(String, u64)> {
    let mut frames = Vec::new();
    while let Some(line) = lines.next().filter(|line| line.starts_with('\t')) {
        let name = line.trim().split(" @ ").next().unwrap_or_default().to_owned();
        let place = lines.next().unwrap_or_default();
        let number = place.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        frames.push((name, number));
    }
    frames
}
