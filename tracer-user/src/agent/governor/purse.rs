//! What may be spent: earned with the target's CPU time, spent by hits, saved up only a little.
//!
//! Over any stretch of time no more is spent than is earned in it, plus what was saved up before ([`Purse::cap`]), plus what
//! is overspent before somebody looks. So the loss over any ten seconds stays within the budget: a tenth of it is not earned
//! at all, which makes up for what is saved up. For a target that uses next to nothing the budget is a tenth of a percent of
//! one CPU: half of it is earned by time alone, the other half may be saved up; in between the two join. Who was idle and is
//! busy all at once would have both, so that what was spent in the last ten seconds is looked at as well.

use std::collections::VecDeque;

const SECOND: f64 = 1e9;

/// The part of the budget that is earned.
const AIM: f64 = 0.9;
/// The part of the last ten seconds' budget that may have been spent. More than what is earned, so that what was saved up can be
/// spent as well.
const MOST: f64 = 0.97;
/// CPU time that is never worth taking a probe off for, each second, half of it: a tenth of a percent of one CPU is what
/// can be lost in ten seconds with what is saved up.
const NEGLIGIBLE: f64 = 0.0005 * SECOND;
/// What of that can be saved up, ns.
const NEGLIGIBLE_SAVED: f64 = 0.005 * SECOND;
/// Seconds of income that can be saved up.
const SAVED: f64 = 0.5;
/// What can be saved up in any case, ns, as far as the budget has it: a window costs some hundred microseconds to come and
/// to go, however little the target does.
const ENOUGH: f64 = 0.002 * SECOND;
/// The budget is over this many seconds.
const SECONDS: f64 = 10.0;
const TEN_SECONDS: u64 = 10_000_000_000;
/// How much of the past tells what is earned now, ns.
const RECENT: u64 = 1_000_000_000;
/// What of the past is not told apart, ns.
const GRAIN: u64 = 100_000_000;

/// What may be spent, in nanoseconds of the target's CPU time.
#[derive(Debug)]
pub(super) struct Purse {
    share: f64,
    left: f64,
    recent: VecDeque<Lap>,
    /// The last ten seconds.
    past: Past,
    /// For how long no more was spent than earned.
    paying_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Lap {
    took: u64,
    cpu: u64,
    earned: f64,
}

/// What was used and what was spent in some time, and in all of the time that counts.
#[derive(Debug, Default)]
struct Past {
    laps: VecDeque<(u64, u64, f64)>,
    took: u64,
    cpu: u64,
    spent: f64,
}

impl Past {
    fn add(&mut self, took: u64, cpu: u64, spent: f64) {
        // Of a time in which nobody looked no more counts than of any other.
        let counts = TEN_SECONDS as f64 / took.max(TEN_SECONDS) as f64;
        let (took, cpu) = (took.min(TEN_SECONDS), (cpu as f64 * counts) as u64);
        match self.laps.back_mut() {
            Some(last) if last.0 < GRAIN => *last = (last.0 + took, last.1 + cpu, last.2 + spent),
            _ => self.laps.push_back((took, cpu, spent)),
        }
        (self.took, self.cpu, self.spent) = (self.took + took, self.cpu + cpu, self.spent + spent);
        while let Some(&(took, cpu, spent)) = self.laps.front()
            && self.took - took >= TEN_SECONDS
        {
            self.laps.pop_front();
            (self.took, self.cpu, self.spent) = (self.took - took, self.cpu - cpu, self.spent - spent);
        }
    }
}

impl Purse {
    pub(super) fn new(share: f64) -> Self {
        let mut purse =
            Self { share, left: 0.0, recent: VecDeque::new(), past: Past::default(), paying_ns: 0 };
        purse.left = purse.cap();
        purse
    }

    /// Some time has passed, in which the target used `cpu` and lost `spent`, all in ns.
    pub(super) fn pass(&mut self, took: u64, cpu: u64, spent: u64) {
        let earned = (AIM * self.share * cpu as f64).max(NEGLIGIBLE * took as f64 / SECOND);
        self.recent.push_back(Lap { took, cpu, earned });
        let mut all: u64 = self.recent.iter().map(|lap| lap.took).sum();
        while let Some(first) = self.recent.front()
            && all - first.took >= RECENT
        {
            all -= first.took;
            self.recent.pop_front();
        }
        self.past.add(took, cpu, spent as f64);
        self.left = if took as f64 > SAVED * SECOND {
            // It went on meanwhile: of what was earned, more than can be saved up may be spent by now.
            (self.left + earned - spent as f64).min(self.cap())
        } else {
            (self.left + earned).min(self.cap()) - spent as f64
        };
        self.paying_ns = if spent as f64 > earned { 0 } else { self.paying_ns.saturating_add(took) };
        if self.paying_ns as f64 >= SECONDS * SECOND {
            // What was overspent is older than what the budget is over. Without this a target that does next to nothing would
            // pay for hours for what it did while gotrail was stopped.
            self.left = self.left.max(0.0);
        }
    }

