//! What there is to say of a process when its watch is over.

use gotrail::agent::Summary;
use gotrail::detect::State;
use gotrail::memory::monotonic_ns;
use gotrail::model::{PauseSum, WaitClass};
use gotrail::text::{bytes, duration, printable};
use serde_json::{Value, json};
use tracer_ebpf::TIER_T2;

use super::{Attach, nanos};
use crate::cli::args::SwitchForm;
use crate::cli::switches::Told;
use crate::cli::system_calls;
use crate::cli::{cost, human, json};

/// So many times what the windows let expect is no matter of chance: ids are handed out in batches, but not so large ones.
const SLOWED: f64 = 1.5;

impl Attach<'_> {
    pub(super) fn summarize(&self, summary: &Summary) {
        if self.is_json() {
            self.summarize_json(summary);
        } else if self.many.is_some() && self.watcher.ledger().iter().next().is_none() {
            self.summarize_line(summary);
        } else {
            self.summarize_text(summary);
        }
    }

    fn summarize_json(&self, summary: &Summary) {
        let process = self.watcher.process();
        let counted = self.watcher.session().plan().tier(TIER_T2).next().is_some();
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
                "upon": summary.ended.as_ref().and_then(|ended| ended.upon.as_ref()).map(json::sent),
                "signals": summary.senders_known.then(|| summary.signals.iter().map(json::sent).collect::<Vec<_>>()),
                "findings": self.watcher.ledger().iter().map(json::finding).collect::<Vec<_>>(),
                "gc": {
                    "cycles": process.gc.completed,
                    "forced": process.gc.forced,
                    "unexplained": process.gc.unexplained,
                    "started": process.gc.started,
                },
                "stw": { "by_reason": stw, "unpaired": process.stw.unpaired },
                // Where one is not 0, what is counted of the GC, stops and panics is the least that there was.
                "rare_events_lost": summary.lost.rare,
                "rare_gaps": summary.rare_gaps,
                "panics": { "begun": process.panics, "recovered": process.recovered },
                "goroutines": {
                    "now": process.goroutines.len(),
                    "created": counted.then_some(process.goroutines.created),
                    "exited": counted.then_some(process.goroutines.exited),
                    "found_ended": process.goroutines.healed,
                    "lifetimes_observed": process.has_lifetimes(),
                    "events_lost": summary.lost.lifetimes,
                    "sampled": (!process.has_lifetimes()).then(|| self.sampled(summary)),
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
                    "executable_pages": self.watcher.binary().image().unread(),
                },
                "switches": self.switches(summary).map(|told| told.to_json()),
                "system_calls": self.system_calls(summary).map(|told| told.to_json()),
                "losses": json::losses(&summary.accounting),
                "cost": self.cost(summary),
                "export": self.export.state_json(),
            }),
        );
    }

    /// What there is to say of switches, if they were asked for.
    fn switches<'b>(&'b self, summary: &'b Summary) -> Option<Told<'b>> {
        self.args.switches?;
        Some(Told::new(&self.watcher, summary, self.args.switches_as == SwitchForm::Records))
    }

    /// Likewise of system calls.
    fn system_calls<'b>(&'b self, summary: &'b Summary) -> Option<system_calls::Told<'b>> {
        self.args.syscalls?;
        Some(system_calls::Told::new(&self.watcher, summary))
    }

    /// What the probes cost the target.
    fn cost(&self, summary: &Summary) -> Value {
        let mut cost = cost::ledger(&summary.cost, self.watcher.budget());
        if let Some(object) = cost.as_object_mut() {
            object.insert("hits".to_owned(), json!(summary.accounting.total().hits));
            object.insert("last_snapshot_ns".to_owned(), json!(nanos(self.watcher.last_snapshot_took())));
        }
        cost
    }

    /// What is known of creations and exits where they were not all observed.
    fn sampled(&self, summary: &Summary) -> Value {
        let process = self.watcher.process();
        let creations = &process.sampled_creations;
        json!({
            "windows": creations.windows(),
            "observed_seconds": creations.seconds(),
            "created": cost::estimate(creations.rate()),
            "exited": cost::estimate(process.sampled_exits.rate()),
            "ids_handed_out": summary.goids,
            "slowed_by_windows": self.slowed(summary),
        })
    }

    /// Whether more ids were handed out than the windows let expect: a trap takes longer than a goroutine that does next to
    /// nothing, so in them less was done.
    fn slowed(&self, summary: &Summary) -> bool {
        let rate = self.watcher.process().sampled_creations.rate();
        rate.zip(summary.goids)
            .is_some_and(|(e, n)| n as f64 > SLOWED * e.high * summary.watched.as_secs_f64())
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

    /// One of many that nothing was found in.
    fn summarize_line(&self, summary: &Summary) {
        let process = self.watcher.process();
        let accounting = &summary.accounting;
        let total = accounting.total();
        outln!(
            "{}  no findings in {}; {} goroutines, {} GC cycles; {} hits = {} delivered + {} lost{}; cost: {}{}",
            self.clock(monotonic_ns()),
            duration(nanos(summary.watched)),
            process.goroutines.len(),
            process.gc.completed,
            total.hits,
            total.delivered,
            accounting.lost(),
            if accounting.balances() { "" } else { ": THE ACCOUNT DOES NOT BALANCE, please report this" },
            cost::summary(&summary.cost, self.watcher.budget()),
            summary.ended.as_ref().map_or_else(String::new, |ended| {
                format!("; it ended: {}", printable(&ended.to_string()))
            })
        );
        if let Some(text) = self.export.state_text() {
            outln!("{}  {text}", self.clock(monotonic_ns()));
        }
    }

    fn summarize_text(&self, summary: &Summary) {
        let process = self.watcher.process();
        outln!(
            "\nsummary of {} ({}) after {}",
            self.watcher.target().pid(),
            printable(&self.watcher.target().comm),
            duration(nanos(summary.watched))
        );
        if let Some(ended) = &summary.ended {
            outln!("  the process ended: {}", printable(&ended.to_string()));
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
            let rate = process.sampled_creations.rate().map_or_else(String::new, |e| {
                format!(
                    "; in {} windows of {:.2} s in all about {:.0} were created a second (95 %: {:.0} to {:.0})",
                    process.sampled_creations.windows(),
                    process.sampled_creations.seconds(),
                    e.per_second,
                    e.low,
                    e.high
                )
            });
            let ids = summary.goids.map_or_else(String::new, |n| {
                let slowed = if self.slowed(summary) {
                    ": more than in the windows, which slow the program down"
                } else {
                    ""
                };
                format!("; the runtime handed out {n} goroutine ids meanwhile{slowed}")
            });
            let why = match summary.lost.lifetimes {
                0 => "see above".to_owned(),
                lost => format!("{lost} events of theirs were lost"),
            };
            format!("; creations and exits were not all observed, {why}{rate}{ids}")
        };
        outln!("  goroutines: {}{share}{lifetimes}", process.goroutines.len());
        let unexplained = match process.gc.unexplained {
            0 => String::new(),
            count => format!(", {count} whose start was not seen: what set them off is not known"),
        };
        let lost = match summary.lost.rare {
            0 => String::new(),
            lost => format!(
                "; {lost} events of the GC, of stops and panics were lost: there were at least so many"
            ),
        };
        let gaps = match summary.rare_gaps {
            0 => "",
            _ => "; their probes were not on all the time, see above: there were at least so many",
        };
        outln!(
            "  gc: {} cycles, {} of them forced{unexplained}{lost}{gaps}",
            process.gc.completed,
            process.gc.forced
        );
        for (reason, PauseSum { count, total_ns, longest_ns }) in process.stw.by_reason() {
            outln!(
                "  stw: {count} x {reason}, {} in all, longest {}",
                duration(*total_ns),
                duration(*longest_ns)
            );
        }
        if process.stw.unpaired != 0 {
            outln!(
                "  stw: {} x ended whose begin was not seen: how long they took is not known",
                process.stw.unpaired
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
        if let Some(told) = self.system_calls(summary) {
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
            "  cost: {}; last snapshot took {} of gotrail's own time",
            cost::summary(&summary.cost, self.watcher.budget()),
            duration(nanos(self.watcher.last_snapshot_took()))
        );
        let dropped = process.dropped + process.groups.dropped + process.goroutines.untracked;
        if dropped != 0 {
            outln!(
                "  {dropped} older panics, tuning calls, cycles, pauses or groups are in the counts above but no longer kept one by one"
            );
        }
        let unread = self.watcher.binary().image().unread();
        if unread != 0 {
            outln!(
                "  {unread} looks into the executable failed, as it was written to since or can't be read any more: places without a name are of those"
            );
        }
        if let Some(text) = self.export.state_text() {
            outln!("  {text}");
        }
    }
}

/// Hits that have no record and are not lost, where there are such.
fn aside(summed: u64, skipped: u64) -> String {
    [(summed, "summed up in the kernel"), (skipped, "passed over")]
        .into_iter()
        .filter(|(count, _)| *count != 0)
        .map(|(count, what)| format!("{count} {what} + "))
        .collect()
}
