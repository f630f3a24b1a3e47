//! What the governor does, turn by turn: looks at the counters, decides, has the keeper put probes on and take them off, and
//! tells.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracer_ebpf::{Probe, SwitchCounters, TIER_SYSCALLS, TIER_T1, TIER_T2, TIER_T3};

use super::costs::{Costs, Prices};
use super::decide::{Governor, Look, Orders};
use super::run::{Ledger, Subject, TierState};
use super::step::{Mode, Step};
use super::tier::{Command, Rule};
use crate::memory::{Runtime, monotonic_ns};
use crate::probe::{Alarm, Report, Why, calibrate};
use crate::target::cpu_time_ns;

/// Time between two looks while a window is open, or a tier's rate is not known yet.
const CLOSE: Duration = Duration::from_millis(5);
/// Between two looks, however often the alarm rings.
const CLOSEST: Duration = Duration::from_millis(1);
/// While a tier is on all the time.
const NEAR: Duration = Duration::from_millis(20);
/// While no dear tier is on.
const FAR: Duration = Duration::from_millis(50);
/// How long the rate of a tier counts as new, ns.
const NEW: u64 = 200_000_000;
/// How often the rare tier is looked at, ns, where no alarm tells that it is not rare.
const RARE: u64 = 200_000_000;
/// And where nothing has run since, ns.
const RARE_IDLE: u64 = 2_000_000_000;
/// Over how much time memory tells the rate of creations, ns.
const HINT: u64 = 200_000_000;

/// How much earlier than its lease a stretch of switches ends, ns: the keeper tells of the begin a little later than it
/// counts from.
const EARLIER: u64 = 500_000;

/// Its nice value.
const URGENT: i32 = -10;

#[derive(Debug)]
pub(super) struct Worker {
    subject: Subject,
    governor: Governor,
    sender: Sender<Step>,
    ledger: Arc<Mutex<Ledger>>,
    dear: Vec<Probe>,
    rare: Vec<Probe>,
    measured: bool,
    /// Waits for the measurement.
    pricing: bool,
    rare_ns: u64,
    /// CPU time when the rare tier was looked at last.
    rare_cpu: Option<u64>,
    new_ns: u64,
    cpu_begin: Option<u64>,
    cpu: u64,
    goids: VecDeque<(u64, u64)>,
    observed: Vec<(u32, u64, u64)>,
    /// By tier why it could last not be put on, and when that was told.
    refused: Vec<(u32, String, u64)>,
    /// For tiers that are linked one by one.
    linked: u32,
    /// The lease of T3 that was asked for last.
    switches_lease_ns: u64,
    /// It was woken by the alarm.
    alarmed: bool,
}

impl Worker {
    pub(super) fn new(
        subject: Subject,
        costs: Costs,
        sender: Sender<Step>,
        ledger: Arc<Mutex<Ledger>>,
    ) -> Self {
        let now = monotonic_ns();
        let rules: Vec<Rule> = match &subject.leases {
            Some(leases) => leases
                .tiers()
                .map(|(tier, sites)| {
                    let until_ns = match tier {
                        TIER_T3 => subject.switches_until_ns,
                        TIER_SYSCALLS => subject.syscalls_until_ns,
                        _ => None,
                    };
                    Rule {
                        tier,
                        stays: tier == TIER_T2 || until_ns.is_some(),
                        windows: true,
                        sites,
                        until_ns,
                    }
                })
                .collect(),
            None => [(TIER_T2, None), (TIER_T3, subject.switches_until_ns)]
                .into_iter()
                .filter(|(tier, _)| subject.detacher.tiers() & tier != 0)
                .map(|(tier, until_ns)| Rule {
                    tier,
                    stays: true,
                    windows: false,
                    sites: subject.plan.tier(tier).count(),
                    until_ns,
                })
                .collect(),
        };
        let dear_tiers = rules.iter().fold(0, |sum, rule| sum | rule.tier);
        let mut governor = Governor::new(subject.share, costs, &rules, now);
        // Whoever may stay was on when the session was attached; that it has gone since is heard of.
        let mut steps = Vec::new();
        for rule in rules.iter().filter(|rule| rule.stays) {
            match subject.too_dear.filter(|_| rule.tier == TIER_T2) {
                Some((hits, cpus)) => steps.extend(governor.begin_demoted(rule.tier, hits, cpus)),
                None => drop(governor.begun(rule.tier, now)),
            }
        }
        for step in steps {
            // Whoever would listen has the other end by now.
            drop(sender.send(step));
        }
        let of = |tiers: u32| -> Vec<Probe> {
            Probe::ALL.into_iter().filter(|probe| probe.tier() & tiers != 0).collect()
        };
        Self {
            dear: of(dear_tiers & subject.tiers),
            rare: of(TIER_T1 & subject.tiers),
            linked: if subject.leases.is_none() { dear_tiers } else { 0 },
            subject,
            governor,
            sender,
            ledger,
            measured: false,
            pricing: true,
            rare_ns: 0,
            rare_cpu: None,
            new_ns: now,
            cpu_begin: None,
            cpu: 0,
            goids: VecDeque::new(),
            observed: Vec::new(),
            refused: Vec::new(),
            switches_lease_ns: 0,
            alarmed: false,
        }
    }

