//! Switching T3 on and off for all its sites at one moment.
//!
//! Placing or removing breakpoints takes tens of milliseconds, in which some sites are on and others not. So the programs
//! are told by the process's configuration, which the kernel replaces at once, when to look: a stretch begins when all
//! sites are in place, and ends before the first is removed.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{HashMap, MapData, MapError};
use tracer_ebpf::{ProcConfig, TIER_T3};

use super::config::Wire;
use crate::memory::monotonic_ns;

/// The configuration of one process, as the programs have it.
#[derive(Debug)]
struct Settings {
    processes: HashMap<MapData, u32, Wire<ProcConfig>>,
    pid: u32,
    config: ProcConfig,
    /// When the stretch that is the last to date ended, if nobody was told yet.
    ended_ns: Option<u64>,
}

/// A handle of it.
#[derive(Clone, Debug)]
pub(super) struct Switching(Arc<Mutex<Settings>>);

impl Switching {
    /// Tells the programs of a process. T3 is off.
    pub(super) fn new(
        mut processes: HashMap<MapData, u32, Wire<ProcConfig>>,
        pid: u32,
        config: ProcConfig,
    ) -> Result<Self, MapError> {
        let config = ProcConfig { tiers: config.tiers & !TIER_T3, ..config };
        processes.insert(&pid, &Wire(config), 0)?;
        Ok(Self(Arc::new(Mutex::new(Settings { processes, pid, config, ended_ns: None }))))
    }

    /// Begins a stretch. Returns a time right before it, ns.
    pub(super) fn begin(&self) -> Result<u64, MapError> {
        let mut settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = monotonic_ns();
        let Settings { processes, pid, config, .. } = &mut *settings;
        let next = ProcConfig { tiers: config.tiers | TIER_T3, epoch: config.epoch + 1, ..*config };
        processes.insert(&*pid, &Wire(next), 0)?;
        *config = next;
        Ok(begun)
    }

    /// Ends the stretch, if one lasts.
    pub(super) fn end(&self) {
        let mut settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Settings { processes, pid, config, ended_ns } = &mut *settings;
        if config.tiers & TIER_T3 == 0 {
            return;
        }
        config.tiers &= !TIER_T3;
        // The kernel replaces an entry that is there; if it did not, the stretch would end when the sites are removed,
        // which comes next.
        let _ = processes.insert(&*pid, &Wire(*config), 0);
        *ended_ns = Some(monotonic_ns());
    }

    /// When the last stretch ended, ns; told once.
    pub(super) fn take_end(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ended_ns.take()
    }
}
