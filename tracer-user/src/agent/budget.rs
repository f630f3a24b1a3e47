//! The cost of probes is kept within the budget (COST-1): those that are hit so often that their traps would
//! cost more are taken off, and the others, and snapshots, go on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use procfs::process::Process;
use tracer_ebpf::Probe;

/// What one emulated trap with a small record costs the target, in nanoseconds: measured 780 on a guest,
/// rounded up. Calibration on the host at hand is not done yet.
pub const TRAP_NS: u64 = 1_000;
/// The same with a stack or a text in the record.
const TRAP_WITH_STACK_NS: u64 = 5_000;

/// CPU time that is never worth taking a probe off for: a tenth of a percent of one CPU.
const NEGLIGIBLE: f64 = 0.001;
/// Looks over which the cost must be over budget.
const PATIENCE: u32 = 2;

/// Probes that cost too much.
#[derive(Clone, Debug, PartialEq)]
pub struct Demotion {
    /// Which are taken off.
    pub probes: Vec<Probe>,
    /// Their hits a second at the time.
    pub hits_per_second: f64,
    /// Predicted loss by all probes as a share of the target's CPU time.
    pub predicted: f64,
    /// The budget, likewise.
    pub budget: f64,
}

/// What a hit of a probe costs the target, ns.
#[must_use]
pub const fn trap_ns(probe: Probe) -> u64 {
    match probe {
        Probe::Gopanic
        | Probe::Fatalpanic
        | Probe::Throw
        | Probe::Fatal
        | Probe::Sigpanic
        | Probe::StwStop
        | Probe::Procresize
        | Probe::ForcedGc
        | Probe::SetGcPercent => TRAP_WITH_STACK_NS,
        _ => TRAP_NS,
    }
}

/// Watches hit rates against the target's CPU time.
#[derive(Debug)]
pub(super) struct Budget {
    pid: u32,
    share: f64,
    last: Option<(Instant, Duration)>,
    hits: HashMap<Probe, u64>,
    over: u32,
}

impl Budget {
    /// `share` is the part of the target's CPU time that may be lost.
    pub(super) fn new(pid: u32, share: f64) -> Self {
        Self { pid, share, last: None, hits: HashMap::new(), over: 0 }
    }

    /// Looks at the hits of each probe so far; says if they are too many.
    pub(super) fn look(&mut self, hits: impl Iterator<Item = (Probe, u64)>) -> Option<Demotion> {
        let (now, cpu) = (Instant::now(), cpu_time(self.pid)?);
        let new: Vec<(Probe, u64)> = hits
            .map(|(probe, hits)| (probe, hits.saturating_sub(self.hits.insert(probe, hits).unwrap_or(0))))
            .collect();
        let (then, cpu_then) = self.last.replace((now, cpu))?;
        let seconds = (now - then).as_secs_f64();
        let used = cpu.saturating_sub(cpu_then).as_secs_f64();
        let verdict = judge(new, seconds, used, self.share);
        self.over = if verdict.is_some() { self.over + 1 } else { 0 };
        verdict.filter(|_| self.over >= PATIENCE)
    }
}

/// Takes the dearest probes until what is left is within the budget. Creation and exit go together: one
/// without the other says nothing.
fn judge(mut hits: Vec<(Probe, u64)>, seconds: f64, cpu_seconds: f64, share: f64) -> Option<Demotion> {
    if seconds <= 0.0 {
        return None;
    }
    let cost = |probe: Probe, hits: u64| (hits * trap_ns(probe)) as f64 / 1e9;
    let mut lost: f64 = hits.iter().map(|(probe, hits)| cost(*probe, *hits)).sum();
    let limit = (share * cpu_seconds).max(NEGLIGIBLE * seconds);
    if lost <= limit {
        return None;
    }
    let predicted = if cpu_seconds > 0.0 { lost / cpu_seconds } else { 1.0 };
    hits.sort_by(|(a, n), (b, m)| cost(*b, *m).total_cmp(&cost(*a, *n)));
    let mut dropped = Vec::new();
    let mut dropped_hits = 0;
    for &(probe, count) in &hits {
        let lifetime = |p: Probe| matches!(p, Probe::GoCreate | Probe::GoExit);
        if lost <= limit && !(lifetime(probe) && dropped.iter().copied().any(lifetime)) {
            continue;
        }
        dropped.push(probe);
        dropped_hits += count;
        lost -= cost(probe, count);
    }
    Some(Demotion {
        probes: dropped,
        hits_per_second: dropped_hits as f64 / seconds,
        predicted,
        budget: share,
    })
}

/// User and system time of a process.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = Process::new(i32::try_from(pid).ok()?).ok()?.stat().ok()?;
    let ticks = stat.utime + stat.stime;
    Some(Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second().max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_1_a_busy_spawner_loses_its_lifetimes_and_nothing_else() {
        let hits = vec![(Probe::GcStart, 10), (Probe::GoExit, 100_000), (Probe::GoCreate, 100_000)];
        let demotion = judge(hits, 1.0, 1.0, 0.018).unwrap();
        assert_eq!(demotion.probes, [Probe::GoExit, Probe::GoCreate]);
        assert!((demotion.predicted - 0.20001).abs() < 1e-9, "{}", demotion.predicted);
    }

    #[test]
    fn cost_1_panics_that_are_daily_business_are_dropped_and_the_fatal_one_is_kept() {
        let hits = vec![(Probe::Gopanic, 10_000), (Probe::Recovery, 10_000), (Probe::GoCreate, 100)];
        let demotion = judge(hits, 1.0, 1.0, 0.018).unwrap();
        assert_eq!(demotion.probes, [Probe::Gopanic]);
    }

    #[test]
    fn cost_1_an_ordinary_server_is_within() {
        assert_eq!(judge(vec![(Probe::GoCreate, 2_500), (Probe::GoExit, 2_500)], 1.0, 0.8, 0.018), None);
    }

    #[test]
    fn an_idle_process_is_not_judged_by_its_few_hits() {
        assert_eq!(judge(vec![(Probe::GoCreate, 50)], 1.0, 0.0, 0.018), None);
    }
}
