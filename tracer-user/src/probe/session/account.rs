//! What the kernel counted for a session.

use aya::maps::{HashMap, PerCpuHashMap};
use bytemuck::Zeroable as _;
use tracer_ebpf::{MAP_OPEN_WAITS, MAP_SUMS, OpenWait, Probe, Sum, SumKey, TIER_T1, TIER_T2};

use super::{Owner, Session};
use crate::probe::config::Wire;
use crate::probe::drain::Seen;
use crate::probe::losses::{Accounting, Counters, SwitchAccount};

/// Events that were lost on their way, by tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostEvents {
    /// Of the rare tier.
    pub rare: u64,
    /// Creations and exits.
    pub lifetimes: u64,
}

impl Session {
    /// The distributions that the kernel counted of this process's switches and system calls.
    #[must_use]
    pub fn sums(&self) -> Vec<(SumKey, Sum)> {
        let Owner::Alone(alone) = &self.owner else { return Vec::new() };
        let Some(sums) = alone
            .ebpf
            .map(MAP_SUMS)
            .and_then(|m| PerCpuHashMap::<_, Wire<SumKey>, Wire<Sum>>::try_from(m).ok())
        else {
            return Vec::new();
        };
        let of_all_cpus = |cpus: &[Wire<Sum>]| {
            cpus.iter().fold(Sum::zeroed(), |mut all, Wire(cpu)| {
                all.count += cpu.count;
                all.total_ns += cpu.total_ns;
                all.buckets.iter_mut().zip(cpu.buckets).for_each(|(into, from)| *into += from);
                all
            })
        };
        sums.iter().flatten().map(|(Wire(key), cpus)| (key, of_all_cpus(&cpus))).collect()
    }

    /// The counters of the probes: what they say is exact once the session is detached.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// The account so far. Exact once the session is detached and joined.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        let mut probes = self.counters.read();
        let (seen, switches) = match &self.owner {
            Owner::Alone(alone) => (alone.drain.seen(), alone.switch_drain.seen()),
            Owner::Fleet(member) => (member.seen(), Seen::default()),
        };
        for (probe, account) in &mut probes {
            let of = |seen: &Seen| seen.received.get(probe).copied().unwrap_or(0);
            account.received = of(&seen) + of(&switches);
            account.lost_queue = seen.overflowed.get(probe).copied().unwrap_or(0);
            account.delivered = account.delivered.saturating_sub(account.lost_queue);
        }
        // The numbers of the CPUs are those of all processes together: of one of many it is known by its counters alone.
        let gaps = match &self.owner {
            Owner::Alone(_) => seen.gaps + switches.gaps,
            Owner::Fleet(_) => probes.iter().map(|(_, account)| account.lost_ring).sum(),
        };
        Accounting {
            probes,
            switches: self.switch_account(),
            gaps,
            undecodable: seen.undecodable + switches.undecodable,
            procid_mismatches: seen.procid_mismatches,
        }
    }

    /// Hits of the first two tiers that are not in the stream of events and should be, so far. Read after a batch was received
    /// it has all that were lost before its records were made.
    #[must_use]
    pub fn lost(&self) -> LostEvents {
        let seen = match &self.owner {
            Owner::Alone(_) => Seen::default(),
            Owner::Fleet(member) => member.seen(),
        };
        let of = |tier: u32| {
            let probes = Probe::ALL.into_iter().filter(|probe| probe.tier() == tier);
            probes
                .map(|probe| self.counters.lost(probe) + seen.overflowed.get(&probe).copied().unwrap_or(0))
                .sum()
        };
        LostEvents {
            rare: of(TIER_T1),
            lifetimes: if self.plan.tier(TIER_T2).next().is_some() { of(TIER_T2) } else { 0 },
        }
    }

    fn switch_account(&self) -> SwitchAccount {
        let counters = self.counters.switches();
        // Nothing was opened where records are sent; to go through the map is not for nothing then.
        let open = match &self.owner {
            Owner::Alone(alone) if counters.opened != 0 => alone
                .ebpf
                .map(MAP_OPEN_WAITS)
                .and_then(|m| HashMap::<_, u64, Wire<OpenWait>>::try_from(m).ok())
                .map_or(0, |waits| waits.keys().flatten().count() as u64),
            _ => 0,
        };
        SwitchAccount { counters, open }
    }
}
