//! What the probes counted, and whether it adds up (LOSS-1).

use aya::maps::{MapData, PerCpuArray};
use tracer_ebpf::{Probe, ProbeCounters, counter_index};

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
    /// Records that arrived in user space.
    pub received: u64,
}

/// The account of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// By probe; those without a hit are left out.
    pub probes: Vec<(Probe, ProbeAccount)>,
    /// Records missing from the numbering of the CPUs, as the stream showed it.
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
            received: sum.received + p.received,
        })
    }

    /// Events that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let total = self.total();
        total.lost_ring + total.refused
    }

    /// Whether every hit is accounted for, and every delivered record arrived. True of a running session only
    /// by luck; it must be of an ended one.
    #[must_use]
    pub fn balances(&self) -> bool {
        self.undecodable == 0
            && self
                .probes
                .iter()
                .all(|(_, p)| p.hits == p.delivered + p.lost_ring + p.refused && p.delivered == p.received)
    }
}

/// Reads the counters of one process.
pub(super) fn read(
    map: &PerCpuArray<&MapData, Wire<ProbeCounters>>,
    slot: u32,
) -> Vec<(Probe, ProbeAccount)> {
    Probe::ALL
        .into_iter()
        .filter_map(|probe| {
            let values = map.get(&counter_index(slot, probe as u8), 0).ok()?;
            let account = values.iter().fold(ProbeAccount::default(), |sum, Wire(cpu)| ProbeAccount {
                hits: sum.hits + cpu.hits,
                delivered: sum.delivered + cpu.delivered,
                lost_ring: sum.lost_ring + cpu.lost_ring,
                refused: sum.refused + cpu.refused,
                partial: sum.partial + cpu.partial,
                received: 0,
            });
            (account.hits != 0).then_some((probe, account))
        })
        .collect()
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
    }
}
