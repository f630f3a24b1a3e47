//! Samples of what is on the CPUs: a timer on each of them, whose program looks at our process alone. No site, no
//! trap in the target.

use std::collections::HashMap as StdHashMap;

use aya::Ebpf;
use aya::EbpfLoader;
use aya::maps::{HashMap, MapData, RingBuf};
use aya::programs::PerfEvent;
use aya::programs::ProgramError;
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::util::online_cpus;
use tracer_ebpf::{
    GLOBAL_PID_NAMESPACE_DEVICE, GLOBAL_PID_NAMESPACE_INODE, MAP_EVENTS, MAP_PROCESSES, MAP_THREADS,
    MAX_THREADS, Probe, ProcConfig, TIER_CPU,
};

use super::config::{Wire, config};
use super::drain::Numbers;
use super::error::ProbeError;
use super::kernel::Kernel;
use super::losses::{Accounting, Counters, SwitchAccount};
use super::maps::{kernel_error, open_counters, pid_namespace, take};
use super::object::{object, without_switches};
use super::options::Options;
use crate::binary::{GoBinary, Plan};
use crate::model::OnCpu;
use crate::record::decode_sample;
use crate::target::Target;

/// How often each CPU's timer goes off in a second: no multiple of what programs do by the clock.
pub const HERTZ: u64 = 99;
/// CPU time that a sample stands for, ns.
pub const SAMPLE_NS: u64 = 1_000_000_000 / HERTZ;
/// Bytes of the ring: some seconds of samples of 16 busy CPUs.
const RING_BYTES: u32 = 1 << 20;
/// The slot of the one process.
const SLOT: u32 = 0;

/// Timers that are on.
pub struct CpuSamples {
    counters: Counters,
    links: Vec<PerfEventLink>,
    ring: RingBuf<MapData>,
    threads: HashMap<MapData, u32, u64>,
    told: StdHashMap<u32, u64>,
    /// Ms that the programs could not be told of.
    untold: u64,
    numbers: StdHashMap<u16, Numbers>,
    received: u64,
    undecodable: u64,
    procid_mismatches: u64,
    check_procid: bool,
    bias: u64,
    cpus: usize,
}

