//! The rare probes of all processes of one executable: one link, and a filter in the programs.
//!
//! A link of the kernel's takes tens of milliseconds to go, and programs take a tenth of a second to be verified: with one
//! of each for every process, neither would be quick. Whoever begins to run the executable later has the breakpoints from
//! its first instruction on, and is let through as soon as the programs are told of it.

mod drain;
mod execs;
mod relink;

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use aya::{Ebpf, EbpfLoader};
use tracer_ebpf::{
    GLOBAL_PID_NAMESPACE_DEVICE, GLOBAL_PID_NAMESPACE_INODE, MAP_COUNTERS, MAP_EVENTS, MAP_PROCESSES,
    MAP_SWITCH_COUNTERS, MAX_PROBES, Probe, ProcConfig, TIER_T1,
};

use self::drain::FleetDrain;
pub use self::execs::Execs;
use self::relink::{Missing, Untold};
use super::check::{check_sites, has_breakpoints};
use super::config::{config, for_process};
use super::detacher::Detacher;
use super::drain::Seen;
use super::error::ProbeError;
use super::keeper::Often;
use super::kernel::{Kernel, Links};
use super::links::link_in;
use super::losses::{Counters, Eraser};
use super::maps::{kernel_error, open_counters, open_processes, pid_namespace, take};
use super::object::{object, without_switches};
use super::options::Options;
use super::session::{Relink, Session, Stream};
use super::switching::{Processes, Switching, leave_all};
use crate::binary::{GoBinary, Plan, Site};
use crate::memory::monotonic_ns;
use crate::target::Target;

/// Held while a link is made, by whoever makes it: who closes the detacher and must be sure that nothing is left takes it
/// before.
pub type Gate = Arc<Mutex<()>>;

/// Probes on all processes of one executable. Clones are the same.
#[derive(Clone, Debug)]
pub struct Fleet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Names the file's inode, whatever becomes of its path.
    executable: File,
    /// As linked, without a slot.
    settings: ProcConfig,
    plan: Plan,
    kernel: Kernel,
    kind: Links,
    processes: Processes,
    counters: Counters,
    drain: FleetDrain,
    detacher: Detacher,
    gate: Gate,
    state: Mutex<State>,
    attached_in: Duration,
}

struct State {
    ebpf: Ebpf,
    eraser: Eraser,
    /// Slots that no process has.
    free: Vec<u32>,
    /// Probes that are off, by how many processes they cost too much.
    off: HashMap<Probe, u32>,
    /// By slot: how the link was made anew, each time with a hole, as far as the process there was not told yet. Who asks for
    /// it and who is told are one thread's work, so that none comes to many.
    relinks: HashMap<u32, Untold>,
    /// When what holds the link was last seen, `CLOCK_MONOTONIC` ns.
    seen_ns: u64,
    /// Since when the link is there.
    since_ns: u64,
    /// If there is none.
    missing: Option<Missing>,
    /// How often it was not there any more.
    mends: Often,
    /// Whether it was told that it was not there at the end.
    told_end: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("free", &self.free.len())
            .field("off", &self.off)
            .finish_non_exhaustive()
    }
}

impl State {
    fn give_back(&mut self, slot: u32) {
        self.relinks.remove(&slot);
        self.free.push(slot);
    }
}

