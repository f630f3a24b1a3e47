//! Which processes begin to run a program: a tracepoint of the kernel, at no cost to anybody who runs already.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use tracer_ebpf::ExecEvent;

use crate::kernel::{current_ids, now_ns};
use crate::maps::add;

/// The agent is woken, as it waits for these: they are few, and not on the way of any target.
#[map]
static EXECS: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

#[map]
static EXECS_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// `sched_process_exec` runs in the process, whose executable is the new one by then (fs/exec.c, `exec_binprm`).
#[inline(always)]
pub fn process_executes() {
    let tgid = (current_ids() >> 32) as u32;
    // Outside of the agent's PID namespace: it could not find it either.
    if tgid == 0 {
        return;
    }
    match EXECS.reserve::<ExecEvent>(0) {
        Some(mut entry) => {
            entry.write(ExecEvent { time_ns: now_ns(), tgid, padding: 0 });
            entry.submit(0);
        }
        None => {
            if let Some(lost) = EXECS_LOST.get_ptr(0) {
                add(lost, 1);
            }
        }
    }
}
