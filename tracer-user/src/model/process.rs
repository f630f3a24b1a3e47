//! Everything known of one process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::event::{CallStack, CrashRecord, Event, EventKind, PanicStage};
use super::gc::{GcCycle, GcHistory};
use super::goroutines::Goroutines;
use super::groups::Groups;
use super::sampling::Sampling;
use super::stw::{Pause, PauseHistory};
use super::switches::Switches;
use super::system_calls::SystemCalls;
use crate::memory::{Figures, Snapshot};

/// Tuning calls remembered one by one.
const TUNINGS: usize = 1024;
/// Crash-path events remembered one by one.
const CRASHES: usize = 64;
/// Cycles and pauses that wait to be exported.
const PENDING: usize = 4096;

/// What the program did to the runtime's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TuningKind {
    /// It called `runtime.GC`.
    ForcedGc,
    /// It called `debug.SetGCPercent` with this.
    SetGcPercent(i32),
    /// GOMAXPROCS was set to this.
    Gomaxprocs(u32),
}

/// One such call.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// When.
    pub at_ns: u64,
    /// By which goroutine.
    pub goid: Option<u64>,
    /// What.
    pub kind: TuningKind,
    /// From where.
    pub caller: CallStack,
}

/// A step on the crash path.
#[derive(Clone, Debug)]
pub struct Crash {
    /// When.
    pub at_ns: u64,
    /// In which goroutine.
    pub goid: Option<u64>,
    /// On which thread.
    pub thread: u32,
    /// What the probe captured.
    pub record: CrashRecord,
}

/// Everything known of one process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Goroutines that exist.
    pub goroutines: Goroutines,
    /// Groups of parked ones.
    pub groups: Groups,
    /// GC cycles.
    pub gc: GcHistory,
    /// Stop-the-world pauses.
    pub stw: PauseHistory,
    /// Switches between goroutines, as far as they were observed.
    pub switches: Switches,
    /// System calls of goroutines, likewise.
    pub system_calls: SystemCalls,
    /// Figures of the last snapshot.
    pub figures: Option<Figures>,
    /// Figures of the first one.
    pub first_figures: Option<Figures>,
    /// When the first snapshot was taken, and the last.
    pub observed: Option<(u64, u64)>,
    /// Snapshots merged.
    pub snapshots: u64,
    /// Torn goroutines over all snapshots.
    pub torn: u64,
    /// Panics begun.
    pub panics: u64,
    /// Panics recovered.
    pub recovered: u64,
    tunings: VecDeque<Tuning>,
    crashes: VecDeque<Crash>,
    /// The last step that ends a process, and what it ended with.
    pub fatal: Option<Crash>,
    new_cycles: VecDeque<GcCycle>,
    new_pauses: VecDeque<Pause>,
    /// Events beyond the bounds on memory: tunings, crashes, cycles and pauses not kept one by one.
    pub dropped: u64,
    /// Population counts of the last snapshot by state and wait reason.
    population: Vec<((crate::memory::Status, u8, bool), u64)>,
    /// GOMAXPROCS as last seen.
    procs: Option<u32>,
    /// Since when creations and exits come in without a gap, if they do.
    lifetimes_since: Option<u64>,
    /// Whether they have come in all the time.
    lifetimes_whole: bool,
    /// Creations in sampling windows.
    pub sampled_creations: Sampling,
    /// Exits in sampling windows.
    pub sampled_exits: Sampling,
}

impl Process {
    /// A process of which nothing is known. `lifetimes` says whether the stream carries creations and exits.
    #[must_use]
    pub fn new(lifetimes: bool) -> Self {
        Self { lifetimes_since: lifetimes.then_some(0), lifetimes_whole: lifetimes, ..Self::default() }
    }

    /// Takes an event in.
    pub fn apply(&mut self, event: &Event) {
        self.goroutines.apply(event);
        if let Some(cycle) = self.gc.apply(event.time_ns, &event.kind) {
            bounded(&mut self.new_cycles, cycle, PENDING, &mut self.dropped);
        }
        if let Some(pause) = self.stw.apply(event) {
            bounded(&mut self.new_pauses, pause.clone(), PENDING, &mut self.dropped);
        }
        match &event.kind {
            EventKind::ForcedGc { caller } => self.tune(event, TuningKind::ForcedGc, caller),
            EventKind::SetGcPercent { percent, caller } => {
                self.tune(event, TuningKind::SetGcPercent(*percent), caller);
            }
            // The runtime calls procresize whenever it starts the world again; only another number is news.
            EventKind::Procresize { procs, caller }
                if self.procs.replace(*procs).is_some_and(|before| before != *procs) =>
            {
                self.tune(event, TuningKind::Gomaxprocs(*procs), caller);
            }
            EventKind::Recovered => self.recovered += 1,
            EventKind::Crash(record) => self.crash(event, record),
            _ => {}
        }
    }

    fn tune(&mut self, event: &Event, kind: TuningKind, caller: &CallStack) {
        let tuning = Tuning { at_ns: event.time_ns, goid: event.goid, kind, caller: caller.clone() };
        bounded(&mut self.tunings, tuning, TUNINGS, &mut self.dropped);
    }

    fn crash(&mut self, event: &Event, record: &CrashRecord) {
        let crash =
            Crash { at_ns: event.time_ns, goid: event.goid, thread: event.thread, record: record.clone() };
        match record.stage {
            PanicStage::Begun => self.panics += 1,
            PanicStage::Signal => {}
            // The first fatal step tells; what follows (a throw while the panic is printed) is its echo.
            PanicStage::Fatal | PanicStage::Throw | PanicStage::FatalError => {
                if self.fatal.is_none() {
                    self.fatal = Some(crash.clone());
                }
            }
        }
        bounded(&mut self.crashes, crash, CRASHES, &mut self.dropped);
    }

