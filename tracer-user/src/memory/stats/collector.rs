//! The garbage collector: phase, pace, pauses, and what it costs.

use super::super::reader::{Reader, field, u64_at};
use super::super::runtime::{Runtime, RuntimeError};
use super::plausible::Trusted;
use super::words::{byte, low};

/// The ring of pauses (`memstats.pause_ns`).
const PAUSES: u32 = 256;
/// `memoryLimitHeapGoalHeadroom`, later `memoryLimitMinHeapGoalHeadroom` (runtime/mgcpacer.go).
const LEAST_HEADROOM: u64 = 1 << 20;
/// `memoryLimitHeapGoalHeadroomPercent` (Go 1.21 on).
const HEADROOM_PERCENT: u64 = 3;
/// The minor version that it came with.
const FIRST_WITH_HEADROOM_PERCENT: u16 = 21;
/// `minRunway` in `heapGoalInternal`.
const LEAST_RUNWAY: u64 = 64 << 10;
/// `minTriggerRatioNum` and `maxTriggerRatioNum` of `triggerRatioDen`.
const TRIGGER_RATIOS: (u64, u64, u64) = (45, 61, 64);
/// `defaultHeapMinimum`.
const HEAP_MINIMUM: u64 = 4 << 20;

/// `runtime.gcphase` (runtime/mgc.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No mark phase; spans may still be swept.
    Off,
    /// Marking, beside the program.
    Mark,
    /// The world is stopped to end it.
    MarkTermination,
    /// None of the runtime's values.
    Unknown(u32),
}

impl Phase {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Mark => "mark",
            Self::MarkTermination => "mark termination",
            Self::Unknown(_) => "???",
        }
    }
}

/// One stop of the world for the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long, in ns: both stops of a cycle together.
    pub ns: u64,
    /// When it ended, in ns since 1970 by the process's wall clock.
    pub ended_unix_ns: u64,
}

/// CPU time that the mark phase of the current or last cycle took so far, in ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkTimes {
    /// Goroutines that had to help because they allocated.
    pub assist: Option<u64>,
    /// Workers that have a P for themselves.
    pub dedicated: Option<u64>,
    /// Workers that share one.
    pub fractional: Option<u64>,
    /// Workers on Ps that had nothing else to do.
    pub idle: Option<u64>,
}

/// CPU time since the process began, in ns, as of the end of the last cycle: `/cpu/classes` of `runtime/metrics`. Go's
/// own estimates, of time that Ps were held; rather too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    /// Assists.
    pub gc_assist: u64,
    /// Dedicated and fractional workers.
    pub gc_dedicated: u64,
    /// Idle workers.
    pub gc_idle: u64,
    /// Pauses, times `GOMAXPROCS`.
    pub gc_pause: u64,
    /// The collector.
    pub gc_total: u64,
    /// Giving memory back while allocating.
    pub scavenge_assist: u64,
    /// Likewise, in the background.
    pub scavenge_background: u64,
    /// Both.
    pub scavenge_total: u64,
    /// Ps had nothing to do.
    pub idle: u64,
    /// Everything else: the program.
    pub user: u64,
    /// `GOMAXPROCS` times the time that has passed.
    pub total: u64,
}

impl CpuTimes {
    /// The collector's share of the CPU time that was used; its idle workers, which take what nobody wants, left out.
    #[must_use]
    pub fn gc_share(&self) -> Option<f64> {
        let collector = self.gc_total.saturating_sub(self.gc_idle);
        let used = collector.saturating_add(self.user).saturating_add(self.scavenge_total);
        (used != 0).then(|| collector as f64 / used as f64)
    }