    pub(super) fn run(mut self, stop: &AtomicBool) {
        calibrate::begin();
        // Late is dear: next to no work, but it must be done in time. Not permitted is not fatal.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), URGENT);
        let no_lease = self.subject.leases.as_ref().is_none_or(|leases| !leases.has(TIER_T3));
        if self.subject.tiers & TIER_T3 != 0 && self.subject.switches_until_ns.is_none() && no_lease {
            let why = "bursts need Linux 6.6, as probes that are linked one by one take too long to go; a fixed time can be asked for";
            self.tell(Step::Refused { tier: TIER_T3, why: why.to_owned() });
        }
        loop {
            if stop.load(Ordering::Acquire) {
                self.price();
                self.hear();
                self.finish();
                return;
            }
            self.turn();
            self.wait();
        }
    }

    pub(super) fn turn(&mut self) {
        self.price();
        self.hear();
        let orders = self.look();
        self.obey(orders);
        self.publish();
    }

    /// Whether it is time to look at the rare tier. Who has not run can wait.
    pub(super) fn is_due(&self) -> bool {
        let ago = monotonic_ns().saturating_sub(self.rare_ns);
        ago >= RARE_IDLE || ago >= RARE && cpu_time_ns(self.subject.pid) != self.rare_cpu
    }

    /// Takes the measured prices once they are there.
    fn price(&mut self) {
        if !self.pricing {
            return;
        }
        let Some(calibration) = calibrate::known() else { return };
        self.pricing = false;
        self.measured = calibration.is_ok();
        let prices = calibration.as_ref().map_or(Prices::ASSUMED, Prices::measured);
        self.governor.costs.set(prices);
        self.tell(Step::Priced { prices, calibration: calibration.map_err(|error| error.to_string()) });
    }

    /// That a tier can't be put on, at most once a minute for the same reason.
    fn tell_refused(&mut self, tier: u32, why: String) {
        const AGAIN: u64 = 60_000_000_000;
        let now_ns = monotonic_ns();
        let same = |(told, text, at_ns): &(u32, String, u64)| {
            *told == tier && *text == why && now_ns.saturating_sub(*at_ns) < AGAIN
        };
        if self.refused.iter().any(same) {
            return;
        }
        self.refused.retain(|(told, ..)| *told != tier);
        self.refused.push((tier, why.clone(), now_ns));
        self.tell(Step::Refused { tier, why });
    }

    fn tell(&self, step: Step) {
        // Nobody listens any more when the watch is over.
        drop(self.sender.send(step));
    }

    /// What the keeper has said, and what became of links that are held otherwise.
    fn hear(&mut self) {
        let reports = match &self.subject.leases {
            Some(leases) => leases.reports(),
            None => self.linked(),
        };
        for report in reports {
            self.note();
            let step = match report {
                Report::On { tier, at_ns } => {
                    self.new_ns = at_ns;
                    let since_ns = if tier == TIER_T3 { self.begin_stretch(at_ns) } else { Some(at_ns) };
                    since_ns.and_then(|since_ns| self.governor.begun(tier, since_ns))
                }
                Report::Off { tier, at_ns, why } => {
                    let told = if tier == TIER_T3 { self.subject.stretches.tell_end() } else { None };
                    self.governor.ended(tier, told.map_or(at_ns, |end| end.min(at_ns)), monotonic_ns(), why)
                }
                Report::Refused { tier, why } => {
                    self.governor.refused(tier, monotonic_ns());
                    self.tell_refused(tier, why);
                    None
                }
            };
            if let Some(Step::Ended(stretch)) = &step {
                self.count(stretch.tier, stretch.end_ns - stretch.begin_ns);
            }
            step.into_iter().for_each(|step| self.tell(step));
        }
    }

