//! What stands out in one look at the runtime's figures. Remarks, not findings: a moment shows no more.

use crate::memory::stats::{Rates, Stats};
use crate::target::{CpuLimit, ProcessMemory};
use crate::text::{bytes, duration};

/// The collector's share of the CPU time in use from which on it is told. Go's pacer aims at 25 % while it marks.
const GC_SHARE: f64 = 0.2;
/// Its share of all CPU time that there was below which that is not.
const SOME_GC: f64 = 0.02;
/// Memory below this is not worth a remark.
const SOME_MEMORY: u64 = 64 << 20;
/// Shares of memory.
const LARGE_SHARE: f64 = 0.3;
/// Of the memory limit.
const NEAR_LIMIT: f64 = 0.9;
/// Runnable goroutines for each P.
const LONG_QUEUE: u64 = 8;
/// One in a hundred goroutines waits so long to run.
const LATE_NS: u64 = 10_000_000;
/// A stop of the world.
const LONG_STOP_NS: u64 = 10_000_000;
/// Threads for each P.
const MANY_THREADS: u64 = 16;
/// Forced cycles among all, once there are some.
const FORCED_SHARE: f64 = 0.5;
const SOME_CYCLES: u32 = 10;
/// Finalizers or cleanups in a queue.
const LONG_FINALIZERS: u64 = 1000;
/// Stopped timers that are still there.
const MANY_STOPPED: u64 = 10_000;

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Now.
    pub stats: &'a Stats,
    /// Since the look before, if there was one.
    pub rates: Option<&'a Rates>,
    /// CPUs that the process may use.
    pub cpu_limit: Option<CpuLimit>,
    /// What is in RAM.
    pub memory: Option<ProcessMemory>,
}

/// Something that stands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// A stable slug.
    pub id: &'static str,
    /// What, in words.
    pub text: String,
}

/// All that stands out, what matters most first.
#[must_use]
pub fn remarks(look: &Look<'_>) -> Vec<Remark> {
    let mut found = Vec::new();
    let mut say = |id, text| found.push(Remark { id, text });
    collector(look, &mut say);
    scheduler(look, &mut say);
    memory(look, &mut say);
    queues(look, &mut say);
    found
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn collector(look: &Look<'_>, say: &mut impl FnMut(&'static str, String)) {
    let gc = &look.stats.collector;
    if look.stats.scheduler.stop_wanted {
        say("world-stopped", "the world is stopped, or being stopped, at this moment".to_owned());
    }
    if gc.limiter_on == Some(true) {
        say(
            "gc-limited",
            "the collector takes so much CPU time that Go limits it: the heap may grow beyond GOMEMLIMIT; raise the limit or hold less".to_owned(),
        );
    } else if let Some(last) =
        gc.limiter_last_cycle.filter(|last| *last != 0 && last.saturating_add(1) >= gc.cycles)
    {
        say(
            "gc-limited",
            format!("Go had to limit the collector's CPU time in cycle {last}: GOMEMLIMIT is tight"),
        );
    }
    let (cpu, since) = match look.rates.and_then(|rates| rates.cpu) {
        Some(cpu) => (Some(cpu), "between the last cycles"),
        None => (gc.cpu, "since the start"),
    };
    // A share of next to nothing is nothing.
    let some = cpu.filter(|cpu| share(cpu.gc_total, cpu.total) >= SOME_GC);
    if let Some(part) = some.and_then(|cpu| cpu.gc_share()).filter(|part| *part >= GC_SHARE) {
        say("gc-cpu", format!("the collector took {:.0} % of the CPU time in use {since}", part * 100.0));
    }
    if gc.gogc < 0 && gc.memory_limit.is_none_or(|limit| limit == i64::MAX) {
        say(
            "gc-off",
            "no GC cycle begins by itself: GOGC is off and there is no GOMEMLIMIT; the heap grows until one is forced"
                .to_owned(),
        );
    } else if gc.limited == Some(true) {
        say("memory-limit", "GOMEMLIMIT, not GOGC, sets the pace of the collector".to_owned());
    }
    if gc.cycles >= SOME_CYCLES && share(u64::from(gc.forced), u64::from(gc.cycles)) >= FORCED_SHARE {
        say(
            "forced-gc",
            format!(
                "{} of {} GC cycles were forced by the program (runtime.GC, debug.FreeOSMemory)",
                gc.forced, gc.cycles
            ),
        );
    }
    if let Some(longest) = gc.pauses.iter().map(|pause| pause.ns).max().filter(|ns| *ns >= LONG_STOP_NS) {
        say(
            "long-pause",
            format!(
                "one of the last {} GC cycles stopped the world for {}",
                gc.pauses.len(),
                duration(longest)
            ),
        );
    }
}