    /// What came since an earlier reading.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            gc_assist: self.gc_assist.saturating_sub(earlier.gc_assist),
            gc_dedicated: self.gc_dedicated.saturating_sub(earlier.gc_dedicated),
            gc_idle: self.gc_idle.saturating_sub(earlier.gc_idle),
            gc_pause: self.gc_pause.saturating_sub(earlier.gc_pause),
            gc_total: self.gc_total.saturating_sub(earlier.gc_total),
            scavenge_assist: self.scavenge_assist.saturating_sub(earlier.scavenge_assist),
            scavenge_background: self.scavenge_background.saturating_sub(earlier.scavenge_background),
            scavenge_total: self.scavenge_total.saturating_sub(earlier.scavenge_total),
            idle: self.idle.saturating_sub(earlier.idle),
            user: self.user.saturating_sub(earlier.user),
            total: self.total.saturating_sub(earlier.total),
        }
    }
}

/// The collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// What it does now.
    pub phase: Phase,
    /// Cycles completed.
    pub cycles: u32,
    /// Of these, asked for by the program.
    pub forced: u32,
    /// Whether the current cycle, or else the last, was asked for by the program (Go 1.19 on).
    pub forced_now: Option<bool>,
    /// `GOGC`: percent, negative is off.
    pub gogc: i32,
    /// `GOMEMLIMIT` in bytes, `i64::MAX` without one (Go 1.19 on).
    pub memory_limit: Option<i64>,
    /// Bytes that the collector holds for live: marked by the last cycle, and allocated since.
    pub heap_live: u64,
    /// Bytes that the last cycle marked.
    pub heap_marked: u64,
    /// The heap's size at which a cycle should end.
    pub goal: Option<u64>,
    /// The heap's size at which the next cycle begins.
    pub trigger: Option<u64>,
    /// Whether the goal is that of the memory limit, not of `GOGC` (Go 1.19 on).
    pub limited: Option<bool>,
    /// Bytes of the heap that the next cycle has to scan, as far as known.
    pub scan_heap: Option<u64>,
    /// Bytes of stacks that the last cycle scanned (Go 1.19 on).
    pub scan_stack: Option<u64>,
    /// Bytes of global variables.
    pub scan_globals: Option<u64>,
    /// Sum of all pauses in ns.
    pub pause_total_ns: u64,
    /// The last pauses, the newest first; at most 256.
    pub pauses: Vec<Pause>,
    /// End of the last cycle, `CLOCK_MONOTONIC` ns; 0 if none.
    pub last_end_ns: u64,
    /// Begin of the last mark phase, likewise.
    pub mark_start_ns: u64,
    /// The share of the available CPU time that the collector took since the process began, by Go's reckoning.
    pub cpu_fraction: Option<f64>,
    /// CPU time of the current or last cycle.
    pub mark: MarkTimes,
    /// CPU time since the process began (Go 1.20 on).
    pub cpu: Option<CpuTimes>,
    /// Whether the collector's CPU time is limited now (Go 1.19 on).
    pub limiter_on: Option<bool>,
    /// The last cycle in which it was; 0 if in none (Go 1.19 on).
    pub limiter_last_cycle: Option<u32>,
}

/// Goal, trigger, and whether the goal is the memory limit's.
type Goals = (Option<u64>, Option<u64>, Option<bool>);

/// What the goal and the trigger are made of (`heapGoalInternal`, `memoryLimitHeapGoal` and `trigger` in
/// runtime/mgcpacer.go), Go 1.19 on.
#[derive(Clone, Copy, Debug)]
struct Pace {
    marked: u64,
    percent_goal: u64,
    limit: u64,
    heap_free: u64,
    allocated: u64,
    mapped_ready: u64,
    triggered: u64,
    sweep_trigger: u64,
    runway: u64,
    headroom_percent: Option<u64>,
}

impl Pace {
    /// The goal, the least trigger, and whether the goal is the memory limit's.
    fn goal(&self) -> (u64, u64, bool) {
        let limited = self.limit_goal();
        if limited < self.percent_goal {
            return (limited, 0, true);
        }
        let mut goal = self.percent_goal.max(self.sweep_trigger);
        if self.triggered != u64::MAX {
            goal = goal.max(self.triggered.saturating_add(LEAST_RUNWAY));
        }
        (goal, self.sweep_trigger, false)
    }

