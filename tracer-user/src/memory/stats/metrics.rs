//! Which figure of `runtime/metrics` is where in the JSON of `gotrail stats`: the one list that the tests compare by,
//! and of which the table in `docs/stats.md` is made.

use std::fmt::Write as _;

/// What the unit of a metric is in the JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// The same.
    Same,
    /// Seconds there, nanoseconds here.
    Nanoseconds,
}

/// How surely the two are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// In the same moment, equal.
    Equal,
    /// What it counts changes when a goroutine of the process reads it: that goroutine runs then.
    Moment,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name in `runtime/metrics`.
    pub name: &'static str,
    /// Where it is in the JSON, as a JSON pointer (RFC 6901).
    pub path: &'static str,
    /// The first minor version of Go in which it is that.
    pub first: u16,
    /// The last one; `None` if it still is.
    pub last: Option<u16>,
    /// Its unit here.
    pub scale: Scale,
    /// How surely they are equal.
    pub agreement: Agreement,
}

const fn metric(name: &'static str, path: &'static str, first: u16) -> Metric {
    Metric { name, path, first, last: None, scale: Scale::Same, agreement: Agreement::Equal }
}

impl Metric {
    const fn to(self, last: u16) -> Self {
        Self { last: Some(last), ..self }
    }

    const fn ns(self) -> Self {
        Self { scale: Scale::Nanoseconds, ..self }
    }

    const fn of_the_moment(self) -> Self {
        Self { agreement: Agreement::Moment, ..self }
    }

    /// Whether a minor version of Go has it so.
    #[must_use]
    pub fn is_of(&self, minor: u16) -> bool {
        self.first <= minor && self.last.is_none_or(|last| minor <= last)
    }
}