    fn count(&mut self, tier: u32, observed_ns: u64) {
        match self.observed.iter_mut().find(|(known, ..)| *known == tier) {
            Some((_, ns, times)) => (*ns, *times) = (*ns + observed_ns, *times + 1),
            None => self.observed.push((tier, observed_ns, 1)),
        }
    }

    /// Links one by one come and go by the session's hand: what changed since.
    fn linked(&mut self) -> Vec<Report> {
        let now = self.subject.detacher.tiers() & (TIER_T2 | TIER_T3);
        let (before, at_ns) = (std::mem::replace(&mut self.linked, now), monotonic_ns());
        let changed = [TIER_T2, TIER_T3].into_iter().filter(|tier| (before ^ now) & tier != 0);
        changed
            .map(|tier| {
                if now & tier == 0 {
                    Report::Off { tier, at_ns, why: Why::Asked }
                } else {
                    Report::On { tier, at_ns }
                }
            })
            .collect()
    }

    /// Counters and CPU time, with those of the rare tier when it is time.
    fn read(&mut self, everything: bool) -> (u64, Vec<(Probe, u64)>) {
        let now = monotonic_ns();
        let mut hits: Vec<(Probe, u64)> = Vec::new();
        // A process that is gone uses no more.
        self.cpu = cpu_time_ns(self.subject.pid).unwrap_or(self.cpu);
        self.cpu_begin.get_or_insert(self.cpu);
        let counters = &self.subject.counters;
        hits.extend(self.dear.iter().map(|probe| (*probe, counters.hits(*probe))));
        if everything || self.alarmed || now >= self.rare_ns + RARE {
            self.rare_ns = now;
            // Who has not run has hit nothing.
            if everything || self.rare_cpu != Some(self.cpu) {
                self.rare_cpu = Some(self.cpu);
                hits.extend(self.rare.iter().map(|probe| (*probe, counters.hits(*probe))));
            }
        }
        (now, hits)
    }

    fn note(&mut self) {
        let (at_ns, hits) = self.read(false);
        self.governor.note(&self.seen(at_ns, &hits, &[]));
    }

    fn seen<'a>(&self, at_ns: u64, hits: &'a [(Probe, u64)], hints: &'a [(u32, f64)]) -> Look<'a> {
        let watched = self.dear.iter().any(|probe| probe.tier() == TIER_T3);
        let switches = if watched { self.subject.counters.switches() } else { SwitchCounters::default() };
        let SwitchCounters { outside, frames, .. } = switches;
        Look { at_ns, cpu_ns: self.cpu, hits, outside, frames, hints }
    }

    fn look(&mut self) -> Orders {
        let (at_ns, hits) = self.read(false);
        let hints: Vec<(u32, f64)> = self.creations(at_ns).into_iter().collect();
        let look = self.seen(at_ns, &hits, &hints);
        self.governor.look(&look)
    }

    /// Hits a second that the second tier would have, by the goroutine ids that the runtime has handed out lately.
    fn creations(&mut self, now: u64) -> Option<(u32, f64)> {
        let off = self.governor.modes().any(|(tier, _, on)| tier == TIER_T2 && !on);
        if !off {
            self.goids.clear();
            return None;
        }
        let runtime = Runtime::reopen(self.subject.pid, &self.subject.binary, self.subject.bias);
        let goids = runtime.goids().ok()?;
        self.goids.push_back((now, goids));
        while self.goids.get(1).is_some_and(|(at, _)| now - at >= HINT) {
            self.goids.pop_front();
        }
        let (then, before) = *self.goids.front()?;
        if now - then < HINT / 4 {
            return None;
        }
        // Each creation is followed by an exit, sooner or later.
        let rate = goids.saturating_sub(before) as f64 * 1e9 / (now - then) as f64;
        Some((TIER_T2, 2.0 * rate))
    }

