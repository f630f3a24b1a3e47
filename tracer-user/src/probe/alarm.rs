//! What wakes the governor before its time: a dear tier was hit often since, or a probe of the first one, where an eighth
//! of the hits is enough.

use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use aya::util::online_cpus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Hits on all CPUs together that may come before it is woken: some milliseconds' worth of them.
const HITS: u64 = 2048;
/// Probes of a tier are counted apart, each on each CPU. No dear tier has more.
const PROBES: u64 = 4;
/// Hits of a probe on one CPU at least: it is not to be woken for nothing on a machine with very many.
const FEWEST: u64 = 64;

/// What the programs are told: so many hits of a probe on a CPU, less one. All CPUs count, whichever gotrail may use.
pub(super) fn mask() -> u64 {
    mask_for(online_cpus().map_or(1, |cpus| cpus.len() as u64))
}

fn mask_for(cpus: u64) -> u64 {
    (HITS / PROBES / cpus.next_power_of_two()).max(FEWEST) - 1
}

/// The alarm of a session.
pub struct Alarm(RingBuf<MapData>);

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Alarm").finish()
    }
}

impl Alarm {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// To be polled for.
    #[must_use]
    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)
    }

    /// Waits for it, at most for `patience`; whether it rang.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> bool {
        let timeout = Timespec::try_from(patience).ok();
        // An interruption is a short wait.
        poll(&mut [self.poll_fd()], timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Lets it ring again.
    pub fn reset(&mut self) {
        while self.0.next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_1_no_more_hits_than_that_come_on_all_cpus_together() {
        for cpus in 1..=8 {
            assert!(PROBES * cpus * (mask_for(cpus) + 1) <= HITS, "{cpus} CPUs");
        }
        assert_eq!((mask_for(1), mask_for(2), mask_for(3), mask_for(256)), (511, 255, 127, 63));
    }
}
