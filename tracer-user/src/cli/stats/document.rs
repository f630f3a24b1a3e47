//! The JSON of `gotrail stats`: `gotrail.stats/1`, as `docs/stats.md` tells it. Units are in the names; what can't be
//! known is `null`, and `unknown` says why.

use gotrail::memory::stats::{Histogram, Rates};
use serde_json::{Map, Value, json};

use super::Report;
use crate::cli::json::wall;

pub(super) fn of(report: &Report<'_>) -> Value {
    let stats = &report.stats;
    let mut document = json!({
        "schema": "gotrail.stats/1",
        "pid": report.subject.pid(),
        "command": report.subject.command(),
        "go_version": report.binary.version().to_string(),
        "layout_source": report.binary.layout_source().to_string(),
        "time": wall(stats.taken_ns),
        "took_ns": stats.took_ns,
        "scheduler": scheduler(report),
        "threads": threads(report),
        "goroutines": goroutines(report),
        "gc": gc(report),
        "memory": memory(report),
        "histograms": histograms(report),
        "finalizers": {
            "waiting": stats.finalizers.waiting,
            "queued": stats.finalizers.queued,
            "executed": stats.finalizers.executed,
        },
        "cleanups": stats.cleanups.map(|cleanups| json!({
            "waiting": cleanups.waiting(),
            "queued": cleanups.queued,
            "executed": cleanups.executed,
            "goroutines": cleanups.goroutines,
            "running": cleanups.running,
        })),
        "remarks": report.remarks().iter().map(|remark| json!({
            "id": remark.id,
            "text": remark.text,
        })).collect::<Vec<_>>(),
        "unknown": stats.unknown.iter().map(|unknown| json!({
            "what": unknown.what,
            "why": unknown.why,
        })).collect::<Vec<_>>(),
    });
    if let (Some(rates), Some(object)) = (&report.rates, document.as_object_mut()) {
        object.insert("interval".to_owned(), interval(rates));
    }
    document
}

fn scheduler(report: &Report<'_>) -> Value {
    let (stats, s) = (&report.stats, &report.stats.scheduler);
    let now = stats.taken_ns;
    let processors: Vec<Value> = s
        .processors
        .iter()
        .map(|p| {
            json!({
                "id": p.id,
                "state": p.state.name(),
                "run_queue": p.run_queue,
                "timers": p.timers,
                "timers_stopped": p.timers_stopped,
                "next_timer_in_ns": p.next_timer_ns.map(|due| due.saturating_sub(now)),
                "gc_worker": p.gc_worker,
                "ticks": p.ticks,
            })
        })
        .collect();
    json!({
        "gomaxprocs": s.processors.len(),
        "gomaxprocs_by_hand": s.custom_gomaxprocs,
        "cpus": report.cpu_limit.map(|limit| json!({
            "affinity": limit.affinity,
            "quota": limit.quota,
            "usable": limit.usable(),
        })),
        "idle_ps": s.idle_ps,
        "spinning_threads": s.spinning,
        "run_queue_global": s.global_run_queue,
        "run_queue_total": s.runnable(),
        "timers": s.timers(),
        "sysmon_sleeps": s.sysmon_sleeps,
        "stop_wanted": s.stop_wanted,
        "processors": processors,
    })
}

fn threads(report: &Report<'_>) -> Value {
    let t = &report.stats.threads;
    json!({
        "total": t.total,
        "go": t.of_go,
        "created": t.created,
        "ended": t.ended,
        "idle": t.idle,
        "idle_locked": t.idle_locked,
        "in_cgo": t.in_cgo,
        "cgo_calls": t.cgo_calls,
        "lock_wait_ns": t.lock_wait_ns,
    })
}

fn goroutines(report: &Report<'_>) -> Value {
    let g = &report.stats.goroutines;
    let by_status: Map<String, Value> =
        g.by_status.iter().map(|(status, count)| (status.name().to_owned(), json!(count))).collect();
    json!({
        "all": g.all,
        "user": g.user,
        "created": report.stats.scheduler.created,
        "running": g.running,
        "runnable": g.runnable,
        "not_in_go": g.not_in_go,
        "waiting": g.waiting,
        "by_status": by_status,
    })
}

fn gc(report: &Report<'_>) -> Value {
    let gc = &report.stats.collector;
    let now = report.stats.taken_ns;
    let total = |a: Option<u64>, b: Option<u64>, c: Option<u64>| Some(a?.wrapping_add(b?).wrapping_add(c?));
    json!({
        "phase": gc.phase.name(),
        "cycles": gc.cycles,
        "cycles_forced": gc.forced,
        "cycles_automatic": gc.cycles.wrapping_sub(gc.forced),
        "forced_now": gc.forced_now,
        "gogc_percent": gc.gogc,
        "memory_limit_bytes": gc.memory_limit,
        "heap_live_bytes": gc.heap_live,
        "heap_marked_bytes": gc.heap_marked,
        "goal_bytes": gc.goal,
        "goal_by_memory_limit": gc.limited,
        "trigger_bytes": gc.trigger,
        "scan": {
            "heap_bytes": gc.scan_heap,
            "stack_bytes": gc.scan_stack,
            "globals_bytes": gc.scan_globals,
            "total_bytes": total(gc.scan_heap, gc.scan_stack, gc.scan_globals),
        },
        "last_end_ago_ns": (gc.last_end_ns != 0).then(|| now.saturating_sub(gc.last_end_ns)),
        "pause_total_ns": gc.pause_total_ns,
        "pauses": gc.pauses.iter().map(|pause| json!({
            "ns": pause.ns,
            "ended_unix_ns": pause.ended_unix_ns,
        })).collect::<Vec<_>>(),
        "cpu_fraction": gc.cpu_fraction,
        "cycle_cpu": {
            "assist_ns": gc.mark.assist,
            "dedicated_ns": gc.mark.dedicated,
            "fractional_ns": gc.mark.fractional,
            "idle_ns": gc.mark.idle,
        },
        "cpu": gc.cpu.as_ref().map(cpu),
        "limiter": {
            "on": gc.limiter_on,
            "last_cycle": gc.limiter_last_cycle,
        },
    })
}