fn scheduler(look: &Look<'_>, say: &mut impl FnMut(&'static str, String)) {
    let stats = look.stats;
    let (scheduler, threads) = (&stats.scheduler, &stats.threads);
    let ps = scheduler.processors.len() as u64;
    if let Some(limit) = look.cpu_limit {
        let usable = u64::from(limit.usable());
        if ps > usable {
            let why = limit.quota.map_or_else(
                || format!("its affinity has {} CPUs, which its threads have to share", limit.affinity),
                |quota| {
                    format!(
                        "its cgroup lets it use {quota:.2} CPUs (affinity {}): the kernel stops it when that is used up",
                        limit.affinity
                    )
                },
            );
            say("gomaxprocs-high", format!("GOMAXPROCS is {ps}, but {why}"));
        } else if ps < usable {
            say("gomaxprocs-low", format!("GOMAXPROCS is {ps}, while the process may use {usable} CPUs"));
        }
    }
    let (runnable, idle) = (scheduler.runnable(), u64::from(scheduler.idle_ps));
    if runnable > ps && idle > 0 && scheduler.spinning == 0 {
        say(
            "idle-ps",
            format!(
                "{runnable} goroutines are runnable while {idle} of {ps} Ps are idle and no thread looks for work"
            ),
        );
    } else if runnable > ps.saturating_mul(LONG_QUEUE) {
        say("long-run-queue", format!("{runnable} goroutines wait to run on {ps} Ps"));
    }
    let (latency, since) = match look.rates.and_then(|rates| rates.schedule_latency.as_ref()) {
        Some(latency) => (Some(latency), "in this interval"),
        None => (stats.schedule_latency.as_ref(), "since the start"),
    };
    if let Some(below) = latency.and_then(|latency| latency.below(0.99)).filter(|below| *below >= LATE_NS) {
        say(
            "sched-latency",
            format!(
                "one goroutine in a hundred waited up to {} from runnable to running {since}",
                duration(below)
            ),
        );
    }
    if threads.total > ps.saturating_mul(MANY_THREADS).max(64) {
        say(
            "many-threads",
            format!(
                "{} threads for {ps} Ps: goroutines block in system calls or C code ({} in C now)",
                threads.total, threads.in_cgo
            ),
        );
    }
}

fn memory(look: &Look<'_>, say: &mut impl FnMut(&'static str, String)) {
    let Some(heap) = &look.stats.heap else { return };
    let ready = heap.ready();
    if let Some(limit) = look.stats.collector.memory_limit.filter(|limit| *limit != i64::MAX) {
        let limit = limit.unsigned_abs();
        if share(ready, limit) >= NEAR_LIMIT {
            say(
                "memory-limit",
                format!("Go holds {} of the {} that GOMEMLIMIT allows", bytes(ready), bytes(limit)),
            );
        }
    }
    if ready >= SOME_MEMORY {
        for (part, id, what) in [
            (heap.stacks, "stacks", "are stacks of goroutines"),
            (heap.unused, "fragmentation", "are in spans of objects but hold none: fragmentation"),
            (heap.free, "idle-heap", "are free and not given back to the system yet"),
            (heap.own(), "runtime-memory", "are the runtime's own"),
        ] {
            if share(part, ready) >= LARGE_SHARE {
                say(id, format!("{} of the {} that Go holds {what}", bytes(part), bytes(ready)));
            }
        }
    }
    if let Some(memory) = look.memory {
        let other = memory.anon.saturating_sub(ready);
        if other >= SOME_MEMORY && share(other, memory.rss) >= LARGE_SHARE {
            say(
                "not-go",
                format!(
                    "at least {} of the {} in RAM are not Go's: C code, or mapped by hand",
                    bytes(other),
                    bytes(memory.rss)
                ),
            );
        }
        if memory.swap >= SOME_MEMORY {
            say("swap", format!("{} are swapped out: each GC cycle reads them back in", bytes(memory.swap)));
        }
    }
}

fn queues(look: &Look<'_>, say: &mut impl FnMut(&'static str, String)) {
    if let Some(waiting) = look.stats.finalizers.waiting.filter(|waiting| *waiting >= LONG_FINALIZERS) {
        say(
            "finalizers",
            format!("{waiting} finalizers wait to be run by one goroutine: one of them may block"),
        );
    }
    if let Some(waiting) =
        look.stats.cleanups.map(|cleanups| cleanups.waiting()).filter(|n| *n >= LONG_FINALIZERS)
    {
        say("cleanups", format!("{waiting} cleanups wait to be run"));
    }
    let stopped: u64 =
        look.stats.scheduler.processors.iter().filter_map(|p| p.timers_stopped.map(u64::from)).sum();
    if stopped >= MANY_STOPPED {
        say("stopped-timers", format!("{stopped} timers were stopped but are still held until they are due"));
    }
}
