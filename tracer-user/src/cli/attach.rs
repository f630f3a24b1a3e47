//! `gotrail attach`: watch a process, tell findings as they arise, sum up at the end.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gotrail::agent::{Notice, Summary, TRAP_NS, Watcher, trap_ns};
use gotrail::detect::{Change, State};
use gotrail::memory::monotonic_ns;
use gotrail::model::{GcTrigger, PauseSum, StwReason, WaitClass};
use gotrail::probe::Accounting;
use gotrail::target::Target;
use gotrail::text::{bytes, duration, printable};
use serde_json::{Value, json};
use tracer_ebpf::Probe;

use super::args::{AttachArgs, Format, SwitchForm};
use super::export::Export;
use super::failure::{BACKEND, Failure};
use super::switches::Told;
use super::{human, json, signals};

/// Longest that sending the last data may take.
const FLUSH: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &AttachArgs) -> Result<ExitCode, Failure> {
    // What was typed wrong is said before anything else is tried.
    let options = args.options()?;
    let export = Export::prepare(&args.otlp)?;
    let watcher = Watcher::attach(Target::open(args.pid)?, options)?;
    let stop = signals::watch(watcher.detacher())?;
    let export = export.start(&watcher, args.otlp.service_name.as_deref())?;
    let mut attach = Attach { args, watcher, export };
    attach.announce();
    let end = args.duration.map(|d| Instant::now() + d);
    let ends = loop {
        let notices = attach.watcher.step();
        attach.tell_events();
        // The end is told after what led to it, which may still be in the ring.
        let (ends, notices): (Vec<_>, Vec<_>) =
            notices.into_iter().partition(|n| matches!(n, Notice::Ended(_)));
        attach.tell(&notices);
        if let Some(trouble) = attach.export.tick(&attach.watcher) {
            attach.note("export", &trouble);
        }
        if !ends.is_empty() || stop.load(Ordering::Acquire) || end.is_some_and(|end| Instant::now() >= end) {
            break ends;
        }
    };
    let (summary, notices) = attach.watcher.finish();
    attach.tell_events();
    attach.tell(&notices);
    attach.tell(&ends);
    attach.export.close(&attach.watcher, &summary, FLUSH);
    attach.summarize(&summary);
    Ok(if attach.export.failed() { ExitCode::from(BACKEND) } else { ExitCode::SUCCESS })
}

struct Attach<'a> {
    args: &'a AttachArgs,
    watcher: Watcher,
    export: Export,
}

