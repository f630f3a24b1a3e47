//! Every figure that the Go runtime keeps of itself, read from its memory: what `runtime/metrics`, `runtime.MemStats`
//! and `GODEBUG=schedtrace` would say inside of the process, and what they don't tell.
//!
//! Nothing is locked or stopped for it, so figures that belong together may be some microseconds apart; where the
//! runtime itself takes care of that (the heap's statistics), so does this.

mod collector;
mod heap;
mod histogram;
mod metrics;
mod plausible;
mod population;
mod queues;
mod rates;
mod scheduler;
mod words;

pub use collector::{Collector, CpuTimes, MarkTimes, Pause, Phase};
pub use heap::{Heap, LARGEST_SMALL, SIZE_CLASSES, SizeClass};
pub use histogram::{Bucket, Histogram};
pub use metrics::{Agreement, METRICS, Metric, Scale, markdown};
pub use population::Population;
pub use queues::{Cleanups, Finalizers};
pub use rates::Rates;
pub use scheduler::{PState, Processor, Scheduler, Threads};

use self::plausible::Trusted;
use super::monotonic_ns;
use super::reader::Reader;
use super::runtime::{Runtime, RuntimeError};

/// A figure, or several, that can't be had of this process, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// What is left out, by its name in the JSON.
    pub what: &'static str,
    /// Why.
    pub why: String,
}

/// All of it at one moment.
#[derive(Clone, Debug)]
pub struct Stats {
    /// When it was read, `CLOCK_MONOTONIC` ns; of a core file as [`Runtime::now_ns`].
    pub taken_ns: u64,
    /// How long that took.
    pub took_ns: u64,
    /// Ps and queues.
    pub scheduler: Scheduler,
    /// Ms, which are threads.
    pub threads: Threads,
    /// Goroutines by status.
    pub goroutines: Population,
    /// The garbage collector.
    pub collector: Collector,
    /// Memory that Go has, and what for; `None` if the statistics of the heap can't be read.
    pub heap: Option<Heap>,
    /// Bytes of a new goroutine's stack (Go 1.19 on).
    pub starting_stack: Option<u32>,
    /// Time from runnable to running, of one goroutine in eight.
    pub schedule_latency: Option<Histogram>,
    /// Stops of the world.
    pub pauses: Pauses,
    /// Finalizers that wait and have run.
    pub finalizers: Finalizers,
    /// Cleanups that wait and have run (Go 1.25 on).
    pub cleanups: Option<Cleanups>,
    /// What is left out.
    pub unknown: Vec<Unknown>,
}

/// Histograms of stops of the world. To Go 1.21 there is only that of whole pauses for the collector.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// Time to stop, for the collector.
    pub gc_stopping: Option<Histogram>,
    /// Time until the world ran again, for the collector. To Go 1.21 without the time to stop it.
    pub gc_total: Option<Histogram>,
    /// Time to stop, for anything else.
    pub other_stopping: Option<Histogram>,
    /// Time until the world ran again, for anything else.
    pub other_total: Option<Histogram>,
}

impl<R: Reader> Runtime<'_, R> {
    /// Reads everything.
    ///
    /// # Errors
    /// [`RuntimeError::Read`], with `Gone` if the process ends meanwhile. What can't be had of this program is no
    /// error: it is named in [`Stats::unknown`].
    pub fn stats(&self) -> Result<Stats, RuntimeError> {
        let (taken_ns, begun_ns) = (self.now_ns(), monotonic_ns());
        let mut unknown = Vec::new();
        let trusted = Trusted::check(self, &mut unknown)?;
        let scheduler = self.scheduler()?;
        let threads = self.threads(&trusted)?;
        let goroutines = self.population(&scheduler)?;
        let collector = self.collector(&trusted)?;
        let heap = self.heap(&trusted, &mut unknown)?;
        let layout = self.binary.layout();
        let (sched, memstats) = (self.binary.globals().sched, self.binary.globals().memstats);
        let of_sched = |offset: Option<u32>| self.time_histogram(sched, offset);
        let pauses = Pauses {
            gc_stopping: of_sched(layout.sched.stw_stopping_time_gc)?,
            gc_total: match layout.sched.stw_total_time_gc {
                Some(offset) => of_sched(Some(offset))?,
                None => self.time_histogram(memstats, layout.memstats.gc_pause_dist)?,
            },
            other_stopping: of_sched(layout.sched.stw_stopping_time_other)?,
            other_total: of_sched(layout.sched.stw_total_time_other)?,
        };
        let schedule_latency = of_sched(layout.sched.time_to_run)?;
        for (what, histogram) in [
            ("histograms.schedule_latency", &schedule_latency),
            ("histograms.gc_pause_total", &pauses.gc_total),
        ] {
            if histogram.is_none() {
                unknown.push(Unknown {
                    what,
                    why: "the layout of this program's histograms is not one of those that are known"
                        .to_owned(),
                });
            }
        }
        let finalizers = self.finalizers(&trusted)?;
        let cleanups = self.cleanups(&trusted, &scheduler)?;
        Ok(Stats {
            taken_ns,
            took_ns: monotonic_ns().saturating_sub(begun_ns),
            scheduler,
            threads,
            goroutines,
            collector,
            heap,
            starting_stack: self.word(trusted.statistics.starting_stack_size)?.map(words::low),
            schedule_latency,
            pauses,
            finalizers,
            cleanups,
            unknown,
        })
    }
}
