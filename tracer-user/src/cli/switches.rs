//! What `gotrail attach --switches` says of switches between goroutines.

use std::collections::HashMap;

use gotrail::agent::{Summary, Watcher};
use gotrail::binary::Frame;
use gotrail::model::{
    CallStack, Distribution, GoroutineSwitches, SampledSwitches, Sampling, SiteWaits, Switches, WaitSite,
};
use gotrail::text::{duration, printable};
use serde_json::{Value, json};

use super::{cost, json};

/// Places of waiting in the summary for people, and in JSON.
const PLACES: (usize, usize) = (10, 100);
/// Wakers, likewise.
const WAKERS: (usize, usize) = (5, 50);
/// Goroutines in JSON.
const GOROUTINES: usize = 200;
/// The part of a CPU from which on the probes slow the program down in a burst.
const SLOWED: f64 = 0.1;
/// Without a burst, ns, from which on rates say little of that time.
const LONG_PAUSE: u64 = 1_000_000_000;

/// A goroutine that wakes others.
struct Waker {
    goid: u64,
    /// How often it woke another one.
    woken: u64,
    /// How many different ones.
    others: u64,
}

/// What there is to say.
pub(crate) struct Told<'a> {
    watcher: &'a Watcher,
    summary: &'a Summary,
    switches: &'a Switches,
    /// Records of each switch, or sums from the kernel.
    by_records: bool,
}

impl<'a> Told<'a> {
    pub(crate) fn new(watcher: &'a Watcher, summary: &'a Summary, by_records: bool) -> Self {
        Self { watcher, summary, switches: &watcher.process().switches, by_records }
    }

    fn reason(&self, number: u8) -> &str {
        let reasons = &self.watcher.binary().layout().wait_reasons;
        reasons.get(usize::from(number)).map_or("unknown", String::as_str)
    }

    /// Places by the sum of the time waited there, the longest first.
    fn places(&self) -> Vec<(&WaitSite, &SiteWaits)> {
        let mut places: Vec<_> = self.switches.sites.iter().collect();
        places.sort_by_key(|(site, waits)| (std::cmp::Reverse(waits.total_ns()), **site));
        places
    }

    fn wakers(&self) -> Vec<Waker> {
        let mut by: HashMap<u64, (u64, u64)> = HashMap::new();
        for ((waker, _), count) in &self.switches.edges {
            let (woken, others) = by.entry(*waker).or_default();
            (*woken, *others) = (*woken + count, *others + 1);
        }
        let mut wakers: Vec<Waker> =
            by.into_iter().map(|(goid, (woken, others))| Waker { goid, woken, others }).collect();
        wakers.sort_by_key(|waker| (std::cmp::Reverse(waker.woken), waker.goid));
        wakers
    }

    /// Goroutines by the time that they waited, the longest first.
    fn goroutines(&self) -> Vec<(u64, GoroutineSwitches)> {
        let mut all: Vec<_> = self.switches.goroutines.iter().map(|(goid, g)| (*goid, *g)).collect();
        all.sort_by_key(|(goid, g)| (std::cmp::Reverse(g.blocked_ns.saturating_add(g.runnable_ns)), *goid));
        all
    }

    /// The function that a goroutine was started with, if it was met while it lived.
    fn start_function(&self, goid: u64) -> Option<String> {
        let startpc = self.watcher.process().goroutines.get(goid)?.startpc;
        let frames = self.watcher.binary().frames(startpc, true);
        frames.last().map(|frame| frame.function.clone())
    }

    fn stack(&self, site: &WaitSite) -> Option<(Vec<Frame>, bool)> {
        let (pcs, truncated) = self.switches.stacks.get(&site.stack)?;
        Some((self.watcher.frames(pcs), *truncated))
    }

    /// The place in the program where a wait is.
    fn place(&self, site: &WaitSite) -> Option<String> {
        let (pcs, _) = self.switches.stacks.get(&site.stack)?;
        let stack = CallStack { pcs: pcs.to_vec(), ..CallStack::default() };
        let place = self.watcher.caller(&stack)?;
        Some(format!("{} at {}:{}", printable(&place.function), printable(&place.file), place.line))
    }

    /// How a park, wake-up or run without figures is told for what it is.
    fn without_figures(&self) -> Vec<(&'static str, u64)> {
        let (unmeasured, account) = (self.switches.unmeasured, &self.summary.accounting.switches);
        [
            ("waits that the end of the observation cut off", unmeasured.cut_off),
            ("records lost", unmeasured.lost),
            ("waits across lost records", unmeasured.across_gaps),
            ("places, pairs and waits beyond what is kept", unmeasured.dropped),
            ("waits that the kernel forgot for want of room", account.evicted()),
            ("parks without a stack", account.without_stack()),
            ("parks whose stack was read in part", account.counters.partial),
        ]
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .collect()
    }

