//! `gotrail profile`: where the time of all goroutines goes, in the forms that people and tools read.

mod document;
mod exports;
#[cfg(feature = "svg")]
mod flame;
mod stacks;
mod text;

use std::fs::{File, Permissions};
use std::io::{IsTerminal as _, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;

use gotrail::agent::{ProfileOptions, ProfileSummary, Profiler, understand};
use gotrail::memory::{Runtime, Symbolizer};
use gotrail::model::Class;
use gotrail::probe::Detacher;
use gotrail::target::Exit;
use gotrail::target::{Target, signal_name};
use gotrail::text::duration;

use super::args::{ProfileArgs, ProfileFormat};
use super::failure::{BACKEND, Failure, USAGE};
use super::{human, signals};
use stacks::Stacked;

/// A finished profile.
pub(super) struct Profile<'a> {
    target: &'a Target,
    runtime: &'a Runtime<'a>,
    profiler: &'a Profiler<'a>,
    summary: &'a ProfileSummary,
    args: &'a ProfileArgs,
    /// What is shown, the longest first.
    stacks: Vec<Stacked>,
}

impl Profile<'_> {
    /// The wait reason of a state, while waiting.
    fn reason(&self, class: Class, reason: u8) -> Option<&str> {
        (class == Class::Waiting).then(|| self.runtime.wait_reason(reason))
    }

    /// Whether the user wants to see a state.
    fn shows(&self, class: Class, reason: u8) -> bool {
        let reason = self.reason(class, reason).unwrap_or_default();
        let is = |wanted: &String| {
            wanted == class.name() || class == Class::Waiting && reason.contains(wanted.as_str())
        };
        self.args.state.is_empty() || self.args.state.iter().any(is)
    }

    /// Looks a second.
    fn rate(&self) -> f64 {
        let seconds = self.profiler.wall.elapsed_ns() as f64 / 1e9;
        if seconds > 0.0 { self.profiler.wall.looks().saturating_sub(1) as f64 / seconds } else { 0.0 }
    }

    /// Goroutines there were on the average.
    fn population(&self) -> f64 {
        self.profiler.wall.total_ns() / (self.profiler.wall.elapsed_ns() as f64).max(1.0)
    }

    /// A time as a share of that of all goroutines.
    fn share(&self, ns: f64) -> f64 {
        ns / self.profiler.wall.total_ns().max(1.0)
    }

    /// gotrail's own CPU time as a share of one CPU.
    fn own_share(&self) -> f64 {
        self.summary.used_ns as f64 / (self.summary.took_ns as f64).max(1.0)
    }
}

