//! What happened between two readings.

use super::{CpuTimes, Histogram, Stats};

/// Differences of two readings, and the time between them.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Time between the two, in ns.
    pub interval_ns: u64,
    /// Bytes of objects allocated.
    pub allocated_bytes: Option<u64>,
    /// Objects allocated.
    pub allocs: Option<u64>,
    /// Bytes of objects freed; they are, when a span is swept.
    pub freed_bytes: Option<u64>,
    /// GC cycles completed.
    pub cycles: u32,
    /// Of these, asked for by the program.
    pub forced: u32,
    /// Pauses of those cycles in ns.
    pub pause_ns: u64,
    /// CPU times, which move at the end of a cycle only: they cover the time between the ends of two. `None` without
    /// a cycle in between.
    pub cpu: Option<CpuTimes>,
    /// Goroutines created (Go 1.26 on).
    pub created: Option<u64>,
    /// Threads made.
    pub threads_created: u64,
    /// Calls into C.
    pub cgo_calls: Option<u64>,
    /// Time that goroutines and threads waited for locks, in ns (Go 1.20 on).
    pub lock_wait_ns: Option<u64>,
    /// Time from runnable to running.
    pub schedule_latency: Option<Histogram>,
}

impl Rates {
    /// What happened between an earlier and a later reading of the same process.
    #[must_use]
    pub fn between(earlier: &Stats, later: &Stats) -> Self {
        fn gain(earlier: Option<u64>, later: Option<u64>) -> Option<u64> {
            Some(later?.saturating_sub(earlier?))
        }
        let heap =
            |of: fn(&super::Heap) -> u64| gain(earlier.heap.as_ref().map(of), later.heap.as_ref().map(of));
        let cycles = later.collector.cycles.wrapping_sub(earlier.collector.cycles);
        let cpu = later.collector.cpu.zip(earlier.collector.cpu).filter(|_| cycles != 0);
        Self {
            interval_ns: later.taken_ns.saturating_sub(earlier.taken_ns),
            allocated_bytes: heap(|heap| heap.allocated_bytes),
            allocs: heap(|heap| heap.allocs),
            freed_bytes: heap(|heap| heap.freed_bytes),
            cycles,
            forced: later.collector.forced.wrapping_sub(earlier.collector.forced),
            pause_ns: later.collector.pause_total_ns.saturating_sub(earlier.collector.pause_total_ns),
            cpu: cpu.map(|(later, earlier)| later.since(&earlier)),
            created: gain(earlier.scheduler.created, later.scheduler.created),
            threads_created: later.threads.created.saturating_sub(earlier.threads.created),
            cgo_calls: gain(earlier.threads.cgo_calls, later.threads.cgo_calls),
            lock_wait_ns: gain(earlier.threads.lock_wait_ns, later.threads.lock_wait_ns),
            schedule_latency: later
                .schedule_latency
                .as_ref()
                .zip(earlier.schedule_latency.as_ref())
                .map(|(later, earlier)| later.since(earlier)),
        }
    }

    /// A count for each second.
    #[must_use]
    pub fn per_second(&self, count: u64) -> f64 {
        if self.interval_ns == 0 { 0.0 } else { count as f64 * 1e9 / self.interval_ns as f64 }
    }
}
