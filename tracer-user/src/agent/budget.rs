//! The cost of goroutine lifetimes is kept within the budget (COST-1): when creations and exits come so
//! often that their traps would cost more, they are taken off, and snapshots alone go on.

use std::time::{Duration, Instant};

use procfs::process::Process;

/// What one emulated trap costs the target, in nanoseconds: measured 780 on a guest, rounded up. Calibration
/// on the host at hand is not done yet.
pub const TRAP_NS: u64 = 1_000;

/// CPU time that is never worth demoting for: a tenth of a percent of one CPU.
const NEGLIGIBLE: f64 = 0.001;
/// Looks over which the cost must be over budget.
const PATIENCE: u32 = 2;

/// Why lifetimes were taken off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demotion {
    /// Hits a second at the time.
    pub hits_per_second: f64,
    /// Predicted loss as a share of the target's CPU time.
    pub predicted: f64,
    /// The budget, likewise.
    pub budget: f64,
}

/// Watches hit rates against the target's CPU time.
#[derive(Debug)]
pub(super) struct Budget {
    pid: u32,
    share: f64,
    last: Option<(Instant, u64, Duration)>,
    over: u32,
}

impl Budget {
    /// `share` is the part of the target's CPU time that may be lost.
    pub(super) const fn new(pid: u32, share: f64) -> Self {
        Self { pid, share, last: None, over: 0 }
    }

    /// Looks at the number of hits so far; says if it is too much.
    pub(super) fn look(&mut self, hits: u64) -> Option<Demotion> {
        let (now, cpu) = (Instant::now(), cpu_time(self.pid)?);
        let (then, hits_then, cpu_then) = self.last.replace((now, hits, cpu))?;
        let seconds = (now - then).as_secs_f64();
        let used = cpu.saturating_sub(cpu_then).as_secs_f64();
        let verdict = judge(hits.saturating_sub(hits_then), seconds, used, self.share);
        self.over = if verdict.is_some() { self.over + 1 } else { 0 };
        verdict.filter(|_| self.over >= PATIENCE)
    }
}

fn judge(hits: u64, seconds: f64, cpu_seconds: f64, share: f64) -> Option<Demotion> {
    if seconds <= 0.0 {
        return None;
    }
    let lost = hits as f64 * TRAP_NS as f64 / 1e9;
    if lost / seconds <= NEGLIGIBLE || lost <= share * cpu_seconds {
        return None;
    }
    let predicted = if cpu_seconds > 0.0 { lost / cpu_seconds } else { 1.0 };
    Some(Demotion { hits_per_second: hits as f64 / seconds, predicted, budget: share })
}

/// User and system time of a process.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let ticks = stat.utime + stat.stime;
    Some(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second().max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn cost_1_a_busy_spawner_is_over_budget() {
        let demotion = judge(200_000, 1.0, 1.0, 0.018).unwrap();
        assert!((demotion.predicted - 0.2).abs() < 1e-9);
        assert!((demotion.hits_per_second - 200_000.0).abs() < 1e-6);
    }

    #[test]
    fn cost_1_an_ordinary_server_is_within() {
        assert_eq!(judge(5_000, 1.0, 0.8, 0.018), None);
    }

    #[test]
    fn an_idle_process_is_not_judged_by_its_few_hits() {
        assert_eq!(judge(50, 1.0, 0.0, 0.018), None);
    }
}
