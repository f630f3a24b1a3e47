//! One process under watch.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use tracer_ebpf::{Probe, SUM_BLOCKED, SUM_BLOCKED_TO_RUN, TIER_T1, TIER_T2, TIER_T3};

use super::executable::understand;
use super::first::{Begun, First};
use super::governor::{self, Mode, Running, Step, Stretch, Subject};
use super::idle::Idle;
use crate::binary::{BinaryError, CallSite, Frame, GoBinary};
use crate::detect::{
    Change, Context, Ledger, SiteRef, Thresholds, call_frames, caller_site, examine, watched_connections,
};
use crate::memory::{ReadError, Runtime, RuntimeError, Symbolizer, monotonic_ns};
use crate::model::{CallStack, Distribution, Event, EventKind, Process, SiteWaits, StwReason, WaitSite};
use crate::probe::{Accounting, Detacher, Fleet, ProbeError, Session, Stream, SwitchStream, Why};
use crate::target::{CpuLimit, Exit, Target, TargetError, Watch, cpu_limit, cpu_time_ns};

/// Why a process can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It can't be looked at.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its executable is not understood.
    #[error(transparent)]
    Binary(#[from] BinaryError),
    /// Its program is not Go, but a library that it has loaded is.
    #[error(
        "process {pid} runs a program that is not Go, with a Go library ({version}) in it: {path}; gotrail watches Go programs, not libraries in other ones (`gotrail inspect` reads the library's file)"
    )]
    GoLibrary {
        /// The process.
        pid: u32,
        /// The library, as the process sees it.
        path: String,
        /// The version of its toolchain.
        version: String,
    },
    /// Its memory can't be read.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Probes can't be placed.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// How a process is watched.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Time between snapshots; longer ones make it longer by themselves.
    pub snapshot_every: Duration,
    /// Share of the target's CPU time that probes may cost.
    pub budget: f64,
    /// Limits of the detectors.
    pub thresholds: Thresholds,
    /// How the probes are attached.
    pub probes: crate::probe::Options,
    /// How switches between goroutines are observed; `None`: not at all.
    pub switches: Option<SwitchesFor>,
}

/// How switches between goroutines are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchesFor {
    /// All of them for this long from attach on, whatever that costs.
    Time(Duration),
    /// In bursts, as the budget allows.
    Bursts,
}

/// A snapshot may take this share of the time at most.
const SNAPSHOT_SHARE: u32 = 20;
/// Batches of switches taken in at one step: many come at once, and the rest must not wait for them.
const SWITCH_BATCHES: usize = 64;
/// So many times longer is the time between two looks at what is idle, where many are watched.
const IDLE_OF_MANY: u32 = 5;
/// How long one step waits for records.
const STEP: Duration = Duration::from_millis(20);

/// How often cost, losses and identity are looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Something to tell.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A finding changed; look it up by key.
    Finding(String, Change),
    /// The governor decided something, or something came of it.
    Governed(Step),
    /// A tier that is observed all the time was not, from one time to another (`CLOCK_MONOTONIC` ns), since its lease
    /// ran out or its keeper ended.
    Gap {
        /// `TIER_` bit.
        tier: u32,
        /// The last moment before.
        from_ns: u64,
        /// The first moment after.
        to_ns: u64,
        /// Why.
        why: Why,
    },
    /// A tier of probes is off, because it could not be put back without those that cost too much.
    ProbesLost(String),
    /// The ring had no room for so many records since the last look: that interval has gaps.
    Lost(u64),
    /// Switches are no longer observed.
    SwitchesEnded,
    /// The process was stopped by a signal, or goes on.
    Stopped(bool),
    /// A snapshot could not be taken.
    SnapshotFailed(String),
    /// The process ended.
    Ended(Exit),
}

