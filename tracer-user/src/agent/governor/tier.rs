//! One dear tier: when its probes are on, and for how long.

use std::collections::VecDeque;
use std::time::Duration;

use tracer_ebpf::{Probe, TIER_T3};

use super::purse::Purse;
use super::step::{Mode, Numbers, Step, Stretch};
use crate::probe::Why;

const SECOND: f64 = 1e9;
const MILLISECOND: u64 = 1_000_000;

/// The lease of a window at most.
pub(super) const LONGEST: u64 = 250 * MILLISECOND;
/// What a window is at least: below, coming and going is most of it.
const SHORTEST: u64 = 3 * MILLISECOND;
/// Likewise of switches, of which there are many.
const SHORTEST_OF_SWITCHES: u64 = 2 * MILLISECOND;
/// A window that was cut shorter says nothing of the rate.
const TELLING: u64 = MILLISECOND / 2;
/// What a window should be: it is waited for until so much can be paid.
const USUAL: u64 = 50 * MILLISECOND;
/// The first window of a tier whose rate is not known.
const PROBING: u64 = 10 * MILLISECOND;
/// The lease of a tier that stays on; renewed after an eighth of it.
pub(in crate::agent) const STEADY_LEASE: Duration = Duration::from_secs(1);
const STEADY: u64 = 1_000 * MILLISECOND;
/// How much longer than asked for a lease is, so that whoever is awake ends it in order.
const IN_ORDER: u64 = 200 * MILLISECOND;
/// Between two windows at least; half as much again at most, so that the windows keep no step with the target.
const GAP: u64 = 100 * MILLISECOND;
/// A tier goes back to be on all the time when that would have cost at most half of the income for so long.
const CALM: u64 = 2_000 * MILLISECOND;
/// After a refusal.
const AGAIN: u64 = 1_000 * MILLISECOND;
/// A tier that is too dear even for the shortest window is looked at again after this.
const RETRY: u64 = 30_000 * MILLISECOND;
/// Likewise of switches, which nothing else tells of.
const RETRY_SWITCHES: u64 = 5_000 * MILLISECOND;
/// Likewise of a tier of which memory tells.
const RETRY_HINTED: u64 = 5_000 * MILLISECOND;
/// What it costs the target that the probe of one site comes and goes, ns: its pages are changed under its memory
/// lock. Assumed.
const SITE_SWITCH: u64 = 50_000;
/// How long the probes of a tier take to go once that is decided, on a machine whose processors are busy, s. Assumed.
const GOES_WITHIN: f64 = 0.004;
/// When what costs twice or half as much as was told is told again.
const TELL_AGAIN: u64 = 1_000 * MILLISECOND;
/// Of what costs less, ns a second, nobody wants to hear.
const WORTH_TELLING: f64 = 0.01 * SECOND;
/// How much of the past tells the rate of a tier that is on, ns.
const RECENT: u64 = 100 * MILLISECOND;

/// What may be done with a tier.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// `TIER_` bit.
    pub(super) tier: u32,
    /// It may be on all the time.
    pub(super) stays: bool,
    /// It can come and go quickly.
    pub(super) windows: bool,
    /// Sites that it has.
    pub(super) sites: usize,
    /// It was asked for until then, `CLOCK_MONOTONIC` ns, whatever it costs.
    pub(super) until_ns: Option<u64>,
}

/// What is to be done with a tier's probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// On, for so many ns.
    Begin(u32, u64),
    /// Let them stay for so many more.
    Renew(u32, u64),
    /// Off.
    End(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Since when, and when they may come back at the earliest.
    Off { next_ns: u64 },
    /// They are about to come.
    Coming,
    /// Since when, and until when at the latest.
    On { since_ns: u64, renewed_ns: u64 },
    /// They are about to go.
    Going { since_ns: u64 },
}

/// Hits and costs a second, and the CPUs that the target used meanwhile.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    hits: f64,
    cost: f64,
    cpus: f64,
}

/// What happened between two looks, while the probes were on.
#[derive(Clone, Copy, Debug, Default)]
struct Lap {
    took: u64,
    cpu: u64,
    hits: u64,
    cost: u64,
}

