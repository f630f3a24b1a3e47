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
    GLOBAL_PID_NAMESPACE_INODE, MAP_ENDINGS, MAP_EVENTS, OUT_OF_MEMORY, SIGNALS, is_of_process,
};

use super::btf::kernel_offsets;
use super::config::Wire;
use super::error::ProbeError;
use super::kernel::release;
use super::maps::pid_namespace;
use super::object::{object, without_switches};
use crate::target::{Exit, Sender, Sent};

/// The programs, and where they are attached.
const PROGRAMS: [(&str, &str); 3] = [
    ("signal_sent", "signal_generate"),
    ("victim_chosen", "mark_victim"),
    ("thread_exits", "sched_process_exit"),
];

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

    /// How a process that is watched has ended, if it has, and when (`CLOCK_MONOTONIC` ns).
    #[must_use]
    pub fn end(&self, pid: u32) -> Option<(Exit, u64)> {
        let ending = self.get(pid, 0)?;
        (ending.time_ns != 0).then(|| (Exit::from_status(ending.status), ending.time_ns))
    }

    /// Why it is not told who sends signals, if it is not.
    #[must_use]
    pub fn senders_unknown(&self) -> Option<&'static str> {
        (!self.0.numbered).then_some(
            "gotrail runs in a PID namespace of its own, where the processes of the machine have other numbers (hostPID would help)",
        )
    }

    /// Signals that kill where nobody handles them and that were sent to a process since it is watched: of each the last, or
    /// the one that it answered by sending itself the same; in their order. Empty where senders are not known.
    #[must_use]
    pub fn signals(&self, pid: u32) -> Vec<Sent> {
        if !self.0.numbered {
            return Vec::new();
        }
        let out_of_memory = self.get(pid, OUT_OF_MEMORY).is_some();
        let mut sent: Vec<Sent> = (1..SIGNALS)
            .filter_map(|signal| {
                let ending = self.get(pid, signal)?;
                let by = sender(pid, signal.cast_signed(), &ending, out_of_memory);
                Some(Sent { signal: signal.cast_signed(), at_ns: ending.time_ns, by })
            })
            .collect();
        sent.sort_unstable_by_key(|one| one.at_ns);
        sent
    }

    fn get(&self, pid: u32, signal: u32) -> Option<Ending> {
        let map = self.0.map.lock().unwrap_or_else(PoisonError::into_inner);
        let Wire(ending) = map.get(&Wire(EndingKey { tgid: pid, signal }), 0).ok()?;
        Some(ending)
    }
}

fn sender(pid: u32, signal: i32, ending: &Ending, out_of_memory: bool) -> Sender {
    if is_of_process(ending.code) {
        if ending.sender == pid {
            return Sender::Itself;
        }
        let end = ending.comm.iter().position(|b| *b == 0).unwrap_or(ending.comm.len());
        let name = String::from_utf8_lossy(ending.comm.get(..end).unwrap_or_default()).into_owned();
        return Sender::Process { pid: ending.sender, name };
    }
    let of_faults =
        matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP);
    if of_faults && ending.code > 0 && ending.sender == pid {
        Sender::Fault
    } else {
        Sender::Kernel { out_of_memory: out_of_memory && signal == libc::SIGKILL }
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::SI_KERNEL;

    use super::*;

    #[test]
    fn truth_1_senders_are_told_by_the_code_of_the_signal() {
        let of = |signal, code, from| {
            let mut ending = Ending { sender: from, code, ..Ending::zeroed() };
            ending.comm[..2].copy_from_slice(b"sh");
            sender(7, signal, &ending, true)
        };
        let shell = Sender::Process { pid: 9, name: "sh".to_owned() };
        assert_eq!(of(libc::SIGTERM, 0, 9), shell);
        assert_eq!(of(libc::SIGTERM, -6, 7), Sender::Itself);
        assert_eq!(of(libc::SIGSEGV, 1, 7), Sender::Fault);
        // A timer goes off while anybody runs.
        assert_eq!(of(libc::SIGALRM, -2, 9), Sender::Kernel { out_of_memory: false });
        assert_eq!(of(libc::SIGKILL, SI_KERNEL, 9), Sender::Kernel { out_of_memory: true });
        // What seccomp forbids is no fault.
        assert_eq!(of(libc::SIGSYS, 1, 7), Sender::Kernel { out_of_memory: false });
    }
}
