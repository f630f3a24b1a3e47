//! Which stops of the world belong to which GC cycle, so that they share a trace.
//!
//! A cycle begins inside its sweep-termination stop and ends inside its mark-termination stop, so the two are
//! told by time and reason. Cycle and stops may come in any order, and any of them may be missing.

use std::collections::VecDeque;

use opentelemetry::trace::{SpanId, TraceId};

use super::ids::Ids;
use crate::model::{GcCycle, Pause};

/// Cycles whose stops may still come.
const REMEMBERED: usize = 32;
/// The probes of a cycle and of its stops are hit one after the other: clocks agree, but not on which is first.
const SLACK_NS: u64 = 100_000;

/// The trace of a cycle and the span that stands for the cycle itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

#[derive(Debug)]
struct Known {
    place: Place,
    /// Start and end of the sweep-termination stop.
    sweep: Option<(u64, u64)>,
    /// Of the mark-termination stop.
    mark: Option<(u64, u64)>,
    /// Start and end of the cycle, once it is over.
    cycle: Option<(Option<u64>, Option<u64>)>,
}

/// The cycles of the last moments.
#[derive(Debug, Default)]
pub(super) struct Cycles {
    known: VecDeque<Known>,
}

/// Which of the two stops a pause is, by the runtime's words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Sweep,
    Mark,
}

impl Cycles {
    /// Where the span of a cycle goes.
    pub(super) fn cycle(&mut self, cycle: &GcCycle, ids: &mut Ids) -> Place {
        let found = self.known.iter_mut().rev().find(|k| {
            k.cycle.is_none()
                && (k.sweep.is_some_and(|stop| holds(stop, cycle.start_ns))
                    || k.mark.is_some_and(|stop| holds(stop, cycle.end_ns)))
        });
        let times = Some((cycle.start_ns, cycle.end_ns));
        if let Some(known) = found {
            known.cycle = times;
            return known.place;
        }
        let begin = cycle.start_ns.or(cycle.mark_end_ns).or(cycle.end_ns).unwrap_or(0);
        self.add(begin, ids, |known| known.cycle = times)
    }

    /// Where the span of a stop goes; `None` if it is not one of the GC's.
    pub(super) fn pause(&mut self, pause: &Pause, ids: &mut Ids) -> Option<Place> {
        let stop = match pause.reason?.name() {
            "GC sweep termination" => Stop::Sweep,
            "GC mark termination" => Stop::Mark,
            _ => return None,
        };
        let times = (pause.begin_ns, pause.end_ns);
        let found = self.known.iter_mut().rev().find(|k| match (stop, k.cycle) {
            (Stop::Sweep, Some((start, _))) => k.sweep.is_none() && holds(times, start),
            (Stop::Mark, Some((_, end))) => k.mark.is_none() && holds(times, end),
            // Cycles do not overlap: an open one that began before is this one.
            (Stop::Mark, None) => k.mark.is_none() && k.sweep.is_some_and(|sweep| sweep.1 <= pause.begin_ns),
            (Stop::Sweep, None) => k.sweep.is_none() && k.mark.is_some_and(|mark| pause.end_ns <= mark.0),
        });
        let set = |known: &mut Known| match stop {
            Stop::Sweep => known.sweep = Some(times),
            Stop::Mark => known.mark = Some(times),
        };
        Some(match found {
            Some(known) => {
                set(known);
                known.place
            }
            None => self.add(pause.begin_ns, ids, set),
        })
    }

    fn add(&mut self, begin_ns: u64, ids: &mut Ids, set: impl FnOnce(&mut Known)) -> Place {
        let place = Place { trace: ids.trace("gc-cycle", &begin_ns.to_string()), span: ids.span() };
        let mut known = Known { place, sweep: None, mark: None, cycle: None };
        set(&mut known);
        if self.known.len() == REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back(known);
        place
    }
}

fn holds((begin, end): (u64, u64), at: Option<u64>) -> bool {
    at.is_some_and(|at| begin.saturating_sub(SLACK_NS) <= at && at <= end.saturating_add(SLACK_NS))
}

#[cfg(test)]
mod tests {
    use super::super::identity::Identity;
    use super::*;
    use crate::model::{CallStack, StwReason};

    const MS: u64 = 1_000_000;

    fn stop(reason: u64, begin: u64, end: u64) -> Pause {
        let reason = Some(StwReason::from_number(reason));
        Pause {
            reason,
            begin_ns: begin,
            stopped_ns: None,
            end_ns: end,
            goid: None,
            caller: CallStack::default(),
        }
    }

    fn cycle(start: u64, end: u64) -> GcCycle {
        GcCycle { start_ns: Some(start), end_ns: Some(end), ..GcCycle::default() }
    }

    #[test]
    fn stops_find_their_cycle_in_any_order() {
        let (sweep, mark, whole) =
            (stop(2, 10 * MS, 11 * MS), stop(1, 40 * MS, 42 * MS), cycle(10 * MS + 5, 41 * MS));
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (mut cycles, mut ids) = (Cycles::default(), Ids::new(Identity::default()));
            // The cycle before is over and must not be mixed up.
            let before = cycles.cycle(&cycle(2 * MS, 4 * MS), &mut ids);
            let places: Vec<Place> = order
                .into_iter()
                .filter_map(|which| match which {
                    0 => cycles.pause(&sweep, &mut ids),
                    1 => cycles.pause(&mark, &mut ids),
                    _ => Some(cycles.cycle(&whole, &mut ids)),
                })
                .collect();
            assert_eq!(places.len(), 3);
            assert!(places.iter().all(|p| *p == places[0]), "{order:?}: {places:?}");
            assert_ne!(places[0], before);
        }
    }

    #[test]
    fn cycles_are_kept_apart() {
        let (mut cycles, mut ids) = (Cycles::default(), Ids::new(Identity::default()));
        let mut places = Vec::new();
        for i in 0..100 {
            let at = i * 100 * MS;
            places.push(cycles.pause(&stop(2, at, at + MS), &mut ids).unwrap());
            assert_eq!(cycles.cycle(&cycle(at, at + 50 * MS), &mut ids), places[i as usize]);
            assert_eq!(
                cycles.pause(&stop(1, at + 49 * MS, at + 51 * MS), &mut ids).unwrap(),
                places[i as usize]
            );
        }
        places.dedup();
        assert_eq!(places.len(), 100);
        assert!(cycles.known.len() <= REMEMBERED);
        assert_eq!(cycles.pause(&stop(7, 0, 1), &mut ids), None);
    }
}