    /// Merges a snapshot.
    pub fn merge(&mut self, snapshot: &Snapshot) {
        let groups = &mut self.groups;
        // Who ended in a gap of the stream was not lost on the way.
        let before = self.observed.map_or(0, |(_, last)| last);
        let whole = self.lifetimes_since.is_some_and(|since| since <= before);
        // Those who have the same stack share it in a snapshot.
        let mut numbers = HashMap::new();
        self.goroutines.merge(snapshot, whole, |g| {
            *numbers.entry(Arc::as_ptr(&g.stack)).or_insert_with(|| groups.number(&g.stack))
        });
        self.groups.recount(&self.goroutines, snapshot.taken_ns);
        self.first_figures.get_or_insert_with(|| snapshot.figures.clone());
        self.figures = Some(snapshot.figures.clone());
        self.procs.get_or_insert(snapshot.figures.gomaxprocs);
        let first = self.observed.map_or(snapshot.taken_ns, |(first, _)| first);
        self.observed = Some((first, snapshot.taken_ns));
        self.snapshots += 1;
        self.torn += snapshot.torn as u64;
        let mut counts = std::collections::BTreeMap::new();
        for g in &snapshot.goroutines {
            let reason = if g.status.is_parked() { g.wait_reason } else { 0 };
            *counts.entry((g.status, reason, g.system)).or_insert(0) += 1;
        }
        self.population = counts.into_iter().collect();
    }

    /// Notes which goroutines serve a connection that is being watched, as of the last snapshot.
    pub fn mark_watched(&mut self, goids: impl IntoIterator<Item = u64>) {
        if let Some((_, at_ns)) = self.observed {
            self.goroutines.mark_watched(goids, at_ns);
        }
    }

    /// A gap in the stream of creations and exits begins: nothing is known of them from here on, but for snapshots.
    pub const fn begin_gap(&mut self) {
        self.lifetimes_since = None;
        self.lifetimes_whole = false;
    }

    /// The gap ends: from `at_ns` on all creations and exits come in.
    pub fn end_gap(&mut self, at_ns: u64) {
        self.lifetimes_since.get_or_insert(at_ns);
    }

    /// Records of the rare tier may be missing until then: nothing from before is put together with what comes after.
    pub fn lose(&mut self, until_ns: u64) {
        self.gc.lose(until_ns);
        self.stw.lose(until_ns);
    }

    /// From now on there are sampling windows; what was before was observed all the time.
    pub const fn begin_windows(&mut self) {
        self.sampled_creations.resume();
        self.sampled_exits.resume();
    }

    /// A sampling window from one time to another is over, with what was counted in it.
    pub fn sample(&mut self, (begin_ns, end_ns): (u64, u64), creations: u64, exits: u64) {
        self.sampled_creations.add(begin_ns, end_ns, creations);
        self.sampled_exits.add(begin_ns, end_ns, exits);
    }

    /// Whether all creations and exits since attach have come in, but for those that are counted as lost.
    #[must_use]
    pub const fn has_lifetimes(&self) -> bool {
        self.lifetimes_whole
    }

    /// Population of the last snapshot: state, wait reason number (0 unless parked), whether it belongs to
    /// the runtime, and how many.
    #[must_use]
    pub fn population(&self) -> &[((crate::memory::Status, u8, bool), u64)] {
        &self.population
    }

    /// Tuning calls seen, oldest first.
    pub fn tunings(&self) -> impl DoubleEndedIterator<Item = &Tuning> {
        self.tunings.iter()
    }

    /// Steps on the crash path, oldest first.
    pub fn crashes(&self) -> impl DoubleEndedIterator<Item = &Crash> {
        self.crashes.iter()
    }

    /// Cycles completed since the last call.
    pub fn take_cycles(&mut self) -> Vec<GcCycle> {
        self.new_cycles.drain(..).collect()
    }

    /// Pauses completed since the last call.
    pub fn take_pauses(&mut self) -> Vec<Pause> {
        self.new_pauses.drain(..).collect()
    }

    /// How long the process has been watched by snapshots, ns.
    #[must_use]
    pub fn watched_ns(&self) -> u64 {
        self.observed.map_or(0, |(first, last)| last - first)
    }
}

fn bounded<T>(queue: &mut VecDeque<T>, item: T, most: usize, dropped: &mut u64) {
    if queue.len() == most {
        queue.pop_front();
        *dropped += 1;
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(time_ns: u64, goid: u64) -> Event {
        let kind = EventKind::GoCreate { goid, gopc: 0x100, startpc: 0x200 };
        Event { time_ns, goid: Some(1), thread: 1, kind }
    }

    #[test]
    fn loss_1_who_ends_in_a_gap_was_not_lost_by_the_stream() {
        let mut process = Process::new(true);
        process.apply(&create(5, 7));
        process.merge(&Snapshot::empty(10));
        assert_eq!(
            (process.goroutines.healed, process.has_lifetimes()),
            (1, true),
            "its exit should have come"
        );
        process.apply(&create(15, 8));
        process.begin_gap();
        process.merge(&Snapshot::empty(20));
        assert_eq!(process.goroutines.len(), 0, "who is not in the snapshot has ended");
        // A window begins after the snapshot before: its first snapshot does not tell yet what was lost.
        process.end_gap(25);
        process.apply(&create(26, 9));
        process.merge(&Snapshot::empty(30));
        assert_eq!((process.goroutines.healed, process.goroutines.exited), (1, 0), "no exit is made up");
        process.apply(&create(35, 10));
        process.merge(&Snapshot::empty(40));
        assert_eq!(process.goroutines.healed, 2, "the stream is whole again, and is judged as such");
        assert!(!process.has_lifetimes(), "but it was not all the time");
    }
}
