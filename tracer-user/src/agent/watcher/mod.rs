//! One process under watch.

mod finish;
mod govern;
mod step;
mod types;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracer_ebpf::{TIER_SYSCALLS, TIER_T1, TIER_T2, TIER_T3};

pub use self::types::{Ended, Notice, Options, Summary, SwitchesFor, WatchError};
use super::executable::understand_and_hold;
use super::first::{Begun, First};
use super::governor::{self, Running, Subject};
use super::idle::Idle;
use crate::binary::{CallSite, Frame, GoBinary};
use crate::detect::{Ledger, SiteRef, call_frames, caller_site};
use crate::memory::{Runtime, Symbolizer, monotonic_ns};
use crate::model::{CallStack, Process};
use crate::probe::{
    Detacher, Endings, Fleet, LostEvents, ProbeError, Relink, Session, Stream, SwitchStream, Why,
};
use crate::target::{CpuLimit, Exit, Sent, Target, Watch, cpu_limit, cpu_time_ns};

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
    /// Events that were lost so far.
    lost_events: LostEvents,
    /// Links that were made anew, and nobody was told.
    relinks: Vec<Relink>,
    rare_gaps: u64,
    goids: Option<u64>,
    last_goids: Option<u64>,
    begun: Instant,
    begun_ns: u64,
    next_snapshot: Instant,
    next_check: Instant,
    idle: Idle,
    /// One of many: while it is idle, not all is looked at each time.
    patient: bool,
    /// The kernel has told that it executes another program.
    executed: bool,
    stopped: bool,
    lost: u64,
    exit: Option<Exit>,
    /// What the kernel tells of its end, or why it does not.
    endings: Result<Endings, String>,
    signals: Vec<Sent>,
    end: Option<Ended>,
    last_snapshot_took: Duration,
}

impl Watcher {
    /// Attaches to a process. The probes are on when this returns.
    ///
    /// # Errors
    /// [`WatchError`]; then nothing is attached.
    pub fn attach(target: Target, options: Options) -> Result<Self, WatchError> {
        let target = target.hold();
        // Meanwhile, as nothing else waits for it.
        let endings = std::thread::spawn(|| Endings::attach(1));
        let (binary, file) = understand_and_hold(&target)?;
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
        if let Some(time) = options.syscalls {
            probes.tiers |= TIER_SYSCALLS;
            probes.syscalls_for = Some(time);
        }
        let plan = binary.plan(probes.tiers);
        if plan.tier(TIER_T2).next().is_none() {
            probes.tiers &= !TIER_T2;
        }
        let lifetimes = probes.tiers & TIER_T2 != 0 && plan.is_whole(TIER_T2);
        let first = First::measure(&runtime, &begun, options.budget);
        probes.first_lease = first.lease();
        let lean = Arc::new(binary.reread_from(move |at, into| file.read_at(at, into)));
        let (mut session, stream, switches) = Session::attach(&target, &binary, bias, plan, probes)?;
        let governor = Running::start(Subject {
            alarm: session.take_alarm(),
            too_dear: first.too_dear().filter(|_| session.leases().is_some_and(|leases| leases.has(TIER_T2))),
            ..subject(&target, &lean, bias, &options, &session, probes.tiers)
        })
        .map_err(|error| ProbeError::Thread { what: "the governor of the probes' cost", error })?;
        let hazards = binary.hazards().sites.into();
        let endings = match endings.join() {
            Ok(endings) => endings.map_err(|error| error.to_string()),
            Err(_) => Err("the thread that attaches to them has panicked".to_owned()),
        };
        if let Ok(endings) = &endings {
            session.detacher().take_along(endings.clone());
        }
        Ok(Self::new(
            target,
            (lean, hazards),
            bias,
            options,
            session,
            (stream, Some(switches)),
            governor,
            lifetimes,
            (watch, endings),
        ))
    }

    /// Takes part in the probes of all processes of an executable, which `binary` is. Its probes are on when this returns.
    ///
    /// # Errors
    /// [`WatchError`]; then the process is not watched.
    pub(in crate::agent) fn join(
        target: Target,
        binary: Arc<GoBinary>,
        hazards: Arc<[CallSite]>,
        fleet: &Fleet,
        endings: Result<Endings, String>,
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
            (watch, endings),
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
        (watch, endings): (Watch, Result<Endings, String>),
    ) -> Self {
        let pid = target.pid();
        let goids = Runtime::reopen(pid, &binary, bias).goids().ok();
        if let Ok(endings) = &endings {
            endings.watch(pid);
            // Its number may be another one's by now, whose end is not to be taken for this one's.
            if watch.has_ended() {
                endings.forget(pid);
            }
        }
        Self {
            hazards,
            cpu_limit: cpu_limit(pid),
            env_gomaxprocs: environment(pid, "GOMAXPROCS"),
            process: Process::new(lifetimes),
            ledger: Ledger::default(),
            symbolizer: RefCell::default(),
            governor,
            gaps: Vec::new(),
            lost_events: LostEvents::default(),
            relinks: Vec::new(),
            rare_gaps: 0,
            goids,
            last_goids: goids,
            begun: Instant::now(),
            begun_ns: monotonic_ns(),
            next_snapshot: Instant::now(),
            next_check: Instant::now(),
            idle: Idle::default(),
            patient: false,
            executed: false,
            stopped: false,
            lost: 0,
            stream: Some(stream),
            switches,
            switches_until_ns: session.switches_until_ns(),
            exit: None,
            endings,
            signals: Vec::new(),
            end: None,
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

    /// What the probes have cost so far, by hits.
    #[must_use]
    pub fn cost(&self) -> governor::Ledger {
        self.governor.ledger()
    }

    /// How long the kernel took to verify and compile each program, by its name.
    pub fn loaded_in(&self) -> impl Iterator<Item = &(&'static str, Duration)> {
        let endings = self.endings.as_ref().map_or(&[][..], Endings::loaded_in);
        self.session.loaded_in().iter().chain(endings)
    }

    /// Why the kernel does not tell who sends signals to the process.
    #[must_use]
    pub fn senders_unknown(&self) -> Option<&str> {
        match &self.endings {
            Ok(endings) => endings.senders_unknown(),
            Err(why) => Some(why),
        }
    }

    /// The share of the target's CPU time that probes may cost.
    #[must_use]
    pub const fn budget(&self) -> f64 {
        self.options.budget
    }

    /// Tiers whose probes are on.
    #[must_use]
    pub fn tiers(&self) -> u32 {
        self.session.detacher().tiers()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.forget_endings();
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
        alarm: None,
        too_dear: None,
        detacher: session.detacher(),
        stretches: session.stretches(),
        switches_until_ns: session.switches_until_ns(),
        syscalls_until_ns: session.syscalls_until_ns(),
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
