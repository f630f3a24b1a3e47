//! Rates from stretches of time in which something was observed, with how sure they are.

/// A rate a second, with its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub per_second: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Counts in sampling windows: what a ratio estimator needs of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    windows: u64,
    seconds: f64,
    count: f64,
    seconds_squared: f64,
    count_squared: f64,
    product: f64,
}

impl Sampling {
    /// One more window.
    pub fn add(&mut self, seconds: f64, count: u64) {
        let count = count as f64;
        self.windows += 1;
        self.seconds += seconds;
        self.count += count;
        self.seconds_squared += seconds * seconds;
        self.count_squared += count * count;
        self.product += seconds * count;
    }

    /// Windows so far.
    #[must_use]
    pub const fn windows(&self) -> u64 {
        self.windows
    }

    /// Their length in all, s.
    #[must_use]
    pub const fn seconds(&self) -> f64 {
        self.seconds
    }

    /// The rate over all time from which the windows were taken. `None` before there are two: one says nothing of what
    /// differs between windows.
    ///
    /// The variance between windows is that of the ratio estimator (Cochran, Sampling Techniques, chapter 6); it is
    /// never taken to be less than that of a Poisson process of this rate, since few windows may look alike by chance.
    #[must_use]
    pub fn rate(&self) -> Option<Estimate> {
        if self.windows < 2 || self.seconds <= 0.0 {
            return None;
        }
        let n = self.windows as f64;
        let rate = self.count / self.seconds;
        let scatter = self.count_squared - 2.0 * rate * self.product + rate * rate * self.seconds_squared;
        let between = (n / (n - 1.0) * scatter.max(0.0)).sqrt() / self.seconds;
        let poisson = self.count.sqrt() / self.seconds;
        let (narrow, wide) = (1.96 * poisson, student(self.windows - 1) * between);
        // Nothing in all of them still leaves room for three (the rule of three).
        let least = if self.count == 0.0 { 3.0 / self.seconds } else { 0.0 };
        let half = narrow.max(wide).max(least);
        Some(Estimate { per_second: rate, low: (rate - half).max(0.0), high: rate + half })
    }
}

/// The 97.5 % quantile of Student's distribution.
fn student(freedom: u64) -> f64 {
    const TABLE: [f64; 15] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145,
        2.131,
    ];
    let nth = usize::try_from(freedom.saturating_sub(1)).unwrap_or(usize::MAX);
    // Beyond the table: the first term of the expansion around the normal distribution, within 0.2 %.
    TABLE.get(nth).copied().unwrap_or_else(|| 1.96 + 2.46 / freedom as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_windows_of_a_steady_rate_are_as_sure_as_counting_is() {
        let mut sampling = Sampling::default();
        assert_eq!(sampling.rate(), None);
        sampling.add(0.1, 100);
        assert_eq!(sampling.rate(), None);
        for _ in 0..9 {
            sampling.add(0.1, 100);
        }
        let rate = sampling.rate().unwrap();
        assert!((rate.per_second - 1000.0).abs() < 1e-6);
        // 1000 counted: 3.2 % of standard deviation.
        assert!((rate.high - rate.per_second - 62.0).abs() < 1.0, "{rate:?}");
    }

    #[test]
    fn windows_that_differ_are_less_sure() {
        let mut sampling = Sampling::default();
        for i in 0..10 {
            sampling.add(0.1, if i % 2 == 0 { 0 } else { 2000 });
        }
        let rate = sampling.rate().unwrap();
        assert!(rate.low < 3_000.0 && rate.high > 17_000.0, "{rate:?}");
    }

    #[test]
    fn nothing_seen_is_not_nothing_there() {
        let mut sampling = Sampling::default();
        sampling.add(0.5, 0);
        sampling.add(0.5, 0);
        assert_eq!(sampling.rate(), Some(Estimate { per_second: 0.0, low: 0.0, high: 3.0 }));
    }

    /// A generator for the test below: splitmix64.
    fn next(state: &mut u64) -> f64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    #[test]
    fn the_interval_holds_the_truth_about_as_often_as_it_says() {
        let (mut state, mut held) = (7, 0);
        const TRIALS: u32 = 400;
        for _ in 0..TRIALS {
            let mut sampling = Sampling::default();
            for _ in 0..12 {
                // The rate of each window is anything between 0 and twice the truth.
                let seconds = 0.05 + 0.1 * next(&mut state);
                sampling.add(seconds, (2.0 * 5_000.0 * next(&mut state) * seconds) as u64);
            }
            let rate = sampling.rate().unwrap();
            held += u32::from((rate.low..=rate.high).contains(&5_000.0));
        }
        assert!(held > TRIALS * 90 / 100, "{held} of {TRIALS}");
        assert!(held < TRIALS, "it is too wide to say anything");
    }

    proptest! {
        #[test]
        fn the_interval_is_around_the_estimate(
            windows in proptest::collection::vec((0.001..1.0_f64, 0..1_000_000_u64), 2..50)
        ) {
            let mut sampling = Sampling::default();
            windows.iter().for_each(|(seconds, count)| sampling.add(*seconds, *count));
            let rate = sampling.rate().unwrap();
            prop_assert!(rate.low >= 0.0 && rate.low <= rate.per_second && rate.per_second <= rate.high);
        }
    }
}
