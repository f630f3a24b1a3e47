//! `gotrail attach --exe`: watch every process of an executable, those that start later too.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gotrail::agent::{Arrival, Fleet, Moved};
use gotrail::memory::monotonic_ns;
use gotrail::probe::Links;
use gotrail::target::Target;
use gotrail::text::{duration, printable};
use serde_json::json;

use super::args::{AttachArgs, Format};
use super::attach::{Attach, FLUSH, announce_links, not_seen};
use super::export::Export;
use super::failure::{BACKEND, Failure};
use super::signals;

/// Time between two turns through all processes; one that starts is taken in at once.
const TURN: Duration = Duration::from_millis(200);
/// Longest that sending the last data of a process may take while others are watched.
const FLUSH_OF_ONE: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &AttachArgs, path: &str) -> Result<ExitCode, Failure> {
    let options = args.options()?;
    drop(Export::prepare(&args.otlp)?);
    // The number of a process stands for what it runs; a file whose name is a number can be written as ./4711.
    let path = match path.parse() {
        Ok(pid) => Target::open(pid)?.exe_path().display().to_string(),
        Err(_) => path.to_owned(),
    };
    let mut fleet = Fleet::open(path.as_ref(), options, args.most)?;
    let signals = signals::watch(fleet.detacher())?;
    let begun_ns = monotonic_ns();
    announce(args, &fleet, &path);
    let end = args.duration.map(|time| Instant::now() + time);
    let mut members: Vec<Attach<'_>> = Vec::new();
    let mut tally = Tally::default();
    let mut next_turn = Instant::now();
    let (mut untold, mut detached_in) = (0, Duration::ZERO);
    loop {
        let wait = next_turn.saturating_duration_since(Instant::now());
        for arrival in fleet.arrivals(wait, members.iter_mut().map(|member| &mut member.watcher)) {
            match arrival {
                Arrival::Joined { watcher, within } => {
                    let export = Export::prepare(&args.otlp)
                        .and_then(|export| export.start(&watcher, args.otlp.service_name.as_deref()));
                    match export {
                        Ok(export) => {
                            let first = tally.joined == 0;
                            let member = Attach::of_many(args, *watcher, export, (begun_ns, first));
                            member.announce_joined(within);
                            tally.joined += 1;
                            members.push(member);
                        }
                        // The others are watched on.
                        Err(Failure { message, .. }) => {
                            tally.refuse(args, watcher.target().pid(), &message);
                        }
                    }
                }
                Arrival::Refused { pid, why } => tally.refuse(args, pid, &why.to_string()),
            }
        }
        if fleet.untold() != untold {
            untold = fleet.untold();
            errln!(
                "{untold} programs began to run that the kernel had no room to tell of: those that are ours are found within 10 s"
            );
        }
        tell_of_path(&mut fleet, &path);
        // Asked once, so that what ends the watch is told.
        let overwritten = fleet.is_over();
        if overwritten {
            errln!(
                "{} is about to be overwritten, as nobody runs it: the probes are off, and the watch ends; begin it again for the new program",
                printable(&path)
            );
        }
        let over = overwritten || signals.stopped() || end.is_some_and(|end| Instant::now() >= end);
        if over {
            detached_in = fleet.detacher().close();
            fleet.probes().leave_all();
        }
        let is_turn = Instant::now() >= next_turn || over;
        // The program that comes in its place waits for this one to have left.
        if is_turn || members.iter().any(|member| member.watcher.has_executed()) {
            if is_turn {
                next_turn = Instant::now() + TURN;
            }
            let (mut stay, mut leave) = (Vec::with_capacity(members.len()), Vec::new());
            for mut member in members {
                if !is_turn && !member.watcher.has_executed() {
                    stay.push(member);
                    continue;
                }
                match member.turn() {
                    None if !over => stay.push(member),
                    ends => {
                        let summary = member.end(&ends.unwrap_or_default());
                        fleet.left(member.watcher.target().pid());
                        leave.push((member, summary));
                    }
                }
            }
            // What they have to send, they send all at once.
            let flushed = Instant::now() + if over { FLUSH } else { FLUSH_OF_ONE };
            for (mut member, summary) in leave {
                member.close(&summary, flushed.saturating_duration_since(Instant::now()));
                tally.add(&member);
            }
            members = stay;
        }
        if over {
            break;
        }
    }
    tally.tell(args, &path, detached_in, &fleet);
    Ok(if tally.export_failed { ExitCode::from(BACKEND) } else { ExitCode::SUCCESS })
}

