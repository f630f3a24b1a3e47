//! GC cycles, put together from their events.

use std::collections::VecDeque;

use super::event::EventKind;
use super::reasons::GcTrigger;

/// Cycles that are remembered one by one.
const REMEMBERED: usize = 512;

/// One GC cycle. Times that were not seen (attached in the middle of it) are `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GcCycle {
    /// Marking began, the world stopped.
    pub start_ns: Option<u64>,
    /// Marking ended.
    pub mark_end_ns: Option<u64>,
    /// Sweeping began: the cycle is over.
    pub end_ns: Option<u64>,
    /// What set it off.
    pub trigger: Option<GcTrigger>,
    /// Live heap at the start, bytes.
    pub heap_start: Option<u64>,
    /// Live heap that was marked, bytes.
    pub heap_marked: Option<u64>,
    /// GOMAXPROCS at the start.
    pub procs: Option<u32>,
}

impl GcCycle {
    /// From the start of marking to the start of sweeping, ns.
    #[must_use]
    pub fn duration_ns(&self) -> Option<u64> {
        self.end_ns?.checked_sub(self.start_ns?)
    }
}

/// The GC cycles seen.
#[derive(Clone, Debug, Default)]
pub struct GcHistory {
    current: Option<GcCycle>,
    recent: VecDeque<GcCycle>,
    /// Cycles that ended.
    pub completed: u64,
    /// Of these, forced by the program.
    pub forced: u64,
    /// Likewise, whose start was not seen, so that what set them off is not known.
    pub unexplained: u64,
    /// Cycles that started.
    pub started: u64,
    forgotten: u64,
    /// When the first record of the current cycle was made.
    current_ns: u64,
    /// Until when records may be missing.
    lost_until_ns: u64,
}

impl GcHistory {
    /// Until then records may be missing: what began before is not what ends after.
    pub(super) fn lose(&mut self, until_ns: u64) {
        self.lost_until_ns = self.lost_until_ns.max(until_ns);
    }

    /// Takes an event in; returns the cycle that it completes.
    pub(super) fn apply(&mut self, time_ns: u64, kind: &EventKind) -> Option<GcCycle> {
        if self.current_ns < self.lost_until_ns {
            self.current = None;
        }
        if self.current.is_none() {
            self.current_ns = time_ns;
        }
        match *kind {
            EventKind::GcStart { heap_live, trigger, procs } => {
                self.started += 1;
                self.current_ns = time_ns;
                self.current = Some(GcCycle {
                    start_ns: Some(time_ns),
                    trigger,
                    heap_start: Some(heap_live),
                    procs: Some(procs),
                    ..GcCycle::default()
                });
            }
            EventKind::GcMarkEnd { forced } => {
                let cycle = self.current.get_or_insert_default();
                cycle.mark_end_ns = Some(time_ns);
                // Go 1.18 tells it at the end only, and nothing of the other triggers.
                if cycle.trigger.is_none() && forced == Some(true) {
                    cycle.trigger = Some(GcTrigger::Forced);
                }
            }
            EventKind::GcLive { marked } => {
                self.current.get_or_insert_default().heap_marked = Some(marked);
            }
            EventKind::GcSweep => {
                let cycle = GcCycle { end_ns: Some(time_ns), ..self.current.take().unwrap_or_default() };
                self.completed += 1;
                self.forced += u64::from(cycle.trigger == Some(GcTrigger::Forced));
                self.unexplained += u64::from(cycle.trigger.is_none() && cycle.start_ns.is_none());
                if self.recent.len() == REMEMBERED {
                    self.recent.pop_front();
                    self.forgotten += 1;
                }
                self.recent.push_back(cycle);
                return Some(cycle);
            }
            _ => {}
        }
        None
    }

    /// The last cycles, oldest first.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &GcCycle> {
        self.recent.iter()
    }

    /// Cycles that are counted but no longer remembered one by one.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_put_together_from_its_events() {
        let mut history = GcHistory::default();
        let start = EventKind::GcStart { heap_live: 100, trigger: Some(GcTrigger::Forced), procs: 2 };
        assert_eq!(history.apply(10, &start), None);
        history.apply(20, &EventKind::GcMarkEnd { forced: None });
        history.apply(21, &EventKind::GcLive { marked: 60 });
        let cycle = history.apply(30, &EventKind::GcSweep).unwrap();
        assert_eq!(cycle.duration_ns(), Some(20));
        assert_eq!(cycle.heap_marked, Some(60));
        assert_eq!((history.completed, history.forced, history.unexplained), (1, 1, 0));
    }

    #[test]
    fn what_forced_a_cycle_may_be_told_at_its_end() {
        let mut history = GcHistory::default();
        for (forced, expected) in [(true, Some(GcTrigger::Forced)), (false, None)] {
            history.apply(10, &EventKind::GcStart { heap_live: 1, trigger: None, procs: 1 });
            history.apply(20, &EventKind::GcMarkEnd { forced: Some(forced) });
            assert_eq!(history.apply(30, &EventKind::GcSweep).unwrap().trigger, expected);
        }
        assert_eq!((history.forced, history.unexplained), (1, 0));
    }

    #[test]
    fn a_cycle_seen_from_its_middle_has_no_invented_start() {
        let mut history = GcHistory::default();
        history.apply(20, &EventKind::GcMarkEnd { forced: None });
        let cycle = history.apply(30, &EventKind::GcSweep).unwrap();
        assert_eq!(cycle.start_ns, None);
        assert_eq!(cycle.duration_ns(), None);
        assert_eq!((history.forced, history.unexplained), (0, 1));
    }

    #[test]
    fn loss_1_no_cycle_is_put_together_across_lost_records() {
        let mut history = GcHistory::default();
        let start = EventKind::GcStart { heap_live: 100, trigger: Some(GcTrigger::Forced), procs: 2 };
        history.apply(10, &start);
        history.lose(50);
        let cycle = history.apply(60, &EventKind::GcSweep).unwrap();
        assert_eq!((cycle.start_ns, cycle.duration_ns(), cycle.trigger), (None, None, None));
        // Within the time that may have holes it may be the start of another one.
        history.apply(40, &start);
        assert_eq!(history.apply(70, &EventKind::GcSweep).unwrap().start_ns, None);
        history.apply(80, &start);
        assert_eq!(history.apply(90, &EventKind::GcSweep).unwrap().duration_ns(), Some(10));
        assert_eq!((history.completed, history.forced, history.unexplained), (3, 1, 2));
    }

    #[test]
    fn memory_is_bounded_and_says_so() {
        let mut history = GcHistory::default();
        for i in 0..600 {
            history.apply(i, &EventKind::GcSweep);
        }
        assert_eq!(history.recent().count(), REMEMBERED);
        assert_eq!(history.completed, 600);
        assert_eq!(history.forgotten(), 88);
    }
}
