//! How often to look: as often as gotrail's own CPU time allows, never in step with anything.

use std::time::Duration;

/// Most looks a second: more would tell little more, and read the target's memory all the time.
const MOST_HERTZ: f64 = 100.0;
/// Longest time between two looks.
const LONGEST: f64 = 10.0;
/// Part of the budget that is planned for; the rest is for what comes unforeseen.
const PLANNED: f64 = 0.9;
/// Weight of the newest look in what a look is taken to cost.
const NEWEST: f64 = 0.2;

/// The pace of the looks.
#[derive(Debug)]
pub(super) struct Pace {
    /// Share of one CPU that may be used.
    budget: f64,
    /// Looks a second, if the user has said so.
    fixed: Option<f64>,
    /// What a look costs, seconds of CPU time; `None` before the second one.
    cost: Option<f64>,
    looks: u64,
    random: u64,
}

impl Pace {
    pub(super) fn new(budget: f64, fixed: Option<f64>, seed: u64) -> Self {
        Self { budget, fixed, cost: None, looks: 0, random: seed }
    }

    /// Takes in what a look has cost. The first unwinds everything, and is no measure for the others.
    pub(super) fn cost(&mut self, cost: Duration) {
        self.looks += 1;
        let cost = cost.as_secs_f64();
        self.cost = match self.cost {
            None if self.looks == 1 => None,
            None => Some(cost),
            Some(before) => Some(before + NEWEST * (cost - before)),
        };
    }

    /// Time from the begin of the last look to that of the next: on the average what is due, and each time another,
    /// from half of it to one and a half.
    pub(super) fn next(&mut self) -> Duration {
        Duration::from_secs_f64(self.due() * (0.5 + self.uniform()))
    }

    fn due(&self) -> f64 {
        if let Some(hertz) = self.fixed {
            return 1.0 / hertz;
        }
        // So soon after the first that its cost is known early.
        let wanted = self.cost.map_or(0.0, |cost| cost / (self.budget * PLANNED));
        wanted.clamp(1.0 / MOST_HERTZ, LONGEST)
    }

    /// From 0 to 1 (Steele, Lea, Flood: `SplitMix64`).
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(pace: &mut Pace) -> f64 {
        (0..2000).map(|_| pace.next().as_secs_f64()).sum::<f64>() / 2000.0
    }

    #[test]
    fn cost_1_looks_are_as_many_as_the_budget_allows() {
        let mut pace = Pace::new(0.05, None, 1);
        // The first is dear.
        pace.cost(Duration::from_millis(300));
        assert!((mean(&mut pace) - 0.01).abs() < 0.001);
        for _ in 0..50 {
            pace.cost(Duration::from_millis(5));
        }
        let mean = mean(&mut pace);
        assert!((0.005 / mean - 0.045).abs() < 0.002, "5 ms every {mean} s");
    }

    #[test]
    fn cheap_looks_and_dear_ones_have_their_limits() {
        for (cost, expected) in [(Duration::ZERO, 0.01), (Duration::from_secs(20), 10.0)] {
            let mut pace = Pace::new(0.05, None, 2);
            pace.cost(cost);
            pace.cost(cost);
            assert!((mean(&mut pace) / expected - 1.0).abs() < 0.05);
        }
        let mut fixed = Pace::new(0.05, Some(20.0), 3);
        fixed.cost(Duration::from_secs(1));
        assert!((mean(&mut fixed) - 0.05).abs() < 0.003);
    }

    #[test]
    fn no_two_intervals_are_alike() {
        let mut pace = Pace::new(0.05, Some(10.0), 4);
        let times: Vec<u128> = (0..100).map(|_| pace.next().as_micros()).collect();
        assert!(times.iter().all(|us| (50_000..=150_000).contains(us)), "{times:?}");
        assert!(times.windows(2).all(|two| two[0] != two[1]));
    }
}
