//! A set of probes on one process, from attach to the last record.

use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, PerCpuArray, RingBuf};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, UProbe};
use aya::{Ebpf, EbpfLoader};
use tracer_ebpf::Probe;
use tracer_ebpf::{
    GLOBAL_PID_NAMESPACE_DEVICE, GLOBAL_PID_NAMESPACE_INODE, MAP_COUNTERS, MAP_EVENTS, MAP_PROCESSES,
    ProbeCounters, ProcConfig, TIER_T1, TIER_T2, cookie,
};

use super::config::{Wire, config};
use super::drain::Drain;
use super::error::ProbeError;
use super::kernel::{Kernel, Links};
use super::losses::{Accounting, read};
use super::object::object;
use crate::binary::{GoBinary, Plan, Site, Unavailable};
use crate::memory::{LiveMemory, Reader as _};
use crate::model::Event;
use crate::target::Target;

/// The slot of the one process of a session.
const SLOT: u32 = 0;

/// How a session is attached.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `TIER_` bits.
    pub tiers: u32,
    /// Bytes of the ring buffer; the kernel wants a power of two of pages.
    pub ring_bytes: u32,
    /// Copy panic and fatal texts out of the process (SEC-1).
    pub capture_text: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { tiers: TIER_T1 | TIER_T2, ring_bytes: 4 << 20, capture_text: true }
    }
}

/// Events in batches, each sorted by time. Ends after the last record of a session that was detached.
pub type Stream = Receiver<Vec<Event>>;

/// The links of a session by tier; whoever holds a clone can take the probes off.
#[derive(Clone, Debug, Default)]
pub struct Detacher {
    links: Arc<Mutex<Vec<(u32, UProbeLink)>>>,
    closed: Arc<AtomicBool>,
}

impl Detacher {
    /// Takes off the probes of some tiers, the links in parallel since the kernel takes tens of milliseconds
    /// for each. Returns once they are gone.
    pub fn detach(&self, tiers: u32) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (gone, kept) = std::mem::take(&mut *links).into_iter().partition(|(tier, _)| tier & tiers != 0);
        *links = kept;
        let gone: Vec<(u32, UProbeLink)> = gone;
        // The lock is held meanwhile: who comes second waits until the probes are really gone.
        std::thread::scope(|scope| {
            for (_, link) in gone {
                scope.spawn(move || drop(link));
            }
        });
    }

    fn add(&self, tier: u32, link: UProbeLink) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        // Who took the probes off for good meanwhile is not overruled.
        if self.closed.load(Ordering::Acquire) {
            drop(links);
            drop(link);
        } else {
            links.push((tier, link));
        }
    }

    /// Takes off all probes for good: none is put back.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.detach(u32::MAX);
    }

    /// The tiers that are on.
    #[must_use]
    pub fn tiers(&self) -> u32 {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).iter().fold(0, |sum, (tier, _)| sum | tier)
    }
}