impl Attach<'_> {
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
        eprintln!(
            "attached to {} ({}), {}: {} probes in {}, {}; layout from {}",
            target.pid(),
            printable(&target.comm),
            binary.version(),
            plan.sites.len(),
            duration(nanos(session.attached_in())),
            session.links().describe(),
            binary.layout_source()
        );
        for missing in plan.unavailable.iter().filter(|u| u.lost) {
            eprintln!("not seen: {} ({})", missing.probe.name(), printable(&missing.why));
        }
        if self.is_json() {
            self.line(
                "attached",
                json!({
                    "go_version": binary.version().to_string(),
                    "layout_source": binary.layout_source().to_string(),
                    "probes": plan.sites.len(),
                    "attached_in_ns": nanos(session.attached_in()),
                    "links": session.links().describe(),
                    "programs": session.loaded_in().iter().map(|(name, took)| json!({
                        "name": name, "loaded_in_ns": nanos(*took),
                    })).collect::<Vec<_>>(),
                    "not_seen": plan.unavailable.iter().filter(|u| u.lost).map(|u| json!({
                        "probe": u.probe.name(), "why": u.why,
                    })).collect::<Vec<_>>(),
                }),
            );
        }
    }

    /// Time since attach, as findings are stamped with.
    fn clock(&self, at_ns: u64) -> String {
        let ns = at_ns.saturating_sub(self.watcher.begun_ns());
        format!("[{:>6.1}s]", ns as f64 / 1e9)
    }

    fn tell(&mut self, notices: &[Notice]) {
        for notice in notices {
            match notice {
                Notice::Finding(key, change) => self.tell_finding(key, *change),
                Notice::Demoted(demotion) => {
                    let names: Vec<&str> = demotion.probes.iter().map(|probe| probe.name()).collect();
                    let text = format!(
                        "no longer observed: {}; {:.0} hits a second bring the cost of all probes to {:.1} % of the process's CPU time, the budget is {:.1} %; the other probes and the snapshots go on",
                        names.join(", "),
                        demotion.hits_per_second,
                        demotion.predicted * 100.0,
                        demotion.budget * 100.0
                    );
                    self.note("demoted", &text);
                }
                Notice::Lost(count) => self.note(
                    "lost",
                    &format!("{count} events were lost (the ring was full): counts of this moment are too low; --ring-kib makes it larger"),
                ),
                Notice::SwitchesEnded => self.note("switches_ended", "switches are no longer observed; the summary tells of them"),
                Notice::Stopped(true) => self.note("stopped", "the process is stopped (SIGSTOP or a debugger): nothing in it moves"),
                Notice::Stopped(false) => self.note("stopped", "the process goes on"),
                Notice::ProbesLost(why) => self.note("probes_lost", &format!("probes are off: {why}")),
                Notice::SnapshotFailed(why) => {
                    self.note("snapshot_failed", &format!("a snapshot failed: {why}"));
                }
                Notice::Ended(exit) => {
                    if self.is_json() {
                        self.line("exit", json!({ "exit": json::exit(*exit) }));
                        eprintln!("{}  the process ended: {exit}", self.clock(monotonic_ns()));
                    } else {
                        outln!("{}  the process ended: {exit}", self.clock(monotonic_ns()));
                    }
                }
            }
        }
    }

    fn note(&self, kind: &str, text: &str) {
        if self.is_json() {
            self.line(kind, json!({ "message": text }));
        }
        eprintln!("{}  {}", self.clock(monotonic_ns()), printable(text));
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

    fn summarize(&self, summary: &Summary) {
        if self.is_json() {
            self.summarize_json(summary);
        } else {
            self.summarize_text(summary);
        }
    }

    fn summarize_json(&self, summary: &Summary) {
        let process = self.watcher.process();
        let stw: serde_json::Map<String, Value> = process
            .stw
            .by_reason()
            .iter()
            .map(|(reason, sum)| {
                (
                    (*reason).to_owned(),
                    json!({ "count": sum.count, "total_ns": sum.total_ns, "longest_ns": sum.longest_ns }),
                )
            })
            .collect();
        self.line(
            "summary",
            json!({
                "go_version": self.watcher.binary().version().to_string(),
                "watched_ns": nanos(summary.watched),
                "detached_in_ns": nanos(summary.detached_in),
                "exit": summary.exit.map(json::exit),
                "findings": self.watcher.ledger().iter().map(json::finding).collect::<Vec<_>>(),
                "gc": {
                    "cycles": process.gc.completed,
                    "forced": process.gc.forced,
                    "started": process.gc.started,
                },
                "stw": { "by_reason": stw, "unpaired": process.stw.unpaired },
                "panics": { "begun": process.panics, "recovered": process.recovered },
                "goroutines": {
                    "now": process.goroutines.len(),
                    "created": process.goroutines.created,
                    "exited": process.goroutines.exited,
                    "found_ended": process.goroutines.healed,
                    "lifetimes_observed": process.has_lifetimes(),
                    "blocked_share": self.blocked_share(),
                },
                "last_figures": process.figures.as_ref().map(|figures| json!({
                    "gc_cycles": figures.gc_cycles,
                    "forced_gc_cycles": figures.forced_gc_cycles,
                    "heap_live_bytes": figures.heap_live,
                    "gogc": figures.gc_percent,
                    "gomaxprocs": figures.gomaxprocs,
                })),
                "snapshots": { "taken": process.snapshots, "torn_goroutines": process.torn },
                "dropped": {
                    "model": process.dropped + process.groups.dropped + process.goroutines.untracked,
                    "remembered_pauses": process.stw.forgotten(),
                    "remembered_cycles": process.gc.forgotten(),
                },
                "switches": self.switches(summary).map(|told| told.to_json()),
                "losses": json::losses(&summary.accounting),
                "cost": self.cost(summary),
                "export": self.export.state_json(),
            }),
        );
    }

    /// What there is to say of switches, if they were asked for.
    fn switches<'a>(&'a self, summary: &'a Summary) -> Option<Told<'a>> {
        self.args.switches?;
        Some(Told::new(&self.watcher, summary, self.args.switches_as == SwitchForm::Records))
    }

    /// What the probes cost the target, by hits times what a hit of each costs.
    fn cost(&self, summary: &Summary) -> Value {
        let predicted = predicted_ns(&summary.accounting);
        json!({
            "hits": summary.accounting.total().hits,
            "assumed_ns_per_hit": TRAP_NS,
            "assumed_ns_per_hit_with_stack": trap_ns(Probe::Gopanic),
            "predicted_ns": predicted,
            "predicted_share_of_one_cpu": predicted as f64 / nanos(summary.watched).max(1) as f64,
            "last_snapshot_ns": nanos(self.watcher.last_snapshot_took()),
        })
    }

    /// The share of the program's goroutines that wait for another one.
    fn blocked_share(&self) -> Option<f64> {
        let reasons = &self.watcher.binary().layout().wait_reasons;
        let (mut blocked, mut all) = (0, 0);
        for ((status, reason, system), count) in self.watcher.process().population() {
            if *system {
                continue;
            }
            all += count;
            let words = reasons.get(usize::from(*reason)).map_or("", String::as_str);
            if status.is_parked() && WaitClass::of(words).is_blocking() {
                blocked += count;
            }
        }
        (all != 0).then(|| blocked as f64 / all as f64)
    }

    fn summarize_text(&self, summary: &Summary) {
        let process = self.watcher.process();
        outln!(
            "\nsummary of {} ({}) after {}",
            self.watcher.target().pid(),
            printable(&self.watcher.target().comm),
            duration(nanos(summary.watched))
        );
        if let Some(exit) = summary.exit {
            outln!("  the process ended: {exit}");
        }
        let findings: Vec<_> = self.watcher.ledger().iter().collect();
        if findings.is_empty() {
            outln!("  no findings");
        } else {
            let active = findings.iter().filter(|r| r.state == State::Active).count();
            let s = if findings.len() == 1 { "" } else { "s" };
            match summary.exit {
                // A process that is gone has no active faults.
                Some(_) => outln!("  {} finding{s}:", findings.len()),
                None => outln!("  {} finding{s}, {active} still active:", findings.len()),
            }
            for reported in findings {
                outln!("    {}", human::finding_line(reported));
            }
        }
        let share = self.blocked_share().map_or_else(String::new, |s| {
            format!(", {:.0} % of the program's wait for another one", s * 100.0)
        });
        let lifetimes = if process.has_lifetimes() {
            format!(
                "; {} created and {} ended while watched",
                process.goroutines.created, process.goroutines.exited
            )
        } else {
            "; creations and exits were not observed to the end, see above".to_owned()
        };
        outln!("  goroutines: {}{share}{lifetimes}", process.goroutines.len());
        outln!("  gc: {} cycles, {} of them forced", process.gc.completed, process.gc.forced);
        for (reason, PauseSum { count, total_ns, longest_ns }) in process.stw.by_reason() {
            outln!(
                "  stw: {count} x {reason}, {} in all, longest {}",
                duration(*total_ns),
                duration(*longest_ns)
            );
        }
        if process.panics != 0 {
            outln!("  panics: {}, {} recovered", process.panics, process.recovered);
        }
        if let Some(figures) = &process.figures {
            outln!(
                "  heap: {} live; GOGC {}, GOMAXPROCS {}",
                bytes(figures.heap_live),
                figures.gc_percent,
                figures.gomaxprocs
            );
        }
        if let Some(told) = self.switches(summary) {
            told.print();
        }
        let accounting = &summary.accounting;
        let total = accounting.total();
        let verdict = if accounting.balances() {
            "every hit accounted for"
        } else {
            "THE ACCOUNT DOES NOT BALANCE: please report this"
        };
        outln!(
            "  probes: {} hits = {} delivered + {}{} lost; {verdict}; {} incomplete reads; off in {}",
            total.hits,
            total.delivered,
            aside(total.summed, total.skipped),
            accounting.lost(),
            total.partial,
            duration(nanos(summary.detached_in))
        );
        outln!(
            "  cost: about {:.3} % of one CPU by hits (at {} each, {} with a stack); last snapshot took {} of gotrail's own time",
            predicted_ns(accounting) as f64 * 100.0 / nanos(summary.watched).max(1) as f64,
            duration(TRAP_NS),
            duration(trap_ns(Probe::Gopanic)),
            duration(nanos(self.watcher.last_snapshot_took()))
        );
        let dropped = process.dropped + process.groups.dropped + process.goroutines.untracked;
        if dropped != 0 {
            outln!(
                "  {dropped} older panics, tuning calls, cycles, pauses or groups are in the counts above but no longer kept one by one"
            );
        }
        if let Some(text) = self.export.state_text() {
            outln!("  {text}");
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Hits that have no record and are not lost, where there are such.
fn aside(summed: u64, skipped: u64) -> String {
    [(summed, "summed up in the kernel"), (skipped, "passed over")]
        .into_iter()
        .filter(|(count, _)| *count != 0)
        .map(|(count, what)| format!("{count} {what} + "))
        .collect()
}

fn predicted_ns(accounting: &Accounting) -> u64 {
    accounting.probes.iter().map(|(probe, account)| account.hits * trap_ns(*probe)).sum()
}
