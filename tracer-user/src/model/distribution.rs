//! Times in base-2 exponential buckets: the same ones that the kernel counts in.

use tracer_ebpf::buckets::{BUCKETS, FIRST_INDEX, SCALE, bucket};

/// A distribution of times in ns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub total_ns: u64,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { count: 0, total_ns: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

impl Distribution {
    /// Takes a time in.
    pub fn record(&mut self, ns: u64) {
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        if let Some(slot) = self.buckets.get_mut(bucket(ns)) {
            *slot += 1;
        }
    }

    /// Takes in what another one, or the kernel, has counted.
    pub fn add(&mut self, count: u64, total_ns: u64, buckets: &[u64; BUCKETS]) {
        self.count += count;
        self.total_ns = self.total_ns.saturating_add(total_ns);
        self.buckets.iter_mut().zip(buckets).for_each(|(into, from)| *into += from);
    }

    /// Takes another one in.
    pub fn merge(&mut self, other: &Self) {
        self.add(other.count, other.total_ns, &other.buckets);
    }

    /// Counts by bucket; bucket i holds times above 2^((i - 1) / 4) ns up to 2^(i / 4) ns, the last one all above.
    #[must_use]
    pub const fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// A bound that this share of the times is not above, in ns: at most 19 % more than the least such. `None` if
    /// there are no times.
    #[must_use]
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let at = self.buckets.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        Some(upper_bound_ns(at))
    }

    /// The upper bound of the highest bucket that is not empty, in ns.
    #[must_use]
    pub fn longest_ns(&self) -> Option<u64> {
        self.buckets.iter().rposition(|count| *count != 0).map(upper_bound_ns)
    }
}

fn upper_bound_ns(at: usize) -> u64 {
    let index = i32::try_from(at).unwrap_or(i32::MAX).saturating_add(FIRST_INDEX + 1);
    2_f64.powf(f64::from(index) / 2_f64.powi(SCALE)).floor() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_quantiles() {
        assert_eq!(Distribution::default().quantile_ns(0.5), None);
        assert_eq!(Distribution::default().longest_ns(), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_above_its_share_and_not_much_above(
            mut times in prop::collection::vec(1..1_u64 << 39, 1..100),
            share in 0.01..1.0_f64,
        ) {
            let mut distribution = Distribution::default();
            times.iter().for_each(|ns| distribution.record(*ns));
            times.sort_unstable();
            let at = ((share * times.len() as f64).ceil() as usize).clamp(1, times.len()) - 1;
            let quantile = distribution.quantile_ns(share).unwrap();
            prop_assert!(quantile >= times[at], "{quantile} {}", times[at]);
            prop_assert!(quantile as f64 <= times[at] as f64 * 1.1893, "{quantile} {}", times[at]);
            prop_assert_eq!(distribution.total_ns, times.iter().sum::<u64>());
            prop_assert_eq!(distribution.buckets().iter().sum::<u64>(), distribution.count);
        }
    }
}
