//! `gotrail attach`: watch a process, tell findings as they arise, sum up at the end.

mod summary;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use gotrail::agent::{Notice, Options, Step, Summary, Watcher};
use gotrail::binary::Plan;
use gotrail::detect::Change;
use gotrail::memory::monotonic_ns;
use gotrail::model::{GcTrigger, StwReason};
use gotrail::probe::Links;
use gotrail::target::{Exit, Target};
use gotrail::text::{bytes, duration, printable};
use serde_json::{Value, json};

use super::args::{AttachArgs, Format, SwitchForm};
use super::export::Export;
use super::failure::{BACKEND, Failure};
use super::signals::{self, Signals};
use super::{cost, fleet, human, json};

/// Longest that sending the last data may take.
pub(super) const FLUSH: Duration = Duration::from_secs(2);
/// Time between two lines on cost.
const COST_EVERY: Duration = Duration::from_secs(1);
/// The same where many processes are watched.
const COST_OF_MANY_EVERY: Duration = Duration::from_secs(10);
/// How long a program that has just been executed may take until it can be attached to, and between two tries.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);
/// What the kernel takes to detach one of many links, about (measured on Linux 6.18).
const SINGLE_DETACH: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &AttachArgs) -> Result<ExitCode, Failure> {
    let pid = match (args.pid, &args.exe) {
        (_, Some(path)) => return fleet::run(args, path),
        (pid, None) => pid.unwrap_or_default(),
    };
    // What was typed wrong is said before anything else is tried.
    let options = args.options()?;
    let export = Export::prepare(&args.otlp)?;
    let watcher = Watcher::attach(Target::open(pid)?, options)?;
    let signals = signals::watch(watcher.detacher())?;
    let end = args.duration.map(|d| Instant::now() + d);
    let mut next = Some((watcher, export));
    let mut code = ExitCode::SUCCESS;
    while let Some((watcher, export)) = next.take() {
        let export = export.start(&watcher, args.otlp.service_name.as_deref())?;
        let mut attach =
            Attach { args, watcher, export, next_cost: Instant::now(), tells_price: true, many: None };
        let exit = attach.watch(&signals, end);
        if attach.export.failed() {
            code = ExitCode::from(BACKEND);
        }
        if exit == Some(Exit::Exec) && args.follow_exec && !signals.stopped() {
            next = again(args, pid, options);
        }
        if let Some((watcher, _)) = &next {
            signals.follow(watcher.detacher());
        }
    }
    Ok(code)
}

/// Attaches to the program that a process has become; says so if that can't be watched.
fn again(args: &AttachArgs, pid: u32, options: Options) -> Option<(Watcher, Export)> {
    let attach = || -> Result<(Watcher, Export), Failure> {
        let watcher = Watcher::attach(Target::open(pid)?, options)?;
        Ok((watcher, Export::prepare(&args.otlp)?))
    };
    let begun = Instant::now();
    loop {
        match attach() {
            Ok(next) => return Some(next),
            // A program that has just begun may not have a runtime yet.
            Err(_) if begun.elapsed() < PATIENCE => std::thread::sleep(RETRY),
            Err(Failure { message, .. }) => {
                errln!("the program that process {pid} has become is not watched: {}", printable(&message));
                return None;
            }
        }
    }
}

/// One process under watch, and what is told of it.
pub(super) struct Attach<'a> {
    args: &'a AttachArgs,
    pub(super) watcher: Watcher,
    pub(super) export: Export,
    next_cost: Instant,
    /// Whether it is this one that tells what a trap costs.
    tells_price: bool,
    /// Where it is one of many: when the command began, which is what its times count from.
    many: Option<u64>,
}

impl<'a> Attach<'a> {
    /// One of many, by a command that began then.
    pub(super) fn of_many(
        args: &'a AttachArgs,
        watcher: Watcher,
        export: Export,
        (begun_ns, is_first): (u64, bool),
    ) -> Self {
        Self { args, watcher, export, next_cost: Instant::now(), tells_price: is_first, many: Some(begun_ns) }
    }

