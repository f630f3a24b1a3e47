//! Switches between goroutines: how long who waited for what and where, how long until it ran, and who woke it.
//!
//! Switches are observed in stretches. A wait counts only if its begin and its end were seen in the same stretch with no
//! record lost between; of what lies outside, nothing is made up.

use std::collections::{BTreeMap, HashMap};

use super::distribution::Distribution;
use super::sampling::Sampling;

/// Stretches remembered one by one.
const STRETCHES: usize = 1024;
/// Goroutines whose state is followed at once.
const WAITING: usize = 1 << 20;
/// Goroutines with figures of their own.
const GOROUTINES: usize = 1 << 16;
/// Pairs of waker and woken.
const EDGES: usize = 1 << 16;
/// Pairs of wait reason and stack.
const SITES: usize = 1 << 13;
/// Stacks.
const STACKS: usize = 1 << 14;

/// One thing that the probes of T3 saw, or that happened to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// When, `CLOCK_MONOTONIC` ns.
    pub time_ns: u64,
    /// The goroutine at work, 0 if none or unknown.
    pub goid: u64,
    /// What.
    pub kind: SwitchKind,
}

/// What the probes of T3 saw, or what happened to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwitchKind {
    /// From now on switches are observed.
    Begin,
    /// They are no longer; what was observed has come before this.
    End,
    /// Records were lost, up to this time.
    Gap {
        /// When the last of them may have been.
        until_ns: u64,
        /// How many.
        lost: u64,
    },
    /// The goroutine parks.
    Park {
        /// Number of its wait reason in this Go version.
        reason: u8,
        /// Id of its stack, 0 if unknown.
        stack: u32,
    },
    /// The goroutine, or the scheduler if 0, wakes another one.
    Ready {
        /// That one.
        woken: u64,
    },
    /// The goroutine runs.
    Run {
        /// Another coroutine handed over to it.
        coroutine: bool,
    },
    /// A stack that parks will name by its id.
    Stack {
        /// The id.
        id: u32,
        /// Linked addresses, innermost first; the first is exact, the others are return addresses.
        pcs: Box<[u64]>,
        /// Frames further out are missing.
        truncated: bool,
    },
}

/// A time during which switches were observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its begin, ns.
    pub begin_ns: u64,
    /// Its end, ns; `None` while it lasts.
    pub end_ns: Option<u64>,
}

impl Stretch {
    /// Its length, ns, if it has ended.
    #[must_use]
    pub fn length_ns(&self) -> Option<u64> {
        Some(self.end_ns?.saturating_sub(self.begin_ns))
    }
}

/// What one goroutine did while it was observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoroutineSwitches {
    /// How often it parked.
    pub parks: u64,
    /// How often it woke another one.
    pub wakes: u64,
    /// How often it was woken by `ready`.
    pub woken: u64,
    /// How often it ran after a park without that.
    pub unseen_wakes: u64,
    /// How often it ran.
    pub runs: u64,
    /// How long it was parked, ns, as far as both ends were seen.
    pub blocked_ns: u64,
    /// How long it waited to run, ns, likewise.
    pub runnable_ns: u64,
}

/// Where and why goroutines wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitSite {
    /// Number of the wait reason.
    pub reason: u8,
    /// Id of the stack, 0 if unknown.
    pub stack: u32,
}

/// How long goroutines waited at one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteWaits {
    /// From park to wake-up.
    pub blocked: Distribution,
    /// From park to run, where the wake-up is not seen.
    pub until_run: Distribution,
}

impl SiteWaits {
    /// All waits.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.blocked.count + self.until_run.count
    }

    /// Their sum, ns.
    #[must_use]
    pub const fn total_ns(&self) -> u64 {
        self.blocked.total_ns.saturating_add(self.until_run.total_ns)
    }
}

/// What is not in the figures, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmeasured {
    /// Records that the stream lost.
    pub lost: u64,
    /// Waits across lost records.
    pub across_gaps: u64,
    /// Waits that the end of a stretch cut off.
    pub cut_off: u64,
    /// Wake-ups and waits beyond what is followed at once, and places and pairs beyond what is kept.
    pub dropped: u64,
}

/// What bursts of observation say of all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SampledSwitches {
    /// Parks.
    pub parks: Sampling,
    /// Wake-ups by `ready`.
    pub readies: Sampling,
    /// Runs.
    pub runs: Sampling,
    /// What the probes took of the target's CPU time in them, ns, as predicted by hits.
    pub cost_ns: u64,
    /// The longest time between two bursts, or behind the last, ns. Bursts are the rarer the more a program does, so that this
    /// is where rates are too low.
    pub longest_pause_ns: u64,
    /// When the last one ended.
    pub last_end_ns: Option<u64>,
}