/// Probes that are on.
#[derive(Debug)]
pub struct Session {
    ebpf: Ebpf,
    links: Detacher,
    kind: Links,
    drain: Drain,
    plan: Plan,
    target: Target,
    bias: u64,
    attached_in: Duration,
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
    ) -> Result<(Self, Stream), ProbeError> {
        let begun = Instant::now();
        let kernel = Kernel::probe();
        let kind = kernel.links.ok_or(ProbeError::NotPermitted { what: "load a BPF program" })?;
        let error =
            |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel.release, e);
        let namespace = pid_namespace();
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(MAP_EVENTS, options.ring_bytes)
            .override_global(GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
            .override_global(GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
            .load(object()?)
            .map_err(|e| error("load the eBPF object", &e))?;

        if plan.sites.is_empty() {
            let mut why: Vec<&str> = plan.unavailable.iter().map(|u| u.why.as_str()).collect();
            why.dedup();
            return Err(ProbeError::NoSites(why.join("; ")));
        }
        let settings = config(binary, bias, SLOT, options.tiers, options.capture_text);
        let mut processes: HashMap<_, u32, Wire<ProcConfig>> = map(&mut ebpf, MAP_PROCESSES, &kernel)
            .and_then(|m| HashMap::try_from(m).map_err(|e| error("open a map", &e)))?;
        processes.insert(&target.pid(), &Wire(settings), 0).map_err(|e| error("configure the probes", &e))?;
        let ring = RingBuf::try_from(take(&mut ebpf, MAP_EVENTS, &kernel)?)
            .map_err(|e| error("open the ring buffer", &e))?;

        check(target, bias, &plan)?;
        let mut links = Vec::new();
        for tier in [TIER_T1, TIER_T2] {
            let sites: Vec<&Site> = plan.tier(tier).collect();
            if options.tiers & tier == 0 || sites.is_empty() {
                continue;
            }
            links.push((tier, link(&mut ebpf, tier, &sites, target, kind, &kernel)?));
        }
        // The thread ids that the runtime keeps are those of its own PID namespace.
        let same_namespace = target.inner_pid == target.pid();
        let (drain, stream) = Drain::start(ring, bias, same_namespace, log_lines(&mut ebpf))
            .map_err(|e| kernel_error("start the drain", &kernel, e.to_string()))?;
        let links = Detacher { links: Arc::new(Mutex::new(links)), closed: Arc::default() };
        let session = Self {
            ebpf,
            links,
            kind,
            drain,
            plan,
            target: target.clone(),
            bias,
            attached_in: begun.elapsed(),
        };
        Ok((session, stream))
    }

    /// Takes some probes off and leaves the others on. Those of the second tier go together. A link can't be
    /// changed: that of the first tier is dropped and made anew, and what is hit in between is not seen.
    ///
    /// # Errors
    /// [`ProbeError`] if the rest can't be put back; the tier is off then.
    pub fn take_off(&mut self, probes: &[Probe]) -> Result<(), ProbeError> {
        if probes.iter().any(|probe| probe.tier() == TIER_T2) {
            self.links.detach(TIER_T2);
        }
        let before = self.plan.sites.len();
        self.plan.sites.retain(|site| !probes.contains(&site.probe));
        let lost = probes.iter().map(|probe| Unavailable {
            probe: *probe,
            why: "taken off: it is hit too often for the budget".to_owned(),
            lost: true,
        });
        self.plan.unavailable.extend(lost);
        let sites: Vec<&Site> = self.plan.tier(TIER_T1).collect();
        let changed = before != self.plan.sites.len() && probes.iter().any(|p| p.tier() == TIER_T1);
        if !changed || self.links.tiers() & TIER_T1 == 0 {
            return Ok(());
        }
        self.links.detach(TIER_T1);
        if sites.is_empty() {
            return Ok(());
        }
        let kernel = Kernel::probe();
        check(&self.target, self.bias, &self.plan)?;
        let made = link(&mut self.ebpf, TIER_T1, &sites, &self.target, self.kind, &kernel)?;
        self.links.add(TIER_T1, made);
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

    /// A handle that takes the probes off from another thread.
    #[must_use]
    pub fn detacher(&self) -> Detacher {
        self.links.clone()
    }

    /// Takes all probes off, and lets the drain take what is left in the ring. Returns how long the probes
    /// took to go.
    pub fn detach(&mut self) -> Duration {
        let begun = Instant::now();
        self.links.close();
        let took = begun.elapsed();
        self.drain.finish();
        took
    }

    /// Waits until the drain has ended; call it when the stream has.
    pub fn join(&mut self) {
        self.drain.join();
    }

    /// The account so far. Exact once the session is detached and joined.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        let mut probes = self
            .ebpf
            .map(MAP_COUNTERS)
            .and_then(|m| PerCpuArray::<_, Wire<ProbeCounters>>::try_from(m).ok())
            .map(|counters| read(&counters, SLOT))
            .unwrap_or_default();
        let seen = self.drain.seen();
        for (probe, account) in &mut probes {
            account.received = seen.received.get(probe).copied().unwrap_or(0);
        }
        Accounting {
            probes,
            gaps: seen.gaps,
            undecodable: seen.undecodable,
            procid_mismatches: seen.procid_mismatches,
        }
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

/// The program of a tier, by how it is linked.
fn program<'a>(
    ebpf: &'a mut Ebpf,
    tier: u32,
    kind: Links,
    kernel: &Kernel,
) -> Result<&'a mut UProbe, ProbeError> {
    let name = match (tier, kind) {
        (TIER_T1, Links::Single) => "t1_single",
        (TIER_T1, _) => "t1_multi",
        (_, Links::Single) => "t2_single",
        _ => "t2_multi",
    };
    ebpf.program_mut(name)
        .ok_or_else(|| kernel_error("find a program", kernel, format!("no {name} in the eBPF object")))?
        .try_into()
        .map_err(|e: ProgramError| ProbeError::from_aya("find a program", &kernel.release, &e))
}