/// What is left when the watch is over.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The account of the probes: exact.
    pub accounting: Accounting,
    /// How long detaching took.
    pub detached_in: Duration,
    /// How long the process was watched.
    pub watched: Duration,
    /// How it ended, if it did.
    pub exit: Option<Exit>,
    /// What the probes cost.
    pub cost: governor::Ledger,
    /// Goroutine ids that the runtime handed out while the process was watched, where memory could still be read at
    /// the end: creations, but for [`crate::memory::GOID_BATCH`] for each P.
    pub goids: Option<u64>,
}

/// One process under watch.
#[derive(Debug)]
pub struct Watcher {
    target: Target,
    binary: Arc<GoBinary>,
    bias: u64,
    hazards: Arc<[CallSite]>,
    cpu_limit: Option<CpuLimit>,
    env_gomaxprocs: Option<String>,
    options: Options,
    session: Session,
    stream: Option<Stream>,
    switches: Option<SwitchStream>,
    /// When the observation of switches ends that was asked for, if nobody was told yet.
    switches_until_ns: Option<u64>,
    watch: Watch,
    process: Process,
    ledger: Ledger,
    symbolizer: RefCell<Symbolizer>,
    governor: Running,
    /// Tiers that are off for no decision of the governor's: since when, and why.
    gaps: Vec<(u32, u64, Why)>,
    goids: Option<u64>,
    last_goids: Option<u64>,
    begun: Instant,
    begun_ns: u64,
    next_snapshot: Instant,
    next_check: Instant,
    idle: Idle,
    /// One of many: while it is idle, not all is looked at each time.
    patient: bool,
    stopped: bool,
    lost: u64,
    exit: Option<Exit>,
    last_snapshot_took: Duration,
}

impl Watcher {
    /// Attaches to a process. The probes are on when this returns.
    ///
    /// # Errors
    /// [`WatchError`]; then nothing is attached.
    pub fn attach(target: Target, options: Options) -> Result<Self, WatchError> {
        let binary = understand(&target)?;
        let watch = Watch::new(target.pid())?;
        let runtime = Runtime::open(&target, &binary)?;
        let bias = runtime.bias();
        let begun = Begun { at: Instant::now(), goids: runtime.goids().ok(), cpu: cpu_time_ns(target.pid()) };
        let mut probes = options.probes;
        if let Some(switches) = options.switches {
            probes.tiers |= TIER_T3;
            probes.switches_for = match switches {
                SwitchesFor::Time(time) => Some(time),
                SwitchesFor::Bursts => None,
            };
        }
        let plan = binary.plan(probes.tiers);
        if plan.tier(TIER_T2).next().is_none() {
            probes.tiers &= !TIER_T2;
        }
        let lifetimes = probes.tiers & TIER_T2 != 0 && plan.is_whole(TIER_T2);
        let first = First::measure(&runtime, &begun, options.budget);
        probes.first_lease = first.lease();
        // Copied before the probes are on: what takes time after that is at the cost of the process.
        let lean = Arc::new(binary.without_code());
        let (session, stream, switches) = Session::attach(&target, &binary, bias, plan, probes)?;
        let governor = Running::start(Subject {
            too_dear: first.too_dear().filter(|_| session.leases().is_some_and(|leases| leases.has(TIER_T2))),
            ..subject(&target, &lean, bias, &options, &session, probes.tiers)
        })
        .map_err(|error| ProbeError::Thread { what: "the governor of the probes' cost", error })?;
        let hazards = binary.hazards().sites.into();
        Ok(Self::new(
            target,
            (lean, hazards),
            bias,
            options,
            session,
            (stream, Some(switches)),
            governor,
            lifetimes,
            watch,
        ))
    }

    /// Takes part in the probes of all processes of an executable, which `binary` is. Its probes are on when this returns.
    ///
    /// # Errors
    /// [`WatchError`]; then the process is not watched.
    pub(super) fn join(
        target: Target,
        binary: Arc<GoBinary>,
        hazards: Arc<[CallSite]>,
        fleet: &Fleet,
        options: Options,
    ) -> Result<Self, WatchError> {
        let watch = Watch::new(target.pid())?;
        let bias = Runtime::open_at_once(&target, &binary)?.bias();
        let (session, stream) = fleet.join(&target, bias)?;
        let governor = Running::without_thread(subject(&target, &binary, bias, &options, &session, TIER_T1));
        Ok(Self::new(
            target,
            (binary, hazards),
            bias,
            options,
            session,
            (stream, None),
            governor,
            false,
            watch,
        ))
    }

