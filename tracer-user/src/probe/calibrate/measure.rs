//! gotrail's side: starts the child, probes it, and makes sums.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use aya::EbpfLoader;
use aya::maps::HashMap;
use aya::programs::UProbe;
use bytemuck::Zeroable as _;
use rustix::fs::{Mode, OFlags, open};
use tracer_ebpf::{
    ABI_VERSION, MAP_EVENTS, MAP_PROCESSES, NO_OFFSET, Probe, ProcConfig, TIER_T1, TIER_T2, cookie,
};

use super::loops::{Function, G_REGISTER, REQUEST, layout};
use super::{Calibration, VERB};
use crate::probe::config::Wire;
use crate::probe::error::ProbeError;
use crate::probe::keeper::{Held, Site};
use crate::probe::kernel::{Kernel, Links};
use crate::probe::maps::pid_namespace;
use crate::probe::object::{object, without_switches};

/// Pairs of measurements of each kind; their median is robust against half of them being disturbed.
const PAIRS: usize = 11;
/// Calls in one measurement: long enough for the clock, short enough to be seldom interrupted.
const CALLS: u32 = 100;
/// Of those that are stepped over.
const STEPPED_CALLS: u32 = 25;
/// Holds all records of a measurement, so that none is cheaper for want of room.
const RING_BYTES: u32 = 2 << 20;

const WHAT: &str = "measure what a trap costs";

/// Measures.
///
/// # Errors
/// [`ProbeError`]: the kernel does not let us, or links probes one by one.
pub(super) fn measure() -> Result<Calibration, ProbeError> {
    let kernel = Kernel::probe();
    let error = |e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(WHAT, &kernel.release, e);
    let failed = |why: String| ProbeError::Kernel { what: WHAT, kernel: kernel.release.clone(), why };
    let kind = match kernel.links {
        None => return Err(ProbeError::NotPermitted { what: WHAT }),
        Some(Links::Single) => {
            return Err(failed("this kernel links probes one by one, which takes too long".to_owned()));
        }
        Some(kind) => kind,
    };
    let namespace = pid_namespace();
    let mut loader = EbpfLoader::new();
    without_switches(&mut loader);
    let mut ebpf = loader
        .map_max_entries(MAP_EVENTS, RING_BYTES)
        .override_global(tracer_ebpf::GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
        .override_global(tracer_ebpf::GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
        .load(object()?)
        .map_err(|e| error(&e))?;
    let mut program = |name: &str| -> Result<OwnedFd, ProbeError> {
        let program =
            ebpf.program_mut(name).ok_or_else(|| failed(format!("no {name} in the eBPF object")))?;
        let program: &mut UProbe = program.try_into().map_err(|e| error(&e))?;
        program.load().map_err(|e| error(&e))?;
        let fd = program.fd().map_err(|e| error(&e))?;
        fd.as_fd().try_clone_to_owned().map_err(|e| error(&e))
    };
    let (rare, lifetimes) = (program("t1_multi")?, program("t2_multi")?);

    let mut target = Target::start().map_err(|e| error(&e))?;
    let pid = target.child.id();
    let executable =
        open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| error(&e))?;
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| error(&e))?;
    let site = |function: Function, probe: Probe| -> Result<Site, ProbeError> {
        let offset = file_offset(&maps, function.address())
            .ok_or_else(|| failed("our own code is not mapped from a file".to_owned()))?;
        Ok(Site { offset, cookie: cookie(probe, G_REGISTER, false) })
    };
    // A runtime.GC that is forced carries a stack.
    let of_rare = [site(Function::Rare, Probe::ForcedGc)?, site(Function::Stepped, Probe::ForcedGc)?];
    let of_lifetimes = [site(Function::Lifetimes, Probe::GoCreate)?];
    let scope = if kind == Links::MultiScoped { pid } else { 0 };
    let links = [
        Held::start(rare.as_fd(), executable.as_fd(), scope, &of_rare, kind).map_err(|e| error(&e))?,
        Held::start(lifetimes.as_fd(), executable.as_fd(), scope, &of_lifetimes, kind)
            .map_err(|e| error(&e))?,
    ];

    let told = |e: std::io::Error| failed(format!("the child that is measured: {e}"));
    let begun = Instant::now();
    // While it is not watched, its hits end at once.
    let (trap_ns, spread_ns) = target.difference(Function::Plain, Function::Rare, CALLS).map_err(told)?;
    let (stepped_ns, _) =
        target.difference(Function::PlainStepped, Function::Stepped, STEPPED_CALLS).map_err(told)?;
    let map = ebpf.map_mut(MAP_PROCESSES).ok_or_else(|| failed(format!("no map {MAP_PROCESSES}")))?;
    let mut processes: HashMap<_, u32, Wire<ProcConfig>> = HashMap::try_from(map).map_err(|e| error(&e))?;
    processes.insert(&pid, &Wire(config()), 0).map_err(|e| error(&e))?;
    let (record_ns, _) = target.difference(Function::Plain, Function::Lifetimes, CALLS).map_err(told)?;
    let (stack_ns, _) = target.difference(Function::Plain, Function::Rare, CALLS).map_err(told)?;
    let took_ns = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    drop(target);
    // Calls of what is not probed any more are cheap.
    let mut killed = links.iter().any(Held::has_ended);
    std::thread::scope(|scope| {
        let ends = links.map(|link| scope.spawn(move || link.end()));
        killed |= ends.into_iter().any(|end| end.join().unwrap_or(true));
    });
    if killed {
        return Err(failed("somebody killed the process that held its probes".to_owned()));
    }
    Ok(Calibration { trap_ns, record_ns, stack_ns, stepped_ns, spread_ns, took_ns })
}

