//! All figures for people, in groups; what stands out comes first.

use std::fmt::Write as _;

use gotrail::memory::stats::{Histogram, PState, Phase};
use gotrail::text::{bytes, duration, printable};

use super::Report;

/// Ps that are shown one by one: those with the longest queues.
const SHOWN_PS: usize = 8;

/// Adds a line. A text in memory takes everything.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{ let _ = writeln!($out, $($arg)*); }};
}

pub(super) fn whole(report: &Report<'_>) -> String {
    let mut out = String::new();
    let subject = report.subject;
    line!(
        out,
        "{} ({})  {}  read in {}",
        subject.pid(),
        printable(subject.command()),
        report.binary.version(),
        duration(report.stats.took_ns)
    );
    let remarks = report.remarks();
    if remarks.is_empty() {
        line!(out, "\nstands out   nothing");
    }
    for (index, remark) in remarks.iter().enumerate() {
        let head = if index == 0 { "\nstands out  " } else { "            " };
        line!(out, "{head} {}", printable(&remark.text));
    }
    scheduler(report, &mut out);
    gc(report, &mut out);
    memory(report, &mut out);
    queues(report, &mut out);
    for unknown in &report.stats.unknown {
        line!(out, "not known    {}: {}", unknown.what, unknown.why);
    }
    out
}

fn scheduler(report: &Report<'_>, out: &mut String) {
    let (stats, s, t) = (&report.stats, &report.stats.scheduler, &report.stats.threads);
    let cpus = report.cpu_limit.map_or_else(String::new, |limit| {
        let quota = limit.quota.map_or_else(|| "no quota".to_owned(), |quota| format!("quota {quota:.2}"));
        format!(" (CPUs: {} by affinity, {quota})", limit.affinity)
    });
    line!(out, "\nscheduler    GOMAXPROCS {}{cpus}, {} idle", s.processors.len(), s.idle_ps);
    line!(
        out,
        "             runnable {}: {} in queues of Ps, {} in the global one; {} threads look for work",
        s.runnable(),
        s.runnable().saturating_sub(s.global_run_queue),
        s.global_run_queue,
        s.spinning
    );
    let mut busy: Vec<_> =
        s.processors.iter().filter(|p| p.state != PState::Idle || p.run_queue != 0).collect();
    busy.sort_by_key(|p| std::cmp::Reverse(p.run_queue));
    let shown: Vec<String> = busy
        .iter()
        .take(SHOWN_PS)
        .map(|p| {
            let worker = p.gc_worker.map_or_else(String::new, |kind| format!(", GC {kind}"));
            format!("P{} {}, queue {}{worker}", p.id, p.state.name(), p.run_queue)
        })
        .collect();
    if !shown.is_empty() {
        let more = busy.len().saturating_sub(SHOWN_PS);
        let more = if more == 0 { String::new() } else { format!("; {more} more") };
        line!(out, "             {}{more}", shown.join("; "));
    }
    if let Some(latency) = &stats.schedule_latency {
        line!(out, "             runnable to running: {}", quantiles(latency));
    }
    let g = &stats.goroutines;
    let by_status: Vec<String> =
        g.by_status.iter().map(|(status, count)| format!("{count} {}", status.name())).collect();
    line!(
        out,
        "goroutines   {} and {} of the runtime: {}",
        g.user,
        g.all.saturating_sub(g.user),
        by_status.join(", ")
    );
    let calls = t.cgo_calls.map_or_else(|| "?".to_owned(), |calls| calls.to_string());
    line!(
        out,
        "threads      {} ({} made, {} ended), {} idle, {} in C ({calls} calls into C so far)",
        t.total,
        t.created,
        t.ended,
        t.idle,
        t.in_cgo
    );
    if let Some(waited) = t.lock_wait_ns.filter(|waited| *waited != 0) {
        line!(out, "             waited for mutexes: {} in all", duration(waited));
    }
}

/// Bounds of a half and of all but a hundredth.
fn quantiles(histogram: &Histogram) -> String {
    let bound =
        |share: f64| histogram.below(share).map_or_else(|| "more than can be told".to_owned(), duration);
    match histogram.count() {
        0 => "none yet".to_owned(),
        1 => format!("one, below {}", bound(1.0)),
        count => format!("half below {}, 99 % below {} ({count} measured)", bound(0.5), bound(0.99)),
    }
}

