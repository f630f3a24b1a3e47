//! Opening what every loaded object has.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use aya::Ebpf;
use aya::maps::HashMap;
use tracer_ebpf::{MAP_COUNTERS, MAP_PROCESSES, MAP_SWITCH_COUNTERS};

use super::error::ProbeError;
use super::kernel::Kernel;
use super::losses::Counters;
use super::switching::Processes;

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