    /// Watches one program to its end, or until the user has seen enough; tells how it ended.
    fn watch(&mut self, signals: &Signals, end: Option<Instant>) -> Option<Exit> {
        self.announce();
        let ends = loop {
            let ends = self.turn();
            if ends.is_some() || signals.stopped() || end.is_some_and(|end| Instant::now() >= end) {
                break ends.unwrap_or_default();
            }
        };
        let summary = self.end(&ends);
        self.close(&summary, FLUSH);
        summary.exit
    }

    /// Takes in and tells what has happened since; what ended it, if something did.
    pub(super) fn turn(&mut self) -> Option<Vec<Notice>> {
        let notices = if self.many.is_some() { self.watcher.step_at_once() } else { self.watcher.step() };
        self.tell_events();
        // The end is told after what led to it, which may still be in the ring.
        let (ends, notices): (Vec<_>, Vec<_>) =
            notices.into_iter().partition(|n| matches!(n, Notice::Ended(..)));
        self.tell(&notices);
        if Instant::now() >= self.next_cost {
            self.tell_cost();
        }
        if let Some(trouble) = self.export.tick(&self.watcher) {
            self.note("export", &trouble);
        }
        (!ends.is_empty()).then_some(ends)
    }

    /// Takes the probes off and tells what came last.
    pub(super) fn end(&mut self, ends: &[Notice]) -> Summary {
        let (summary, notices) = self.watcher.finish();
        self.tell_events();
        self.tell(&notices);
        self.tell(ends);
        self.tell_cost();
        self.export.last(&self.watcher, &summary);
        summary
    }

    /// Sums up, once what is to be exported is sent or `flush` is over.
    pub(super) fn close(&mut self, summary: &Summary, flush: Duration) {
        self.export.close(flush);
        self.summarize(summary);
    }

    /// Says that one of many is watched.
    pub(super) fn announce_joined(&self, within: Duration) {
        let target = self.watcher.target();
        errln!(
            "{}  watched, {} after it was found: {}",
            self.clock(monotonic_ns()),
            duration(nanos(within)),
            printable(&target.command.join(" "))
        );
        self.line_attached();
    }

    fn is_json(&self) -> bool {
        self.args.format == Format::Json
    }

    fn line(&self, kind: &str, mut fields: Value) {
        if let Some(object) = fields.as_object_mut() {
            object.insert("schema".to_owned(), json!("gotrail.attach/1"));
            object.insert("type".to_owned(), json!(kind));
            object.insert("pid".to_owned(), json!(self.watcher.target().pid()));
        }
        outln!("{fields}");
    }

    fn announce(&self) {
        let (watcher, session) = (&self.watcher, self.watcher.session());
        let (target, binary, plan) = (watcher.target(), watcher.binary(), session.plan());
        errln!(
            "attached to {} ({}), {}: {} probes in {}, {}; layout from {}",
            target.pid(),
            printable(&target.comm),
            binary.version(),
            plan.sites.len(),
            duration(nanos(session.attached_in())),
            session.links().describe(),
            binary.layout_source()
        );
        announce_links(session.links(), plan.sites.len());
        not_seen(plan);
        if let Some(why) = self.watcher.senders_unknown() {
            errln!("not told: who sends signals to the process: {}", printable(why));
        }
        self.line_attached();
    }

    /// That the probes are on, for programs.
    fn line_attached(&self) {
        let (session, binary) = (self.watcher.session(), self.watcher.binary());
        let plan = session.plan();
        if self.is_json() {
            self.line(
                "attached",
                json!({
                    "go_version": binary.version().to_string(),
                    "layout_source": binary.layout_source().to_string(),
                    "probes": plan.sites.len(),
                    "attached_in_ns": nanos(session.attached_in()),
                    "links": session.links().describe(),
                    "senders_unknown": self.watcher.senders_unknown(),
                    "neighbours_pay": session.links() == Links::Multi,
                    "programs": self.watcher.loaded_in().map(|(name, took)| json!({
                        "name": name, "loaded_in_ns": nanos(*took),
                    })).collect::<Vec<_>>(),
                    "not_seen": plan.unavailable.iter().filter(|u| u.lost).map(|u| json!({
                        "probe": u.probe.name(), "why": u.why,
                    })).collect::<Vec<_>>(),
                }),
            );
        }
    }

