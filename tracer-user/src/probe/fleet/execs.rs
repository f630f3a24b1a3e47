//! Which processes begin to run a program, by a tracepoint of the kernel.

use std::os::fd::AsFd as _;
use std::time::Duration;

use aya::EbpfLoader;
use aya::maps::{Array, MapData, RingBuf};
use aya::programs::RawTracePoint;
use aya::programs::raw_trace_point::RawTracePointLink;
use bytemuck::pod_read_unaligned;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer_ebpf::{
    ExecEvent, GLOBAL_PID_NAMESPACE_DEVICE, GLOBAL_PID_NAMESPACE_INODE, MAP_EXECS, MAP_EXECS_LOST,
};

use super::super::error::ProbeError;
use super::super::kernel::release;
use super::super::maps::pid_namespace;
use super::super::object::{object, without_switches};

/// A running look-out for programs that begin to run. It ends when it is dropped.
pub struct Execs {
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    _link: RawTracePointLink,
}

impl std::fmt::Debug for Execs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execs").finish_non_exhaustive()
    }
}

impl Execs {
    /// Begins to look out.
    ///
    /// # Errors
    /// [`ProbeError`]: the kernel does not let us, and says why.
    pub fn attach() -> Result<Self, ProbeError> {
        let kernel = release();
        let error = |what, e: &(dyn std::error::Error + 'static)| ProbeError::from_aya(what, &kernel, e);
        let missing = |what| ProbeError::Kernel {
            what: "look out for programs that start",
            kernel: kernel.clone(),
            why: format!("no {what} in the eBPF object"),
        };
        let namespace = pid_namespace();
        let mut loader = EbpfLoader::new();
        without_switches(&mut loader);
        let mut ebpf = loader
            .override_global(GLOBAL_PID_NAMESPACE_DEVICE, &namespace.0, true)
            .override_global(GLOBAL_PID_NAMESPACE_INODE, &namespace.1, true)
            .load(object()?)
            .map_err(|e| error("load the eBPF object", &e))?;
        let ring = ebpf.take_map(MAP_EXECS).ok_or_else(|| missing(MAP_EXECS))?;
        let ring = RingBuf::try_from(ring).map_err(|e| error("open a ring buffer", &e))?;
        let lost = ebpf.take_map(MAP_EXECS_LOST).ok_or_else(|| missing(MAP_EXECS_LOST))?;
        let lost = Array::try_from(lost).map_err(|e| error("open a map", &e))?;
        let program: &mut RawTracePoint = ebpf
            .program_mut("process_executes")
            .ok_or_else(|| missing("process_executes"))?
            .try_into()
            .map_err(|e| error("find a program", &e))?;
        program.load().map_err(|e| error("load a program", &e))?;
        let id = program
            .attach("sched_process_exec")
            .map_err(|e| error("attach to the tracepoint sched_process_exec", &e))?;
        let link = program.take_link(id).map_err(|e| error("hold a tracepoint", &e))?;
        program.unload().map_err(|e| error("let a program go", &e))?;
        Ok(Self { ring, lost, _link: link })
    }

    /// Waits at most so long for the next ones, and gives the ids of those that began, and when (`CLOCK_MONOTONIC` ns).
    pub fn wait(&mut self, timeout: Duration) -> Vec<(u32, u64)> {
        let timeout = Timespec::try_from(timeout).ok();
        // Interrupted or not: what is there is taken.
        let _ = poll(&mut [PollFd::from_borrowed_fd(self.ring.as_fd(), PollFlags::IN)], timeout.as_ref());
        let mut pids = Vec::new();
        while let Some(item) = self.ring.next() {
            if let Some(bytes) = item.get(..size_of::<ExecEvent>()) {
                let ExecEvent { tgid, time_ns, .. } = pod_read_unaligned(bytes);
                pids.push((tgid, time_ns));
            }
        }
        pids
    }

    /// Those for which there was no room, so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).unwrap_or(0)
    }
}
