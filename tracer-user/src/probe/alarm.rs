//! What wakes the governor before its time: the second tier was hit often since.

use std::os::fd::AsFd as _;

use aya::maps::{MapData, RingBuf};
use rustix::event::PollFd;
use rustix::event::PollFlags;

/// Hits of a probe on a CPU after which it is woken, on a machine with one; some milliseconds' worth of them.
const HITS: u64 = 2048;
/// On a machine with many, at least.
const FEWEST: u64 = 128;

/// What the programs are told: so many hits on a CPU, less one. On many CPUs it takes fewer on each.
pub(super) fn mask() -> u64 {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    (HITS / cpus.next_power_of_two()).max(FEWEST) - 1
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

    /// Lets it ring again.
    pub fn reset(&mut self) {
        while self.0.next().is_some() {}
    }
}
