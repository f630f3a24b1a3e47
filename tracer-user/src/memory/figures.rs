//! Scheduler and GC figures of the runtime, read in one go.

use super::reader::{Reader, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};

/// The runtime's own figures at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Ps: GOMAXPROCS.
    pub gomaxprocs: u32,
    /// Idle Ps.
    pub idle_ps: u32,
    /// Goroutines in the global run queue.
    pub global_run_queue: u64,
    /// `debug.SetGCPercent`'s value, -1 if off.
    pub gc_percent: i32,
    /// `debug.SetMemoryLimit`'s value in bytes, `i64::MAX` if none; `None` before Go 1.19.
    pub memory_limit: Option<i64>,
    /// Live heap in bytes as of the last mark, plus what was allocated since.
    pub heap_live: u64,
    /// Bytes marked by the last cycle.
    pub heap_marked: u64,
    /// GC cycles completed.
    pub gc_cycles: u32,
    /// Of these, forced by the program.
    pub forced_gc_cycles: u32,
    /// Sum of GC pauses in nanoseconds.
    pub pause_total_ns: u64,
    /// End of the last cycle, `CLOCK_MONOTONIC` ns; 0 if none.
    pub last_gc_ns: u64,
}

/// Goroutine ids that a P takes at once (`_GoidCacheBatch`, runtime/proc.go, Go 1.18 to 1.27).
pub const GOID_BATCH: u64 = 16;

impl<R: Reader> Runtime<'_, R> {
    /// Reads how many goroutine ids the Ps have taken so far, [`GOID_BATCH`] at a time: creations, but for what each P
    /// still has left.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn goids(&self) -> Result<u64, RuntimeError> {
        // `goidgen` is the first field of `schedt` (runtime/runtime2.go, Go 1.18 to 1.27).
        let mut bytes = [0; 8];
        let at = self.global(self.binary.globals().sched);
        self.memory.read(at, &mut bytes).map_err(|e| self.read_error(e))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads the figures.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn figures(&self) -> Result<Figures, RuntimeError> {
        let layout = self.binary.layout();
        let globals = self.binary.globals();
        let structure = |linked: u64, last: u32| {
            let mut bytes = vec![0; last as usize + 8];
            self.memory.read(self.global(linked), &mut bytes).map_err(|e| self.read_error(e))?;
            Ok::<_, RuntimeError>(bytes)
        };
        let (_, gomaxprocs, _) = self.slice(globals.allp)?;
        let (s, gc, ms) = (&layout.sched, &layout.gc, &layout.memstats);
        let sched = structure(globals.sched, s.npidle.max(s.runq_size))?;
        let controller = structure(
            globals.gc_controller,
            gc.heap_live.max(gc.heap_marked).max(gc.memory_limit.unwrap_or(0)),
        )?;
        let memstats = structure(globals.memstats, ms.numgc.max(ms.numforcedgc).max(ms.last_gc_nanotime))?;
        Ok(Figures {
            gomaxprocs: u32::try_from(gomaxprocs).unwrap_or(u32::MAX),
            idle_ps: u32_at(&sched, s.npidle),
            global_run_queue: u64::from(u32_at(&sched, s.runq_size)),
            gc_percent: u32_at(&controller, gc.gc_percent).cast_signed(),
            memory_limit: gc.memory_limit.map(|at| u64_at(&controller, at).cast_signed()),
            heap_live: u64_at(&controller, gc.heap_live),
            heap_marked: u64_at(&controller, gc.heap_marked),
            gc_cycles: u32_at(&memstats, ms.numgc),
            forced_gc_cycles: u32_at(&memstats, ms.numforcedgc),
            pause_total_ns: u64_at(&memstats, ms.pause_total_ns),
            last_gc_ns: u64_at(&memstats, ms.last_gc_nanotime),
        })
    }
}
