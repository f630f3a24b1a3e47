//! Finalizers and cleanups: what waits to be run, and what has.

use super::super::reader::Reader;
use super::super::runtime::{Runtime, RuntimeError};
use super::plausible::{MOST_IN_BLOCK, Trusted};
use super::scheduler::Scheduler;
use super::words::low;

/// Blocks of finalizers that are looked at, of about 100 each; longer queues are told to be at least so long.
const MOST_BLOCKS: usize = 1 << 16;

/// Finalizers (`runtime.SetFinalizer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finalizers {
    /// Waiting to be run; without those that the goroutine which runs them has already taken (to Go 1.24).
    pub waiting: Option<u64>,
    /// Put into the queue so far (Go 1.25 on).
    pub queued: Option<u64>,
    /// Run so far (Go 1.25 on).
    pub executed: Option<u64>,
}

/// Cleanups (`runtime.AddCleanup`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleanups {
    /// Put into the queue so far.
    pub queued: u64,
    /// Run so far.
    pub executed: u64,
    /// Goroutines that run them.
    pub goroutines: u32,
    /// Those of them that run one now.
    pub running: u32,
}

impl Cleanups {
    /// Waiting to be run, or being run.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.queued.saturating_sub(self.executed)
    }
}

impl<R: Reader> Runtime<'_, R> {
    pub(super) fn finalizers(&self, trusted: &Trusted) -> Result<Finalizers, RuntimeError> {
        let statistics = &trusted.statistics;
        // In this order: those that have run were queued before.
        let executed = self.word(statistics.finexecuted)?;
        let queued = self.word(statistics.finqueued)?;
        let waiting = match (queued, executed) {
            (Some(queued), Some(executed)) => Some(queued.saturating_sub(executed)),
            _ => self.finalizer_queue(statistics.finq)?,
        };
        Ok(Finalizers { waiting, queued, executed })
    }

    /// The blocks from `runtime.finq` on.
    fn finalizer_queue(&self, finq: Option<u64>) -> Result<Option<u64>, RuntimeError> {
        let layout = &self.binary.layout().finblock;
        let (Some(_), Some(_)) = (layout.next, layout.cnt) else { return Ok(None) };
        let Some(mut block) = self.word(finq)? else { return Ok(None) };
        let mut sum = 0_u64;
        for _ in 0..MOST_BLOCKS {
            if block == 0 {
                break;
            }
            let [next, count] = self.words_at(block, [layout.next, layout.cnt])?;
            let (Some(next), Some(count)) = (next, count) else { break };
            sum += u64::from(low(count).min(MOST_IN_BLOCK));
            block = next;
        }
        Ok(Some(sum))
    }

    pub(super) fn cleanups(
        &self,
        trusted: &Trusted,
        scheduler: &Scheduler,
    ) -> Result<Option<Cleanups>, RuntimeError> {
        let c = &self.binary.layout().cleanups;
        let words =
            self.words(trusted.statistics.cleanups, [c.executed, c.queued, c.goroutines, c.running])?;
        let [Some(executed), Some(queued), Some(goroutines), Some(running)] = words else { return Ok(None) };
        let on_ps = |sum: u64, p: &super::Processor| Some(sum.wrapping_add(p.cleanups_queued?));
        let Some(queued) = scheduler.processors.iter().try_fold(queued, on_ps) else { return Ok(None) };
        Ok(Some(Cleanups { queued, executed, goroutines: low(goroutines), running: low(running) }))
    }
}