/// Puts the program of a tier onto its sites. Only the link holds it in the kernel then, so that it goes with the
/// link and not with whatever gotrail does afterwards.
fn link(
    ebpf: &mut Ebpf,
    tier: u32,
    sites: &[&Site],
    target: &Target,
    kind: Links,
    kernel: &Kernel,
) -> Result<UProbeLink, ProbeError> {
    let error = |what, e: &ProgramError| ProbeError::from_aya(what, &kernel.release, e);
    let program = program(ebpf, tier, kind, kernel)?;
    program.load().map_err(|e| error("load a program", &e))?;
    let points = sites.iter().map(|site| UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(site.file_offset),
        cookie: Some(cookie(site.probe, site.register, site.stack_check)),
    });
    let scope = match (kind, NonZeroU32::new(target.pid())) {
        (Links::MultiScoped | Links::Single, Some(pid)) => UProbeScope::OneProcess(pid),
        _ => UProbeScope::AllProcesses,
    };
    let id = program.attach(points, target.exe_path(), scope).map_err(|e| {
        // The kernel then says whatever it stumbled over first.
        if target.is_same() {
            error("attach the probes", &e)
        } else {
            ProbeError::Changed {
                pid: target.pid(),
                why: "it ended, or runs another executable now".to_owned(),
            }
        }
    })?;
    let link = program.take_link(id).map_err(|e| error("hold the probes", &e))?;
    program.unload().map_err(|e| error("let a program go", &e))?;
    Ok(link)
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

pub(super) fn map<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
    kernel: &Kernel,
) -> Result<&'a mut aya::maps::Map, ProbeError> {
    ebpf.map_mut(name)
        .ok_or_else(|| kernel_error("open a map", kernel, format!("no map {name} in the eBPF object")))
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str, kernel: &Kernel) -> Result<aya::maps::Map, ProbeError> {
    ebpf.take_map(name)
        .ok_or_else(|| kernel_error("open a map", kernel, format!("no map {name} in the eBPF object")))
}

/// SAFE-2: the process is the one that was planned for, and its code is that of its file.
fn check(target: &Target, bias: u64, plan: &Plan) -> Result<(), ProbeError> {
    let pid = target.pid();
    if !target.is_same() {
        return Err(ProbeError::Changed {
            pid,
            why: "it ended, runs another executable now, or its file was written to".to_owned(),
        });
    }
    let memory = LiveMemory::new(pid);
    for site in &plan.sites {
        let address = site.address.wrapping_add(bias);
        let mut bytes = vec![0; site.bytes.len()];
        memory
            .read(address, &mut bytes)
            .map_err(|e| ProbeError::Changed { pid, why: format!("its code can't be read: {e}") })?;
        if bytes != site.bytes && !is_shared(&bytes, &site.bytes) {
            return Err(ProbeError::Bytes { pid, function: site.function.clone(), address });
        }
    }
    Ok(())
}

/// Whether the bytes are those of a site that another uprobe user is on: the kernel shares it.
fn is_shared(bytes: &[u8], expected: &[u8]) -> bool {
    if cfg!(target_arch = "aarch64") {
        // BRK64_OPCODE_UPROBES (arch/arm64/include/asm/debug-monitors.h).
        return bytes == 0xd420_00a0_u32.to_le_bytes();
    }
    // int3 in the place of the first byte.
    bytes.first() == Some(&0xcc) && bytes.get(1..) == expected.get(1..)
}