impl CpuSamples {
    /// Starts a timer on each CPU that is online.
    ///
    /// # Errors
    /// [`ProbeError`]; then nothing stays.
    pub fn attach(target: &Target, binary: &GoBinary, bias: u64) -> Result<Self, ProbeError> {
        let kernel = Kernel::probe();
        let error =
            |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel.release, e);
        let namespace = pid_namespace();
        let mut loader = EbpfLoader::new();
        // What only T3 uses needs no memory.
        without_switches(&mut loader);
        let mut ebpf = loader
            .map_max_entries(MAP_EVENTS, RING_BYTES)
            .override_global(GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
            .override_global(GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
            .load(object()?)
            .map_err(|e| error("load the eBPF object", &e))?;
        let options = Options { tiers: TIER_CPU, capture_text: false, ..Options::default() };
        let settings = config(binary, &Plan::default(), bias, SLOT, &options);
        let mut processes: HashMap<_, u32, Wire<ProcConfig>> =
            HashMap::try_from(take(&mut ebpf, MAP_PROCESSES, &kernel)?)
                .map_err(|e| error("open a map", &e))?;
        processes
            .insert(&target.pid(), &Wire(settings), 0)
            .map_err(|e| error("configure the samples", &e))?;
        let ring = RingBuf::try_from(take(&mut ebpf, MAP_EVENTS, &kernel)?)
            .map_err(|e| error("open the ring buffer", &e))?;
        let threads = HashMap::try_from(take(&mut ebpf, MAP_THREADS, &kernel)?)
            .map_err(|e| error("open the map of threads", &e))?;
        if !target.is_same() {
            return Err(ProbeError::Changed {
                pid: target.pid(),
                why: "it ended, runs another executable now, or its file was written to".to_owned(),
            });
        }
        let counters = open_counters(&mut ebpf, SLOT, &kernel)?;
        let links = link(&mut ebpf, &kernel)?;
        Ok(Self {
            counters,
            cpus: links.len(),
            links,
            ring,
            threads,
            told: StdHashMap::new(),
            untold: 0,
            numbers: StdHashMap::new(),
            received: 0,
            undecodable: 0,
            procid_mismatches: 0,
            check_procid: target.inner_pid == target.pid(),
            bias,
        })
    }

    /// Tells the programs which M each thread is: thread ids as gotrail's PID namespace numbers them.
    pub fn tell(&mut self, threads: &StdHashMap<u32, u64>) {
        let gone: Vec<u32> = self.told.keys().filter(|tid| !threads.contains_key(tid)).copied().collect();
        for thread in gone {
            self.told.remove(&thread);
            // It is there, and if not, it is gone as it should be.
            let _ = self.threads.remove(&thread);
        }
        self.untold = 0;
        for (&thread, &m) in threads {
            if self.told.get(&thread) == Some(&m) {
                continue;
            }
            if self.told.len() < MAX_THREADS as usize && self.threads.insert(&thread, &m, 0).is_ok() {
                self.told.insert(thread, m);
            } else {
                self.untold += 1;
            }
        }
    }

    /// Hands over the samples that are in the ring.
    pub fn drain(&mut self, mut into: impl FnMut(OnCpu)) {
        while let Some(item) = self.ring.next() {
            let Some(decoded) = decode_sample(&item, self.bias) else {
                self.undecodable += 1;
                continue;
            };
            self.received += 1;
            let numbers =
                self.numbers.entry(decoded.cpu).or_insert_with(|| Numbers::new(decoded.sequence, 0));
            numbers.take(decoded.sequence, 0);
            // How many are missing is enough: a sample stands for itself.
            drop(numbers.take_holes());
            let sample = decoded.sample;
            if self.check_procid && sample.has_m && !sample.procid_matches {
                self.procid_mismatches += 1;
            }
            into(sample);
        }
    }

    /// Stops the timers. What is in the ring can still be drained.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// CPUs whose timer is on, or was.
    #[must_use]
    pub const fn cpus(&self) -> usize {
        self.cpus
    }

    /// Threads whose M the programs were not told; they find it by a register, but not in C code.
    #[must_use]
    pub const fn untold(&self) -> u64 {
        self.untold
    }

    /// The account so far. Exact once detached and drained.
    #[must_use]
    pub fn accounting(&self) -> Accounting {
        let mut probes = self.counters.read();
        for (probe, account) in &mut probes {
            account.received = if *probe == Probe::OnCpu { self.received } else { 0 };
        }
        Accounting {
            probes,
            switches: SwitchAccount::default(),
            gaps: self.numbers.values().map(Numbers::missing).sum(),
            undecodable: self.undecodable,
            procid_mismatches: self.procid_mismatches,
        }
    }
}

/// Loads the program and links it to a timer on each CPU. Only the links hold it in the kernel then.
fn link(ebpf: &mut Ebpf, kernel: &Kernel) -> Result<Vec<PerfEventLink>, ProbeError> {
    const NAME: &str = "on_cpu";
    let error = |what, e: &ProgramError| ProbeError::from_aya(what, &kernel.release, e);
    let program: &mut PerfEvent = ebpf
        .program_mut(NAME)
        .ok_or_else(|| kernel_error("find a program", kernel, format!("no {NAME} in the eBPF object")))?
        .try_into()
        .map_err(|e: ProgramError| error("find a program", &e))?;
    program.load().map_err(|e| error("load the program for samples of the CPUs", &e))?;
    let cpus =
        online_cpus().map_err(|(what, e)| kernel_error("list the CPUs", kernel, format!("{what}: {e}")))?;
    let mut links = Vec::with_capacity(cpus.len());
    for cpu in cpus {
        let id = program
            .attach(
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Frequency(HERTZ),
                false,
            )
            .map_err(|e| error("start the timer of a CPU", &e))?;
        links.push(program.take_link(id).map_err(|e| error("hold the timer of a CPU", &e))?);
    }
    program.unload().map_err(|e| error("let a program go", &e))?;
    Ok(links)
}
