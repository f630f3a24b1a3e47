//! Stop-the-world pauses, put together from stop and start.

use std::collections::{BTreeMap, VecDeque};

use super::event::{CallStack, Event, EventKind};
use super::reasons::StwReason;

/// Pauses that are remembered one by one.
const REMEMBERED: usize = 1024;

/// One stop of the world. From Go 1.23 on the runtime hands over its own times; before, they are the times
/// at which the probes were hit.
#[derive(Clone, Debug, PartialEq)]
pub struct Pause {
    /// Why.
    pub reason: Option<StwReason>,
    /// Stopping began.
    pub begin_ns: u64,
    /// The last P had stopped; known from Go 1.23 on.
    pub stopped_ns: Option<u64>,
    /// The world was about to start again.
    pub end_ns: u64,
    /// The goroutine that asked.
    pub goid: Option<u64>,
    /// Its stack; empty for the GC's own stops.
    pub caller: CallStack,
}

impl Pause {
    /// From the request to the restart, ns.
    #[must_use]
    pub const fn total_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.begin_ns)
    }

    /// How long it took until all had stopped, ns.
    #[must_use]
    pub fn stopping_ns(&self) -> Option<u64> {
        self.stopped_ns?.checked_sub(self.begin_ns)
    }
}

/// Count and time of the pauses of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PauseSum {
    /// How many.
    pub count: u64,
    /// Together, ns.
    pub total_ns: u64,
    /// The longest, ns.
    pub longest_ns: u64,
}

/// The pauses seen.
#[derive(Clone, Debug, Default)]
pub struct PauseHistory {
    /// The stop that waits for its start: only one can be under way.
    open: Option<(u64, Option<StwReason>, Option<u64>, CallStack)>,
    recent: VecDeque<Pause>,
    by_reason: BTreeMap<&'static str, PauseSum>,
    forgotten: u64,
    /// Starts whose stop was not seen and whose times the version does not tell.
    pub unpaired: u64,
    /// Until when records may be missing.
    lost_until_ns: u64,
}

impl PauseHistory {
    /// Until then records may be missing: no stop from before has the next start for its end.
    pub(super) fn lose(&mut self, until_ns: u64) {
        self.lost_until_ns = self.lost_until_ns.max(until_ns);
    }

    /// Takes an event in; returns the pause that it completes.
    pub(super) fn apply(&mut self, event: &Event) -> Option<&Pause> {
        match &event.kind {
            EventKind::StwStop { reason, caller } => {
                self.open = Some((event.time_ns, *reason, event.goid, caller.clone()));
                None
            }
            EventKind::StwStart { reason, started_stopping_ns, finished_stopping_ns, .. } => {
                let lost_until = self.lost_until_ns;
                let open = self.open.take().filter(|(begin, ..)| *begin >= lost_until);
                let begin_ns = match (started_stopping_ns, &open) {
                    (Some(begin), _) => *begin,
                    (None, Some((begin, ..))) => *begin,
                    (None, None) => {
                        self.unpaired += 1;
                        return None;
                    }
                };
                let (stop_reason, goid, caller) =
                    open.map_or((None, event.goid, CallStack::default()), |o| (o.1, o.2, o.3));
                let pause = Pause {
                    reason: reason.or(stop_reason),
                    begin_ns,
                    stopped_ns: *finished_stopping_ns,
                    end_ns: event.time_ns,
                    goid,
                    caller,
                };
                let sum = self.by_reason.entry(pause.reason.map_or("unknown", StwReason::name)).or_default();
                sum.count += 1;
                sum.total_ns += pause.total_ns();
                sum.longest_ns = sum.longest_ns.max(pause.total_ns());
                if self.recent.len() == REMEMBERED {
                    self.recent.pop_front();
                    self.forgotten += 1;
                }
                self.recent.push_back(pause);
                self.recent.back()
            }
            _ => None,
        }
    }

    /// The last pauses, oldest first.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &Pause> {
        self.recent.iter()
    }

    /// Sums by the runtime's words for the reason.
    #[must_use]
    pub const fn by_reason(&self) -> &BTreeMap<&'static str, PauseSum> {
        &self.by_reason
    }

    /// Pauses that are counted but no longer remembered one by one.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(time_ns: u64, reason: u64) -> Event {
        let kind = EventKind::StwStop {
            reason: Some(StwReason::from_number(reason)),
            caller: CallStack { pcs: vec![1, 2], ..CallStack::default() },
        };
        Event { time_ns, goid: Some(5), thread: 1, kind }
    }

    fn start(time_ns: u64, reason: Option<u64>, begin: Option<u64>, stopped: Option<u64>) -> Event {
        let kind = EventKind::StwStart {
            reason: reason.map(StwReason::from_number),
            started_stopping_ns: begin,
            finished_stopping_ns: stopped,
            stopping_cpu_ns: None,
        };
        Event { time_ns, goid: Some(5), thread: 1, kind }
    }

    #[test]
    fn loss_1_no_pause_is_made_up_across_lost_records() {
        let mut history = PauseHistory::default();
        history.apply(&stop(10, 1));
        // A start and another stop.
        history.lose(50);
        assert_eq!(history.apply(&start(60, None, None, None)), None);
        assert_eq!(history.unpaired, 1);
        // One that the runtime tells the times of is as long as it says, but who asked for it is not known.
        history.apply(&stop(40, 1));
        let pause = history.apply(&start(80, Some(2), Some(70), None)).unwrap();
        assert_eq!((pause.begin_ns, pause.end_ns), (70, 80));
        assert!(pause.caller.pcs.is_empty());
        history.apply(&stop(90, 1));
        assert_eq!(history.apply(&start(95, None, None, None)).unwrap().total_ns(), 5);
    }

    #[test]
    fn the_runtimes_own_times_win() {
        let mut history = PauseHistory::default();
        assert!(history.apply(&stop(100, 7)).is_none());
        let pause = history.apply(&start(160, Some(7), Some(105), Some(140))).unwrap().clone();
        assert_eq!((pause.total_ns(), pause.stopping_ns()), (55, Some(35)));
        assert_eq!(pause.caller.pcs, [1, 2]);
        assert_eq!(history.by_reason()["read mem stats"].count, 1);
    }

    #[test]
    fn older_versions_pair_stop_and_start() {
        let mut history = PauseHistory::default();
        history.apply(&stop(100, 2));
        let pause = history.apply(&start(160, None, None, None)).unwrap().clone();
        assert_eq!((pause.total_ns(), pause.stopping_ns()), (60, None));
        assert_eq!(pause.reason.unwrap().name(), "GC sweep termination");
    }

    #[test]
    fn a_start_without_a_stop_is_counted_not_guessed() {
        let mut history = PauseHistory::default();
        assert!(history.apply(&start(160, None, None, None)).is_none());
        assert_eq!(history.unpaired, 1);
        assert_eq!(history.recent().count(), 0);
    }
}