    fn rates(&self) -> [(&'static str, Sampling); 3] {
        let SampledSwitches { parks, readies, runs, .. } = self.switches.sampled;
        [("parks", parks), ("wake-ups", readies), ("runs", runs)]
    }

    /// What bursts say of all the time.
    fn sampled(&self) -> Option<Value> {
        let SampledSwitches { parks, readies, runs, .. } = self.switches.sampled;
        (parks.windows() != 0).then(|| {
            json!({
                "bursts": parks.windows(),
                "observed_seconds": parks.seconds(),
                "parks": cost::estimate(parks.rate()),
                "ready": cost::estimate(readies.rate()),
                "runs": cost::estimate(runs.rate()),
                "slowed_by_bursts": self.is_slowed(),
                "longest_pause_ns": self.switches.sampled.longest_pause_ns,
            })
        })
    }

    /// Whether the probes take enough in a burst that the program does noticeably less in it than otherwise.
    fn is_slowed(&self) -> bool {
        let SampledSwitches { parks, cost_ns, .. } = self.switches.sampled;
        cost_ns as f64 / 1e9 > SLOWED * parks.seconds()
    }

    fn hits(&self, name: &str) -> u64 {
        let probes = &self.summary.accounting.probes;
        probes.iter().find(|(probe, _)| probe.name() == name).map_or(0, |(_, account)| account.hits)
    }

    /// For people.
    pub(crate) fn print(&self) {
        let switches = self.switches;
        outln!(
            "  switches observed for {}: {} parks, {} wake-ups, {} runs",
            duration(switches.observed_ns()),
            self.hits("go_park"),
            self.hits("go_ready"),
            self.hits("go_run"),
        );
        let latency = switches.all_latency();
        if let (Some(half), Some(most), Some(longest)) =
            (latency.quantile_ns(0.5), latency.quantile_ns(0.99), latency.longest_ns())
        {
            outln!(
                "    from wake-up to run: half within {}, 99 % within {}, all within {} ({} measured)",
                duration(half),
                duration(most),
                duration(longest),
                latency.count
            );
        }
        let places = self.places();
        if !places.is_empty() {
            outln!("    waits, by the sum of the time (most {}):", PLACES.0);
        }
        for (site, waits) in places.iter().take(PLACES.0) {
            let mut all = waits.blocked.clone();
            all.merge(&waits.until_run);
            outln!(
                "      {:>9} in {:>7} waits, half within {:>9}  {:<16} {}",
                duration(all.total_ns),
                all.count,
                duration(all.quantile_ns(0.5).unwrap_or(0)),
                printable(self.reason(site.reason)),
                self.place(site).unwrap_or_else(|| "(no place in the program)".to_owned())
            );
        }
        let wakers = self.wakers();
        if !wakers.is_empty() {
            outln!("    who woke others most:");
        }
        for waker in wakers.iter().take(WAKERS.0) {
            let who = match (waker.goid, self.start_function(waker.goid)) {
                (0, _) => "the scheduler (timers, network poller)".to_owned(),
                (goid, Some(function)) => format!("goroutine {goid}, {}", printable(&function)),
                (goid, None) => format!("goroutine {goid}"),
            };
            outln!("      {:>7} times {:>5} others: {who}", waker.woken, waker.others);
        }
        for (what, count) in self.without_figures() {
            outln!("    not in these figures: {count} {what}");
        }
        let sampled = &switches.sampled;
        if sampled.parks.windows() != 0 {
            let rates = self.rates().into_iter().filter_map(|(what, rate)| Some((what, rate.rate()?)));
            let rates: Vec<String> = rates
                .map(|(what, e)| format!("{:.0} {what} (95 %: {:.0} to {:.0})", e.per_second, e.low, e.high))
                .collect();
            outln!(
                "    {} bursts: {}{}{}; waits longer than a burst are not in the figures",
                sampled.parks.windows(),
                if rates.is_empty() {
                    "too few for rates".to_owned()
                } else {
                    format!("about {} a second", rates.join(", "))
                },
                match sampled.longest_pause_ns {
                    0..LONG_PAUSE => String::new(),
                    ns => format!(
                        ", but none for as long as {}, in which it may have done much more: bursts are the rarer the more it does",
                        duration(ns)
                    ),
                },
                if self.is_slowed() {
                    ", with the probes, which slow the program down in a burst: without them it may do many times as much"
                } else {
                    ""
                }
            );
        }
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let switches = self.switches;
        let by_reason = |counts: &std::collections::BTreeMap<u8, u64>| -> Value {
            counts.iter().map(|(reason, count)| (self.reason(*reason).to_owned(), json!(count))).collect()
        };
        let account = &self.summary.accounting.switches;
        let counters = account.counters;
        json!({
            "as": if self.by_records { "records" } else { "sums" },
            "observed_ns": switches.observed_ns(),
            "stretches": switches.stretches.iter().map(|stretch| json!({
                "begin_ns": stretch.begin_ns,
                "end_ns": stretch.end_ns,
            })).collect::<Vec<_>>(),
            "sampled": self.sampled(),
            // By the hits of the probes, so that they are right even where records were lost.
            "hits": {
                "parks": self.hits("go_park"),
                "ready": self.hits("go_ready"),
                "runs": self.hits("go_run"),
            },
            "parks_by_reason": by_reason(&switches.parks),
            "wakeups": { "ready": switches.readies, "unseen_by_reason": by_reason(&switches.unseen_wakes) },
            "runs": switches.runs,
            "runs_not_after_a_park": switches.other_runs,
            "coroutine_switches": switches.coroutine_switches,
            "run_latency": times(&switches.all_latency()),
            "run_latency_by_reason": switches.latency.iter().map(|(reason, latency)| {
                (reason.map_or("unknown", |number| self.reason(number)).to_owned(), times(latency))
            }).collect::<Value>(),
            "waits": self.places().into_iter().take(PLACES.1).map(|(site, waits)| {
                let stack = self.stack(site);
                json!({
                    "reason": self.reason(site.reason),
                    "count": waits.count(),
                    "total_ns": waits.total_ns(),
                    "until_wakeup": times(&waits.blocked),
                    "until_run": times(&waits.until_run),
                    "stack_truncated": stack.as_ref().is_some_and(|(_, truncated)| *truncated),
                    "stack": stack.map(|(frames, _)| frames.iter().map(json::frame).collect::<Vec<_>>()),
                })
            }).collect::<Vec<_>>(),
            "places": switches.sites.len(),
            "wakers": self.wakers().iter().take(WAKERS.1).map(|waker| json!({
                "goid": waker.goid,
                "start_function": self.start_function(waker.goid),
                "woken": waker.woken,
                "others": waker.others,
            })).collect::<Vec<_>>(),
            "goroutines": switches.goroutines.len(),
            "by_goroutine": self.goroutines().into_iter().take(GOROUTINES).map(|(goid, g)| json!({
                "goid": goid,
                "start_function": self.start_function(goid),
                "parks": g.parks,
                "woken": g.woken,
                "unseen_wakes": g.unseen_wakes,
                "runs": g.runs,
                "wakes": g.wakes,
                "blocked_ns": g.blocked_ns,
                "runnable_ns": g.runnable_ns,
            })).collect::<Vec<_>>(),
            "unmeasured": {
                "records_lost": switches.unmeasured.lost,
                "waits_across_gaps": switches.unmeasured.across_gaps,
                "waits_cut_off": switches.unmeasured.cut_off,
                "dropped": switches.unmeasured.dropped,
                "waits_evicted": account.evicted(),
            },
            "stacks": {
                "known": counters.known,
                "new": counters.new,
                "collided": counters.collided,
                "full": counters.full,
                "unsent": counters.unsent,
                "unread": counters.unread,
                "partial": counters.partial,
            },
            "kernel_waits": {
                "opened": counters.opened,
                "closed": counters.closed,
                "open": account.open,
                "unmatched": counters.unmatched,
            },
            "traps_outside": counters.outside,
        })
    }
}

/// A distribution: its buckets are OpenTelemetry's of scale 2, by index.
pub(super) fn times(distribution: &Distribution) -> Value {
    let buckets: Vec<(i64, u64)> =
        (-1..).zip(distribution.buckets()).map(|(i, n)| (i, *n)).filter(|(_, n)| *n != 0).collect();
    json!({
        "count": distribution.count,
        "total_ns": distribution.total_ns,
        "p50_ns": distribution.quantile_ns(0.5),
        "p90_ns": distribution.quantile_ns(0.9),
        "p99_ns": distribution.quantile_ns(0.99),
        "all_within_ns": distribution.longest_ns(),
        "scale": 2,
        "buckets": buckets,
    })
}
