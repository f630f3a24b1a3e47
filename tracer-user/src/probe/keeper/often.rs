//! How often something is done again that somebody undoes.

use std::collections::VecDeque;

/// Times within [`WITHIN_NS`]: what kills our processes would kill the next one too.
const MOST: usize = 16;
/// What is longer ago does not count, ns.
const WITHIN_NS: u64 = 600_000_000_000;

/// When it was done, `CLOCK_MONOTONIC` ns.
#[derive(Debug, Default)]
pub(in crate::probe) struct Often(VecDeque<u64>);

impl Often {
    /// Whether it may be done once more; if so, that it is counts.
    pub(in crate::probe) fn is_allowed(&mut self, now_ns: u64) -> bool {
        while self.0.front().is_some_and(|at_ns| now_ns.saturating_sub(*at_ns) >= WITHIN_NS) {
            self.0.pop_front();
        }
        let allowed = self.0.len() < MOST;
        if allowed {
            self.0.push_back(now_ns);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_ago_does_not_count() {
        const SECOND: u64 = 1_000_000_000;
        let mut often = Often::default();
        // Now and then: for ever.
        assert!((0..1000).all(|i| often.is_allowed(i * 60 * SECOND)));
        let mut often = Often::default();
        let allowed = (0..100).filter(|i| often.is_allowed(i * SECOND)).count();
        assert_eq!(allowed, MOST);
        assert!(!often.is_allowed(WITHIN_NS - 1));
        assert!(often.is_allowed(WITHIN_NS));
    }
}
