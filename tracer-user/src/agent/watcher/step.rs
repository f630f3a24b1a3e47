//! Taking in what has happened: records, snapshots, and what the detectors make of them.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use tracer_ebpf::{TIER_T2, TIER_T3};

use super::{Notice, Watcher};
use crate::detect::{Context, call_frames, examine, watched_connections};
use crate::memory::{ReadError, Runtime, RuntimeError, monotonic_ns};
use crate::model::{CallStack, Event, EventKind, StwReason};
use crate::probe::SwitchStream;
use crate::target::Exit;

/// A snapshot may take this share of the time at most.
const SNAPSHOT_SHARE: u32 = 20;
/// Batches taken in at one step: many come at once, and the rest must not wait for them.
const BATCHES: usize = 64;
/// So many times longer is the time between two looks at what is idle, where many are watched.
const IDLE_OF_MANY: u32 = 5;
/// How long one step waits for records.
const STEP: Duration = Duration::from_millis(20);

/// How often cost, losses and identity are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl Watcher {
    /// Takes in what has happened; waits some milliseconds for it. Call it again and again until a notice
    /// says that the process ended, or the user has seen enough.
    pub fn step(&mut self) -> Vec<Notice> {
        self.step_within(STEP)
    }

    /// Likewise; waits for nothing. For who has many.
    pub fn step_at_once(&mut self) -> Vec<Notice> {
        self.patient = true;
        self.step_within(Duration::ZERO)
    }

    fn step_within(&mut self, wait: Duration) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.receive(wait);
        // Those of many are looked after together.
        if !self.patient {
            self.mend(&mut notices);
        }
        self.govern(&mut notices);
        if self.exit.is_none() && self.watch.has_ended() {
            // What the process did last is still in the ring: `finish` looks once more.
            notices.push(self.ended());
            return notices;
        }
        if self.executed && self.exit.is_none() {
            notices.push(self.ended_by(Exit::Exec, monotonic_ns()));
            return notices;
        }
        let now = Instant::now();
        if self.switches_until_ns.is_some_and(|end| monotonic_ns() >= end) && self.switches_are_off() {
            self.switches_until_ns = None;
            notices.push(Notice::SwitchesEnded);
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_EVERY;
            if !self.check(&mut notices) {
                return notices;
            }
        }
        if self.exit.is_none() && now >= self.next_snapshot {
            self.snapshot(&mut notices);
            self.look(&mut notices);
        } else if self.process.fatal.is_some() {
            self.look(&mut notices);
        }
        notices
    }

    /// The kernel has told that the process executes another program: the next step ends the watch.
    pub(in crate::agent) const fn executed(&mut self) {
        self.executed = true;
    }

    /// Whether the next step ends the watch, for that reason.
    #[must_use]
    pub const fn has_executed(&self) -> bool {
        self.executed
    }

    /// Whether the probes of switches are off whose time is over: the governor takes off what is had by lease.
    fn switches_are_off(&self) -> bool {
        if self.session.leases().is_none_or(|leases| !leases.has(TIER_T3)) {
            self.session.end_switches();
        }
        self.tiers() & TIER_T3 == 0
    }

    fn receive(&mut self, wait: Duration) {
        for batch in self.switches.iter().flat_map(SwitchStream::try_iter).take(BATCHES) {
            batch.iter().for_each(|switch| self.process.switches.apply(switch));
        }
        let Some(stream) = &self.stream else { return };
        let first = match stream.recv_timeout(wait) {
            Ok(batch) => Some(batch),
            Err(RecvTimeoutError::Timeout) => None,
            // The drain has ended before its time: its thread died. The accounting will not balance then.
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(wait);
                None
            }
        };
        // All that is there, or what is told is older and older.
        let batches: Vec<_> = first.into_iter().chain(stream.try_iter().take(BATCHES)).collect();
        self.take_in(batches);
    }

    /// Takes events in, that have been received, behind what was lost before them.
    pub(super) fn take_in(&mut self, batches: Vec<Vec<Event>>) {
        if batches.is_empty() {
            return;
        }
        let (lost, now_ns) = (self.session.lost(), monotonic_ns());
        let before = std::mem::replace(&mut self.lost_events, lost);
        // A hole while a link is made anew is no hit, and in no counter.
        let relinks = self.session.relinks();
        if lost.rare != before.rare || !relinks.is_empty() {
            self.process.lose(now_ns);
        }
        self.relinks.extend(relinks);
        if lost.lifetimes != before.lifetimes {
            self.process.begin_gap();
            if self.tiers() & TIER_T2 != 0 {
                self.process.end_gap(now_ns);
            }
        }
        batches.into_iter().flatten().for_each(|event| self.apply(event));
    }

    /// Before Go 1.21 only the stack tells why the world is stopped, and stacks need the executable.
    pub(super) fn apply(&mut self, mut event: Event) {
        if let EventKind::StwStop { reason: reason @ None, caller } = &mut event.kind {
            let frames = call_frames(&self.binary, &self.symbolizer, caller);
            *reason = StwReason::of_callers(frames.iter().map(|frame| frame.function.as_str()));
            // As later versions do: the GC's own two stops come with every cycle, from the same place.
            if reason.is_some_and(StwReason::is_gc) {
                *caller = CallStack::default();
            }
        }
        self.process.apply(&event);
    }

    /// Whether the process still runs the program that was attached to, as far as can be told; a process that is
    /// gone is told by the watch.
    fn is_same_program(&self) -> bool {
        self.target.look().is_none_or(|look| look.same_program)
    }

    fn snapshot(&mut self, notices: &mut Vec<Notice>) {
        let begun = Instant::now();
        if let Some(snapshot) = self.idle.snapshot(self.target.pid()) {
            self.process.merge(snapshot);
            self.mark_watched();
            self.next_snapshot =
                begun + self.options.snapshot_every * if self.patient { IDLE_OF_MANY } else { 1 };
            return;
        }
        let result = Runtime::reopen(self.target.pid(), &self.binary, self.bias).snapshot();
        self.last_snapshot_took = begun.elapsed();
        let pause = self.options.snapshot_every.max(self.last_snapshot_took * SNAPSHOT_SHARE);
        self.next_snapshot = Instant::now() + pause;
        // What was read of another program is not looked at; the next check tells.
        if !self.is_same_program() {
            self.next_check = Instant::now();
            return;
        }
        match result {
            Ok(snapshot) => {
                self.process.merge(&snapshot);
                self.mark_watched();
                self.idle.keep(snapshot);
            }
            // Its end is told by the watch.
            Err(RuntimeError::Read { source: ReadError::Gone, .. }) => {}
            Err(error) => notices.push(Notice::SnapshotFailed(error.to_string())),
        }
    }

    fn mark_watched(&mut self) {
        let watched = watched_connections(&self.process, &self.binary, &self.symbolizer);
        self.process.mark_watched(watched);
    }

    /// Looks at what must not wait for a snapshot: whether it is still the same program, what the probes cost,
    /// what was lost. `false` if the watch is over.
    fn check(&mut self, notices: &mut Vec<Notice>) -> bool {
        if self.patient && self.idle.is_idle(self.target.pid()) {
            return true;
        }
        if let Some(look) = self.target.look() {
            if !look.same_program {
                notices.push(self.ended_by(Exit::Exec, monotonic_ns()));
                return false;
            }
            if look.stopped != self.stopped {
                self.stopped = look.stopped;
                notices.push(Notice::Stopped(look.stopped));
            }
        }
        let accounting = self.session.accounting();
        let lost = accounting.lost();
        if lost != self.lost {
            notices.push(Notice::Lost(lost - self.lost));
            self.lost = lost;
        }
        if let Ok(goids) = Runtime::reopen(self.target.pid(), &self.binary, self.bias).goids() {
            self.last_goids = Some(goids);
        }
        true
    }

    pub(super) fn look(&mut self, notices: &mut Vec<Notice>) {
        let now_ns = monotonic_ns();
        let findings = examine(&Context {
            process: &self.process,
            binary: &self.binary,
            hazards: &self.hazards,
            cpu_limit: self.cpu_limit,
            env_gomaxprocs: self.env_gomaxprocs.clone(),
            thresholds: self.options.thresholds,
            ledger: &self.ledger,
            now_ns,
            symbolizer: &self.symbolizer,
        });
        let changes = self.ledger.update(findings, now_ns);
        notices.extend(changes.into_iter().map(|(key, change)| Notice::Finding(key, change)));
    }
}