fn cpu(cpu: &gotrail::memory::stats::CpuTimes) -> Value {
    json!({
        "gc_assist_ns": cpu.gc_assist,
        "gc_dedicated_ns": cpu.gc_dedicated,
        "gc_idle_ns": cpu.gc_idle,
        "gc_pause_ns": cpu.gc_pause,
        "gc_total_ns": cpu.gc_total,
        "scavenge_assist_ns": cpu.scavenge_assist,
        "scavenge_background_ns": cpu.scavenge_background,
        "scavenge_total_ns": cpu.scavenge_total,
        "idle_ns": cpu.idle,
        "user_ns": cpu.user,
        "total_ns": cpu.total,
        "gc_share": cpu.gc_share(),
    })
}

fn memory(report: &Report<'_>) -> Value {
    let process = report.memory.map(|memory| {
        json!({
            "rss_bytes": memory.rss,
            "anon_bytes": memory.anon,
            "file_bytes": memory.file,
            "shmem_bytes": memory.shmem,
            "swap_bytes": memory.swap,
        })
    });
    let Some(heap) = &report.stats.heap else { return json!({ "process": process }) };
    let halves = |pair: Option<(u64, u64)>| {
        pair.map(|(used, spare)| json!({ "inuse_bytes": used, "free_bytes": spare }))
    };
    json!({
        "objects_bytes": heap.objects,
        "not_marked_bytes": heap.objects.saturating_sub(report.stats.collector.heap_marked),
        "unused_bytes": heap.unused,
        "free_bytes": heap.free,
        "released_bytes": heap.released,
        "stacks_bytes": heap.stacks,
        "os_stacks_bytes": heap.os_stacks,
        "mspan": halves(heap.mspan),
        "mcache": halves(heap.mcache),
        "gc_metadata_bytes": heap.gc_metadata,
        "profile_buckets_bytes": heap.profile_buckets,
        "other_bytes": heap.other,
        "runtime_bytes": heap.own(),
        "total_bytes": heap.total,
        "ready_bytes": heap.ready(),
        "not_go_at_least_bytes": report.memory.map(|memory| memory.anon.saturating_sub(heap.ready())),
        "process": process,
        "objects": heap.count(),
        "allocs": heap.allocs,
        "frees": heap.frees,
        "tiny_allocs": heap.tiny_allocs,
        "allocated_bytes": heap.allocated_bytes,
        "freed_bytes": heap.freed_bytes,
        "starting_stack_bytes": report.stats.starting_stack,
    })
}

fn histograms(report: &Report<'_>) -> Value {
    let (stats, pauses) = (&report.stats, &report.stats.pauses);
    let times = |histogram: &Option<Histogram>| histogram.as_ref().map(of_times);
    let heap = stats.heap.as_ref();
    json!({
        "schedule_latency": times(&stats.schedule_latency),
        "gc_pause_stopping": times(&pauses.gc_stopping),
        "gc_pause_total": times(&pauses.gc_total),
        "other_pause_stopping": times(&pauses.other_stopping),
        "other_pause_total": times(&pauses.other_total),
        "allocs_by_size": heap.map(|heap| buckets(&heap.allocs_by_size(), "bytes")),
        "frees_by_size": heap.map(|heap| buckets(&heap.frees_by_size(), "bytes")),
    })
}

fn of_times(histogram: &Histogram) -> Value {
    let mut value = buckets(histogram, "ns");
    if let Some(object) = value.as_object_mut() {
        for (name, share) in [("p50_below_ns", 0.5), ("p90_below_ns", 0.9), ("p99_below_ns", 0.99)] {
            object.insert(name.to_owned(), json!(histogram.below(share)));
        }
    }
    value
}

/// Only what is in them: the empty ones are many.
fn buckets(histogram: &Histogram, unit: &str) -> Value {
    let buckets: Vec<Value> = histogram
        .buckets()
        .iter()
        .filter(|bucket| bucket.count != 0)
        .map(|bucket| {
            let mut object = Map::new();
            object.insert(format!("from_{unit}"), json!(bucket.from));
            object.insert(format!("to_{unit}"), json!(bucket.to));
            object.insert("count".to_owned(), json!(bucket.count));
            Value::Object(object)
        })
        .collect();
    json!({ "count": histogram.count(), "buckets": buckets })
}

fn interval(rates: &Rates) -> Value {
    let each = |count: Option<u64>| count.map(|count| rates.per_second(count));
    json!({
        "interval_ns": rates.interval_ns,
        "allocated_bytes_per_s": each(rates.allocated_bytes),
        "allocs_per_s": each(rates.allocs),
        "freed_bytes_per_s": each(rates.freed_bytes),
        "gc_cycles": rates.cycles,
        "gc_cycles_forced": rates.forced,
        "gc_pause_ns": rates.pause_ns,
        "gc_cpu": rates.cpu.as_ref().map(cpu),
        "goroutines_created_per_s": each(rates.created),
        "threads_created": rates.threads_created,
        "cgo_calls_per_s": each(rates.cgo_calls),
        "lock_wait_ns": rates.lock_wait_ns,
        "schedule_latency": rates.schedule_latency.as_ref().map(of_times),
    })
}
