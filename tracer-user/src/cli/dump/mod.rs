//! `gotrail dump`: every goroutine, in the forms that people and tools read.

mod core_file;
mod cycles;
mod document;
mod filter;
mod group;
mod io;
mod profile;
mod text;
mod waits;

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use gotrail::agent::Subject;
use gotrail::memory::{Crash, Details, Goroutine, Runtime, Snapshot, Status, Symbolizer, Wait, Want};
use gotrail::target::{Descriptor, Descriptors};
use gotrail::text::{duration, printable};

use super::args::{DumpArgs, DumpFormat};
use super::failure::{BACKEND, Failure, USAGE};
pub(crate) use document::{labels as labels_json, safe};
use filter::Filter;

/// What was read, and which of it is to be shown.
pub(super) struct Dump<'a> {
    subject: &'a Subject,
    runtime: &'a Runtime<'a>,
    snapshot: &'a Snapshot,
    details: &'a Details,
    shown: Vec<&'a Goroutine>,
    /// What the process of a core file died of.
    crash: Option<Crash>,
    /// Whether labels were to be read.
    labels: bool,
    /// Whether stacks were to be read.
    stacks: bool,
    /// The file descriptors that are waited on.
    files: HashMap<u64, Descriptor>,
    /// How long the heap may be read to prove deadlocks.
    prove_for: Duration,
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

    /// The same as it stands in the head of a traceback.
    fn head(&self, g: &Goroutine) -> String {
        let leaked = if g.status == Status::Leaked { " (leaked)" } else { "" };
        format!("{}{leaked}", printable(self.state(g)))
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
    check(args, &filter)?;
    let subject = args.subject.find()?;
    let binary = subject.understand()?;
    let runtime = subject.runtime(&binary)?;
    let is_traceback = args.format == DumpFormat::Human && !args.group && !args.waits;
    let want = Want {
        waits: args.waits || args.format == DumpFormat::Json,
        labels: !args.no_labels
            && (filter.needs_labels() || !is_traceback && args.format != DumpFormat::Folded),
        no_stacks: args.no_stacks,
        origins: is_traceback || args.format == DumpFormat::Json,
        places: false,
    };
    filter.check_states(&binary.layout().wait_reasons)?;
    let (snapshot, details) = runtime.snapshot_with(want)?;
    let mut dump = Dump {
        subject: &subject,
        runtime: &runtime,
        snapshot: &snapshot,
        details: &details,
        shown: Vec::new(),
        crash: runtime.crash()?,
        labels: want.labels,
        stacks: !want.no_stacks,
        files: subject.process().map_or_else(HashMap::new, |target| files(target.pid(), &details)),
        prove_for: args.prove,
    };
    let mut symbolizer = Symbolizer::default();
    let chosen = |g: &&Goroutine| args.system || !g.system;
    dump.shown = snapshot.goroutines.iter().filter(chosen).collect();
    // As a traceback does.
    if let Some(died) = dump.crash.as_ref().and_then(|crash| crash.goid) {
        dump.shown.sort_by_key(|g| g.goid != died);
    }
    let hidden = dump.shown.len();
    let ageless = filter.asks_for_age().then(|| dump.shown.iter().filter(|g| dump.age(g).is_none()).count());
    let kept = dump.shown.iter().copied().filter(|g| filter.holds(&dump, g, &mut symbolizer)).collect();
    dump.shown = kept;
    let hidden = hidden - dump.shown.len();
    match args.format {
        DumpFormat::Human if args.waits => out!("{}", waits::text(&dump, &mut symbolizer)?),
        DumpFormat::Human if args.group => out!("{}", group::text(&dump, &mut symbolizer)),
        DumpFormat::Human => {
            out!("{}", core_file::preamble(&dump, &mut symbolizer));
            text::traceback(&dump, &mut symbolizer, |piece| out!("{piece}"));
        }
        DumpFormat::Json => document::write(&dump, args, &mut symbolizer, |piece| out!("{piece}"))?,
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
    errln!("{}", closing(&dump, hidden, ageless.unwrap_or(0)));
    if let Some(core) = subject.core() {
        super::write_err(format_args!("{}", core_file::remarks(&dump, core)));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the file descriptors are that goroutines wait on. The process goes on meanwhile: one that was closed since the
/// snapshot is not there, and one that was opened anew is the new file.
fn files(pid: u32, details: &Details) -> HashMap<u64, Descriptor> {
    let mut descriptors = Descriptors::of(pid);
    let mut files = HashMap::new();
    for wait in details.waits.values() {
        if let Wait::Io(Some(poll)) = wait
            && !files.contains_key(&poll.fd)
            && let Some(found) = descriptors.find(poll.fd)
        {
            files.insert(poll.fd, found);
        }
    }
    files
}

/// Combinations that make no sense, before anything is read.
fn check(args: &DumpArgs, filter: &Filter) -> Result<(), Failure> {
    let failure = |why: &str| Err(Failure::new(USAGE, why));
    if args.no_stacks && filter.needs_stacks() {
        return failure("--no-stacks and --filter func=: functions are known from stacks alone");
    }
    match args.format {
        DumpFormat::Pprof | DumpFormat::Folded if args.no_stacks => {
            failure("--no-stacks is for --format human and json: profiles are made of stacks")
        }
        DumpFormat::Human if args.waits && args.no_stacks => {
            failure("--no-stacks and --waits: what waits is told with where it does, which the stacks say")
        }
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
fn closing(dump: &Dump<'_>, hidden: usize, ageless: usize) -> String {
    let snapshot = dump.snapshot;
    let mut text = format!(
        "{} goroutines ({} of the runtime itself) read ",
        snapshot.goroutines.len(),
        snapshot.goroutines.iter().filter(|g| g.system).count(),
    );
    let took = duration(snapshot.took_ns);
    match dump.subject.core() {
        Some(_) => text.push_str(&format!("from {} in {took}", dump.subject)),
        None => text.push_str(&format!(
            "in {took} without stopping the process; {} changed while they were read",
            snapshot.torn
        )),
    }
    text.push_str(&format!(", {} unreadable", snapshot.unread));
    if snapshot.unread_stacks != 0 {
        text.push_str(&format!(", and of {} the stack", snapshot.unread_stacks));
    }
    if snapshot.unread_bytes != 0 {
        text.push_str(&format!(" ({} bytes of memory)", snapshot.unread_bytes));
    }
    let unread = dump.details.labels.values().filter(|labels| labels.is_none()).count();
    if unread != 0 {
        text.push_str(&format!("; labels of {unread} unreadable"));
    }
    if hidden != 0 {
        text.push_str(&format!("; {hidden} left out by --filter"));
        if ageless != 0 {
            text.push_str(&format!(
                " ({ageless} are of unknown age: Go notes it at the first GC cycle that finds them parked)"
            ));
        }
    }
    text
}
