//! `gotrail stats`: every figure of the runtime, once or again and again, without a probe.

mod document;
mod lines;
mod text;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gotrail::agent::Subject;
use gotrail::binary::GoBinary;
use gotrail::detect::{Look, Remark, remarks};
use gotrail::memory::stats::{Rates, Stats};
use gotrail::memory::{ReadError, RuntimeError};
use gotrail::target::{CpuLimit, Exit, ProcessMemory, Target, Watch, cpu_limit, process_memory};
use gotrail::text::printable;

use super::args::{Format, StatsArgs};
use super::failure::{Failure, USAGE};
use super::json;

/// The shortest interval: a look at many goroutines takes some milliseconds.
const SHORTEST: Duration = Duration::from_millis(10);

/// A stop of the world that is still there, or there again, after so long may be one that lasts.
const MOMENT: Duration = Duration::from_millis(5);

/// One look, with what the process's host says of it.
pub(super) struct Report<'a> {
    subject: &'a Subject,
    binary: &'a GoBinary,
    stats: Stats,
    rates: Option<Rates>,
    cpu_limit: Option<CpuLimit>,
    memory: Option<ProcessMemory>,
}

impl Report<'_> {
    fn remarks(&self) -> Vec<Remark> {
        remarks(&Look {
            stats: &self.stats,
            rates: self.rates.as_ref(),
            cpu_limit: self.cpu_limit,
            memory: self.memory,
        })
    }
}

pub(crate) fn run(args: &StatsArgs) -> Result<ExitCode, Failure> {
    let every = interval(args)?;
    let subject = args.subject.find()?;
    let watched = match subject.process() {
        Some(target) => Some((target, Watch::new(target.pid())?)),
        None if every.is_some() => return Err(Failure::new(USAGE, "--watch: a core file does not change")),
        None => None,
    };
    let binary = subject.understand()?;
    let runtime = subject.runtime(&binary)?;
    let look = |earlier: Option<&Stats>| {
        let mut stats = runtime.stats()?;
        // A stop for some microseconds, as each GC cycle has, is not worth waking anybody.
        if stats.scheduler.stop_wanted && subject.process().is_some() {
            std::thread::sleep(MOMENT);
            stats = runtime.stats()?;
        }
        Ok::<_, RuntimeError>(Report {
            subject: &subject,
            binary: &binary,
            rates: earlier.map(|earlier| Rates::between(earlier, &stats)),
            stats,
            cpu_limit: subject.process().and_then(|target| cpu_limit(target.pid())),
            memory: subject.process().and_then(|target| process_memory(target.pid())),
        })
    };
    let mut report = look(None)?;
    match args.format {
        Format::Human => out!("{}", text::whole(&report)),
        Format::Json => outln!("{}", document::of(&report)),
    }
    let (Some(every), Some((target, watch))) = (every, watched) else { return Ok(ExitCode::SUCCESS) };
    let begun = Instant::now();
    let end = args.duration.map(|duration| begun + duration);
    let mut lines = lines::Lines::default();
    lines.told(&report);
    let mut next = begun;
    loop {
        next += every;
        let until = end.map_or(next, |end| end.min(next));
        // The end of the process is noticed at once.
        if let Some(exit) = watch.wait(until.saturating_duration_since(Instant::now())) {
            return Ok(ended(args, target, exit));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(ExitCode::SUCCESS);
        }
        // IDENT-1: what the process was until now may have gone by an exec.
        if !target.is_same() {
            // A process that dies has no memory left before the kernel tells of its end.
            let exit = watch.wait(Duration::from_secs(1)).unwrap_or(Exit::Exec);
            return Ok(ended(args, target, exit));
        }
        report = match look(Some(&report.stats)) {
            Ok(report) => report,
            Err(RuntimeError::Read { source: ReadError::Gone, .. }) => {
                let exit = watch.wait(Duration::from_secs(1)).unwrap_or(Exit::Unknown);
                return Ok(ended(args, target, exit));
            }
            Err(other) => return Err(other.into()),
        };
        match args.format {
            Format::Human => out!("{}", lines.line(&report)),
            Format::Json => outln!("{}", document::of(&report)),
        }
        // Where a look takes longer than the interval, the next ones are not made up for.
        next = next.max(Instant::now().checked_sub(every).unwrap_or(next));
    }
}

/// The time between two looks, if there is to be more than one.
fn interval(args: &StatsArgs) -> Result<Option<Duration>, Failure> {
    let every = match (args.watch, args.duration) {
        (None, Some(_)) => {
            return Err(Failure::new(USAGE, "--for says how long to watch: say --watch too"));
        }
        (every, _) => every,
    };
    match every {
        Some(every) if every < SHORTEST => {
            Err(Failure::new(USAGE, format!("--watch {every:?}: give at least {SHORTEST:?}")))
        }
        every => Ok(every),
    }
}

/// The end of the process is a result like the others.
fn ended(args: &StatsArgs, target: &Target, exit: Exit) -> ExitCode {
    match args.format {
        Format::Human => outln!(
            "process {} ({}) {}",
            target.pid(),
            printable(&target.comm),
            match exit {
                Exit::Code(code) => format!("ended with code {code}"),
                Exit::Signal(signal) => {
                    format!("was killed by {}", gotrail::target::signal_name(signal))
                }
                Exit::Exec => "runs another program now".to_owned(),
                Exit::Unknown => "ended".to_owned(),
            }
        ),
        Format::Json => outln!(
            "{}",
            serde_json::json!({
                "schema": "gotrail.stats/1",
                "pid": target.pid(),
                "exit": json::exit(exit),
            })
        ),
    }
    ExitCode::SUCCESS
}