    /// Time since attach, as findings are stamped with, and of many the process.
    fn clock(&self, at_ns: u64) -> String {
        let ns = at_ns.saturating_sub(self.many.unwrap_or_else(|| self.watcher.begun_ns()));
        let clock = format!("[{:>6.1}s]", ns as f64 / 1e9);
        if self.many.is_some() { format!("{clock} {:>7}", self.watcher.target().pid()) } else { clock }
    }

    fn tell(&mut self, notices: &[Notice]) {
        for notice in notices {
            match notice {
                Notice::Finding(key, change) => self.tell_finding(key, *change),
                Notice::Governed(step) => {
                    self.export.governed(step);
                    // What a trap costs here is the same for all.
                    let known = matches!(step, Step::Priced { .. }) && !self.tells_price;
                    if let Some(told) = cost::step(step).filter(|_| !known) {
                        self.told(told);
                    }
                    if let Step::Mode { .. } = step {
                        self.tell_cost();
                    }
                }
                Notice::Gap { tier, from_ns, to_ns, why } => {
                    self.told(cost::gap(*tier, *from_ns, *to_ns, *why));
                }
                Notice::Relinked(relink) => {
                    let told = cost::relinked(relink, self.watcher.target().pid());
                    self.told(told);
                }
                Notice::Lost(count) => {
                    // Nothing makes so many as switches, and sums of them need no ring.
                    let records =
                        self.args.switches.is_some() && self.args.switches_as == SwitchForm::Records;
                    let or = if records { ", --switches-as sums does without" } else { "" };
                    let text = format!(
                        "{count} more events were lost (the ring was full): what is counted of them is too low; --ring-kib makes it larger{or}"
                    );
                    self.note("lost", &text);
                }
                Notice::SwitchesEnded => {
                    self.note("switches_ended", "switches are no longer observed; the summary tells of them");
                }
                Notice::Stopped(true) => self
                    .note("stopped", "the process is stopped (SIGSTOP or a debugger): nothing in it moves"),
                Notice::Stopped(false) => self.note("stopped", "the process goes on"),
                Notice::ProbesLost(why) => self.note("probes_lost", &format!("probes are off: {why}")),
                Notice::SnapshotFailed(why) => {
                    self.note("snapshot_failed", &format!("a snapshot failed: {why}"));
                }
                Notice::Ended(ended) => {
                    let how = ended.to_string();
                    let how = printable(&how);
                    if self.is_json() {
                        let upon = ended.upon.as_ref().map(json::sent);
                        self.line("exit", json!({ "exit": json::exit(ended.exit), "upon": upon }));
                        errln!("{}  the process ended: {how}", self.clock(monotonic_ns()));
                    } else {
                        outln!("{}  the process ended: {how}", self.clock(monotonic_ns()));
                    }
                }
            }
        }
    }

    fn told(&self, told: cost::Told) {
        if self.is_json() {
            self.line(told.kind, told.fields);
        } else if let Some(event) = told.event.filter(|_| self.args.events) {
            outln!("{}  {}", self.clock(monotonic_ns()), printable(&event));
        }
        if let Some(text) = told.text {
            errln!("{}  {}", self.clock(monotonic_ns()), printable(&text));
        }
    }

    /// What the probes have cost up to now, for programs.
    fn tell_cost(&mut self) {
        if self.is_json() {
            self.line("cost", cost::ledger(&self.watcher.cost(), self.watcher.budget()));
        }
        let every = if self.many.is_some() { COST_OF_MANY_EVERY } else { COST_EVERY };
        self.next_cost = Instant::now() + every;
    }