impl SampledSwitches {
    /// The time until then lies behind the last burst.
    pub fn pause_until(&mut self, at_ns: u64) {
        let pause = self.last_end_ns.map_or(0, |end| at_ns.saturating_sub(end));
        self.longest_pause_ns = self.longest_pause_ns.max(pause);
    }
}

/// A goroutine that is parked or runnable.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    site: Option<WaitSite>,
    parked_ns: u64,
    ready_ns: Option<u64>,
}

/// Everything seen of switches.
#[derive(Clone, Debug, Default)]
pub struct Switches {
    /// Stretches of observation, oldest first; of very many the last.
    pub stretches: Vec<Stretch>,
    /// Parks by wait reason.
    pub parks: BTreeMap<u8, u64>,
    /// Wake-ups by `ready`.
    pub readies: u64,
    /// Wake-ups by another way, by wait reason of the woken: it ran after a park without having been woken. The network
    /// poller and the start of GC workers are such ways, and a park that was taken back before it was one.
    pub unseen_wakes: BTreeMap<u8, u64>,
    /// Runs, hand-overs between coroutines not among them.
    pub runs: u64,
    /// Runs of goroutines that were not seen to park or be woken since they ran last: new ones, those that yielded or
    /// were preempted, and those that came from a system call or from before the stretch.
    pub other_runs: u64,
    /// Hand-overs between coroutines.
    pub coroutine_switches: u64,
    /// Waits by place.
    pub sites: HashMap<WaitSite, SiteWaits>,
    /// From wake-up to run, by wait reason where the park was seen.
    pub latency: BTreeMap<Option<u8>, Distribution>,
    /// Who woke whom, how often.
    pub edges: HashMap<(u64, u64), u64>,
    /// By goroutine.
    pub goroutines: HashMap<u64, GoroutineSwitches>,
    /// Linked addresses by stack id, and whether frames are missing.
    pub stacks: HashMap<u32, (Box<[u64]>, bool)>,
    /// What is not in the figures.
    pub unmeasured: Unmeasured,
    /// Parks, wake-ups and runs in bursts of observation.
    pub sampled: SampledSwitches,
    waiting: HashMap<u64, Waiting>,
    /// Length of the stretches that are no longer remembered, ns.
    earlier_ns: u64,
    /// Waits that began before this are across lost records.
    reliable_from_ns: u64,
}

impl Switches {
    /// Whether a stretch lasts.
    #[must_use]
    pub fn is_observing(&self) -> bool {
        self.stretches.last().is_some_and(|stretch| stretch.end_ns.is_none())
    }

    /// How long all stretches lasted, ns, as far as they have ended.
    #[must_use]
    pub fn observed_ns(&self) -> u64 {
        self.earlier_ns + self.stretches.iter().filter_map(Stretch::length_ns).sum::<u64>()
    }

    /// All distributions of the time from wake-up to run together.
    #[must_use]
    pub fn all_latency(&self) -> Distribution {
        self.latency.values().fold(Distribution::default(), |mut sum, one| {
            sum.merge(one);
            sum
        })
    }

    /// Takes in what was seen.
    pub fn apply(&mut self, switch: &Switch) {
        let (now, goid) = (switch.time_ns, switch.goid);
        match &switch.kind {
            SwitchKind::Begin => {
                self.forget_open();
                if self.stretches.len() == STRETCHES {
                    let gone = self.stretches.remove(0);
                    self.earlier_ns += gone.length_ns().unwrap_or(0);
                }
                self.stretches.push(Stretch { begin_ns: now, end_ns: None });
            }
            SwitchKind::End => {
                // Where the drain is far behind, an end may come after the begin of the next one.
                let ended = self.stretches.iter().rposition(|stretch| stretch.begin_ns <= now);
                if ended.is_some_and(|ended| ended + 1 == self.stretches.len()) {
                    self.forget_open();
                }
                if let Some(stretch) = ended.and_then(|ended| self.stretches.get_mut(ended)) {
                    stretch.end_ns.get_or_insert(now);
                }
            }
            SwitchKind::Gap { until_ns, lost } => {
                self.unmeasured.lost += lost;
                self.reliable_from_ns = self.reliable_from_ns.max(*until_ns);
            }
            SwitchKind::Park { reason, stack } => self.park(now, goid, *reason, *stack),
            SwitchKind::Ready { woken } => self.ready(now, goid, *woken),
            SwitchKind::Run { coroutine: true } => {
                self.coroutine_switches += 1;
                self.of(goid, |g| g.runs += 1);
            }
            SwitchKind::Run { coroutine: false } => self.run(now, goid),
            SwitchKind::Stack { id, pcs, truncated } => {
                if self.stacks.len() < STACKS {
                    self.stacks.insert(*id, (pcs.clone(), *truncated));
                } else {
                    self.unmeasured.dropped += 1;
                }
            }
        }
    }