    fn limit_goal(&self) -> u64 {
        let other = self.mapped_ready.saturating_sub(self.heap_free).saturating_sub(self.allocated);
        let over = self.mapped_ready.saturating_sub(self.limit);
        let Some(goal) = self.limit.checked_sub(other.saturating_add(over)).filter(|goal| *goal != 0) else {
            return self.marked;
        };
        let headroom = self.headroom_percent.map_or(0, |percent| goal / 100 * percent).max(LEAST_HEADROOM);
        let goal = match goal.checked_sub(headroom) {
            Some(goal) if goal >= headroom => goal,
            _ => headroom,
        };
        goal.max(self.marked)
    }

    fn trigger(&self) -> u64 {
        let (goal, least, _) = self.goal();
        if self.marked >= goal {
            return goal;
        }
        let (low, high, of) = TRIGGER_RATIOS;
        let part = (goal - self.marked) / of;
        let least = least.max(self.marked).max(part * low + self.marked);
        let most = (part * high + self.marked).max(goal.saturating_sub(HEAP_MINIMUM)).max(least);
        let trigger = goal.saturating_sub(self.runway);
        trigger.max(least).min(most)
    }
}

impl<R: Reader> Runtime<'_, R> {
    pub(super) fn collector(&self, trusted: &Trusted) -> Result<Collector, RuntimeError> {
        let layout = self.binary.layout();
        let globals = self.binary.globals();
        let (gc, ms, work) = (&layout.gc, &layout.memstats, &layout.work);
        let statistics = &trusted.statistics;
        let [phase] = self.words(Some(globals.gcphase), [Some(0)])?;
        let [cycles, forced, pause_total, last_end, fraction] = self.words(
            Some(globals.memstats),
            [
                Some(ms.numgc),
                Some(ms.numforcedgc),
                Some(ms.pause_total_ns),
                Some(ms.last_gc_nanotime),
                ms.gc_cpu_fraction,
            ],
        )?;
        let [gogc, limit, live, marked, mark_start, assist, dedicated, fractional, idle, heap, stack, roots] =
            self.words(
                Some(globals.gc_controller),
                [
                    Some(gc.gc_percent),
                    gc.memory_limit,
                    Some(gc.heap_live),
                    Some(gc.heap_marked),
                    Some(gc.mark_start_time),
                    gc.assist_time,
                    gc.dedicated_mark_time,
                    gc.fractional_mark_time,
                    gc.idle_mark_time,
                    gc.heap_scan,
                    gc.last_stack_scan,
                    gc.globals_scan,
                ],
            )?;
        let (goal, trigger, limited) = self.pace()?;
        let [user_forced] = self.words(statistics.work, [work.user_forced])?;
        let [limiter_on, limiter_last] =
            self.words(statistics.limiter, [layout.limiter.enabled, layout.limiter.last_enabled_cycle])?;
        let cycles = low(cycles.unwrap_or(0));
        Ok(Collector {
            phase: match low(phase.unwrap_or(u64::MAX)) {
                0 => Phase::Off,
                1 => Phase::Mark,
                2 => Phase::MarkTermination,
                other => Phase::Unknown(other),
            },
            cycles,
            forced: low(forced.unwrap_or(0)),
            forced_now: user_forced.map(|word| byte(word) != 0),
            gogc: low(gogc.unwrap_or(0)).cast_signed(),
            memory_limit: limit.map(u64::cast_signed),
            heap_live: live.unwrap_or(0),
            heap_marked: marked.unwrap_or(0),
            goal,
            trigger,
            limited,
            scan_heap: heap,
            scan_stack: stack,
            scan_globals: roots,
            pause_total_ns: pause_total.unwrap_or(0),
            pauses: self.pauses(cycles)?,
            last_end_ns: last_end.unwrap_or(0),
            mark_start_ns: mark_start.unwrap_or(0),
            cpu_fraction: fraction.map(f64::from_bits).filter(|share| (0.0..=1.0).contains(share)),
            mark: MarkTimes { assist, dedicated, fractional, idle },
            cpu: self.cpu_times(statistics.work)?,
            limiter_on: limiter_on.map(|word| byte(word) != 0),
            limiter_last_cycle: limiter_last.map(low),
        })
    }

    fn pace(&self) -> Result<Goals, RuntimeError> {
        let gc = &self.binary.layout().gc;
        let words = self.words(
            Some(self.binary.globals().gc_controller),
            [
                gc.heap_goal,
                gc.trigger,
                Some(gc.heap_marked),
                gc.gc_percent_heap_goal,
                gc.memory_limit,
                gc.heap_free,
                gc.total_alloc,
                gc.total_free,
                gc.mapped_ready,
                gc.triggered,
                gc.sweep_min_trigger,
                gc.runway,
            ],
        )?;
        Ok(match words {
            // Go 1.18 keeps both.
            [Some(goal), trigger, ..] => (Some(goal), trigger, None),
            [
                None,
                _,
                Some(marked),
                Some(percent_goal),
                Some(limit),
                Some(heap_free),
                Some(alloc),
                Some(freed),
                Some(mapped_ready),
                Some(triggered),
                Some(sweep_trigger),
                Some(runway),
            ] => {
                let pace = Pace {
                    marked,
                    percent_goal,
                    limit,
                    heap_free,
                    allocated: alloc.wrapping_sub(freed),
                    mapped_ready,
                    triggered,
                    sweep_trigger,
                    runway,
                    headroom_percent: (self.binary.version().minor >= FIRST_WITH_HEADROOM_PERCENT)
                        .then_some(HEADROOM_PERCENT),
                };
                let (goal, _, limited) = pace.goal();
                (Some(goal), Some(pace.trigger()), Some(limited))
            }
            _ => (None, None, None),
        })
    }

    /// The ring of pauses. One that is just being added may be there or not.
    fn pauses(&self, cycles: u32) -> Result<Vec<Pause>, RuntimeError> {
        let ms = &self.binary.layout().memstats;
        let at = self.global(self.binary.globals().memstats);
        let size = PAUSES as usize * 8;
        let (Some(lengths), Some(ends)) =
            (self.bytes_at(field(at, ms.pause_ns), size)?, self.bytes_at(field(at, ms.pause_end), size)?)
        else {
            return Ok(Vec::new());
        };
        let pause = |back: u32| {
            let index = cycles.wrapping_sub(back) % PAUSES * 8;
            Pause { ns: u64_at(&lengths, index), ended_unix_ns: u64_at(&ends, index) }
        };
        Ok((1..=cycles.min(PAUSES)).map(pause).collect())
    }

    fn cpu_times(&self, work: Option<u64>) -> Result<Option<CpuTimes>, RuntimeError> {
        let w = &self.binary.layout().work;
        let words = self.words(
            work,
            [
                w.cpu_assist,
                w.cpu_dedicated,
                w.cpu_gc_idle,
                w.cpu_gc_pause,
                w.cpu_gc_total,
                w.cpu_scavenge_assist,
                w.cpu_scavenge_bg,
                w.cpu_scavenge_total,
                w.cpu_idle,
                w.cpu_user,
                w.cpu_total,
            ],
        )?;
        let [
            Some(gc_assist),
            Some(gc_dedicated),
            Some(gc_idle),
            Some(gc_pause),
            Some(gc_total),
            Some(scavenge_assist),
            Some(scavenge_background),
            Some(scavenge_total),
            Some(idle),
            Some(user),
            Some(total),
        ] = words
        else {
            return Ok(None);
        };
        Ok(Some(CpuTimes {
            gc_assist,
            gc_dedicated,
            gc_idle,
            gc_pause,
            gc_total,
            scavenge_assist,
            scavenge_background,
            scavenge_total,
            idle,
            user,
            total,
        }))
    }
}

#[cfg(test)]
mod tests;