impl Fleet {
    /// Puts the probes of the first tier onto an executable, to be taken off by the detacher. Hold the gate meanwhile. No
    /// process is let through yet.
    ///
    /// # Errors
    /// [`ProbeError`]; then nothing stays attached.
    pub fn attach(
        executable: File,
        binary: &GoBinary,
        options: Options,
        most_processes: u32,
        (detacher, gate): (Detacher, Gate),
    ) -> Result<Self, ProbeError> {
        let begun = Instant::now();
        let kernel = Kernel::probe();
        let kind = match kernel.links {
            Some(Links::Single) => Links::Single,
            // For all processes there is no scope.
            Some(Links::Multi | Links::MultiScoped) => Links::Multi,
            None => return Err(ProbeError::NotPermitted { what: "load a BPF program" }),
        };
        let error =
            |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel.release, e);
        let plan = binary.plan(TIER_T1);
        if plan.tier(TIER_T1).next().is_none() {
            let mut why: Vec<&str> = plan.unavailable.iter().map(|u| u.why.as_str()).collect();
            why.dedup();
            return Err(ProbeError::NoSites(why.join("; ")));
        }
        let namespace = pid_namespace();
        let mut loader = EbpfLoader::new();
        without_switches(&mut loader);
        let mut ebpf = loader
            .map_max_entries(MAP_EVENTS, options.ring_bytes)
            .map_max_entries(MAP_PROCESSES, most_processes)
            .map_max_entries(MAP_COUNTERS, most_processes.saturating_mul(MAX_PROBES))
            .map_max_entries(MAP_SWITCH_COUNTERS, most_processes)
            .override_global(GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
            .override_global(GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
            .load(object()?)
            .map_err(|e| error("load the eBPF object", &e))?;
        let processes = open_processes(&mut ebpf, &kernel)?;
        let eraser = eraser(&ebpf, &kernel)?;
        let counters = open_counters(&mut ebpf, 0, &kernel)?;
        let ring = RingBuf::try_from(take(&mut ebpf, MAP_EVENTS, &kernel)?)
            .map_err(|e| error("open a ring buffer", &e))?;
        let drain =
            FleetDrain::start(ring).map_err(|e| kernel_error("start the drain", &kernel, e.to_string()))?;
        let state = State {
            ebpf,
            eraser,
            free: (0..most_processes).rev().collect(),
            off: HashMap::new(),
            relinks: HashMap::new(),
            seen_ns: monotonic_ns(),
            since_ns: monotonic_ns(),
            missing: None,
            mends: Often::default(),
            told_end: false,
        };
        let mut inner = Inner {
            executable,
            settings: config(binary, &plan, 0, 0, &Options { tiers: TIER_T1, ..options }),
            plan,
            kernel,
            kind,
            processes,
            counters,
            drain,
            detacher,
            gate,
            state: Mutex::new(state),
            attached_in: Duration::ZERO,
        };
        inner.link(&mut inner.state())?;
        inner.attached_in = begun.elapsed();
        Ok(Self(Arc::new(inner)))
    }

    /// Lets a process through: what its probes are hit by is told from now on.
    ///
    /// # Errors
    /// [`ProbeError`]; then it is not let through.
    pub fn join(&self, target: &Target, bias: u64) -> Result<(Session, Stream), ProbeError> {
        let begun = Instant::now();
        let Inner { kernel, plan, settings, processes, counters, drain, detacher, kind, .. } = &*self.0;
        let error =
            |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel.release, e);
        check_sites(target, bias, &plan.sites)?;
        let (slot, off) = {
            let mut state = self.0.state();
            let slot = state.free.pop().ok_or(ProbeError::Full)?;
            if let Err(e) = state.eraser.erase(slot) {
                state.free.push(slot);
                return Err(error("reset the counters", &e));
            }
            let joined_ns = monotonic_ns();
            let mut untold = Untold { joined_ns, relinks: Vec::new() };
            if let Some(Missing { why, by, .. }) = &state.missing {
                let (failed, off) = (Some(why.clone()), sorted(&state.off));
                untold.push(&Relink { from_ns: joined_ns, to_ns: joined_ns, by: *by, off, failed });
            }
            state.relinks.insert(slot, untold);
            (slot, sorted(&state.off))
        };
        let pid = target.pid();
        let (stream, seen) = drain.enter(pid, bias, target.inner_pid == pid);
        let settings = for_process(*settings, bias, slot);
        let switching = match Switching::new(Arc::clone(processes), pid, settings) {
            Ok(switching) => switching,
            Err(e) => {
                drain.leave(pid);
                self.0.state().give_back(slot);
                return Err(error("let a process through", &e));
            }
        };
        let member = Member {
            fleet: Arc::clone(&self.0),
            pid,
            slot,
            switching: switching.clone(),
            seen,
            off: Mutex::default(),
        };
        let shared = (switching, counters.of_slot(slot), detacher.clone(), *kind);
        Ok((Session::shared(member, target, bias, (plan.clone(), &off), shared, begun), stream))
    }

    /// Whether the probes are in a process: then it runs this very file, whatever number its file system gives it.
    ///
    /// # Errors
    /// They are off just now, so that it can't be told.
    pub fn is_in(&self, pid: u32, bias: u64) -> Result<bool, ProbeError> {
        let state = self.0.state();
        let sites: Vec<&Site> = self.0.sites_on(&state.off).collect();
        if sites.is_empty() {
            return Ok(false);
        }
        if has_breakpoints(pid, bias, &sites) {
            return Ok(true);
        }
        if self.0.detacher.tiers() & TIER_T1 == 0 || self.0.detacher.ended() != Some(0) {
            let why = "the probes by which it would be known are off just now".to_owned();
            return Err(kernel_error("tell whether it runs the executable", &self.0.kernel, why));
        }
        Ok(false)
    }

