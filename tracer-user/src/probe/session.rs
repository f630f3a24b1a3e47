//! The probes of one process, from attach to the last record.

use std::os::unix::fs::MetadataExt as _;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, PerCpuHashMap, RingBuf};
use aya::{Ebpf, EbpfLoader};
use bytemuck::Zeroable as _;
use tracer_ebpf::Probe;
use tracer_ebpf::{
    GLOBAL_ALARM_MASK, GLOBAL_PID_NAMESPACE_DEVICE, GLOBAL_PID_NAMESPACE_INODE, MAP_ALARMS, MAP_COUNTERS,
    MAP_EVENTS, MAP_OPEN_CALLS, MAP_OPEN_WAITS, MAP_PROCESSES, MAP_STACKS, MAP_SUMS, MAP_SWITCH_COUNTERS,
    MAP_SWITCHES, OpenWait, Sum, SumKey, TIER_SYSCALLS, TIER_T1, TIER_T2, TIER_T3,
};

use super::alarm::{self, Alarm};
use super::check::check_sites;
use super::config::{Wire, config};
use super::detacher::Detacher;
use super::drain::{Drain, IDLE_INTERVAL, Marks, Seen};
use super::error::ProbeError;
use super::fleet::Member;
use super::keeper::Leases;
use super::kernel::{Kernel, Links};
use super::links::{lease, link};
use super::losses::{Accounting, Counters, SwitchAccount};
use super::object::object;
use super::switching::{Processes, Stretches, Switching};
use crate::binary::{GoBinary, Plan, Site, Unavailable};
use crate::memory::monotonic_ns;
use crate::model::{Event, Switch};
use crate::target::Target;

/// The slot of the one process of a session.
const SLOT: u32 = 0;

/// How long a keeper may take to put the first probes on: it has to start, and the machine may be busy.
const KEEPER_STARTS_WITHIN: Duration = Duration::from_secs(5);

/// How long switches are observed that were asked for, until somebody renews.
const SWITCHES_LEASE: Duration = Duration::from_secs(2);

/// How a session is attached.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `TIER_` bits.
    pub tiers: u32,
    /// Bytes of the ring buffer; the kernel wants a power of two of pages.
    pub ring_bytes: u32,
    /// Copy panic and fatal texts out of the process (SEC-1).
    pub capture_text: bool,
    /// How long the second tier is on at first: until then somebody must have looked at what it costs, and renewed. Nothing:
    /// it is off, where it can be had by lease.
    pub first_lease: Duration,
    /// What T3 makes of switches.
    pub switches: SwitchMode,
    /// With T3 among the tiers: observe switches from the begin, for so long. `None`: when somebody asks for a lease.
    pub switches_for: Option<Duration>,
    /// Observe the system calls of goroutines from the begin, for so long. The tracepoints are run for those of all
    /// processes of the machine meanwhile.
    pub syscalls_for: Option<Duration>,
}

/// What T3 makes of switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchMode {
    /// A record of each.
    #[default]
    Records,
    /// Distributions by wait reason and stack, counted in the kernel: several times cheaper to take in, but it does
    /// not tell who woke whom.
    Sums,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tiers: TIER_T1 | TIER_T2,
            ring_bytes: 4 << 20,
            capture_text: true,
            first_lease: Duration::from_millis(250),
            switches: SwitchMode::Records,
            switches_for: None,
            syscalls_for: None,
        }
    }
}

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
    target: Target,
    bias: u64,
    attached_in: Duration,
    loaded_in: Vec<(&'static str, Duration)>,
}

/// The link of the rare tier was made anew: from one time to another (`CLOCK_MONOTONIC` ns) none of its probes was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relink {
    /// When the old one was dropped.
    pub from_ns: u64,
    /// When the new one was there.
    pub to_ns: u64,
    /// The process whose cost was the reason.
    pub by: u32,
    /// What is off from then on.
    pub off: Vec<Probe>,
    /// Why there is no new one, if there is not.
    pub failed: Option<String>,
}

/// Has a plan without the probes that are off, whose sites are kept aside, and those with it that are not any more.
pub(super) fn set_off(plan: &mut Plan, aside: &mut Vec<Site>, off: &[Probe]) {
    let all = std::mem::take(&mut plan.sites).into_iter().chain(std::mem::take(aside));
    (*aside, plan.sites) = all.partition(|site| off.contains(&site.probe));
    plan.unavailable.retain(|u| u.why != TAKEN_OFF);
    let lost = off.iter().map(|probe| Unavailable { probe: *probe, why: TAKEN_OFF.to_owned(), lost: true });
    plan.unavailable.extend(lost);
}