    /// Takes in a distribution that the kernel counted of waits at a place.
    pub fn add_waits(&mut self, site: WaitSite, waits: &SiteWaits) {
        if let Some(known) = self.site(site) {
            known.blocked.merge(&waits.blocked);
            known.until_run.merge(&waits.until_run);
        }
    }

    fn forget_open(&mut self) {
        self.unmeasured.cut_off += self.waiting.len() as u64;
        self.waiting.clear();
    }

    fn of(&mut self, goid: u64, change: impl FnOnce(&mut GoroutineSwitches)) {
        let room = self.goroutines.len() < GOROUTINES;
        match self.goroutines.get_mut(&goid) {
            Some(figures) => change(figures),
            None if room => change(self.goroutines.entry(goid).or_default()),
            None => self.unmeasured.dropped += 1,
        }
    }

    fn site(&mut self, site: WaitSite) -> Option<&mut SiteWaits> {
        if self.sites.len() >= SITES && !self.sites.contains_key(&site) {
            self.unmeasured.dropped += 1;
            return None;
        }
        Some(self.sites.entry(site).or_default())
    }

    fn wait(&mut self, goid: u64, waiting: Waiting) {
        if self.waiting.len() >= WAITING && !self.waiting.contains_key(&goid) {
            self.unmeasured.dropped += 1;
        } else {
            self.waiting.insert(goid, waiting);
        }
    }

    fn park(&mut self, now: u64, goid: u64, reason: u8, stack: u32) {
        *self.parks.entry(reason).or_default() += 1;
        self.of(goid, |g| g.parks += 1);
        let site = Some(WaitSite { reason, stack });
        self.wait(goid, Waiting { site, parked_ns: now, ready_ns: None });
    }

    fn ready(&mut self, now: u64, waker: u64, woken: u64) {
        self.readies += 1;
        self.of(woken, |g| g.woken += 1);
        if waker != 0 {
            self.of(waker, |g| g.wakes += 1);
        }
        let room = self.edges.len() < EDGES;
        match self.edges.get_mut(&(waker, woken)) {
            Some(count) => *count += 1,
            None if room => drop(self.edges.insert((waker, woken), 1)),
            None => self.unmeasured.dropped += 1,
        }
        let Some(waiting) = self.waiting.get_mut(&woken) else {
            return self.wait(woken, Waiting { site: None, parked_ns: now, ready_ns: Some(now) });
        };
        waiting.ready_ns = Some(now);
        let Waiting { site: Some(site), parked_ns, .. } = *waiting else { return };
        if parked_ns < self.reliable_from_ns {
            self.unmeasured.across_gaps += 1;
            return;
        }
        let ns = now.saturating_sub(parked_ns);
        if let Some(waits) = self.site(site) {
            waits.blocked.record(ns);
        }
        self.of(woken, |g| g.blocked_ns += ns);
    }

    fn run(&mut self, now: u64, goid: u64) {
        self.runs += 1;
        self.of(goid, |g| g.runs += 1);
        match self.waiting.remove(&goid) {
            None => self.other_runs += 1,
            Some(Waiting { site, ready_ns: Some(ready_ns), .. }) => {
                if ready_ns < self.reliable_from_ns {
                    self.unmeasured.across_gaps += 1;
                    return;
                }
                let ns = now.saturating_sub(ready_ns);
                self.latency.entry(site.map(|site| site.reason)).or_default().record(ns);
                self.of(goid, |g| g.runnable_ns += ns);
            }
            Some(Waiting { site, parked_ns, ready_ns: None }) => {
                let Some(site) = site else { return };
                if parked_ns < self.reliable_from_ns {
                    // Whether it was woken by `ready` can't be told: that record may be among the lost.
                    self.unmeasured.across_gaps += 1;
                    return;
                }
                *self.unseen_wakes.entry(site.reason).or_default() += 1;
                let ns = now.saturating_sub(parked_ns);
                if let Some(waits) = self.site(site) {
                    waits.until_run.record(ns);
                }
                self.of(goid, |g| {
                    g.unseen_wakes += 1;
                    g.blocked_ns += ns;
                });
            }
        }
    }
}

#[cfg(test)]
mod tests;