/// All that can be had; by the order of their names.
pub const METRICS: &[Metric] = &[
    metric("/cgo/go-to-c-calls:calls", "/threads/cgo_calls", 19),
    metric("/cpu/classes/gc/mark/assist:cpu-seconds", "/gc/cpu/gc_assist_ns", 20).ns(),
    metric("/cpu/classes/gc/mark/dedicated:cpu-seconds", "/gc/cpu/gc_dedicated_ns", 20).ns(),
    metric("/cpu/classes/gc/mark/idle:cpu-seconds", "/gc/cpu/gc_idle_ns", 20).ns(),
    metric("/cpu/classes/gc/pause:cpu-seconds", "/gc/cpu/gc_pause_ns", 20).ns(),
    metric("/cpu/classes/gc/total:cpu-seconds", "/gc/cpu/gc_total_ns", 20).ns(),
    metric("/cpu/classes/idle:cpu-seconds", "/gc/cpu/idle_ns", 20).ns(),
    metric("/cpu/classes/scavenge/assist:cpu-seconds", "/gc/cpu/scavenge_assist_ns", 20).ns(),
    metric("/cpu/classes/scavenge/background:cpu-seconds", "/gc/cpu/scavenge_background_ns", 20).ns(),
    metric("/cpu/classes/scavenge/total:cpu-seconds", "/gc/cpu/scavenge_total_ns", 20).ns(),
    metric("/cpu/classes/total:cpu-seconds", "/gc/cpu/total_ns", 20).ns(),
    metric("/cpu/classes/user:cpu-seconds", "/gc/cpu/user_ns", 20).ns(),
    metric("/gc/cleanups/executed:cleanups", "/cleanups/executed", 26),
    metric("/gc/cleanups/queued:cleanups", "/cleanups/queued", 26),
    metric("/gc/cycles/automatic:gc-cycles", "/gc/cycles_automatic", 18),
    metric("/gc/cycles/forced:gc-cycles", "/gc/cycles_forced", 18),
    metric("/gc/cycles/total:gc-cycles", "/gc/cycles", 18),
    metric("/gc/finalizers/executed:finalizers", "/finalizers/executed", 26),
    metric("/gc/finalizers/queued:finalizers", "/finalizers/queued", 26),
    metric("/gc/gogc:percent", "/gc/gogc_percent", 21),
    metric("/gc/gomemlimit:bytes", "/gc/memory_limit_bytes", 21),
    metric("/gc/heap/allocs-by-size:bytes", "/histograms/allocs_by_size", 18),
    metric("/gc/heap/allocs:bytes", "/memory/allocated_bytes", 18),
    metric("/gc/heap/allocs:objects", "/memory/allocs", 18),
    metric("/gc/heap/frees-by-size:bytes", "/histograms/frees_by_size", 18),
    metric("/gc/heap/frees:bytes", "/memory/freed_bytes", 18),
    metric("/gc/heap/frees:objects", "/memory/frees", 18),
    metric("/gc/heap/goal:bytes", "/gc/goal_bytes", 18),
    metric("/gc/heap/live:bytes", "/gc/heap_marked_bytes", 21),
    metric("/gc/heap/objects:objects", "/memory/objects", 18),
    metric("/gc/heap/tiny/allocs:objects", "/memory/tiny_allocs", 18),
    metric("/gc/limiter/last-enabled:gc-cycle", "/gc/limiter/last_cycle", 19),
    metric("/gc/pauses:seconds", "/histograms/gc_pause_total", 18).ns(),
    metric("/gc/scan/globals:bytes", "/gc/scan/globals_bytes", 21),
    metric("/gc/scan/heap:bytes", "/gc/scan/heap_bytes", 21),
    metric("/gc/scan/stack:bytes", "/gc/scan/stack_bytes", 21),
    metric("/gc/scan/total:bytes", "/gc/scan/total_bytes", 21),
    metric("/gc/stack/starting-size:bytes", "/memory/starting_stack_bytes", 19),
    metric("/memory/classes/heap/free:bytes", "/memory/free_bytes", 18),
    metric("/memory/classes/heap/objects:bytes", "/memory/objects_bytes", 18),
    metric("/memory/classes/heap/released:bytes", "/memory/released_bytes", 18),
    metric("/memory/classes/heap/stacks:bytes", "/memory/stacks_bytes", 18),
    metric("/memory/classes/heap/unused:bytes", "/memory/unused_bytes", 18),
    metric("/memory/classes/metadata/mcache/free:bytes", "/memory/mcache/free_bytes", 18),
    metric("/memory/classes/metadata/mcache/inuse:bytes", "/memory/mcache/inuse_bytes", 18),
    metric("/memory/classes/metadata/mspan/free:bytes", "/memory/mspan/free_bytes", 18),
    metric("/memory/classes/metadata/mspan/inuse:bytes", "/memory/mspan/inuse_bytes", 18),
    metric("/memory/classes/metadata/other:bytes", "/memory/gc_metadata_bytes", 18),
    metric("/memory/classes/os-stacks:bytes", "/memory/os_stacks_bytes", 18),
    metric("/memory/classes/other:bytes", "/memory/other_bytes", 18),
    metric("/memory/classes/profiling/buckets:bytes", "/memory/profile_buckets_bytes", 18),
    metric("/memory/classes/total:bytes", "/memory/total_bytes", 18),
    metric("/sched/gomaxprocs:threads", "/scheduler/gomaxprocs", 19),
    metric("/sched/goroutines-created:goroutines", "/goroutines/created", 26),
    metric("/sched/goroutines/not-in-go:goroutines", "/goroutines/not_in_go", 26).of_the_moment(),
    metric("/sched/goroutines/runnable:goroutines", "/goroutines/runnable", 26).of_the_moment(),
    metric("/sched/goroutines/running:goroutines", "/goroutines/running", 26).of_the_moment(),
    metric("/sched/goroutines/waiting:goroutines", "/goroutines/waiting", 26).of_the_moment(),
    metric("/sched/goroutines:goroutines", "/goroutines/user", 18).to(25),
    metric("/sched/goroutines:goroutines", "/goroutines/all", 26),
    metric("/sched/latencies:seconds", "/histograms/schedule_latency", 18).ns(),
    metric("/sched/pauses/stopping/gc:seconds", "/histograms/gc_pause_stopping", 22).ns(),
    metric("/sched/pauses/stopping/other:seconds", "/histograms/other_pause_stopping", 22).ns(),
    metric("/sched/pauses/total/gc:seconds", "/histograms/gc_pause_total", 22).ns(),
    metric("/sched/pauses/total/other:seconds", "/histograms/other_pause_total", 22).ns(),
    metric("/sched/threads/total:threads", "/threads/go", 26),
    metric("/sync/mutex/wait/total:seconds", "/threads/lock_wait_ns", 20).ns(),
];

/// The table as `docs/stats.md` has it.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from("| metric | in the JSON | Go | equal |\n|---|---|---|---|\n");
    for metric in METRICS {
        let path = metric.path.trim_start_matches('/').replace('/', ".");
        let last = metric.last.map_or_else(|| " on".to_owned(), |last| format!(" to 1.{last}"));
        let equal = match (metric.agreement, metric.scale) {
            (Agreement::Equal, Scale::Same) => "yes",
            (Agreement::Equal, Scale::Nanoseconds) => "yes, in ns",
            (Agreement::Moment, _) => "but for the goroutine that reads the metric, which runs then",
        };
        // A text in memory takes everything.
        let _ = writeln!(table, "| `{}` | `{path}` | 1.{}{last} | {equal} |", metric.name, metric.first);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_in_the_docs_is_this_one() {
        let docs = include_str!("../../../../docs/stats.md");
        assert!(
            docs.contains(&markdown()),
            "docs/stats.md is not current: run `cargo xtask metrics`, which writes the table there"
        );
    }

    #[test]
    fn each_metric_is_there_once_for_each_version() {
        for pair in METRICS.windows(2) {
            let (one, next) = (&pair[0], &pair[1]);
            assert!(one.name < next.name || one.last.is_some_and(|last| last < next.first), "{}", next.name);
        }
    }
}
