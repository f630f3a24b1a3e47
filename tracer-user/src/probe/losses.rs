//! What the probes counted, and whether it adds up (LOSS-1).

use std::sync::Arc;

use aya::maps::{Map, MapData, MapError, PerCpuArray};
use tracer_ebpf::{Probe, ProbeCounters, SwitchCounters, counter_index};

use super::config::Wire;

/// The account of one probe, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeAccount {
    /// Executions past the process filter.
    pub hits: u64,
    /// Records handed to the ring.
    pub delivered: u64,
    /// Records for which the ring had no room.
    pub lost_ring: u64,
    /// Hits that the programs refused to interpret.
    pub refused: u64,
    /// Delivered records in which a memory read failed.
    pub partial: u64,
    /// Hits that went into a sum in the kernel.
    pub summed: u64,
    /// Hits for which a map in the kernel had no room.
    pub lost_map: u64,
    /// Hits that are not what the probe is for.
    pub skipped: u64,
    /// Hits without a record, because the process's memory could not be read.
    pub faulted: u64,
    /// Records that were dropped in user space, as their consumer was behind; they are not among those delivered.
    pub lost_queue: u64,
    /// Records that arrived in user space.
    pub received: u64,
}

impl ProbeAccount {
    /// Hits that should have told something and did not.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost_ring + self.lost_map + self.lost_queue + self.refused + self.faulted
    }

    /// Whether every hit is accounted for.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.hits == self.delivered + self.summed + self.skipped + self.lost()
            && self.delivered == self.received
    }
}

/// What became of the stacks of T3 and of waits measured in the kernel, summed over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwitchAccount {
    /// As the programs counted.
    pub counters: SwitchCounters,
    /// Waits that were open when the account was made.
    pub open: u64,
}

impl SwitchAccount {
    /// Waits that the kernel forgot for want of room.
    #[must_use]
    pub const fn evicted(&self) -> u64 {
        self.counters.opened.saturating_sub(self.counters.closed).saturating_sub(self.open)
    }

    /// Parks whose stack is not known, by whatever cause.
    #[must_use]
    pub const fn without_stack(&self) -> u64 {
        let SwitchCounters { collided, full, unsent, unread, .. } = self.counters;
        collided + full + unsent + unread
    }

    /// Sums the counters of all CPUs.
    fn sum(cpus: &[Wire<SwitchCounters>]) -> SwitchCounters {
        cpus.iter().fold(SwitchCounters::default(), |sum, Wire(cpu)| SwitchCounters {
            known: sum.known + cpu.known,
            new: sum.new + cpu.new,
            collided: sum.collided + cpu.collided,
            full: sum.full + cpu.full,
            unsent: sum.unsent + cpu.unsent,
            unread: sum.unread + cpu.unread,
            partial: sum.partial + cpu.partial,
            opened: sum.opened + cpu.opened,
            closed: sum.closed + cpu.closed,
            unmatched: sum.unmatched + cpu.unmatched,
            outside: sum.outside + cpu.outside,
            frames: sum.frames + cpu.frames,
        })
    }
}

/// The account of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// By probe; those without a hit are left out.
    pub probes: Vec<(Probe, ProbeAccount)>,
    /// What became of the stacks of T3 and of waits measured in the kernel.
    pub switches: SwitchAccount,
    /// Records missing from the numbering of the CPUs, as the stream showed it; of one of many processes, whose numbers are
    /// those of all, its records that the ring had no room for.
    pub gaps: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// Records whose thread was not the M's `procid`: the layout would be wrong.
    pub procid_mismatches: u64,
}

impl Accounting {
    /// Sums over all probes.
    #[must_use]
    pub fn total(&self) -> ProbeAccount {
        self.probes.iter().fold(ProbeAccount::default(), |sum, (_, p)| ProbeAccount {
            hits: sum.hits + p.hits,
            delivered: sum.delivered + p.delivered,
            lost_ring: sum.lost_ring + p.lost_ring,
            refused: sum.refused + p.refused,
            partial: sum.partial + p.partial,
            summed: sum.summed + p.summed,
            lost_map: sum.lost_map + p.lost_map,
            skipped: sum.skipped + p.skipped,
            faulted: sum.faulted + p.faulted,
            lost_queue: sum.lost_queue + p.lost_queue,
            received: sum.received + p.received,
        })
    }

