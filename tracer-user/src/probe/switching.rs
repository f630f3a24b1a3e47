//! Switching T3 on and off for all its sites at one moment.
//!
//! Placing or removing breakpoints takes tens of milliseconds, in which some sites are on and others not. So the programs
//! are told by the process's configuration, which the kernel replaces at once, when to look: a stretch begins when all
//! sites are in place, and ends before the first is removed. It ends by itself at a time that the programs know, for the
//! sites may be removed by a keeper while gotrail is stopped.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use rustix::thread::{MembarrierCommand, membarrier};
use tracer_ebpf::{ProcConfig, TIER_T3};

use super::config::Wire;
use super::drain::Marks;
use crate::memory::monotonic_ns;
use crate::model::{Switch, SwitchKind};

/// What the programs are told of each process that is watched. Clones are the same.
pub(super) type Processes = Arc<Mutex<HashMap<MapData, u32, Wire<ProcConfig>>>>;

fn insert(processes: &Processes, pid: u32, config: ProcConfig) -> Result<(), MapError> {
    processes.lock().unwrap_or_else(PoisonError::into_inner).insert(&pid, &Wire(config), 0)
}

/// Has the programs pass over all processes, likewise.
pub(super) fn leave_all(processes: &Processes) {
    let mut processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
    let pids: Vec<u32> = processes.keys().flatten().collect();
    for pid in pids {
        // It can only have been removed meanwhile, which is as well.
        drop(processes.remove(&pid));
    }
    await_programs();
}

/// Returns when no program is at work any more that began before.
fn await_programs() {
    // Waits for a grace period of RCU (kernel/sched/membarrier.c), under which the programs run. Where that is not to be
    // had, a hit of the last moment may be counted late.
    let _ = membarrier(MembarrierCommand::Global);
}

/// The configuration of one process, as the programs have it.
#[derive(Debug)]
struct Settings {
    processes: Processes,
    pid: u32,
    config: ProcConfig,
    /// When the stretch that is the last to date ended, if nobody was told yet.
    ended_ns: Option<u64>,
    /// No stretch begins any more.
    closed: bool,
}

/// A handle of it.
#[derive(Clone, Debug)]
pub(super) struct Switching(Arc<Mutex<Settings>>);

impl Switching {
    /// Tells the programs of a process. T3 is off.
    pub(super) fn new(processes: Processes, pid: u32, config: ProcConfig) -> Result<Self, MapError> {
        let config = ProcConfig { tiers: config.tiers & !TIER_T3, ..config };
        insert(&processes, pid, config)?;
        let settings = Settings { processes, pid, config, ended_ns: None, closed: false };
        Ok(Self(Arc::new(Mutex::new(settings))))
    }

    /// Begins a stretch that lasts until `until_ns` at the longest. Returns a time right before it, ns, or `None` if all
    /// is over, or that time has passed.
    fn begin(&self, until_ns: u64) -> Result<Option<u64>, MapError> {
        let mut settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = monotonic_ns();
        // Whoever is told too late that the probes are on has nothing to begin.
        if settings.closed || begun >= until_ns {
            return Ok(None);
        }
        let Settings { processes, pid, config, .. } = &mut *settings;
        let next = ProcConfig {
            tiers: config.tiers | TIER_T3,
            epoch: config.epoch + 1,
            switches_until_ns: until_ns,
            ..*config
        };
        insert(processes, *pid, next)?;
        *config = next;
        Ok(Some(begun))
    }

    /// Lets the stretch, if one lasts, last until `until_ns` at the longest. What has ended by itself does not go on.
    fn extend(&self, until_ns: u64) {
        let mut settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Settings { processes, pid, config, .. } = &mut *settings;
        if config.tiers & TIER_T3 == 0 || monotonic_ns() >= config.switches_until_ns {
            return;
        }
        let next = ProcConfig { switches_until_ns: until_ns, ..*config };
        // If the kernel did not replace it, the stretch ends when it was to end before.
        if insert(processes, *pid, next).is_ok() {
            *config = next;
        }
    }

    /// System calls that began until now are no longer gone on with: a new stretch has begun.
    fn calls_anew(&self) {
        let mut settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Settings { processes, pid, config, .. } = &mut *settings;
        config.calls_epoch += 1;
        // If the kernel did not replace it, calls across the hole are counted with it.
        let _ = insert(processes, *pid, *config);
    }

    /// Ends the stretch, if one lasts.
    pub(super) fn end(&self) {
        let mut settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Settings { processes, pid, config, ended_ns, .. } = &mut *settings;
        if config.tiers & TIER_T3 == 0 {
            return;
        }
        config.tiers &= !TIER_T3;
        // The kernel replaces an entry that is there; if it did not, the stretch would end when the sites are removed,
        // which comes next.
        let _ = insert(processes, *pid, *config);
        *ended_ns = Some(monotonic_ns().min(config.switches_until_ns));
    }

    /// Ends the stretch, and lets none begin any more.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.end();
    }

    /// Has the programs pass over the process. Returns when none is at work any more on a hit that came before: its
    /// records are in the ring then, and its counters stand still.
    pub(super) fn leave(&self) {
        let settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = settings.processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&settings.pid);
        // Whoever is not in the map has left before.
        if gone.is_ok() {
            await_programs();
        }
    }

    /// When the last stretch ended, ns; told once.
    fn take_end(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended_ns.take()
    }
}

/// The stretches in which the switches of a session are observed, and their two ends in the stream. Clones are the same.
#[derive(Clone, Debug)]
pub struct Stretches {
    switching: Switching,
    /// Held while a begin or an end is told, so that they come in their order.
    marks: Arc<Mutex<Marks<Switch>>>,
}

impl Stretches {
    pub(super) fn new(switching: Switching, marks: Marks<Switch>) -> Self {
        Self { switching, marks: Arc::new(Mutex::new(marks)) }
    }

    /// Begins one, when all probes are in place; it lasts until `until_ns` (`CLOCK_MONOTONIC`) at the longest. Returns when
    /// it has begun, ns; nothing happens where all is over, or that time has passed.
    ///
    /// # Errors
    /// The programs could not be told, by the kernel's word.
    pub fn begin(&self, until_ns: u64) -> Result<Option<u64>, String> {
        // One that nobody was told the end of.
        self.tell_end();
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = self.switching.begin(until_ns).map_err(|e| e.to_string())?;
        if let Some(time_ns) = begun {
            marks.before(Switch { time_ns, goid: 0, kind: SwitchKind::Begin });
        }
        Ok(begun)
    }

    /// Lets the one that lasts go on until `until_ns` at the longest.
    pub fn extend(&self, until_ns: u64) {
        self.switching.extend(until_ns);
    }

    /// The tracepoints of system calls are about to be on again: calls that began before are not gone on with.
    pub fn calls_anew(&self) {
        self.switching.calls_anew();
    }

    /// Ends it: call it before the probes go.
    pub fn end(&self) {
        self.switching.end();
    }

    /// Puts its end into the stream, behind what it saw: call it when the probes are gone. Returns when it has ended, ns,
    /// if nobody was told before.
    pub fn tell_end(&self) -> Option<u64> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        self.switching.end();
        let ended = self.switching.take_end();
        if let Some(time_ns) = ended {
            marks.behind(Switch { time_ns, goid: 0, kind: SwitchKind::End });
        }
        ended
    }
}