/// The child as the programs are to see it.
fn config() -> ProcConfig {
    ProcConfig {
        abi_version: ABI_VERSION,
        tiers: TIER_T1 | TIER_T2,
        g_m: layout::G_M,
        g_goid: layout::G_GOID,
        g_parent_goid: layout::G_PARENT,
        g_gopc: layout::G_GOPC,
        g_startpc: layout::G_STARTPC,
        m_curg: layout::M_CURG,
        m_procid: layout::M_PROCID,
        g_sched_pc: NO_OFFSET,
        ..ProcConfig::zeroed()
    }
}

struct Target {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Target {
    fn start() -> std::io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([VERB, &std::process::id().to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { child, input, output }),
            _ => Err(std::io::Error::other("no pipe to it")),
        }
    }

    /// How long so many calls of a function take, ns.
    fn time(&mut self, function: Function, count: u32) -> std::io::Result<u64> {
        let mut request = [0; REQUEST];
        let [head, tail @ ..] = &mut request;
        *head = function as u8;
        *tail = count.to_le_bytes();
        self.input.write_all(&request)?;
        let mut took = [0; 8];
        self.output.read_exact(&mut took)?;
        Ok(u64::from_le_bytes(took))
    }

    /// What a call of `probed` takes longer than one of `plain`, and the distance of the quartiles, ns.
    fn difference(&mut self, plain: Function, probed: Function, count: u32) -> std::io::Result<(u64, u64)> {
        let mut each = Vec::with_capacity(PAIRS);
        // The first of each warms the caches.
        for pair in 0..=PAIRS {
            let (without, with) = (self.time(plain, count)?, self.time(probed, count)?);
            if pair != 0 {
                each.push(with.saturating_sub(without) / u64::from(count));
            }
        }
        each.sort_unstable();
        let at = |i: usize| each.get(i).copied().unwrap_or(0);
        Ok((at(PAIRS / 2), at(PAIRS * 3 / 4) - at(PAIRS / 4)))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // An error means that it is gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where in its file the code at an address of this process is, by `/proc/self/maps`.
fn file_offset(maps: &str, address: u64) -> Option<u64> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, offset) = (fields.next()?, fields.nth(1)?);
        let (begin, end) = range.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let (begin, end, offset) = (hex(begin)?, hex(end)?, hex(offset)?);
        (begin..end).contains(&address).then(|| address - begin + offset)
    })
}