pub(crate) fn run(args: &ProfileArgs) -> Result<ExitCode, Failure> {
    let mut output = output(args)?;
    let target = Target::open(args.pid)?.hold();
    let binary = understand(&target)?;
    check_states(&args.state, &binary.layout().wait_reasons)?;
    let runtime = Runtime::open(&target, &binary)?;
    // Memory is read and CPUs are sampled: there is no probe to take off.
    let signals = signals::watch(Detacher::default())?;
    let options = ProfileOptions {
        duration: args.duration,
        budget: args.cpu,
        rate: args.rate,
        labels: !args.no_labels && matches!(args.format, ProfileFormat::Json | ProfileFormat::Pprof),
        system: args.system,
    };
    let mut profiler = Profiler::new(&target, &runtime, options);
    errln!("profiling process {} for {}; Ctrl-C ends it early", args.pid, duration(nanos(args)));
    let summary = profiler.run(signals.flag())?;
    let mut profile = Profile {
        target: &target,
        runtime: &runtime,
        profiler: &profiler,
        summary: &summary,
        args,
        stacks: Vec::new(),
    };
    let mut symbolizer = Symbolizer::default();
    profile.stacks = stacks::of(&profile, &mut symbolizer);
    let bytes = match args.format {
        ProfileFormat::Human => text::of(&profile, &mut symbolizer).into_bytes(),
        ProfileFormat::Json => format!("{}\n", document::of(&profile, &mut symbolizer)).into_bytes(),
        ProfileFormat::Pprof => exports::pprof(&profile, &mut symbolizer),
        ProfileFormat::Folded => exports::folded(&profile, &mut symbolizer).into_bytes(),
        #[cfg(feature = "svg")]
        ProfileFormat::Svg => flame::svg(&profile, &mut symbolizer)?,
    };
    output
        .write_all(&bytes)
        .and_then(|()| output.flush())
        .or_else(|e| if e.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
        .map_err(|e| Failure::new(BACKEND, format!("tried to write the profile: {e}")))?;
    errln!("{}", closing(&profile));
    Ok(ExitCode::SUCCESS)
}

/// Refuses states that no goroutine can have, given the reasons to wait of the process's Go.
fn check_states(states: &[String], reasons: &[String]) -> Result<(), Failure> {
    let known = |state: &String| {
        Class::ALL.iter().any(|class| class.name() == state)
            || reasons.iter().any(|reason| reason.contains(state))
    };
    match states.iter().find(|state| !known(state)) {
        None => Ok(()),
        Some(state) => {
            let names: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
            Err(Failure::new(
                USAGE,
                format!(
                    "--state {state}: there is no such state; there are {}, and a part of a reason to wait: {}",
                    names.join(", "),
                    human::reasons(reasons)
                ),
            ))
        }
    }
}

fn nanos(args: &ProfileArgs) -> u64 {
    u64::try_from(args.duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Where the answer goes, before anything is measured.
fn output(args: &ProfileArgs) -> Result<Box<dyn Write>, Failure> {
    if let Some(path) = &args.output {
        let file = create(path).map_err(|e| {
            Failure::new(
                BACKEND,
                format!("tried to create {}: {e}; name another file with --output", path.display()),
            )
        })?;
        return Ok(Box::new(file));
    }
    let stdout = std::io::stdout();
    if args.format == ProfileFormat::Pprof && stdout.is_terminal() {
        return Err(Failure::new(
            USAGE,
            "--format pprof writes bytes that are no text: give it a file, for example --output wall.pb",
        ));
    }
    Ok(Box::new(stdout))
}

/// A file that its owner alone can read, also where it was there before.
fn create(path: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// How it was done, and what is missing.
fn closing(profile: &Profile<'_>) -> String {
    let Profile { summary, profiler, .. } = profile;
    let wall = &profiler.wall;
    let mut text = format!(
        "{} looks in {} ({:.1} a second) without stopping the process; gotrail used {:.1} % of a core",
        wall.looks(),
        duration(wall.elapsed_ns()),
        profile.rate(),
        profile.own_share() * 100.0
    );
    if profile.args.rate.is_none() && profile.own_share() > profile.args.cpu {
        text.push_str(&format!(
            ", more than the {:.1} % of --cpu: the first look takes every stack, whatever it costs; a longer profile makes up for it",
            profile.args.cpu * 100.0
        ));
    }
    let looks = &summary.looks;
    for (count, what) in [
        (looks.torn, "stacks changed while they were read (their time is there, without a stack)"),
        (looks.unread, "goroutines were unreadable"),
        (looks.beyond, "goroutines are beyond what gotrail looks at"),
        (summary.left_out.0, "stacks were left out, as there were too many different ones"),
        (summary.left_out.1, "sets of labels were left out, as there were too many different ones"),
        (summary.untold, "threads were not known to the samples on a CPU while they ran C code"),
        (wall.bounds().hits, "samples on a CPU were left out, as there were too many different ones"),
    ] {
        if count != 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    if wall.bounds().lines_ns != 0 {
        text.push_str(&format!(
            "; {} went to no line, as there were too many different ones",
            duration(wall.bounds().lines_ns)
        ));
    }
    if let Some(why) = &summary.no_cpu {
        text.push_str(&format!("; the CPUs were not sampled, so running goroutines have no stack: {why}"));
    }
    if let Some(lost) =
        summary.accounting.as_ref().map(gotrail::probe::Accounting::lost).filter(|lost| *lost != 0)
    {
        text.push_str(&format!("; {lost} samples on a CPU were lost"));
    }
    match summary.exit {
        Some(Exit::Code(code)) => text.push_str(&format!("; the process ended with code {code}")),
        Some(Exit::Signal(signal)) => {
            text.push_str(&format!("; the process was ended by {}", signal_name(signal)));
        }
        Some(Exit::Exec) => text.push_str("; the process runs another program now"),
        Some(Exit::Unknown) => text.push_str("; the process ended"),
        None => {}
    }
    text
}
