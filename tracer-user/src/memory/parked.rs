//! Since when a goroutine is parked for certain.
//!
//! `g.waitsince` looks like the answer and is not. The collector sets it when it first finds a goroutine parked, to
//! `work.tstart` (markroot, runtime/mgcmark.go), which during the mark phase still holds the begin of the *previous*
//! cycle's mark termination (gcMark, runtime/mgc.go; the same from Go 1.18 to 1.27). It is earlier than the park may
//! have been, by as much as the time between two collections. What is certain is that the goroutine was parked when
//! the cycle after that one marked it, so at that cycle's end at the latest.

use super::reader::{Reader, field, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};

/// Cycles that the runtime remembers (`mstats.pause_end`, runtime/mstats.go).
const KEPT: usize = 256;
/// The clocks of a cycle's begin and end are not read in one moment.
const SLACK_NS: u64 = 10_000_000;

/// The ends of the latest GC cycles, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Cycles(Vec<Cycle>);

#[derive(Clone, Copy, Debug)]
struct Cycle {
    /// `CLOCK_MONOTONIC` ns, as far as the wall clock was not set since.
    end_ns: u64,
    /// Its pauses in all: its mark termination was not longer.
    pause_ns: u64,
}

impl Cycle {
    /// Whether its mark termination began then.
    fn began(self, at_ns: u64) -> bool {
        at_ns <= self.end_ns && self.end_ns - at_ns <= self.pause_ns.saturating_add(SLACK_NS)
    }
}

impl Cycles {
    /// The latest moment at which a goroutine with this `g.waitsince` was parked already; 0 if none is certain.
    pub(super) fn parked_by(&self, wait_since_ns: u64) -> u64 {
        let Some(newest) = self.0.last() else { return 0 };
        if wait_since_ns == 0 || wait_since_ns > newest.end_ns || newest.began(wait_since_ns) {
            // Found by a cycle that is still at work.
            return 0;
        }
        let at = self.0.partition_point(|cycle| cycle.end_ns < wait_since_ns);
        match self.0.get(at..at + 2) {
            Some([before, found]) if before.began(wait_since_ns) => found.end_ns,
            // Older than what is remembered, or the wall clock was set: found by the newest at the latest.
            _ => newest.end_ns,
        }
    }
}

impl<R: Reader> Runtime<'_, R> {
    /// Reads the ends of the latest cycles.
    pub(super) fn cycles(&self) -> Result<Cycles, RuntimeError> {
        let layout = &self.binary.layout().memstats;
        let memstats = self.global(self.binary.globals().memstats);
        let parts = [
            (field(memstats, layout.numgc), 4),
            (field(memstats, layout.last_gc_unix), 8),
            (field(memstats, layout.last_gc_nanotime), 8),
            (field(memstats, layout.pause_ns), KEPT * 8),
            (field(memstats, layout.pause_end), KEPT * 8),
        ];
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        if read.iter().any(|ok| !ok) {
            return Ok(Cycles::default());
        }
        let (unix, nanotime) = (u64_at(&bytes, 4), u64_at(&bytes, 12));
        let (pauses, ends) = bytes[20..].split_at(KEPT * 8);
        let count = u32_at(&bytes, 0) as usize;
        let cycles = (count.saturating_sub(KEPT)..count).map(|cycle| {
            let at = (cycle % KEPT) as u32 * 8;
            let ago = unix.saturating_sub(u64_at(ends, at));
            Cycle { end_ns: nanotime.saturating_sub(ago), pause_ns: u64_at(pauses, at) }
        });
        Ok(Cycles(cycles.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn cycles(ends: &[u64]) -> Cycles {
        Cycles(ends.iter().map(|end| Cycle { end_ns: end * SECOND, pause_ns: 1_000_000 }).collect())
    }

    /// Just before the end of a cycle: its mark termination.
    fn begin(second: u64) -> u64 {
        second * SECOND - 500_000
    }

    #[test]
    fn the_cycle_behind_the_one_that_is_named_has_seen_it() {
        let cycles = cycles(&[10, 20, 30, 40]);
        assert_eq!(cycles.parked_by(begin(10)), 20 * SECOND);
        assert_eq!(cycles.parked_by(begin(30)), 40 * SECOND);
    }

    #[test]
    fn what_a_cycle_finds_that_has_not_ended_is_not_certain() {
        let cycles = cycles(&[10, 20]);
        assert_eq!(cycles.parked_by(begin(20)), 0);
        assert_eq!(cycles.parked_by(21 * SECOND), 0);
        assert_eq!(cycles.parked_by(0), 0);
        assert_eq!(Cycles::default().parked_by(begin(10)), 0);
    }

    #[test]
    fn what_is_older_than_all_that_is_remembered_was_seen_by_the_newest() {
        let cycles = cycles(&[10, 20, 30]);
        assert_eq!(cycles.parked_by(begin(3)), 30 * SECOND);
        // A cycle began then by no clock that is known: the wall clock was set.
        assert_eq!(cycles.parked_by(15 * SECOND), 30 * SECOND);
    }
}