fn gc(report: &Report<'_>, out: &mut String) {
    let gc = &report.stats.collector;
    let ago = if gc.last_end_ns == 0 {
        "none has ended yet".to_owned()
    } else {
        format!("the last ended {} ago", duration(report.stats.taken_ns.saturating_sub(gc.last_end_ns)))
    };
    line!(
        out,
        "\nGC           {}; {} cycles, {} of them forced; {ago}",
        match gc.phase {
            Phase::Off => "not in a cycle",
            phase => phase.name(),
        },
        gc.cycles,
        gc.forced
    );
    let gogc = if gc.gogc < 0 { "off".to_owned() } else { gc.gogc.to_string() };
    let limit = match gc.memory_limit {
        Some(limit) if limit != i64::MAX => format!("GOMEMLIMIT {}", bytes(limit.unsigned_abs())),
        Some(_) => "no GOMEMLIMIT".to_owned(),
        None => "Go has no GOMEMLIMIT before 1.19".to_owned(),
    };
    line!(out, "             GOGC {gogc}, {limit}");
    let known = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), bytes_or_off);
    line!(
        out,
        "             heap {} now, next cycle at {}, goal {}",
        bytes(gc.heap_live),
        known(gc.trigger),
        known(gc.goal)
    );
    if let (Some(cpu), Some(share)) = (&gc.cpu, gc.cpu.and_then(|cpu| cpu.gc_share())) {
        line!(
            out,
            "             {:.1} % of the CPU time in use: assists {}, workers {}, idle workers {}, pauses {}",
            share * 100.0,
            duration(cpu.gc_assist),
            duration(cpu.gc_dedicated),
            duration(cpu.gc_idle),
            duration(cpu.gc_pause)
        );
    } else if let Some(fraction) = gc.cpu_fraction {
        line!(out, "             {:.1} % of the CPU time that there was", fraction * 100.0);
    }
    if let Some(last) = gc.pauses.first() {
        let longest = gc.pauses.iter().map(|pause| pause.ns).max().unwrap_or(0);
        line!(
            out,
            "             stopped the world for {} in all; last cycle {}, longest of the last {} {}",
            duration(gc.pause_total_ns),
            duration(last.ns),
            gc.pauses.len(),
            duration(longest)
        );
    }
    if let Some(other) = report.stats.pauses.other_total.as_ref().filter(|other| other.count() != 0) {
        line!(out, "             other stops of the world: {}", quantiles(other));
    }
}

/// A heap goal without a bound is the largest number that there is.
fn bytes_or_off(value: u64) -> String {
    if value >= 1 << 60 { "never".to_owned() } else { bytes(value) }
}

fn memory(report: &Report<'_>, out: &mut String) {
    let process = report.memory.map_or_else(
        || "how much is in RAM is not known".to_owned(),
        |memory| {
            let swap = if memory.swap == 0 {
                String::new()
            } else {
                format!(", {} swapped out", bytes(memory.swap))
            };
            format!(
                "{} in RAM: {} anonymous, {} of files{swap}",
                bytes(memory.rss),
                bytes(memory.anon),
                bytes(memory.file + memory.shmem)
            )
        },
    );
    line!(out, "\nmemory       {process}");
    let Some(heap) = &report.stats.heap else { return };
    let marked = report.stats.collector.heap_marked;
    let mut row = |amount: String, what: &str| line!(out, "             {amount:>12}  {what}");
    row(bytes(heap.ready()), "held by Go, of which");
    row(bytes(heap.objects.min(marked)), "  objects that the last GC cycle found live");
    row(bytes(heap.objects.saturating_sub(marked)), "  objects made since, or dead and not swept yet");
    row(bytes(heap.unused), "  free slots between objects (fragmentation)");
    row(bytes(heap.stacks), "  goroutine stacks");
    row(bytes(heap.free), "  free, not given back yet");
    row(bytes(heap.own()), "  the runtime's own");
    if let Some(memory) = report.memory {
        match memory.anon.checked_sub(heap.ready()) {
            Some(other) => row(bytes(other), "at least, not held by Go: C code, or mapped by hand"),
            None => row(
                bytes(heap.ready() - memory.anon),
                "at least, of what Go holds is not in RAM: never touched, or swapped out",
            ),
        }
    }
    row(bytes(heap.released), "given back to the system: address space alone");
    line!(
        out,
        "             {} objects; {} allocated and {} freed since the start",
        heap.count(),
        bytes(heap.allocated_bytes),
        bytes(heap.freed_bytes)
    );
}

fn queues(report: &Report<'_>, out: &mut String) {
    let stats = &report.stats;
    let known = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let next = stats.scheduler.processors.iter().filter_map(|p| p.next_timer_ns).min();
    let next = next.map_or_else(String::new, |due| {
        format!(" (next in {})", duration(due.saturating_sub(stats.taken_ns)))
    });
    let cleanups = stats
        .cleanups
        .map_or_else(String::new, |cleanups| format!(", {} cleanups waiting", cleanups.waiting()));
    line!(
        out,
        "\nqueues       {} timers{next}, {} finalizers waiting{cleanups}",
        known(stats.scheduler.timers()),
        known(stats.finalizers.waiting)
    );
}