    /// Takes out what something costs beyond hits.
    pub(super) fn pay(&mut self, ns: u64) {
        self.past.add(0, 0, ns as f64);
        self.left -= ns as f64;
    }

    /// What is left; below 0 when more was spent than there was.
    pub(super) fn left(&self) -> f64 {
        if self.is_endless() {
            return f64::MAX;
        }
        let allowed = (self.share * self.past.cpu as f64).max(2.0 * NEGLIGIBLE * SECONDS);
        self.left.min(MOST * allowed - self.past.spent)
    }

    /// All of the target's CPU time may be lost: whoever says so wants everything to be observed. What can be saved up would
    /// be too little for a burst of an idle process all the same.
    const fn is_endless(&self) -> bool {
        self.share >= 1.0
    }

    /// What is earned in a second.
    pub(super) fn income(&self) -> f64 {
        let took: u64 = self.recent.iter().map(|lap| lap.took).sum();
        if took == 0 {
            return NEGLIGIBLE;
        }
        self.recent.iter().map(|lap| lap.earned).sum::<f64>() * SECOND / took as f64
    }

    /// CPUs that the target uses.
    pub(super) fn cpus(&self) -> f64 {
        let took: u64 = self.recent.iter().map(|lap| lap.took).sum();
        if took == 0 {
            return 0.0;
        }
        self.recent.iter().map(|lap| lap.cpu).sum::<u64>() as f64 / took as f64
    }

    /// The most that is saved up.
    pub(super) fn cap(&self) -> f64 {
        if self.is_endless() {
            return f64::MAX;
        }
        let earned = SECONDS * self.income();
        let allowed = (earned / AIM).max(2.0 * NEGLIGIBLE_SAVED);
        // No more than what is allowed and not earned.
        let most = if allowed > 2.0 * NEGLIGIBLE_SAVED { ENOUGH } else { NEGLIGIBLE_SAVED };
        (SAVED * self.income()).max((allowed - earned).min(most))
    }

    /// The budget as a share of the target's CPU time.
    pub(super) const fn share(&self) -> f64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: u64 = 20_000_000;

    /// Seconds until there is something again, for a target that uses so much of a CPU.
    fn paid_back(purse: &mut Purse, cpus: f64) -> f64 {
        let mut seconds = 0.0;
        while purse.left() < 0.0 {
            purse.pass(LOOK, (cpus * LOOK as f64) as u64, 0);
            seconds += LOOK as f64 / SECOND;
            assert!(seconds < 1000.0, "{purse:?}");
        }
        seconds
    }

    #[test]
    fn what_was_overspent_is_paid_back_but_no_longer_than_the_budget_is_over() {
        let mut purse = Purse::new(0.018);
        purse.pass(LOOK, 2 * LOOK, 2 * LOOK);
        let took = paid_back(&mut purse, 2.0);
        assert!((0.9..1.3).contains(&took), "{took}");
        // gotrail was stopped while the target did what costs most, and the target has nothing to do since.
        purse.pass(3_500_000_000, 7_000_000_000, 3_400_000_000);
        let took = paid_back(&mut purse, 0.0);
        assert!((9.9..10.1).contains(&took), "{took}");
        // Who spends on does not get it for nothing.
        purse.pass(3_500_000_000, 7_000_000_000, 3_400_000_000);
        for _ in 0..1000 {
            purse.pass(LOOK, 0, LOOK / 1000);
        }
        assert!(purse.left() < 0.0, "{purse:?}");
    }

    #[test]
    fn cost_1_who_was_idle_and_is_busy_all_at_once_has_no_more_than_either() {
        for busy_looks in [5, 15, 50, 100] {
            let mut purse = Purse::new(0.018);
            for _ in 0..500 {
                purse.pass(LOOK, 0, 0);
            }
            let (mut cpu, mut spent) = (0, 0);
            for look in 0..500 {
                let cpus = if look < busy_looks { 2 } else { 0 };
                let all = purse.left().max(0.0) as u64;
                purse.pass(LOOK, cpus * LOOK, all);
                (cpu, spent) = (cpu + cpus * LOOK, spent + all);
            }
            let allowed = (0.018 * cpu as f64).max(0.001 * 10.0 * SECOND);
            assert!(spent as f64 <= allowed, "{spent} of {allowed} after {busy_looks} looks");
            assert!(spent as f64 > 0.7 * allowed, "{spent} of {allowed} after {busy_looks} looks");
        }
    }
}
