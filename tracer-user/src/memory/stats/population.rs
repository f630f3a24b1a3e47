//! How many goroutines there are, by status.

use std::collections::BTreeMap;

use super::super::goroutine::Status;
use super::super::reader::{Reader, field, u32_at};
use super::super::runtime::{Runtime, RuntimeError};
use super::scheduler::{PState, Scheduler};
use super::words::low;

/// Goroutines that are looked at with one call of ours.
const BATCH: usize = 1 << 16;

/// Goroutines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Population {
    /// All, the runtime's own included.
    pub all: u64,
    /// Those of the program: without those that the runtime counts as its own. What `runtime.NumGoroutine` says.
    pub user: u64,
    /// By status, one by one; dead ones that are kept for reuse are left out.
    pub by_status: BTreeMap<Status, u64>,
    /// Running, as the scheduler sees it: Ps with a goroutine that executes Go code.
    pub running: u64,
    /// On run queues.
    pub runnable: u64,
    /// In system calls or C code; `None` if the runtime does not count those without a P (to Go 1.25).
    pub not_in_go: Option<u64>,
    /// The rest.
    pub waiting: Option<u64>,
}

impl<R: Reader> Runtime<'_, R> {
    /// Counts as the runtime does (`gcount` and `schedStatsAggregate.compute`).
    pub(super) fn population(&self, scheduler: &Scheduler) -> Result<Population, RuntimeError> {
        let layout = self.binary.layout();
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let mut by_status = BTreeMap::new();
        for chunk in self.pointers(at, len)?.chunks(BATCH) {
            let parts: Vec<(u64, usize)> =
                chunk.iter().map(|g| (field(*g, layout.g.atomicstatus), 4)).collect();
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            for (word, _) in bytes.chunks_exact(4).zip(read).filter(|(_, read)| *read) {
                let status = Status::from_word(u32_at(word, 0));
                if status.is_alive() {
                    *by_status.entry(status).or_insert(0) += 1;
                }
            }
        }
        let [system] = self.words(Some(self.binary.globals().sched), [Some(layout.sched.ngsys)])?;
        let free = scheduler.processors.iter().fold(scheduler.free, |sum, p| sum.saturating_add(p.free));
        let all = len.saturating_sub(free);
        let held = |what: bool| {
            let is = |p: &&super::Processor| p.state == PState::Running && p.in_syscall == what;
            scheduler.processors.iter().filter(is).count() as u64
        };
        let (running, runnable) = (held(false), scheduler.runnable());
        let not_in_go = scheduler.syscall_no_p.map(|without| without.saturating_add(held(true)));
        Ok(Population {
            all,
            user: all.saturating_sub(u64::from(low(system.unwrap_or(0)))).max(1),
            by_status,
            running,
            runnable,
            not_in_go,
            waiting: not_in_go
                .map(|other| all.saturating_sub(running).saturating_sub(runnable).saturating_sub(other)),
        })
    }
}
