//! Durations in buckets: what the SDK can't take ready-made.

use std::collections::BTreeMap;

use crate::model::{Pause, StwReason};

/// Upper bounds of the buckets in seconds, inclusive: stops of the world last from 10 us to seconds.
pub(super) const BOUNDS: [f64; 17] = [
    10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3,
    500e-3, 1.0, 5.0,
];

/// Durations since the start of export.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// One more than there are bounds: the last has none.
    pub(super) buckets: [u64; BOUNDS.len() + 1],
    pub(super) count: u64,
    /// Kept in integers, so that a long sum loses nothing.
    pub(super) sum_ns: u64,
    pub(super) min_ns: Option<u64>,
    pub(super) max_ns: Option<u64>,
}

impl Histogram {
    fn record(&mut self, ns: u64) {
        let seconds = ns as f64 / 1e9;
        let at = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.min_ns = Some(self.min_ns.map_or(ns, |min| min.min(ns)));
        self.max_ns = Some(self.max_ns.map_or(ns, |max| max.max(ns)));
    }
}

/// Stops of the world by reason, and those of the GC together. Reasons are a fixed list of the runtime's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PauseHistograms {
    pub(super) by_reason: BTreeMap<&'static str, Histogram>,
    pub(super) gc: Histogram,
}

impl PauseHistograms {
    pub(super) fn record(&mut self, pause: &Pause) {
        self.by_reason
            .entry(pause.reason.map_or("unknown", StwReason::name))
            .or_default()
            .record(pause.total_ns());
        if pause.reason.is_some_and(StwReason::is_gc) {
            self.gc.record(pause.total_ns());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_are_inclusive_above() {
        let mut histogram = Histogram::default();
        for ns in [0, 10_000, 10_001, 5_000_000_000, 5_000_000_001] {
            histogram.record(ns);
        }
        assert_eq!(histogram.buckets[0], 2);
        assert_eq!(histogram.buckets[1], 1);
        assert_eq!(histogram.buckets[16], 1);
        assert_eq!(histogram.buckets[17], 1);
        assert_eq!(histogram.buckets.iter().sum::<u64>(), histogram.count);
        assert_eq!((histogram.min_ns, histogram.max_ns), (Some(0), Some(5_000_000_001)));
        assert!(BOUNDS.is_sorted());
    }

    proptest! {
        #[test]
        fn every_duration_is_in_one_bucket_and_in_the_sums(
            durations in prop::collection::vec(any::<u64>().prop_flat_map(|ns| Just(ns >> (ns & 63))), 0..50),
        ) {
            let mut histogram = Histogram::default();
            for ns in &durations {
                histogram.record(*ns);
            }
            prop_assert_eq!(histogram.count, durations.len() as u64);
            prop_assert_eq!(histogram.buckets.iter().sum::<u64>(), histogram.count);
            prop_assert_eq!(histogram.min_ns, durations.iter().copied().min());
            prop_assert_eq!(histogram.max_ns, durations.iter().copied().max());
            let sum = durations.iter().fold(0, |sum: u64, ns| sum.saturating_add(*ns));
            prop_assert_eq!(histogram.sum_ns, sum);
            // As many are at or below each bound as its buckets say.
            let mut so_far = 0;
            for (bound, bucket) in BOUNDS.iter().zip(histogram.buckets) {
                so_far += bucket;
                let below = durations.iter().filter(|ns| **ns as f64 / 1e9 <= *bound).count();
                prop_assert_eq!(so_far, below as u64);
            }
        }
    }
}