/// What there is to say of all of them in the end.
#[derive(Debug, Default)]
struct Tally {
    joined: u64,
    refused: u64,
    findings: u64,
    with_findings: u64,
    export_failed: bool,
}

impl Tally {
    fn refuse(&mut self, args: &AttachArgs, pid: u32, why: &str) {
        self.refused += 1;
        if args.format == Format::Json {
            let line = json!({ "schema": "gotrail.attach/1", "type": "refused", "pid": pid, "message": why });
            outln!("{line}");
        }
        errln!("process {pid} is not watched for now: {}", printable(why));
    }

    fn add(&mut self, member: &Attach<'_>) {
        let findings = member.watcher.ledger().iter().count() as u64;
        self.findings += findings;
        self.with_findings += u64::from(findings != 0);
        self.export_failed |= member.export.failed();
    }

    fn tell(&self, args: &AttachArgs, path: &str, detached_in: Duration, fleet: &Fleet) {
        let Self { joined, refused, findings, with_findings, .. } = self;
        let (missed, strays) = (fleet.missed(), fleet.probes().strays());
        if args.format == Format::Json {
            let line = json!({
                "schema": "gotrail.attach/1",
                "type": "fleet",
                "executable": path,
                "processes": joined,
                "refused": refused,
                "findings": findings,
                "processes_with_findings": with_findings,
                "ended_before_watched": missed.ours,
                "ended_unrecognised": missed.unknown,
                "overwritten": fleet.is_over(),
                "stray_records": strays,
                "detached_in_ns": u64::try_from(detached_in.as_nanos()).unwrap_or(u64::MAX),
            });
            outln!("{line}");
            return;
        }
        outln!(
            "\n{joined} processes of {} were watched; {refused} were not at first, or not at all; {findings} findings in {with_findings} of them; probes off in {}",
            printable(path),
            duration(u64::try_from(detached_in.as_nanos()).unwrap_or(u64::MAX))
        );
        if missed.ours != 0 {
            outln!("  {} more ended before they could be watched", missed.ours);
        }
        if missed.unknown != 0 {
            outln!(
                "  {} programs of this host, of whatever executable, ended before it could be told whether they were any of these",
                missed.unknown
            );
        }
        if strays != 0 {
            outln!("  {strays} records of processes that had left already");
        }
    }
}

/// What became of the path of the executable.
fn tell_of_path(fleet: &mut Fleet, path: &str) {
    match fleet.moved() {
        None => {}
        Some(Moved::Removed) => errln!(
            "{} is there no more: processes that still run it are watched on; begin the watch again for what is put there next",
            printable(path)
        ),
        Some(Moved::Replaced) => errln!(
            "{} is another file by now: processes that start from it run another program and are not watched; those of the old file are",
            printable(path)
        ),
    }
}

fn announce(args: &AttachArgs, fleet: &Fleet, path: &str) {
    let (probes, binary) = (fleet.probes(), fleet.binary());
    let took = u64::try_from(probes.attached_in().as_nanos()).unwrap_or(u64::MAX);
    errln!(
        "attached to {}, {}: {} probes in {}, {}; layout from {}; at most {} of its processes are watched, those that start later too",
        printable(path),
        binary.version(),
        probes.plan().sites.len(),
        duration(took),
        probes.links().describe(),
        binary.layout_source(),
        args.most
    );
    if probes.links() == Links::Single {
        announce_links(probes.links(), probes.plan().sites.len());
    }
    errln!(
        "goroutines that come and go are not observed one by one in many processes at once: watch one alone for that"
    );
    if let Some(why) = fleet.searches() {
        errln!(
            "the kernel does not tell which programs start, so they are searched for each 100 ms: {}",
            printable(why)
        );
    }
    not_seen(probes.plan());
    if args.format == Format::Json {
        let line = json!({
            "schema": "gotrail.attach/1",
            "type": "fleet_attached",
            "executable": path,
            "go_version": binary.version().to_string(),
            "layout_source": binary.layout_source().to_string(),
            "probes": probes.plan().sites.len(),
            "attached_in_ns": took,
            "most": args.most,
            "searched": fleet.searches(),
        });
        outln!("{line}");
    }
}