    #[expect(clippy::too_many_arguments, reason = "what a watcher is made of, by the two that make one")]
    fn new(
        target: Target,
        (binary, hazards): (Arc<GoBinary>, Arc<[CallSite]>),
        bias: u64,
        options: Options,
        session: Session,
        (stream, switches): (Stream, Option<SwitchStream>),
        governor: Running,
        lifetimes: bool,
        watch: Watch,
    ) -> Self {
        let pid = target.pid();
        let goids = Runtime::reopen(pid, &binary, bias).goids().ok();
        Self {
            hazards,
            cpu_limit: cpu_limit(pid),
            env_gomaxprocs: environment(pid, "GOMAXPROCS"),
            process: Process::new(lifetimes),
            ledger: Ledger::default(),
            symbolizer: RefCell::default(),
            governor,
            gaps: Vec::new(),
            goids,
            last_goids: goids,
            begun: Instant::now(),
            begun_ns: monotonic_ns(),
            next_snapshot: Instant::now(),
            next_check: Instant::now(),
            idle: Idle::default(),
            patient: false,
            stopped: false,
            lost: 0,
            stream: Some(stream),
            switches,
            switches_until_ns: session.switches_until_ns(),
            exit: None,
            last_snapshot_took: Duration::ZERO,
            target,
            binary,
            bias,
            options,
            session,
            watch,
        }
    }

    /// The process.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Its executable.
    #[must_use]
    pub fn binary(&self) -> &GoBinary {
        &self.binary
    }

    /// The probes.
    #[must_use]
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// A handle that takes the probes off from another thread.
    #[must_use]
    pub fn detacher(&self) -> Detacher {
        self.session.detacher()
    }

    /// What is known of the process.
    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    /// What is known of the process, to take new cycles and pauses out.
    pub const fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What was found.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The place in the program that a captured stack comes from.
    #[must_use]
    pub fn caller(&self, stack: &CallStack) -> Option<SiteRef> {
        caller_site(&self.binary, &self.symbolizer, stack)
    }

    /// The frames of a stack whose first address is exact, and the others are return addresses.
    #[must_use]
    pub fn frames(&self, pcs: &[u64]) -> Vec<Frame> {
        call_frames(&self.binary, &self.symbolizer, &CallStack { pcs: pcs.to_vec(), ..CallStack::default() })
    }

    /// Since when the process is watched, `CLOCK_MONOTONIC` ns.
    #[must_use]
    pub const fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// How long the last snapshot took.
    #[must_use]
    pub const fn last_snapshot_took(&self) -> Duration {
        self.last_snapshot_took
    }

    /// Takes in what has happened; waits some milliseconds for it. Call it again and again until a notice
    /// says that the process ended, or the user has seen enough.
    pub fn step(&mut self) -> Vec<Notice> {
        self.step_within(STEP)
    }

    /// Likewise; waits for nothing. For who has many.
    pub fn step_at_once(&mut self) -> Vec<Notice> {
        self.patient = true;
        self.step_within(Duration::ZERO)
    }

    fn step_within(&mut self, wait: Duration) -> Vec<Notice> {
        let mut notices = Vec::new();
        self.receive(wait);
        self.govern(&mut notices);
        if self.exit.is_none()
            && let Some(exit) = self.watch.wait(Duration::ZERO)
        {
            self.exit = Some(exit);
            // What the process did last is still in the ring: `finish` looks once more.
            notices.push(Notice::Ended(exit));
            return notices;
        }
        let now = Instant::now();
        if self.switches_until_ns.is_some_and(|end| monotonic_ns() >= end) && self.switches_are_off() {
            self.switches_until_ns = None;
            notices.push(Notice::SwitchesEnded);
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_EVERY;
            if !self.check(&mut notices) {
                return notices;
            }
        }
        if self.exit.is_none() && now >= self.next_snapshot {
            self.snapshot(&mut notices);
            self.look(&mut notices);
        } else if self.process.fatal.is_some() {
            self.look(&mut notices);
        }
        notices
    }

