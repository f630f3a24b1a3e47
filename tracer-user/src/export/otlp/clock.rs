//! From `CLOCK_MONOTONIC` to wall time, once, at the exit (TIME-1).

use rustix::time::{ClockId, clock_gettime};

use crate::memory::monotonic_ns;

/// The distance between the two clocks, as of one moment: wall time may be set at any time, so each batch
/// measures anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wall {
    /// Wall time minus monotonic time, ns.
    offset_ns: i128,
}

impl Wall {
    /// Measures the distance: between two readings of one clock, with the least doubt of a few tries.
    pub(super) fn now() -> Self {
        let mut best = (u64::MAX, 0);
        for _ in 0..4 {
            let before = monotonic_ns();
            let wall = realtime_ns();
            let after = monotonic_ns();
            let doubt = after.saturating_sub(before);
            if doubt < best.0 {
                best = (doubt, wall - i128::from(before) - i128::from(doubt / 2));
            }
        }
        Self { offset_ns: best.1 }
    }

    /// Nanoseconds since the epoch.
    pub(super) fn unix_ns(self, monotonic_ns: u64) -> u64 {
        u64::try_from(i128::from(monotonic_ns) + self.offset_ns).unwrap_or(0)
    }
}

fn realtime_ns() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_1_monotonic_becomes_wall() {
        let wall = Wall::now();
        let (at, real) = (monotonic_ns(), realtime_ns());
        let converted = i128::from(wall.unix_ns(at));
        assert!((converted - real).abs() < 50_000_000, "{converted} vs {real}");
        assert_eq!(wall.unix_ns(at + 5) - wall.unix_ns(at), 5);
        assert_eq!(Wall { offset_ns: -10 }.unix_ns(5), 0);
        assert_eq!(Wall { offset_ns: 10 }.unix_ns(5), 15);
    }
}