impl Rate {
    fn of(lap: Lap) -> Self {
        if lap.took == 0 {
            return Self::default();
        }
        let seconds = lap.took as f64 / SECOND;
        let a_second = |n: u64| n as f64 / seconds;
        Self { hits: a_second(lap.hits), cost: a_second(lap.cost), cpus: lap.cpu as f64 / lap.took as f64 }
    }
}

#[derive(Debug)]
pub(super) struct Tier {
    pub(super) rule: Rule,
    mode: Mode,
    state: State,
    /// Hits of its probes so far, and at the begin of the stretch.
    hits: Vec<(Probe, u64)>,
    begin_hits: Vec<(Probe, u64)>,
    cost: u64,
    begin_cost: u64,
    /// What the window should have cost at most.
    planned: u64,
    /// The stretch is a sampling window.
    window: bool,
    /// CPU time of the target while the probes were on, and how long they were, as far as was looked at.
    cpu: u64,
    looked: u64,
    recent: VecDeque<Lap>,
    rate: Option<Rate>,
    calm_since: Option<u64>,
    off_since: u64,
    noise: u64,
    /// What it costs, as was told to who asked for it, and when.
    told: Option<(f64, u64)>,
    /// What the traps cost that were hit while the probes came and went, ns: since the last time, and usually.
    edges: u64,
    usual_edges: u64,
    /// Since when not even the shortest window could be paid.
    tight_since: Option<u64>,
}

impl Tier {
    pub(super) fn new(rule: Rule, at_ns: u64) -> Self {
        Self {
            rule,
            mode: if rule.stays { Mode::Steady } else { Mode::Windows },
            state: State::Off { next_ns: at_ns },
            hits: Vec::new(),
            begin_hits: Vec::new(),
            cost: 0,
            begin_cost: 0,
            planned: 0,
            window: !rule.stays,
            cpu: 0,
            looked: 0,
            recent: VecDeque::new(),
            rate: None,
            calm_since: None,
            off_since: at_ns,
            noise: 0x9e37_79b9_7f4a_7c15 ^ u64::from(rule.tier),
            told: None,
            edges: 0,
            usual_edges: 0,
            tight_since: None,
        }
    }

    /// It is known to be too dear to be on all the time before it ever was, at so many hits a second with that cost.
    pub(super) fn begin_demoted(&mut self, hits: f64, cost: f64, cpus: f64, purse: &Purse) -> Step {
        let rate = Rate { hits, cost, cpus };
        self.rate = Some(rate);
        self.window = true;
        self.mode = Mode::Windows;
        let numbers = numbers(hits, cost, cpus, purse);
        Step::Mode { tier: self.rule.tier, from: Mode::Steady, to: Mode::Windows, numbers }
    }

