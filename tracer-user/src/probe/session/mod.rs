//! The probes of one process, from attach to the last record.

mod account;
mod relink;

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use aya::maps::RingBuf;
use aya::{Ebpf, EbpfLoader};
use tracer_ebpf::{
    GLOBAL_ALARM_MASK, GLOBAL_PID_NAMESPACE_DEVICE, GLOBAL_PID_NAMESPACE_INODE, MAP_ALARMS, MAP_EVENTS,
    MAP_OPEN_CALLS, MAP_OPEN_WAITS, MAP_STACKS, MAP_SUMS, MAP_SWITCHES, Probe, TIER_SYSCALLS, TIER_T1,
    TIER_T2, TIER_T3,
};

pub use self::account::LostEvents;
use self::relink::set_off;
pub(super) use self::relink::{AGAIN_NS, GOING_EACH_NS, TOO_OFTEN};
pub use self::relink::{Mended, Relink};
use super::alarm::{self, Alarm};
use super::check::check_sites;
use super::config::config;
use super::detacher::Detacher;
use super::drain::{Drain, IDLE_INTERVAL, Marks};
use super::error::ProbeError;
use super::fleet::Member;
use super::keeper::{Leases, Often};
use super::kernel::{Kernel, Links};
use super::links::{lease, link};
use super::losses::Counters;
use super::maps::{kernel_error, open_counters, open_processes, pid_namespace, take};
use super::object::object;
use super::options::{Options, SWITCHES_LEASE, first_leases};
use super::switching::{Stretches, Switching};
use crate::binary::{GoBinary, Plan, Site};
use crate::memory::monotonic_ns;
use crate::model::{Event, Switch};
use crate::target::Target;

/// The slot of the one process of a session.
const SLOT: u32 = 0;

/// How long a keeper may take to put the first probes on: it has to start, and the machine may be busy.
const KEEPER_STARTS_WITHIN: Duration = Duration::from_secs(5);

/// Events in batches, each sorted by time. Ends after the last record of a session that was detached.
pub type Stream = Receiver<Vec<Event>>;

/// What T3 saw, in batches; likewise.
pub type SwitchStream = Receiver<Vec<Switch>>;

/// Whose probes they are.
#[derive(Debug)]
enum Owner {
    /// The session's own.
    Alone(Box<Alone>),
    /// Those of all processes of the executable.
    Fleet(Member),
}

/// What a session has for itself.
#[derive(Debug)]
struct Alone {
    ebpf: Ebpf,
    drain: Drain<Event>,
    switch_drain: Drain<Switch>,
    /// For who governs.
    alarm: Option<Alarm>,
}