    /// Has the next step look whether it is still the same program.
    pub(super) fn check_soon(&mut self) {
        self.next_check = Instant::now();
        self.idle = Idle::default();
    }

    /// Whether the probes of switches are off whose time is over: the governor takes off what is had by lease.
    fn switches_are_off(&self) -> bool {
        if self.session.leases().is_none_or(|leases| !leases.has(TIER_T3)) {
            self.session.end_switches();
        }
        self.tiers() & TIER_T3 == 0
    }

    fn receive(&mut self, wait: Duration) {
        for batch in self.switches.iter().flat_map(SwitchStream::try_iter).take(SWITCH_BATCHES) {
            batch.iter().for_each(|switch| self.process.switches.apply(switch));
        }
        let Some(stream) = &self.stream else { return };
        match stream.recv_timeout(wait) {
            Ok(batch) => batch.into_iter().for_each(|event| self.apply(event)),
            Err(RecvTimeoutError::Timeout) => {}
            // The drain has ended before its time: its thread died. The accounting will not balance then.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
        }
    }

    /// Before Go 1.21 only the stack tells why the world is stopped, and stacks need the executable.
    fn apply(&mut self, mut event: Event) {
        if let EventKind::StwStop { reason: reason @ None, caller } = &mut event.kind {
            let frames = call_frames(&self.binary, &self.symbolizer, caller);
            *reason = StwReason::of_callers(frames.iter().map(|frame| frame.function.as_str()));
            // As later versions do: the GC's own two stops come with every cycle, from the same place.
            if reason.is_some_and(StwReason::is_gc) {
                *caller = CallStack::default();
            }
        }
        self.process.apply(&event);
    }

    /// Whether the process still runs the program that was attached to, as far as can be told; a process that is
    /// gone is told by the watch.
    fn is_same_program(&self) -> bool {
        self.target.look().is_none_or(|look| look.same_program)
    }

    fn snapshot(&mut self, notices: &mut Vec<Notice>) {
        let begun = Instant::now();
        if let Some(snapshot) = self.idle.snapshot(self.target.pid()) {
            self.process.merge(snapshot);
            self.mark_watched();
            self.next_snapshot =
                begun + self.options.snapshot_every * if self.patient { IDLE_OF_MANY } else { 1 };
            return;
        }
        let result = Runtime::reopen(self.target.pid(), &self.binary, self.bias).snapshot();
        self.last_snapshot_took = begun.elapsed();
        let pause = self.options.snapshot_every.max(self.last_snapshot_took * SNAPSHOT_SHARE);
        self.next_snapshot = Instant::now() + pause;
        // What was read of another program is not looked at; the next check tells.
        if !self.is_same_program() {
            self.next_check = Instant::now();
            return;
        }
        match result {
            Ok(snapshot) => {
                self.process.merge(&snapshot);
                self.mark_watched();
                self.idle.keep(snapshot);
            }
            // Its end is told by the watch.
            Err(RuntimeError::Read { source: ReadError::Gone, .. }) => {}
            Err(error) => notices.push(Notice::SnapshotFailed(error.to_string())),
        }
    }

    fn mark_watched(&mut self) {
        let watched = watched_connections(&self.process, &self.binary, &self.symbolizer);
        self.process.mark_watched(watched);
    }