    pub(super) const fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) const fn is_on(&self) -> bool {
        matches!(self.state, State::On { .. } | State::Going { .. })
    }

    /// Takes in what happened since the last look.
    pub(super) fn pass(&mut self, took: u64, cpu: u64, hits: &[(Probe, u64, u64)]) {
        let (mut new, mut cost) = (0, 0);
        for &(probe, more, ns) in hits {
            match self.hits.iter_mut().find(|(known, _)| *known == probe) {
                Some((_, sum)) => *sum += more,
                None => self.hits.push((probe, more)),
            }
            new += more;
            cost += ns;
        }
        self.cost += cost;
        if !self.is_on() {
            return;
        }
        self.cpu += cpu;
        self.looked += took;
        self.recent.push_back(Lap { took, cpu, hits: new, cost });
        let mut all: u64 = self.recent.iter().map(|lap| lap.took).sum();
        while let Some(first) = self.recent.front()
            && all - first.took >= RECENT
        {
            all -= first.took;
            self.recent.pop_front();
        }
    }

    /// Takes in what traps have cost that told nothing, as not all of the probes were on.
    pub(super) const fn pass_edges(&mut self, cost: u64) {
        self.edges += cost;
    }

    const fn shortest(&self) -> u64 {
        if self.rule.tier == TIER_T3 { SHORTEST_OF_SWITCHES } else { SHORTEST }
    }

    fn recent_rate(&self) -> Rate {
        let sum = self.recent.iter().fold(Lap::default(), |sum, lap| Lap {
            took: sum.took + lap.took,
            cpu: sum.cpu + lap.cpu,
            hits: sum.hits + lap.hits,
            cost: sum.cost + lap.cost,
        });
        Rate::of(sum)
    }

    /// By the last look alone.
    fn last_rate(&self) -> Rate {
        self.recent.back().map_or_else(Rate::default, |lap| Rate::of(*lap))
    }

    /// The probes are on, since `since_ns` at the latest.
    pub(super) fn begun(&mut self, since_ns: u64) -> Step {
        if matches!(self.state, State::Off { .. } | State::Coming) {
            self.recent.clear();
            (self.cpu, self.looked) = (0, 0);
            self.state = State::On { since_ns, renewed_ns: since_ns };
        }
        Step::Begun { tier: self.rule.tier, at_ns: since_ns }
    }

    /// The probes have gone; they were on until `end_ns` at least.
    pub(super) fn ended(&mut self, end_ns: u64, now_ns: u64, why: Why) -> Option<Step> {
        let gap = GAP + self.random() % (GAP / 2);
        let begin_ns = match self.state {
            State::On { since_ns, .. } | State::Going { since_ns } => since_ns,
            State::Coming => {
                // They never were on as a whole.
                self.state = State::Off { next_ns: now_ns + AGAIN };
                return None;
            }
            State::Off { .. } => return None,
        };
        // Who stays, and went for no fault of its own, comes back at once.
        let next_ns = if self.mode == Mode::Steady { now_ns } else { now_ns + gap };
        self.state = State::Off { next_ns };
        self.off_since = now_ns;
        let hits: Vec<(Probe, u64)> = self
            .hits
            .iter()
            .map(|&(probe, sum)| {
                let before = self.begin_hits.iter().find(|(known, _)| *known == probe).map_or(0, |(_, n)| *n);
                (probe, sum - before)
            })
            .collect();
        let cost_ns = self.cost - self.begin_cost;
        (self.begin_hits, self.begin_cost) = (self.hits.clone(), self.cost);
        let end_ns = end_ns.max(begin_ns);
        let sampled = self.window;
        let edges = std::mem::take(&mut self.edges);
        self.usual_edges = if self.usual_edges == 0 { edges } else { u64::midpoint(self.usual_edges, edges) };
        // How long it was on is not known of one that somebody took.
        let known = why != Why::KeeperGone || end_ns > begin_ns;
        if sampled && known && (end_ns - begin_ns >= TELLING || self.rate.is_none()) {
            // Those of its edges are among the hits: rather too many a second than too few.
            let took = (end_ns - begin_ns).max(MILLISECOND / 10);
            let hits = hits.iter().map(|(_, n)| n).sum();
            let cpu = (self.cpu as f64 * took as f64 / self.looked.max(1) as f64) as u64;
            self.rate = Some(Rate::of(Lap { took, cpu, hits, cost: cost_ns }));
        }
        Some(Step::Ended(Stretch { tier: self.rule.tier, begin_ns, end_ns, hits, cost_ns, sampled, why }))
    }

    /// The probes could not be put on.
    pub(super) const fn refused(&mut self, now_ns: u64) {
        self.state = State::Off { next_ns: now_ns + AGAIN };
    }

    /// Decides. `hint` is how many hits a second there would be, if memory tells; `price` what one costs.
    pub(super) fn decide(
        &mut self,
        now_ns: u64,
        purse: &mut Purse,
        hint: Option<f64>,
        price: u64,
        steps: &mut Vec<Step>,
    ) -> Option<Command> {
        if let Some(until_ns) = self.rule.until_ns {
            return self.decide_asked(now_ns, until_ns, purse, steps);
        }
        if let Some(hits) = hint
            && !self.is_on()
        {
            let each = match self.rate {
                Some(rate) if rate.hits > 0.0 => rate.cost / rate.hits,
                _ => price as f64,
            };
            // Memory lags a little behind what was just seen.
            let fresh = now_ns.saturating_sub(self.off_since) < 2 * RECENT;
            let seen = self.rate.filter(|_| fresh).unwrap_or_default();
            // Where each unit of work is dearer, less work is done: the target's CPUs do no more than they can.
            let cpus = purse.cpus().max(0.001);
            let slower = 1.0 + hits * each / (cpus * SECOND);
            if hits / slower >= seen.hits {
                self.rate = Some(Rate { hits: hits / slower, cost: hits / slower * each, cpus });
            }
        }
        match self.state {
            State::Coming | State::Going { .. } => None,
            State::On { since_ns, renewed_ns } => self.decide_on(now_ns, since_ns, renewed_ns, purse, steps),
            State::Off { next_ns } => self.decide_off(now_ns, next_ns, purse, hint.is_some(), steps),
        }
    }

    /// Who is asked for is on, until the time is over. What that costs is said as soon as it is known.
    fn decide_asked(
        &mut self,
        now_ns: u64,
        until_ns: u64,
        purse: &Purse,
        steps: &mut Vec<Step>,
    ) -> Option<Command> {
        let tier = self.rule.tier;
        match self.state {
            State::Coming | State::Going { .. } => None,
            State::On { since_ns, renewed_ns } => {
                let over = now_ns >= until_ns;
                let rate = self.recent_rate();
                let is_news = self.told.is_none_or(|(cost, at_ns)| {
                    let (less, more) = (cost.min(rate.cost), cost.max(rate.cost));
                    now_ns >= at_ns + TELL_AGAIN && more > 2.0 * less && more > WORTH_TELLING
                });
                let may_be_told = now_ns >= since_ns + RECENT || over && self.told.is_none();
                if is_news && may_be_told {
                    self.told = Some((rate.cost, now_ns));
                    let numbers = numbers(rate.hits, rate.cost, rate.cpus, purse);
                    steps.push(Step::Asked { tier, left_ns: until_ns.saturating_sub(now_ns), numbers });
                }
                if over {
                    self.state = State::Going { since_ns };
                    return Some(Command::End(tier));
                }
                if now_ns < renewed_ns + STEADY / 8 && renewed_ns != since_ns {
                    return None;
                }
                self.state = State::On { since_ns, renewed_ns: now_ns.max(since_ns + 1) };
                Some(Command::Renew(tier, asked_lease(now_ns, until_ns)))
            }
            State::Off { next_ns } if now_ns >= next_ns && now_ns + SHORTEST < until_ns => {
                self.state = State::Coming;
                Some(Command::Begin(tier, asked_lease(now_ns, until_ns)))
            }
            State::Off { .. } => None,
        }
    }

    fn decide_on(
        &mut self,
        now_ns: u64,
        since_ns: u64,
        renewed_ns: u64,
        purse: &Purse,
        steps: &mut Vec<Step>,
    ) -> Option<Command> {
        let tier = self.rule.tier;
        let rate = self.recent_rate();
        match self.mode {
            // Nothing will be left by the time that they have gone.
            Mode::Steady
                if purse.left() < self.last_rate().cost * GOES_WITHIN && rate.cost > purse.income() / 2.0 =>
            {
                self.rate = Some(rate);
                self.state = State::Going { since_ns };
                self.go(if self.rule.windows { Mode::Windows } else { Mode::Off }, purse, steps);
                Some(Command::End(tier))
            }
            Mode::Steady if now_ns >= renewed_ns + STEADY / 8 || renewed_ns == since_ns => {
                self.state = State::On { since_ns, renewed_ns: now_ns.max(since_ns + 1) };
                Some(Command::Renew(tier, STEADY))
            }
            Mode::Steady => None,
            // The target does more than when the window was planned.
            Mode::Windows | Mode::Off
                if purse.left() < 0.0 || self.cost - self.begin_cost > self.planned.saturating_mul(3) / 2 =>
            {
                self.state = State::Going { since_ns };
                Some(Command::End(tier))
            }
            Mode::Windows | Mode::Off => None,
        }
    }

    fn decide_off(
        &mut self,
        now_ns: u64,
        next_ns: u64,
        purse: &mut Purse,
        hinted: bool,
        steps: &mut Vec<Step>,
    ) -> Option<Command> {
        if now_ns < next_ns {
            return None;
        }
        let switch = SITE_SWITCH * self.rule.sites as u64;
        if self.mode == Mode::Steady {
            return (purse.left() >= 0.0).then(|| self.begin(STEADY, switch, 0, purse));
        }
        if self.may_stay(now_ns, purse) {
            self.go(Mode::Steady, purse, steps);
            return Some(self.begin(STEADY, switch, 0, purse));
        }
        if self.mode == Mode::Off && !hinted {
            let retry = if self.rule.tier == TIER_T3 { RETRY_SWITCHES } else { RETRY };
            if now_ns < self.off_since + retry {
                return None;
            }
            // Nothing but a try tells what it would cost now.
            self.go(if self.rule.windows { Mode::Windows } else { Mode::Steady }, purse, steps);
            self.rate = None;
            return None;
        }
        if !self.rule.windows {
            return None;
        }
        let Some(rate) = self.rate else {
            // Nothing is known of its rate; all that the target does could be lost.
            let worst = (purse.cpus().max(1.0) * PROBING as f64) as u64;
            let affordable = purse.left() >= (switch + worst) as f64 || purse.left() >= 0.9 * purse.cap();
            return affordable.then(|| self.begin(PROBING, switch, worst, purse));
        };
        // No more can be lost than what the target's CPUs do, whatever a short window with its edges says.
        let each = (rate.cost / SECOND).min(rate.cpus.max(purse.cpus()).max(1.0));
        let edges = (switch + self.usual_edges) as f64;
        let (least, most) = (edges + each * self.shortest() as f64, 0.8 * purse.cap());
        if least > most {
            // What the target does for a moment says little of what can be paid in the next.
            let since = *self.tight_since.get_or_insert(now_ns);
            if self.mode != Mode::Off && (self.rule.tier != TIER_T3 || now_ns - since >= CALM) {
                self.off_since = now_ns;
                self.go(Mode::Off, purse, steps);
            }
            return None;
        }
        self.tight_since = None;
        if self.mode == Mode::Off {
            // With room to spare, so that it does not go to and fro; or, seldom, with just enough: what is as dear as
            // can be gets no cheaper.
            let room = least <= most / 2.0 && now_ns >= self.off_since + CALM;
            if !room && now_ns < self.off_since + RETRY_HINTED {
                return None;
            }
            self.go(Mode::Windows, purse, steps);
        }
        let wanted = (edges + each * USUAL as f64).clamp(least, most);
        if purse.left() < wanted {
            return None;
        }
        let room = 0.8 * (purse.left() - edges).max(0.0);
        let length = if each > 0.0 { (room / each) as u64 } else { LONGEST };
        let length = length.clamp(self.shortest(), LONGEST);
        Some(self.begin(length, switch, (each * length as f64) as u64, purse))
    }

    /// Whether it has been cheap enough for long enough to be on all the time.
    fn may_stay(&mut self, now_ns: u64, purse: &Purse) -> bool {
        let cheap = self.rate.is_some_and(|rate| rate.cost <= purse.income() / 2.0);
        if !cheap || !self.rule.stays {
            self.calm_since = None;
            return false;
        }
        let since = *self.calm_since.get_or_insert(now_ns);
        now_ns - since >= CALM && purse.left() >= purse.cap() / 2.0
    }

    fn begin(&mut self, length: u64, switch: u64, expected: u64, purse: &mut Purse) -> Command {
        purse.pay(switch);
        // Probes that come on a thousand hits are not stopped for one more.
        self.planned = expected.max(PROBING / 10);
        self.window = self.mode != Mode::Steady;
        self.state = State::Coming;
        Command::Begin(self.rule.tier, length)
    }

    fn go(&mut self, to: Mode, purse: &Purse, steps: &mut Vec<Step>) {
        let rate = self.rate.unwrap_or_default();
        let numbers = numbers(rate.hits, rate.cost, rate.cpus, purse);
        steps.push(Step::Mode { tier: self.rule.tier, from: self.mode, to, numbers });
        (self.mode, self.calm_since) = (to, None);
    }

    /// xorshift64: what windows need is not to keep step with the target.
    const fn random(&mut self) -> u64 {
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        self.noise
    }
}

/// The lease of what was asked for until then: no longer, but for what it takes to be ended in order.
fn asked_lease(now_ns: u64, until_ns: u64) -> u64 {
    STEADY.min(until_ns.saturating_sub(now_ns) + IN_ORDER)
}

/// The numbers behind a decision, by hits and cost a second of a target that uses so many CPUs.
pub(super) fn numbers(hits: f64, cost: f64, cpus: f64, purse: &Purse) -> Numbers {
    let predicted = if cost > 0.0 { (cost / SECOND / cpus).min(1.0) } else { 0.0 };
    Numbers { hits_per_second: hits, predicted, budget: purse.share(), cpus }
}