/// Probes that are on.
#[derive(Debug)]
pub struct Session {
    owner: Owner,
    counters: Counters,
    links: Detacher,
    kind: Links,
    stretches: Stretches,
    switches_until_ns: Option<u64>,
    syscalls_until_ns: Option<u64>,
    plan: Plan,
    /// Sites that cost too much.
    taken_off: Vec<Site>,
    relinks: Vec<Relink>,
    /// When all that held probes were last seen, `CLOCK_MONOTONIC` ns.
    seen_ns: u64,
    /// Since when the link of the rare tier is there.
    since_ns: u64,
    /// When to try again to put it back, if it could not be, and whose cost was the reason that it had gone.
    missing: Option<(u64, Option<u32>)>,
    /// How often one of them was not there any more.
    mends: Often,
    target: Target,
    bias: u64,
    attached_in: Duration,
    loaded_in: Vec<(&'static str, Duration)>,
}

impl Session {
    /// Places the probes of `plan` on a process.
    ///
    /// The process's identity and the code bytes at every site are checked once more right before (SAFE-2).
    ///
    /// # Errors
    /// [`ProbeError`]; then nothing stays attached.
    pub fn attach(
        target: &Target,
        binary: &GoBinary,
        bias: u64,
        plan: Plan,
        options: Options,
    ) -> Result<(Self, Stream, SwitchStream), ProbeError> {
        let begun = Instant::now();
        let kernel = Kernel::probe();
        let kind = kernel.links.ok_or(ProbeError::NotPermitted { what: "load a BPF program" })?;
        let error =
            |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel.release, e);
        let namespace = pid_namespace();
        let mut loader = EbpfLoader::new();
        // What is not used needs no memory.
        let unused = [
            (TIER_T3 | TIER_SYSCALLS, MAP_STACKS),
            (TIER_T3 | TIER_SYSCALLS, MAP_SUMS),
            (TIER_T3, MAP_OPEN_WAITS),
            (TIER_SYSCALLS, MAP_OPEN_CALLS),
        ];
        for (_, name) in unused.into_iter().filter(|(by, _)| options.tiers & by == 0) {
            loader.map_max_entries(name, 1);
        }
        if options.tiers & (TIER_T3 | TIER_SYSCALLS) != 0 {
            loader.map_max_entries(MAP_SWITCHES, options.ring_bytes);
        }
        let mut ebpf = loader
            .map_max_entries(MAP_EVENTS, options.ring_bytes)
            .override_global(GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
            .override_global(GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
            .override_global(GLOBAL_ALARM_MASK, &alarm::mask(), true)
            .load(object()?)
            .map_err(|e| error("load the eBPF object", &e))?;

        if plan.sites.is_empty() {
            let mut why: Vec<&str> = plan.unavailable.iter().map(|u| u.why.as_str()).collect();
            why.dedup();
            return Err(ProbeError::NoSites(why.join("; ")));
        }
        if options.tiers & TIER_T3 != 0 && plan.tier(TIER_T3).next().is_none() {
            let why = plan.unavailable.iter().filter(|u| u.probe.tier() == TIER_T3);
            let why: Vec<&str> = why.map(|u| u.why.as_str()).collect();
            return Err(ProbeError::NoSites(why.join("; ")));
        }
        let settings = config(binary, &plan, bias, SLOT, &options);
        let processes = open_processes(&mut ebpf, &kernel)?;
        let switching = Switching::new(processes, target.pid(), settings)
            .map_err(|e| error("configure the probes", &e))?;
        let [ring, switch_ring, alarms] = [MAP_EVENTS, MAP_SWITCHES, MAP_ALARMS].map(|name| {
            RingBuf::try_from(take(&mut ebpf, name, &kernel)?).map_err(|e| error("open a ring buffer", &e))
        });
        let (ring, switch_ring, alarms) = (ring?, switch_ring?, alarms?);

        let counters = open_counters(&mut ebpf, SLOT, &kernel)?;

        check_sites(target, bias, &plan.sites)?;
        let switches_wait = options.switches_for.is_none();
        let wanted: Vec<(u32, Vec<Site>)> = [TIER_T1, TIER_T2, TIER_T3]
            .into_iter()
            .filter(|tier| options.tiers & tier != 0)
            // Those of T3 that wait for their time are put on by lease, or not at all.
            .filter(|tier| *tier != TIER_T3 || kind != Links::Single || !switches_wait)
            .map(|tier| (tier, plan.tier(tier).cloned().collect::<Vec<Site>>()))
            .filter(|(_, sites)| !sites.is_empty())
            .collect();
        // One by one they take too long to go for leases to be of use.
        let (held, mut leased): (Vec<_>, Vec<_>) =
            wanted.into_iter().partition(|(tier, _)| *tier == TIER_T1 || kind == Links::Single);
        if options.tiers & TIER_SYSCALLS != 0 {
            if kind == Links::Single {
                let why = "they are observed by lease, for which it takes Linux 6.6".to_owned();
                return Err(kernel_error("observe system calls", &kernel, why));
            }
            leased.push((TIER_SYSCALLS, Vec::new()));
        }
        // The keeper starts while the rest is linked.
        let (leases, mut loaded_in) = lease(&mut ebpf, leased, target, bias, kind, &kernel)?;
        let mut links = Vec::new();
        for (tier, sites) in held {
            let sites: Vec<&Site> = sites.iter().collect();
            let made = link(&mut ebpf, tier, &sites, target, kind, &kernel)?;
            loaded_in.extend(made.loaded_in);
            links.push((tier, made.link));
        }
        // The thread ids that the runtime keeps are those of its own PID namespace.
        let same_namespace = target.inner_pid == target.pid();
        let drains = |e: std::io::Error| kernel_error("start the drain", &kernel, e.to_string());
        let (drain, stream) =
            Drain::start("ring-drain", ring, bias, same_namespace, IDLE_INTERVAL, log_lines(&mut ebpf))
                .map_err(drains)?;
        // Where there is nothing to come, it only waits for its end.
        let idle = if options.tiers & (TIER_T3 | TIER_SYSCALLS) == 0 {
            Duration::from_secs(1)
        } else {
            IDLE_INTERVAL
        };
        let (switch_drain, switch_stream) =
            Drain::start("switch-drain", switch_ring, bias, false, idle, Box::new(|| {})).map_err(drains)?;
        // Last, when all that takes time is done: a program that creates goroutines all the time pays for each moment.
        if let Some(leases) = &leases {
            let first = || first_leases(&options).filter(|(tier, _)| leases.has(*tier));
            for (tier, length) in first() {
                leases.begin(tier, length)?;
            }
            for (tier, length) in first() {
                leases.await_on(tier, length, KEEPER_STARTS_WITHIN)?;
                leases.renew(tier, length);
            }
        }
        let links = Detacher::new(links, leases, switching.clone());
        let stretches = Stretches::new(switching, switch_drain.marks());
        let until = |time: Duration| monotonic_ns().saturating_add(nanos(time));
        let switches_until_ns = options.switches_for.map(until);
        let syscalls_until_ns = options.syscalls_for.map(until);
        if let Some(until_ns) = switches_until_ns {
            let lease_ns = monotonic_ns().saturating_add(nanos(SWITCHES_LEASE));
            let until_ns = if kind == Links::Single { until_ns } else { until_ns.min(lease_ns) };
            stretches.begin(until_ns).map_err(|why| kernel_error("switch T3 on", &kernel, why))?;
        }
        let session = Self {
            owner: Owner::Alone(Box::new(Alone {
                ebpf,
                drain,
                switch_drain,
                alarm: Some(Alarm::new(alarms)),
            })),
            counters,
            links,
            kind,
            stretches,
            switches_until_ns,
            syscalls_until_ns,
            plan,
            taken_off: Vec::new(),
            relinks: Vec::new(),
            seen_ns: monotonic_ns(),
            since_ns: monotonic_ns(),
            missing: None,
            mends: Often::default(),
            target: target.clone(),
            bias,
            attached_in: begun.elapsed(),
            loaded_in,
        };
        Ok((session, stream, switch_stream))
    }

    /// Takes part in the probes that all processes of an executable share. `begun` is when that was begun.
    pub(super) fn shared(
        member: Member,
        target: &Target,
        bias: u64,
        (mut plan, off): (Plan, &[Probe]),
        (switching, counters, links, kind): (Switching, Counters, Detacher, Links),
        begun: Instant,
    ) -> Self {
        let mut taken_off = Vec::new();
        set_off(&mut plan, &mut taken_off, off);
        Self {
            owner: Owner::Fleet(member),
            counters,
            links,
            kind,
            stretches: Stretches::new(switching, Marks::default()),
            switches_until_ns: None,
            syscalls_until_ns: None,
            plan,
            taken_off,
            relinks: Vec::new(),
            seen_ns: monotonic_ns(),
            since_ns: monotonic_ns(),
            missing: None,
            mends: Often::default(),
            target: target.clone(),
            bias,
            attached_in: begun.elapsed(),
            loaded_in: Vec::new(),
        }
    }

    /// Ends the observation of switches whose probes are not had by lease: what was seen until now is still delivered, and
    /// then an end.
    pub fn end_switches(&self) {
        self.links.detach(TIER_T3);
        self.links.take_killed(TIER_T3);
        self.stretches.tell_end();
    }

    /// What wakes the governor, once.
    pub fn take_alarm(&mut self) -> Option<Alarm> {
        match &mut self.owner {
            Owner::Alone(alone) => alone.alarm.take(),
            Owner::Fleet(_) => None,
        }
    }

    /// The stretches in which switches are observed.
    #[must_use]
    pub fn stretches(&self) -> Stretches {
        self.stretches.clone()
    }

    /// Until when switches are observed as was asked for, `CLOCK_MONOTONIC` ns, if they were.
    #[must_use]
    pub const fn switches_until_ns(&self) -> Option<u64> {
        self.switches_until_ns
    }

    /// Likewise of system calls.
    #[must_use]
    pub const fn syscalls_until_ns(&self) -> Option<u64> {
        self.syscalls_until_ns
    }

    /// How the probes are linked.
    #[must_use]
    pub const fn links(&self) -> Links {
        self.kind
    }

    /// Where the probes are.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How long attaching took.
    #[must_use]
    pub const fn attached_in(&self) -> Duration {
        self.attached_in
    }

    /// How long the kernel took to verify and compile each program, by its name.
    #[must_use]
    pub fn loaded_in(&self) -> &[(&'static str, Duration)] {
        &self.loaded_in
    }

    /// A handle that takes the probes off from another thread.
    #[must_use]
    pub fn detacher(&self) -> Detacher {
        self.links.clone()
    }

    /// Takes all probes off, and lets the drain take what is left in the ring. Returns how long the probes
    /// took to go.
    pub fn detach(&mut self) -> Duration {
        match &self.owner {
            Owner::Alone(alone) => {
                let took = self.links.close();
                self.stretches.tell_end();
                alone.drain.finish();
                alone.switch_drain.finish();
                took
            }
            Owner::Fleet(member) => {
                let begun = Instant::now();
                member.leave();
                begun.elapsed()
            }
        }
    }

    /// Whether the probes are those of all processes of the executable, and stay when this one is left alone.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.owner, Owner::Fleet(_))
    }

    /// Waits until the drain has ended; call it when the stream has.
    pub fn join(&mut self) {
        if let Owner::Alone(alone) = &mut self.owner {
            alone.drain.join();
            alone.switch_drain.join();
        }
    }

    /// The tiers that are had by lease, if any are.
    #[must_use]
    pub const fn leases(&self) -> Option<&Leases> {
        self.links.leases()
    }
}

/// What passes the programs' log lines on, in a build for developers (feature `bpf-log`) whose eBPF object was
/// built with its own feature `log`.
#[cfg(feature = "bpf-log")]
fn log_lines(ebpf: &mut Ebpf) -> Box<dyn FnMut() + Send> {
    match aya_log::EbpfLogger::init(ebpf) {
        Ok(mut logger) => Box::new(move || logger.flush()),
        Err(error) => {
            log::warn!(
                "no log lines from the eBPF programs: {error}; was the object built with the feature `log`?"
            );
            Box::new(|| {})
        }
    }
}

#[cfg(not(feature = "bpf-log"))]
fn log_lines(_ebpf: &mut Ebpf) -> Box<dyn FnMut() + Send> {
    Box::new(|| {})
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