    fn note(&self, kind: &str, text: &str) {
        if self.is_json() {
            self.line(kind, json!({ "message": text }));
        }
        errln!("{}  {}", self.clock(monotonic_ns()), printable(text));
    }

    fn tell_finding(&mut self, key: &str, change: Change) {
        let Some(reported) = self.watcher.ledger().get(key) else { return };
        if self.is_json() {
            self.line("finding", json::finding(reported));
        } else {
            outln!("{}", human::finding(reported, change, &self.clock(monotonic_ns())));
        }
        self.export.finding(reported, change);
    }

    /// Cycles and pauses: to the exporter, and to the user who asked for them.
    fn tell_events(&mut self) {
        let (cycles, pauses) =
            (self.watcher.process_mut().take_cycles(), self.watcher.process_mut().take_pauses());
        for pause in &pauses {
            let caller = self.watcher.caller(&pause.caller);
            self.export.pause(pause, caller.clone());
            if !self.args.events {
                continue;
            }
            let reason = pause.reason.map_or("unknown", StwReason::name);
            if self.is_json() {
                self.line(
                    "stw",
                    json!({
                        "reason": reason,
                        "begin": json::wall(pause.begin_ns),
                        "begin_ns": pause.begin_ns,
                        "total_ns": pause.total_ns(),
                        "stopping_ns": pause.stopping_ns(),
                        "goid": pause.goid,
                        "caller": caller.map(|c| json!({ "function": c.function, "file": c.file, "line": c.line })),
                    }),
                );
            } else {
                let stopping = pause
                    .stopping_ns()
                    .map_or_else(String::new, |ns| format!(", {} of it stopping", duration(ns)));
                let by = caller.map_or_else(String::new, |c| {
                    format!(", by {} at {}:{}", printable(&c.function), printable(&c.file), c.line)
                });
                outln!(
                    "{}  stw  {reason}: {}{stopping}{by}",
                    self.clock(pause.begin_ns),
                    duration(pause.total_ns())
                );
            }
        }
        for cycle in &cycles {
            self.export.cycle(cycle);
            if !self.args.events {
                continue;
            }
            let trigger = cycle.trigger.map_or("unknown", GcTrigger::name);
            if self.is_json() {
                self.line(
                    "gc",
                    json!({
                        "trigger": trigger,
                        "start_ns": cycle.start_ns,
                        "end_ns": cycle.end_ns,
                        "duration_ns": cycle.duration_ns(),
                        "heap_start_bytes": cycle.heap_start,
                        "heap_marked_bytes": cycle.heap_marked,
                    }),
                );
            } else {
                let heap = |b: Option<u64>| b.map_or_else(|| "?".to_owned(), bytes);
                outln!(
                    "{}  gc  {trigger}: {}, heap {} -> {}",
                    self.clock(cycle.end_ns.unwrap_or(0)),
                    cycle.duration_ns().map_or_else(|| "seen from its middle".to_owned(), duration),
                    heap(cycle.heap_start),
                    heap(cycle.heap_marked)
                );
            }
        }
    }
}

/// What of the links a user should know.
pub(super) fn announce_links(links: Links, sites: usize) {
    match links {
        Links::MultiScoped => {}
        Links::Multi => errln!(
            "other processes of the same executable pay for these probes too: this kernel can't scope them to one process (Linux 6.10 can)"
        ),
        Links::Single => errln!(
            "taking the probes off will take about {}: this kernel links them one by one (Linux 6.6 need not)",
            duration(nanos(SINGLE_DETACH).saturating_mul(sites as u64))
        ),
    }
}

/// What can't be observed that a user would expect to be.
pub(super) fn not_seen(plan: &Plan) {
    for missing in plan.unavailable.iter().filter(|u| u.lost) {
        errln!("not seen: {} ({})", missing.probe.name(), printable(&missing.why));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
