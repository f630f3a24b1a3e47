//! How watched processes end, by tracepoints of the kernel: who sent a signal, and the status that only the parent is told on
//! kernels before 6.15.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData};
use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLink;
use bytemuck::Zeroable as _;
use tracer_ebpf::{
    ENDINGS_EACH, Ending, EndingKey, GLOBAL_KERNEL_OFFSETS, GLOBAL_PID_NAMESPACE_DEVICE,
    GLOBAL_PID_NAMESPACE_INODE, MAP_ENDINGS, MAP_EVENTS,
};

use super::btf::kernel_offsets;
use super::config::Wire;
use super::error::ProbeError;
use super::kernel::release;
use super::maps::pid_namespace;
use super::object::{object, without_switches};
use crate::target::{Exit, Sender, Sent};

/// The programs, and where they are attached.
const PROGRAMS: [(&str, &str); 2] =
    [("signal_sent", "signal_generate"), ("thread_exits", "sched_process_exit")];

/// What the kernel tells of the ends of processes. Clones are the same.
#[derive(Clone)]
pub struct Endings(Arc<Shared>);

struct Shared {
    map: Mutex<HashMap<MapData, Wire<EndingKey>, Wire<Ending>>>,
    /// Senders are numbered in the initial PID namespace; whether that is ours.
    numbered: bool,
    links: Mutex<Vec<RawTracePointLink>>,
    loaded_in: Vec<(&'static str, Duration)>,
}

impl std::fmt::Debug for Endings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endings").finish_non_exhaustive()
    }
}

impl Endings {
    /// Begins to look out, for at most so many processes at once.
    ///
    /// # Errors
    /// [`ProbeError`]: the kernel does not let us, or does not describe itself, and says why.
    pub fn attach(most_processes: u32) -> Result<Self, ProbeError> {
        let kernel = release();
        let error = |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel, e);
        let failed = |why: String| ProbeError::Kernel {
            what: "look out for signals and ends",
            kernel: kernel.clone(),
            why,
        };
        let offsets = kernel_offsets().map_err(|e| failed(format!("its types (BTF) are not known: {e}")))?;
        let namespace = pid_namespace();
        let mut loader = EbpfLoader::new();
        without_switches(&mut loader);
        let offsets = Wire(offsets);
        let mut ebpf = loader
            .map_max_entries(MAP_EVENTS, 4096)
            .map_max_entries(MAP_ENDINGS, most_processes.saturating_mul(ENDINGS_EACH))
            .override_global(GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
            .override_global(GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
            .override_global(GLOBAL_KERNEL_OFFSETS, &offsets, true)
            .load(object()?)
            .map_err(|e| error("load the eBPF object", &e))?;
        let map = ebpf.take_map(MAP_ENDINGS).ok_or_else(|| failed(format!("no map {MAP_ENDINGS}")))?;
        let map = HashMap::try_from(map).map_err(|e| error("open a map", &e))?;
        let (mut links, mut loaded_in) = (Vec::new(), Vec::new());
        for (name, tracepoint) in PROGRAMS {
            let program: &mut RawTracePoint = ebpf
                .program_mut(name)
                .ok_or_else(|| failed(format!("no {name} in the eBPF object")))?
                .try_into()
                .map_err(|e| error("find a program", &e))?;
            let begun = Instant::now();
            program.load().map_err(|e| error("load a program", &e))?;
            loaded_in.push((name, begun.elapsed()));
            let id = program.attach(tracepoint).map_err(|e| error("attach to a tracepoint", &e))?;
            links.push(program.take_link(id).map_err(|e| error("hold a tracepoint", &e))?);
            program.unload().map_err(|e| error("let a program go", &e))?;
        }
        let numbered = namespace == (0, 0);
        Ok(Self(Arc::new(Shared { map: Mutex::new(map), numbered, links: Mutex::new(links), loaded_in })))
    }

    /// How long the kernel took to verify and compile each program, by its name.
    #[must_use]
    pub fn loaded_in(&self) -> &[(&'static str, Duration)] {
        &self.0.loaded_in
    }

    /// Takes the programs off for good. What was told until then stays known.
    pub(super) fn close(&self) {
        self.0.links.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// From now on the end of this process is told. What was told of another one with its number is forgotten.
    pub fn watch(&self, pid: u32) {
        self.forget(pid);
        let key = EndingKey { tgid: pid, signal: 0 };
        let mut map = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        // Without room its end is unknown, as it would be without the programs.
        drop(map.insert(&Wire(key), &Wire(Ending::zeroed()), 0));
    }

    /// No longer.
    pub fn forget(&self, pid: u32) {
        let mut map = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        for signal in 0..ENDINGS_EACH {
            drop(map.remove(&Wire(EndingKey { tgid: pid, signal })));
        }
    }

    /// How a process that is watched has ended, if it has.
    #[must_use]
    pub fn exit(&self, pid: u32) -> Option<Exit> {
        let map = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        let Wire(ending) = map.get(&Wire(EndingKey { tgid: pid, signal: 0 }), 0).ok()?;
        (ending.time_ns != 0).then(|| Exit::from_status(ending.status))
    }

    /// Signals that kill where nobody handles them and that were sent to a process since it is watched: of each the last,
    /// in their order. None where gotrail does not see the processes of the whole machine by number.
    #[must_use]
    pub fn signals(&self, pid: u32) -> Vec<Sent> {
        if !self.0.numbered {
            return Vec::new();
        }
        let map = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent: Vec<Sent> = (1..ENDINGS_EACH)
            .filter_map(|signal| {
                let Wire(ending) = map.get(&Wire(EndingKey { tgid: pid, signal }), 0).ok()?;
                let signal = signal.cast_signed();
                Some(Sent { signal, at_ns: ending.time_ns, by: sender(pid, signal, &ending) })
            })
            .collect();
        sent.sort_unstable_by_key(|one| one.at_ns);
        sent
    }
}

fn sender(pid: u32, signal: i32, ending: &Ending) -> Sender {
    let of_faults = matches!(
        signal,
        libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP | libc::SIGSYS
    );
    // What a process sends has a code of 0 or less; what a fault was, and the kernel's own, are above (siginfo.h).
    match ending.code {
        code if code > 0 && of_faults && ending.sender == pid => Sender::Fault,
        code if code > 0 => Sender::Kernel { out_of_memory: None },
        _ if ending.sender == pid => Sender::Itself,
        _ => {
            let end = ending.comm.iter().position(|b| *b == 0).unwrap_or(ending.comm.len());
            let name = String::from_utf8_lossy(ending.comm.get(..end).unwrap_or_default()).into_owned();
            Sender::Process { pid: ending.sender, name }
        }
    }
}
