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

/// Counts in sampling windows: what a ratio estimator needs of them. Windows are the shorter and the rarer the more there is
/// to count, so each stands for the time since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    windows: u64,
    /// Observed.
    seconds: f64,
    /// That the windows stand for.
    time: f64,
    count: f64,
    time_squared: f64,
    count_squared: f64,
    product: f64,
    /// The variance of the counts if there is nothing but chance in them.
    chance: f64,
    end_ns: Option<u64>,
}

impl Sampling {
    /// What comes next is not preceded by a window.
    pub const fn resume(&mut self) {
        self.end_ns = None;
    }

    /// One more window, from one time to another.
    pub fn add(&mut self, begin_ns: u64, end_ns: u64, count: u64) {
        let since = |from: u64| end_ns.saturating_sub(from) as f64 / 1e9;
        let seconds = since(begin_ns);
        if seconds <= 0.0 {
            return;
        }
        let time = since(self.end_ns.replace(end_ns).map_or(begin_ns, |end| end.min(begin_ns)));
        let scale = time / seconds;
        let counted = count as f64 * scale;
        self.windows += 1;
        self.seconds += seconds;
        self.time += time;
        self.count += counted;
        self.time_squared += time * time;
        self.count_squared += counted * counted;
        self.product += time * counted;
        self.chance += counted * scale;
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
        if self.windows < 2 {
            return None;
        }
        let n = self.windows as f64;
        let rate = self.count / self.time;
        let scatter = self.count_squared - 2.0 * rate * self.product + rate * rate * self.time_squared;
        let between = (n / (n - 1.0) * scatter.max(0.0)).sqrt() / self.time;
        let poisson = self.chance.sqrt() / self.time;
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

    /// Windows one behind the other.
    fn sampling(windows: impl IntoIterator<Item = (f64, u64)>) -> Sampling {
        let (mut sampling, mut now) = (Sampling::default(), 0);
        for (seconds, count) in windows {
            let begin = now;
            now += (seconds * 1e9) as u64;
            sampling.add(begin, now, count);
        }
        sampling
    }

    #[test]
    fn equal_windows_of_a_steady_rate_are_as_sure_as_counting_is() {
        assert_eq!(sampling([]).rate(), None);
        assert_eq!(sampling([(0.1, 100)]).rate(), None);
        let rate = sampling([(0.1, 100); 10]).rate().unwrap();
        assert!((rate.per_second - 1000.0).abs() < 1e-6);
        // 1000 counted: 3.2 % of standard deviation.
        assert!((rate.high - rate.per_second - 62.0).abs() < 1.0, "{rate:?}");
    }

    #[test]
    fn windows_that_differ_are_less_sure() {
        let rate = sampling((0..10).map(|i| (0.1, i % 2 * 2000))).rate().unwrap();
        assert!(rate.low < 3_000.0 && rate.high > 17_000.0, "{rate:?}");
    }

    #[test]
    fn windows_that_are_short_since_much_happens_stand_for_as_much_time() {
        const SECOND: u64 = 1_000_000_000;
        // Half of the time nothing happens, in windows of a quarter of a second; in the other half 100 000 a second do, in
        // windows of 2 ms.
        let mut sampling = Sampling::default();
        for second in 0..20 {
            let (length, count) = if second < 10 { (SECOND / 4, 0) } else { (SECOND / 500, 200) };
            sampling.add((second + 1) * SECOND - length, (second + 1) * SECOND, count);
        }
        let rate = sampling.rate().unwrap();
        assert!((rate.per_second - 50_000.0).abs() < 2_500.0, "{rate:?}");
        assert!(rate.low > 20_000.0 && rate.high < 80_000.0, "{rate:?}");
        // What was observed all the time in between is not what a window stands for.
        let before = sampling;
        sampling.resume();
        sampling.add(1000 * SECOND, 1001 * SECOND, 50_000);
        assert!((sampling.time - before.time - 1.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_seen_is_not_nothing_there() {
        assert_eq!(sampling([(0.5, 0); 2]).rate(), Some(Estimate { per_second: 0.0, low: 0.0, high: 3.0 }));
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
            let windows = (0..12).map(|_| {
                // The rate of each window is anything between 0 and twice the truth.
                let seconds = 0.05 + 0.1 * next(&mut state);
                (seconds, (2.0 * 5_000.0 * next(&mut state) * seconds) as u64)
            });
            let rate = sampling(windows).rate().unwrap();
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
            let rate = sampling(windows).rate().unwrap();
            prop_assert!(rate.low >= 0.0 && rate.low <= rate.per_second && rate.per_second <= rate.high);
        }
    }
}
