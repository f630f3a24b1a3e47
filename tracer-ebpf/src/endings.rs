//! How processes end: three tracepoints of the kernel, for signals that are sent, for those that the kernel kills for want of
//! memory, and for threads that exit. What is kept is the last of each kind, for whoever looks when the process is gone.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use tracer_ebpf::{
    ANSWERED_WITHIN, ENDINGS_EACH, Ending, EndingKey, KernelOffsets, OUT_OF_MEMORY, SI_KERNEL, is_deadly,
    is_of_process,
};

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
/// `TRACE_SIGNAL_LOSE_INFO`: likewise, but who gets it is not told by whom.
const SENT_BARE: i32 = 4;
/// `SEND_SIG_PRIV` (include/linux/sched/signal.h): by the kernel. 0, `SEND_SIG_NOINFO`, is by the current process.
const BY_KERNEL: u64 = 1;
/// `siginfo_t.si_code`.
const SI_CODE: u64 = 8;
/// `SIGNAL_GROUP_EXIT`, and `SIGNAL_GROUP_COREDUMP` of kernels before 5.17 (include/linux/sched/signal.h).
const GROUP_EXIT: u32 = 4 | 8;
/// `BPF_ANY`.
const ANY: u64 = 0;

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

/// What is known of the end of a process that is asked for.
#[inline(always)]
fn end_of(tgid: u32) -> Option<Ending> {
    let ending = ENDINGS.get_ptr(&EndingKey { tgid, signal: 0 })?;
    // SAFETY: the kernel keeps the memory of map values valid for the length of a program run.
    Some(unsafe { *ending })
}

/// Whether a process is asked for and has not ended: whoever has its number then is another one.
#[inline(always)]
fn lives(tgid: u32) -> bool {
    end_of(tgid).is_some_and(|end| end.is_final == 0)
}

/// `signal_generate(sig, info, task, group, result)`, in the sender (kernel/signal.c, Linux 5.15 to 6.18).
#[inline(always)]
pub fn signal(ctx: &RawTracePointContext) {
    let (signal, result) = (ctx.arg::<u32>(0), ctx.arg::<i32>(4));
    if !is_deadly(signal) || result != SENT && result != SENT_BARE {
        return;
    }
    let Some(tgid) = read::<u32>(ctx.arg::<u64>(2).wrapping_add(offsets().task_tgid)) else { return };
    let code = match ctx.arg::<u64>(1) {
        0 => 0,
        BY_KERNEL => SI_KERNEL,
        info => read::<i32>(info.wrapping_add(SI_CODE)).unwrap_or(0),
    };
    let sender = (bpf_get_current_pid_tgid() >> 32) as u32;
    let key = EndingKey { tgid, signal };
    // A program may have a fault, or write to what nobody reads, all the time: only the time is new then.
    if sender == tgid
        && let Some(last) = ENDINGS.get_ptr_mut(&key)
    {
        // SAFETY: the kernel keeps the memory of map values valid for the length of a program run. Threads that write at
        // the same time all write a time that is right, as each is one word.
        let last = unsafe { &mut *last };
        if last.sender == tgid && last.code == code {
            last.time_ns = now_ns();
            return;
        }
    }
    if !lives(tgid) {
        return;
    }
    let now = now_ns();
    // Go's runtime handles what was sent and then sends itself the same (runtime/signal_unix.go, `dieFromSignal`): who was
    // the first is what counts, if that was for this.
    if sender == tgid
        && is_of_process(code)
        && let Some(first) = ENDINGS.get_ptr(&key)
    {
        // SAFETY: as above.
        let first = unsafe { *first };
        let is_own = first.sender == tgid && is_of_process(first.code);
        if !is_own && now.saturating_sub(first.time_ns) < ANSWERED_WITHIN {
            return;
        }
    }
    let comm = bpf_get_current_comm().unwrap_or_default();
    note(key, Ending { time_ns: now, sender, code, status: 0, is_final: 0, comm });
}

/// `mark_victim`, in whoever wanted the memory (`mm/oom_kill.c`): of the number of the victim before Linux 6.9, of its task
/// from then on, which lies in the upper half of all addresses. The kernel lets it exit only after this.
#[inline(always)]
pub fn victim(ctx: &RawTracePointContext) {
    let who = ctx.arg::<u64>(0);
    let tgid =
        if who >> 32 == 0 { Some(who as u32) } else { read::<u32>(who.wrapping_add(offsets().task_tgid)) };
    if let Some(tgid) = tgid.filter(|tgid| lives(*tgid)) {
        let key = EndingKey { tgid, signal: OUT_OF_MEMORY };
        note(key, Ending { time_ns: now_ns(), sender: 0, code: 0, status: 0, is_final: 0, comm: [0; 16] });
    }
}

/// `sched_process_exit(task)`, in the thread that exits (kernel/exit.c, `do_exit`).
#[inline(always)]
pub fn exit(ctx: &RawTracePointContext) {
    let ids = current_ids();
    let (tgid, tid) = ((ids >> 32) as u32, ids as u32);
    if !lives(tgid) {
        return;
    }
    let (task, offsets) = (ctx.arg::<u64>(0), offsets());
    let Some(signals) = read::<u64>(task.wrapping_add(offsets.task_signal)) else { return };
    let Some(flags) = read::<u32>(signals.wrapping_add(offsets.signal_flags)) else { return };
    // As wait(2) has it (`wait_task_zombie`).
    let is_final = flags & GROUP_EXIT != 0;
    let status = if is_final {
        read::<i32>(signals.wrapping_add(offsets.signal_group_exit_code))
    } else if tid == tgid {
        read::<i32>(task.wrapping_add(offsets.task_exit_code))
    } else {
        return;
    };
    let Some(status) = status else { return };
    let is_final = u32::from(is_final);
    let ending = Ending { time_ns: now_ns(), sender: 0, code: 0, status, is_final, comm: [0; 16] };
    note(EndingKey { tgid, signal: 0 }, ending);
}

/// Without room nothing is known of it, as it would be without these programs.
#[inline(always)]
fn note(key: EndingKey, ending: Ending) {
    let _ = ENDINGS.insert(&key, &ending, ANY);
}