/// What is said of them.
const TAKEN_OFF: &str = "taken off: it is hit too often for the budget";

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
        // The keeper starts while the rest is linked. And should gotrail be killed, the kernel closes descriptors in
        // their order: the keeper hears of it before the kernel takes the links down that are held here.
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
                leases.await_on(tier, KEEPER_STARTS_WITHIN)?;
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

    /// The distributions that the kernel counted of this process's switches and system calls.
    #[must_use]
    pub fn sums(&self) -> Vec<(SumKey, Sum)> {
        let Owner::Alone(alone) = &self.owner else { return Vec::new() };
        let Some(sums) = alone
            .ebpf
            .map(MAP_SUMS)
            .and_then(|m| PerCpuHashMap::<_, Wire<SumKey>, Wire<Sum>>::try_from(m).ok())
        else {
            return Vec::new();
        };
        let of_all_cpus = |cpus: &[Wire<Sum>]| {
            cpus.iter().fold(Sum::zeroed(), |mut all, Wire(cpu)| {
                all.count += cpu.count;
                all.total_ns += cpu.total_ns;
                all.buckets.iter_mut().zip(cpu.buckets).for_each(|(into, from)| *into += from);
                all
            })
        };
        sums.iter().flatten().map(|(Wire(key), cpus)| (key, of_all_cpus(&cpus))).collect()
    }

    /// Takes some probes of the rare tier off and leaves the others on. A link can't be changed: it is dropped and made
    /// anew, and what is hit in between is not seen ([`Self::relinks`]).
    ///
    /// # Errors
    /// [`ProbeError`] if the rest can't be put back; the tier is off then.
    pub fn take_off(&mut self, probes: &[Probe]) -> Result<(), ProbeError> {
        if let Owner::Fleet(member) = &self.owner {
            return member.take_off(probes);
        }
        let changed = self.plan.sites.iter().any(|s| s.probe.tier() == TIER_T1 && probes.contains(&s.probe));
        let off: Vec<Probe> =
            self.taken_off.iter().map(|site| site.probe).chain(probes.iter().copied()).collect();
        set_off(&mut self.plan, &mut self.taken_off, &off);
        if !changed || self.links.tiers() & TIER_T1 == 0 {
            return Ok(());
        }
        let from_ns = monotonic_ns();
        self.links.detach(TIER_T1);
        let made = self.relink(TIER_T1);
        let failed = made.as_ref().err().map(ToString::to_string);
        let by = self.target.pid();
        self.relinks.push(Relink { from_ns, to_ns: monotonic_ns(), by, off, failed });
        made
    }

    /// Puts probes back that were taken off, by a link of their own.
    ///
    /// # Errors
    /// [`ProbeError`]; then they stay off.
    pub fn put_back(&mut self, probes: &[Probe]) -> Result<(), ProbeError> {
        if let Owner::Fleet(member) = &self.owner {
            return member.put_back(probes);
        }
        let back: Vec<Site> = self.taken_off.iter().filter(|s| probes.contains(&s.probe)).cloned().collect();
        if !back.is_empty() {
            self.link_sites(TIER_T1, &back.iter().collect::<Vec<_>>())?;
        }
        let still = self.taken_off.iter().map(|site| site.probe).filter(|probe| !probes.contains(probe));
        let still: Vec<Probe> = still.collect();
        set_off(&mut self.plan, &mut self.taken_off, &still);
        Ok(())
    }

    /// How the link of the rare tier was made anew since this was asked last, by whomever.
    pub fn relinks(&mut self) -> Vec<Relink> {
        let Owner::Fleet(member) = &self.owner else { return std::mem::take(&mut self.relinks) };
        let relinks = member.relinks();
        if let Some(last) = relinks.last() {
            set_off(&mut self.plan, &mut self.taken_off, &last.off);
        }
        relinks
    }

    /// Puts a tier on that is off and not had by lease.
    ///
    /// # Errors
    /// [`ProbeError`]; then it stays off.
    pub fn relink(&mut self, tier: u32) -> Result<(), ProbeError> {
        let sites: Vec<Site> = self.plan.tier(tier).cloned().collect();
        if sites.is_empty() || self.links.tiers() & tier != 0 {
            return Ok(());
        }
        self.link_sites(tier, &sites.iter().collect::<Vec<_>>())
    }

    fn link_sites(&mut self, tier: u32, sites: &[&Site]) -> Result<(), ProbeError> {
        // What is shared is linked by its owner.
        let Owner::Alone(alone) = &mut self.owner else { return Ok(()) };
        let kernel = Kernel::probe();
        check_sites(&self.target, self.bias, &self.plan.sites)?;
        let made = link(&mut alone.ebpf, tier, sites, &self.target, self.kind, &kernel)?;
        self.links.add(tier, made.link);
        Ok(())
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

    /// The counters of the probes: what they say is exact once the session is detached.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// The account so far. Exact once the session is detached and joined.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        let mut probes = self.counters.read();
        let (seen, switches) = match &self.owner {
            Owner::Alone(alone) => (alone.drain.seen(), alone.switch_drain.seen()),
            Owner::Fleet(member) => (member.seen(), Seen::default()),
        };
        for (probe, account) in &mut probes {
            let of = |seen: &Seen| seen.received.get(probe).copied().unwrap_or(0);
            account.received = of(&seen) + of(&switches);
            account.lost_queue = seen.overflowed.get(probe).copied().unwrap_or(0);
            account.delivered = account.delivered.saturating_sub(account.lost_queue);
        }
        Accounting {
            probes,
            switches: self.switch_account(),
            gaps: seen.gaps + switches.gaps,
            undecodable: seen.undecodable + switches.undecodable,
            procid_mismatches: seen.procid_mismatches,
        }
    }

    fn switch_account(&self) -> SwitchAccount {
        let counters = self.counters.switches();
        // Nothing was opened where records are sent; to go through the map is not for nothing then.
        let open = match &self.owner {
            Owner::Alone(alone) if counters.opened != 0 => alone
                .ebpf
                .map(MAP_OPEN_WAITS)
                .and_then(|m| HashMap::<_, u64, Wire<OpenWait>>::try_from(m).ok())
                .map_or(0, |waits| waits.keys().flatten().count() as u64),
            _ => 0,
        };
        SwitchAccount { counters, open }
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

/// The tiers that are on from the begin, and for how long at first.
fn first_leases(options: &Options) -> impl Iterator<Item = (u32, Duration)> {
    let switches = options.switches_for.map(|_| (TIER_T3, SWITCHES_LEASE));
    let syscalls = options.syscalls_for.map(|_| (TIER_SYSCALLS, SWITCHES_LEASE));
    [(TIER_T2, options.first_lease)]
        .into_iter()
        .chain(switches)
        .chain(syscalls)
        .filter(|(_, length)| !length.is_zero())
}

/// Device and inode of our PID namespace, zeros in the initial one: the programs then need not translate.
pub(super) fn pid_namespace() -> (u64, u64) {
    /// `PROC_PID_INIT_INO`, `include/linux/proc_ns.h`.
    const INITIAL: u64 = 0xEFFF_FFFC;
    match std::fs::metadata("/proc/self/ns/pid") {
        Ok(meta) if meta.ino() != INITIAL => (meta.dev(), meta.ino()),
        _ => (0, 0),
    }
}

pub(super) fn kernel_error(what: &'static str, kernel: &Kernel, why: String) -> ProbeError {
    ProbeError::Kernel { what, kernel: kernel.release.clone(), why }
}

/// The map that tells the programs of the processes.
pub(super) fn open_processes(ebpf: &mut Ebpf, kernel: &Kernel) -> Result<Processes, ProbeError> {
    HashMap::try_from(take(ebpf, MAP_PROCESSES, kernel)?)
        .map(|map| Arc::new(Mutex::new(map)))
        .map_err(|e| ProbeError::from_aya("open a map", &kernel.release, &e))
}

pub(super) fn open_counters(ebpf: &mut Ebpf, slot: u32, kernel: &Kernel) -> Result<Counters, ProbeError> {
    let [probes, switches] = [MAP_COUNTERS, MAP_SWITCH_COUNTERS].map(|name| take(ebpf, name, kernel));
    Counters::open(probes?, switches?, slot)
        .map_err(|e| ProbeError::from_aya("open the counters", &kernel.release, &e))
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str, kernel: &Kernel) -> Result<aya::maps::Map, ProbeError> {
    ebpf.take_map(name)
        .ok_or_else(|| kernel_error("open a map", kernel, format!("no map {name} in the eBPF object")))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
