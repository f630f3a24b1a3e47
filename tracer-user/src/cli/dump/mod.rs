//! `gotrail dump`: every goroutine, in the forms that people and tools read.

mod document;
mod filter;
mod group;
mod profile;
mod text;
mod waits;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use gotrail::agent::understand;
use gotrail::memory::{Details, Goroutine, Runtime, Snapshot, Symbolizer, Want};
use gotrail::target::Target;
use gotrail::text::duration;

use super::args::{DumpArgs, DumpFormat};
use super::failure::{BACKEND, Failure, USAGE};
pub(crate) use document::{labels as labels_json, safe};
use filter::Filter;

/// What was read, and which of it is to be shown.
pub(super) struct Dump<'a> {
    target: &'a Target,
    runtime: &'a Runtime<'a>,
    snapshot: &'a Snapshot,
    details: &'a Details,
    shown: Vec<&'a Goroutine>,
    /// Whether labels were to be read.
    labels: bool,
}

impl Dump<'_> {
    /// How a traceback names what a goroutine does: its wait reason while it is parked, else its status.
    fn state(&self, g: &Goroutine) -> &str {
        if g.status.is_parked() && g.wait_reason != 0 {
            self.runtime.wait_reason(g.wait_reason)
        } else {
            g.status.name()
        }
    }

    /// How long it has been parked by Go's own estimate, in ns: rather too long, by up to the time between two GC
    /// cycles. `None` if no cycle has seen it parked yet.
    fn age(&self, g: &Goroutine) -> Option<u64> {
        (g.wait_since_ns != 0).then(|| self.snapshot.taken_ns.saturating_sub(g.wait_since_ns))
    }

    /// How long it has been parked at least, in ns.
    fn least_age(&self, g: &Goroutine) -> Option<u64> {
        (g.parked_by_ns != 0).then(|| self.snapshot.taken_ns.saturating_sub(g.parked_by_ns))
    }

    /// The age of the oldest in words: `, for at least 15.0 s (Go says 2m10s)`.
    fn oldest(&self, goroutines: &[&Goroutine]) -> String {
        let most = goroutines.iter().filter_map(|g| self.age(g)).max();
        let least = goroutines.iter().filter_map(|g| self.least_age(g)).max();
        match (most, least) {
            (Some(most), Some(least)) => {
                format!(", for at least {} (Go says {})", duration(least), duration(most))
            }
            (Some(most), None) => format!(", Go says for {}", duration(most)),
            (None, _) => String::new(),
        }
    }
}

pub(crate) fn run(args: &DumpArgs) -> Result<ExitCode, Failure> {
    let filter = Filter::parse(&args.filter)?;
    check(args)?;
    let target = Target::open(args.pid)?;
    let binary = understand(&target)?;
    let runtime = Runtime::open(&target, &binary)?;
    let is_traceback = args.format == DumpFormat::Human && !args.group && !args.waits;
    let want = Want {
        waits: args.waits || args.format == DumpFormat::Json,
        labels: !args.no_labels
            && (filter.needs_labels() || !is_traceback && args.format != DumpFormat::Folded),
    };
    let (snapshot, details) = runtime.snapshot_with(want)?;
    let mut dump = Dump {
        target: &target,
        runtime: &runtime,
        snapshot: &snapshot,
        details: &details,
        shown: Vec::new(),
        labels: want.labels,
    };
    let mut symbolizer = Symbolizer::default();
    let chosen = |g: &&Goroutine| args.system || !g.system;
    dump.shown = snapshot.goroutines.iter().filter(chosen).collect();
    let hidden = dump.shown.len();
    let kept = dump.shown.iter().copied().filter(|g| filter.holds(&dump, g, &mut symbolizer)).collect();
    dump.shown = kept;
    let hidden = hidden - dump.shown.len();
    match args.format {
        DumpFormat::Human if args.waits => out!("{}", waits::text(&dump, &mut symbolizer)?),
        DumpFormat::Human if args.group => out!("{}", group::text(&dump, &mut symbolizer)),
        DumpFormat::Human => out!("{}", text::traceback(&dump, &mut symbolizer)),
        DumpFormat::Json => {
            let document = document::of(&dump, args, &mut symbolizer)?;
            outln!("{}", safe(&document.to_string()));
        }
        DumpFormat::Folded => out!("{}", profile::folded(&dump, &mut symbolizer)),
        DumpFormat::Pprof => {
            let bytes = profile::pprof(&dump, &mut symbolizer);
            let mut stdout = std::io::stdout().lock();
            stdout
                .write_all(&bytes)
                .and_then(|()| stdout.flush())
                .map_err(|e| Failure::new(BACKEND, format!("tried to write the profile: {e}")))?;
        }
    }
    eprintln!("{}", closing(&snapshot, &details, hidden));
    Ok(ExitCode::SUCCESS)
}

/// Combinations that make no sense, before anything is read.
fn check(args: &DumpArgs) -> Result<(), Failure> {
    let failure = |why: &str| Err(Failure::new(USAGE, why));
    match args.format {
        DumpFormat::Human if args.waits && args.group => {
            failure("--waits and --group: one of them, or both with --format json")
        }
        DumpFormat::Pprof | DumpFormat::Folded if args.waits || args.group => failure(
            "--waits and --group are for --format human and json: the other formats group by themselves",
        ),
        DumpFormat::Pprof if std::io::stdout().is_terminal() => failure(
            "--format pprof writes bytes that are no text: send them to a file, for example > goroutines.pb",
        ),
        _ => Ok(()),
    }
}

/// What was read and what not.
fn closing(snapshot: &Snapshot, details: &Details, hidden: usize) -> String {
    let mut text = format!(
        "{} goroutines ({} of the runtime itself) read in {} without stopping the process; {} changed while they were read, {} unreadable",
        snapshot.goroutines.len(),
        snapshot.goroutines.iter().filter(|g| g.system).count(),
        duration(snapshot.took_ns),
        snapshot.torn,
        snapshot.unread
    );
    let unread = details.labels.values().filter(|labels| labels.is_none()).count();
    if unread != 0 {
        text.push_str(&format!("; labels of {unread} unreadable"));
    }
    if hidden != 0 {
        text.push_str(&format!("; {hidden} left out by --filter"));
    }
    text
}