    /// Looks at what must not wait for a snapshot: whether it is still the same program, what the probes cost,
    /// what was lost. `false` if the watch is over.
    fn check(&mut self, notices: &mut Vec<Notice>) -> bool {
        if self.idle.is_idle(self.target.pid()) {
            return true;
        }
        if let Some(look) = self.target.look() {
            if !look.same_program {
                self.exit = Some(Exit::Exec);
                notices.push(Notice::Ended(Exit::Exec));
                return false;
            }
            if look.stopped != self.stopped {
                self.stopped = look.stopped;
                notices.push(Notice::Stopped(look.stopped));
            }
        }
        let accounting = self.session.accounting();
        let lost = accounting.lost();
        if lost != self.lost {
            notices.push(Notice::Lost(lost - self.lost));
            self.lost = lost;
        }
        if let Ok(goids) = Runtime::reopen(self.target.pid(), &self.binary, self.bias).goids() {
            self.last_goids = Some(goids);
        }
        true
    }

    /// Takes in what the governor decided, and does what only the session can.
    fn govern(&mut self, notices: &mut Vec<Notice>) {
        self.governor.tick();
        for step in self.governor.steps() {
            match &step {
                Step::Begun { tier, at_ns } => {
                    if *tier == TIER_T2 {
                        self.process.end_gap(*at_ns);
                    }
                    if let Some(i) = self.gaps.iter().position(|(gap, ..)| gap == tier) {
                        let (tier, from_ns, why) = self.gaps.swap_remove(i);
                        notices.push(Notice::Gap { tier, from_ns, to_ns: *at_ns, why });
                    }
                }
                Step::Ended(stretch) => self.ended(stretch),
                Step::TakeOff { probes, .. } => {
                    if let Err(error) = self.session.take_off(probes) {
                        // The tier is off as a whole then: dearer than wanted in knowledge, not in cost.
                        notices.push(Notice::ProbesLost(error.to_string()));
                        continue;
                    }
                }
                Step::PutBack { probes } => {
                    if let Err(error) = self.session.put_back(probes) {
                        notices.push(Notice::ProbesLost(error.to_string()));
                        continue;
                    }
                }
                Step::Relink { tier } => {
                    if let Err(error) = self.session.relink(*tier) {
                        notices.push(Notice::ProbesLost(error.to_string()));
                        continue;
                    }
                }
                Step::Mode { tier, from: Mode::Steady, .. } => {
                    self.gaps.retain(|(gap, ..)| gap != tier);
                    if *tier == TIER_T2 {
                        self.process.begin_gap();
                    }
                }
                Step::Mode { .. } | Step::Asked { .. } | Step::Refused { .. } | Step::Priced { .. } => {}
            }
            notices.push(Notice::Governed(step));
        }
    }

    /// A tier was observed for a while, and is not any more.
    fn ended(&mut self, stretch: &Stretch) {
        if stretch.tier == TIER_T2 {
            self.process.begin_gap();
        }
        let count = |wanted: &[Probe]| {
            stretch.hits.iter().filter(|(probe, _)| wanted.contains(probe)).map(|(_, n)| n).sum()
        };
        if stretch.sampled && stretch.tier == TIER_T2 {
            let seconds = (stretch.end_ns - stretch.begin_ns) as f64 / 1e9;
            self.process.sample(seconds, count(&[Probe::GoCreate]), count(&[Probe::GoExit]));
        } else if stretch.sampled && stretch.tier == TIER_T3 && stretch.end_ns > stretch.begin_ns {
            let seconds = (stretch.end_ns - stretch.begin_ns) as f64 / 1e9;
            let sampled = &mut self.process.switches.sampled;
            sampled.parks.add(seconds, count(&[Probe::GoPark]));
            sampled.readies.add(seconds, count(&[Probe::GoReady]));
            sampled.runs.add(seconds, count(&[Probe::GoRun]));
        } else if !stretch.sampled && stretch.why != Why::Asked {
            self.gaps.push((stretch.tier, stretch.end_ns, stretch.why));
        }
    }