    /// Has all processes leave at once, which is quicker than one by one; each is taken leave of as usual afterwards.
    pub fn leave_all(&self) {
        leave_all(&self.0.processes);
        self.0.drain.leave_all();
    }

    /// A handle that takes the probes off from another thread.
    #[must_use]
    pub fn detacher(&self) -> Detacher {
        self.0.detacher.clone()
    }

    /// Puts the probes on again if somebody took them, before anybody is asked whether they are in a process.
    pub fn mend(&self) {
        self.0.mend();
    }

    /// Where the probes are.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// How the probes are linked.
    #[must_use]
    pub fn links(&self) -> Links {
        self.0.kind
    }

    /// How long attaching took.
    #[must_use]
    pub fn attached_in(&self) -> Duration {
        self.0.attached_in
    }

    /// Records of processes that are not, or not any more, among those that are watched.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.0.drain.strays()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sites_on<'a>(&'a self, off: &HashMap<Probe, u32>) -> impl Iterator<Item = &'a Site> {
        self.plan.tier(TIER_T1).filter(|site| !off.contains_key(&site.probe))
    }

    /// Puts on what is not off.
    fn link(&self, state: &mut State) -> Result<(), ProbeError> {
        let sites: Vec<&Site> = self.sites_on(&state.off).collect();
        if sites.is_empty() {
            return Ok(());
        }
        let place = (self.executable.as_fd(), 0);
        let made = link_in(&mut state.ebpf, TIER_T1, &sites, place, self.kind, &self.kernel)?;
        self.detacher.add(TIER_T1, made.link);
        Ok(())
    }
}

fn sorted(off: &HashMap<Probe, u32>) -> Vec<Probe> {
    let mut probes: Vec<Probe> = off.keys().copied().collect();
    probes.sort_unstable();
    probes
}

fn eraser(ebpf: &Ebpf, kernel: &Kernel) -> Result<Eraser, ProbeError> {
    let failed = |why: String| kernel_error("open the counters", kernel, why);
    let Some(Map::PerCpuArray(map)) = ebpf.map(MAP_COUNTERS) else {
        return Err(failed(format!("no map {MAP_COUNTERS} in the eBPF object")));
    };
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(|e| failed(e.to_string()))?;
    MapData::from_fd(fd).and_then(Eraser::new).map_err(|e| failed(e.to_string()))
}

/// One process among those that are let through.
#[derive(Debug)]
pub(super) struct Member {
    fleet: Arc<Inner>,
    pid: u32,
    slot: u32,
    switching: Switching,
    seen: Arc<Mutex<Seen>>,
    /// What it had taken off.
    off: Mutex<Vec<Probe>>,
}

impl Member {
    /// Passes over the process from now on; its stream ends when the ring has nothing of it any more.
    pub(super) fn leave(&self) {
        self.switching.leave();
        self.fleet.drain.leave(self.pid);
    }

    /// What the drain saw.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes probes off that cost this process too much: off all others too, who have the same link.
    pub(super) fn take_off(&self, probes: &[Probe]) -> Result<(), ProbeError> {
        let mut mine = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Probe> = probes.iter().filter(|probe| !mine.contains(probe)).copied().collect();
        mine.extend(&new);
        drop(mine);
        self.fleet.relink(self.pid, |off| new.iter().for_each(|probe| *off.entry(*probe).or_default() += 1))
    }

    /// Puts back those that it had taken off, unless they cost another one too much.
    pub(super) fn put_back(&self, probes: &[Probe]) -> Result<(), ProbeError> {
        let mut mine = self.off.lock().unwrap_or_else(PoisonError::into_inner);
        let (back, still): (Vec<Probe>, Vec<Probe>) =
            std::mem::take(&mut *mine).into_iter().partition(|probe| probes.contains(probe));
        *mine = still;
        drop(mine);
        self.fleet.relink(self.pid, |off| {
            for probe in back {
                if let Some(count) = off.get_mut(&probe) {
                    *count -= 1;
                }
            }
            off.retain(|_, count| *count != 0);
        })
    }

    /// Has the link made anew if somebody took it.
    pub(super) fn mend(&self) {
        self.fleet.mend();
    }

    /// How the link was made anew since this was asked last.
    pub(super) fn relinks(&self) -> Vec<Relink> {
        let mut state = self.fleet.state();
        state
            .relinks
            .get_mut(&self.slot)
            .map(|untold| std::mem::take(&mut untold.relinks))
            .unwrap_or_default()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
        let off = self.off.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !off.is_empty() {
            // Whatever it says, the others are no worse off than before.
            drop(self.put_back(&off));
        }
        self.fleet.state().give_back(self.slot);
    }
}
