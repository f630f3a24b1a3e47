//! How processes end: two tracepoints of the kernel, one for signals that are sent and one for threads that exit. What is
//! kept is the last of each kind, for whoever looks when the process is gone.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use tracer_ebpf::{ENDINGS_EACH, Ending, EndingKey, KernelOffsets, SI_KERNEL, is_deadly};

use crate::kernel::{current_ids, now_ns};

/// What became of the processes that are asked for.
#[map]
static ENDINGS: HashMap<EndingKey, Ending> = HashMap::with_max_entries(ENDINGS_EACH, 0);

/// Set when the programs are loaded.
#[unsafe(no_mangle)]
static KERNEL_OFFSETS: KernelOffsets = KernelOffsets {
    task_tgid: 0,
    task_exit_code: 0,
    task_signal: 0,
    signal_flags: 0,
    signal_group_exit_code: 0,
};

/// `TRACE_SIGNAL_DELIVERED` (include/trace/events/signal.h): it was neither ignored nor pending before.
const SENT: i32 = 0;
/// `SEND_SIG_PRIV` (include/linux/sched/signal.h): by the kernel. 0, `SEND_SIG_NOINFO`, is by the current process.
const BY_KERNEL: u64 = 1;
/// `siginfo_t.si_code`.
const SI_CODE: u64 = 8;
/// `SIGNAL_GROUP_EXIT`, and `SIGNAL_GROUP_COREDUMP` of kernels before 5.17 (include/linux/sched/signal.h).
const GROUP_EXIT: u32 = 4 | 8;
/// `BPF_ANY`.
const ANY: u64 = 0;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

#[inline(always)]
fn offsets() -> KernelOffsets {
    // SAFETY: a constant that the loader may have changed before the programs were loaded.
    unsafe { core::ptr::read_volatile(&raw const KERNEL_OFFSETS) }
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails instead of faulting; every T here is a plain number.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

#[inline(always)]
fn is_asked_for(tgid: u32) -> bool {
    ENDINGS.get_ptr(&EndingKey { tgid, signal: 0 }).is_some()
}

/// `signal_generate(sig, info, task, group, result)`, in the sender (kernel/signal.c, Linux 5.15 to 6.18).
#[inline(always)]
pub fn signal(ctx: &RawTracePointContext) {
    let signal = ctx.arg::<u32>(0);
    if !is_deadly(signal) || ctx.arg::<i32>(4) != SENT {
        return;
    }
    let Some(tgid) = read::<u32>(ctx.arg::<u64>(2).wrapping_add(offsets().task_tgid)) else { return };
    if !is_asked_for(tgid) {
        return;
    }
    let code = match ctx.arg::<u64>(1) {
        0 => 0,
        BY_KERNEL => SI_KERNEL,
        info => read::<i32>(info.wrapping_add(SI_CODE)).unwrap_or(0),
    };
    let sender = (bpf_get_current_pid_tgid() >> 32) as u32;
    // Go's runtime handles what was sent and then sends itself the same (runtime/signal_unix.go, `dieFromSignal`): who was
    // the first is what counts.
    let flags = if sender == tgid && code <= 0 { NO_EXIST } else { ANY };
    let ending = Ending {
        time_ns: now_ns(),
        sender,
        code,
        status: 0,
        padding: 0,
        comm: bpf_get_current_comm().unwrap_or_default(),
    };
    let _ = ENDINGS.insert(&EndingKey { tgid, signal }, &ending, flags);
}

/// `sched_process_exit(task)`, in the thread that exits (kernel/exit.c, `do_exit`).
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) {
    let ids = current_ids();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if !is_asked_for(tgid) {
        return;
    }
    let (task, offsets) = (ctx.arg::<u64>(0), offsets());
    let Some(signals) = read::<u64>(task.wrapping_add(offsets.task_signal)) else { return };
    let Some(flags) = read::<u32>(signals.wrapping_add(offsets.signal_flags)) else { return };
    // As wait(2) has it (`wait_task_zombie`).
    let status = if flags & GROUP_EXIT != 0 {
        read::<i32>(signals.wrapping_add(offsets.signal_group_exit_code))
    } else if tid == tgid {
        read::<i32>(task.wrapping_add(offsets.task_exit_code))
    } else {
        return;
    };
    let Some(status) = status else { return };
    let ending = Ending { time_ns: now_ns(), sender: 0, code: 0, status, padding: 0, comm: [0; 16] };
    let _ = ENDINGS.insert(&EndingKey { tgid, signal: 0 }, &ending, ANY);
}