    fn look(&mut self, notices: &mut Vec<Notice>) {
        let now_ns = monotonic_ns();
        let findings = examine(&Context {
            process: &self.process,
            binary: &self.binary,
            hazards: &self.hazards,
            cpu_limit: self.cpu_limit,
            env_gomaxprocs: self.env_gomaxprocs.clone(),
            thresholds: self.options.thresholds,
            ledger: &self.ledger,
            now_ns,
            symbolizer: &self.symbolizer,
        });
        let changes = self.ledger.update(findings, now_ns);
        notices.extend(changes.into_iter().map(|(key, change)| Notice::Finding(key, change)));
    }

    /// Takes the probes off, takes in the last records, looks once more, and closes the account.
    pub fn finish(&mut self) -> (Summary, Vec<Notice>) {
        let mut notices = Vec::new();
        self.govern(&mut notices);
        let detached_in = self.session.detach();
        if let Some(switches) = self.switches.take() {
            for batch in switches {
                batch.iter().for_each(|switch| self.process.switches.apply(switch));
            }
        }
        if let Some(stream) = self.stream.take() {
            for batch in stream {
                batch.into_iter().for_each(|event| self.apply(event));
            }
        }
        self.session.join();
        self.take_sums();
        self.governor.stop();
        for step in self.governor.steps() {
            if let Step::Ended(stretch) = step {
                // What was watched all the time was, up to the end.
                if stretch.sampled {
                    self.ended(&stretch);
                }
                notices.push(Notice::Governed(Step::Ended(stretch)));
            }
        }
        self.look(&mut notices);
        let now = Runtime::reopen(self.target.pid(), &self.binary, self.bias).goids().ok();
        // A process that has ended has none any more.
        let now = now.or(self.last_goids).filter(|_| self.exit.is_none_or(|exit| exit != Exit::Exec));
        let goids = now.zip(self.goids).and_then(|(now, before)| now.checked_sub(before));
        let summary = Summary {
            cost: self.governor.ledger(),
            goids,
            accounting: self.session.accounting(),
            detached_in,
            watched: self.begun.elapsed(),
            exit: self.exit,
        };
        (summary, notices)
    }

    /// What the probes have cost so far, by hits.
    #[must_use]
    pub fn cost(&self) -> governor::Ledger {
        self.governor.ledger()
    }

    /// The share of the target's CPU time that probes may cost.
    #[must_use]
    pub const fn budget(&self) -> f64 {
        self.options.budget
    }

    /// What the kernel summed up of switches; call it once.
    fn take_sums(&mut self) {
        for (key, sum) in self.session.sums() {
            let mut times = Distribution::default();
            times.add(sum.count, sum.total_ns, &sum.buckets);
            let site = WaitSite { reason: key.reason, stack: key.stack };
            let switches = &mut self.process.switches;
            match key.kind {
                SUM_BLOCKED => {
                    switches.add_waits(site, &SiteWaits { blocked: times, ..SiteWaits::default() });
                }
                SUM_BLOCKED_TO_RUN => {
                    switches.add_waits(site, &SiteWaits { until_run: times, ..SiteWaits::default() });
                }
                _ => {
                    switches
                        .latency
                        .entry((key.reason != 0).then_some(key.reason))
                        .or_default()
                        .merge(&times);
                }
            }
        }
    }

    /// Tiers whose probes are on.
    #[must_use]
    pub fn tiers(&self) -> u32 {
        self.session.detacher().tiers()
    }
}

/// What the governor of a session's probes is to know.
fn subject(
    target: &Target,
    binary: &Arc<GoBinary>,
    bias: u64,
    options: &Options,
    session: &Session,
    tiers: u32,
) -> Subject {
    Subject {
        pid: target.pid(),
        binary: Arc::clone(binary),
        bias,
        share: options.budget,
        plan: session.plan().clone(),
        tiers,
        counters: session.counters(),
        leases: session.leases().cloned(),
        too_dear: None,
        detacher: session.detacher(),
        stretches: session.stretches(),
        switches_until_ns: session.switches_until_ns(),
    }
}

/// A variable of a process's environment at its start.
fn environment(pid: u32, name: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    bytes.split(|b| *b == 0).find_map(|entry| {
        let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}