    fn obey(&mut self, orders: Orders) {
        for step in orders.steps {
            self.tell(step);
        }
        for command in orders.commands {
            match (command, &self.subject.leases) {
                (Command::Begin(tier, ns), Some(leases)) => {
                    match tier {
                        TIER_T3 => self.switches_lease_ns = ns,
                        TIER_SYSCALLS => self.subject.stretches.calls_anew(),
                        _ => {}
                    }
                    if let Err(error) = leases.begin(tier, Duration::from_nanos(ns)) {
                        self.governor.refused(tier, monotonic_ns());
                        self.tell_refused(tier, error.to_string());
                    }
                }
                (Command::Renew(tier, ns), Some(leases)) => {
                    // Before the keeper is told, whose time is then the later one.
                    let end_ns = self.switches_end(monotonic_ns(), ns);
                    leases.renew(tier, Duration::from_nanos(ns));
                    if tier == TIER_T3 {
                        self.subject.stretches.extend(end_ns);
                    }
                }
                (Command::End(tier), Some(leases)) => {
                    if tier == TIER_T3 {
                        self.subject.stretches.end();
                    }
                    leases.end(tier);
                }
                (Command::End(tier), None) => self.subject.detacher.detach(tier),
                (Command::Begin(tier, _), None) => {
                    self.linked &= !tier;
                    self.tell(Step::Relink { tier });
                }
                (Command::Renew(..), None) => {}
            }
        }
    }

    /// The probes of T3 are on, and the lease has begun: so does a stretch, that ends before the lease does. Returns since
    /// when.
    fn begin_stretch(&mut self, at_ns: u64) -> Option<u64> {
        let end_ns = self.switches_end(at_ns, self.switches_lease_ns.saturating_sub(EARLIER));
        match self.subject.stretches.begin(end_ns) {
            Ok(begun) => begun,
            Err(why) => {
                if let Some(leases) = &self.subject.leases {
                    leases.end(TIER_T3);
                }
                self.governor.refused(TIER_T3, monotonic_ns());
                self.tell(Step::Refused { tier: TIER_T3, why });
                None
            }
        }
    }

    /// When a stretch of switches has to end that is had by a lease of so many ns from then on.
    fn switches_end(&self, from_ns: u64, lease_ns: u64) -> u64 {
        let end = from_ns.saturating_add(lease_ns);
        self.subject.switches_until_ns.map_or(end, |asked| asked.min(end))
    }

    fn publish(&self) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.at_ns = monotonic_ns();
        ledger.cpu_ns = self.cpu - self.cpu_begin.unwrap_or(self.cpu);
        ledger.spent_ns = self.governor.spent_ns();
        ledger.asked_ns = self.governor.asked_ns();
        ledger.cpus = self.governor.cpus();
        ledger.measured = self.measured;
        if ledger.costs.prices() != self.governor.costs.prices() {
            ledger.costs = self.governor.costs.clone();
        }
        ledger.tiers = self
            .governor
            .modes()
            .map(|(tier, mode, on)| {
                let sums = self.observed.iter().find(|(known, ..)| *known == tier);
                let (observed_ns, stretches) = sums.map_or((0, 0), |(_, ns, times)| (*ns, *times));
                TierState { tier, mode, on, observed_ns, stretches }
            })
            .collect();
    }

    fn wait(&mut self) {
        let now = monotonic_ns();
        let mut pause = FAR;
        for (_, mode, on) in self.governor.modes() {
            let near = match mode {
                _ if !on => FAR,
                Mode::Steady if now < self.new_ns + NEW => CLOSE,
                Mode::Steady => NEAR,
                Mode::Windows | Mode::Off => CLOSE,
            };
            pause = pause.min(near);
        }
        if self.alarmed {
            std::thread::sleep(CLOSEST);
        }
        let alarm = self.subject.alarm.as_ref();
        self.alarmed = match (&self.subject.leases, alarm) {
            (Some(leases), alarm) => leases.wait(pause, alarm),
            (None, Some(alarm)) => alarm.wait(pause),
            (None, None) => {
                std::thread::sleep(pause);
                false
            }
        };
        // Before the look that follows: what rings from now on is of after it.
        if self.alarmed {
            self.subject.alarm.iter_mut().for_each(Alarm::reset);
        }
    }

    /// The last hits, after all probes have gone.
    pub(super) fn finish(&mut self) {
        self.hear();
        let (at_ns, hits) = self.read(true);
        self.governor.note(&self.seen(at_ns, &hits, &[]));
        let tiers: Vec<u32> = self.governor.modes().map(|(tier, ..)| tier).collect();
        for tier in tiers {
            if let Some(step) = self.governor.ended(tier, at_ns, at_ns, Why::Asked) {
                if let Step::Ended(stretch) = &step {
                    self.count(tier, stretch.end_ns - stretch.begin_ns);
                }
                self.tell(step);
            }
        }
        self.publish();
    }
}