    /// Events that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.total().lost()
    }

    /// Whether every hit is accounted for, and every delivered record arrived. True of a running session only
    /// by luck; it must be of an ended one.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.undecodable == 0 && self.probes.iter().all(|(_, account)| account.balances())
    }
}

/// The counters of one process. Clones are the same.
#[derive(Clone)]
pub struct Counters {
    map: Arc<PerCpuArray<MapData, Wire<ProbeCounters>>>,
    switches: Arc<PerCpuArray<MapData, Wire<SwitchCounters>>>,
    slot: u32,
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Counters {
    pub(super) fn open(probes: Map, switches: Map, slot: u32) -> Result<Self, MapError> {
        let (map, switches) = (PerCpuArray::try_from(probes)?, PerCpuArray::try_from(switches)?);
        Ok(Self { map: Arc::new(map), switches: Arc::new(switches), slot })
    }

    /// Those of the process in another slot.
    #[must_use]
    pub(super) fn of_slot(&self, slot: u32) -> Self {
        Self { slot, ..self.clone() }
    }

    /// The accounts of all probes that were hit; what was received is not known here.
    #[must_use]
    pub fn read(&self) -> Vec<(Probe, ProbeAccount)> {
        let all = Probe::ALL.into_iter().map(|probe| (probe, self.account(probe)));
        all.filter(|(_, account)| account.hits != 0).collect()
    }

    /// What became of stacks and of waits measured in the kernel.
    #[must_use]
    pub fn switches(&self) -> SwitchCounters {
        self.switches
            .get(&self.slot, 0)
            .map_or_else(|_| SwitchCounters::default(), |cpus| SwitchAccount::sum(&cpus))
    }

    /// Hits of one probe so far.
    #[must_use]
    pub fn hits(&self, probe: Probe) -> u64 {
        self.account(probe).hits
    }

    /// Hits of one probe so far that the kernel has nothing to tell of.
    pub(super) fn lost(&self, probe: Probe) -> u64 {
        self.account(probe).lost()
    }

    fn account(&self, probe: Probe) -> ProbeAccount {
        let Ok(values) = self.map.get(&counter_index(self.slot, probe as u8), 0) else {
            return ProbeAccount::default();
        };
        values.iter().fold(ProbeAccount::default(), |sum, Wire(cpu)| ProbeAccount {
            hits: sum.hits + cpu.hits,
            delivered: sum.delivered + cpu.delivered,
            lost_ring: sum.lost_ring + cpu.lost_ring,
            refused: sum.refused + cpu.refused,
            partial: sum.partial + cpu.partial,
            summed: sum.summed + cpu.summed,
            lost_map: sum.lost_map + cpu.lost_map,
            skipped: sum.skipped + cpu.skipped,
            faulted: sum.faulted + cpu.faulted,
            lost_queue: 0,
            received: 0,
        })
    }
}

/// Sets the counters of a slot to zero, for the next process that has it.
pub(super) struct Eraser(PerCpuArray<MapData, Wire<ProbeCounters>>);

impl Eraser {
    /// Another handle of the counters.
    pub(super) fn new(map: MapData) -> Result<Self, MapError> {
        PerCpuArray::try_from(Map::PerCpuArray(map)).map(Self)
    }

    pub(super) fn erase(&mut self, slot: u32) -> Result<(), MapError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?.get();
        for probe in Probe::ALL {
            let zeros = vec![Wire(ProbeCounters::default()); usize::try_from(cpus).unwrap_or_default()];
            self.0.set(counter_index(slot, probe as u8), zeros.try_into()?, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(hits: u64, delivered: u64, lost_ring: u64, received: u64) -> Accounting {
        let account = ProbeAccount { hits, delivered, lost_ring, received, ..ProbeAccount::default() };
        Accounting { probes: vec![(Probe::GcSweep, account)], ..Accounting::default() }
    }

    #[test]
    fn loss_1_hits_are_delivered_or_lost() {
        assert!(account(10, 7, 3, 7).balances());
        assert!(!account(10, 7, 2, 7).balances(), "a hit vanished");
        assert!(!account(10, 7, 3, 6).balances(), "a record vanished on the way");
        assert_eq!(account(10, 7, 3, 7).lost(), 3);
        let mut others = account(20, 7, 3, 7);
        let counts = &mut others.probes[0].1;
        (counts.summed, counts.lost_map, counts.skipped, counts.faulted) = (4, 3, 2, 1);
        assert!(others.balances());
        assert_eq!(others.lost(), 7, "what was summed up or passed over is not lost");
    }
}
