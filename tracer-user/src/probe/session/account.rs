//! What the kernel counted for a session.

use aya::maps::{HashMap, PerCpuHashMap};
use bytemuck::Zeroable as _;
use tracer_ebpf::{MAP_OPEN_WAITS, MAP_SUMS, OpenWait, Sum, SumKey};

use super::{Owner, Session};
use crate::probe::config::Wire;
use crate::probe::drain::Seen;
use crate::probe::losses::{Accounting, Counters, SwitchAccount};

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
        Accounting {
            probes,
            switches: self.switch_account(),
            gaps: seen.gaps + switches.gaps,
            undecodable: seen.undecodable + switches.undecodable,
            procid_mismatches: seen.procid_mismatches,
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
