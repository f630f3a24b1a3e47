//! System calls of goroutines, summed up by number and stack: two tracepoints of the kernel, at a third of what a uprobe
//! costs each, and without any in the process.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use aya_ebpf::programs::RawTracePointContext;
use tracer_ebpf::decide::header;
use tracer_ebpf::switch::in_system_call;
use tracer_ebpf::{ABI_VERSION, MAX_OPEN_CALLS, OpenCall, Probe, ProcConfig, SUM_SYSTEM_CALL, TIER_SYSCALLS};

use crate::kernel::{UserMemory, current_ids, now_ns, user_registers};
use crate::maps::{counters, process};
use crate::stacks::{stack_of, switch_counters};
use crate::sums::close;
use crate::tiers::Hit;

/// Calls that have begun, by thread. What is in it when its thread begins the next one is written over.
#[map]
static OPEN_CALLS: LruHashMap<u32, OpenCall> = LruHashMap::with_max_entries(MAX_OPEN_CALLS, 0);

/// `BPF_ANY`.
const ANY: u64 = 0;
/// `__NR_rt_sigreturn`.
const RT_SIGRETURN: u32 = if cfg!(bpf_target_arch = "aarch64") { 139 } else { 15 };
/// `ERESTARTNOINTR` and `ERESTARTSYS` (include/linux/errno.h), negated: a signal interrupted the call, and its thread makes it
/// anew when that is handled, as Go asks for (`SA_RESTART`): it is counted when it is over, with the time until then. With the
/// others of their kind it is over where the signal is handled.
const RESTARTS: core::ops::RangeInclusive<i64> = -513..=-512;

/// The configuration of a watched process, if its calls are to be counted.
#[inline(always)]
fn counted(tgid: u32) -> Option<&'static ProcConfig> {
    process(tgid).filter(|config| config.tiers & TIER_SYSCALLS != 0)
}

/// `sys_enter(regs, id)` (include/trace/events/syscalls.h).
#[inline(always)]
pub fn enters(ctx: &RawTracePointContext) {
    let ids = current_ids();
    let Some(config) = counted((ids >> 32) as u32) else { return };
    let (now, epoch, number) = (now_ns(), config.calls_epoch, ctx.arg::<u32>(1));
    if let Some(open) = OPEN_CALLS.get_ptr_mut(&(ids as u32)) {
        // SAFETY: the kernel keeps the memory of map values valid for the length of a program run; only this thread writes
        // to its entry. Cheaper by far than to replace it.
        let open = unsafe { &mut *open };
        (open.time_ns, open.epoch, open.number) = (now, epoch, number);
        return;
    }
    let call = OpenCall { time_ns: now, epoch, number, ..OpenCall::default() };
    if OPEN_CALLS.insert(&(ids as u32), &call, ANY).is_err()
        && let Some(counters) = counters(config, Probe::GoSyscall as u8)
    {
        counters.hit();
        counters.lost_map();
    }
}

/// `sys_exit(regs, ret)`: the registers of user space are those of the call, but for its result.
#[inline(always)]
pub fn exits(ctx: &RawTracePointContext) {
    let ids = current_ids();
    let Some(config) = counted((ids >> 32) as u32) else { return };
    let Some(open) = OPEN_CALLS.get_ptr_mut(&(ids as u32)) else { return };
    // SAFETY: as in `enters`.
    let open = unsafe { &mut *open };
    let (time_ns, number) = (open.time_ns, open.number);
    // Once only: what seccomp denies ends without having begun, and so does what began when nobody looked any more.
    open.time_ns = 0;
    // It began before somebody looked, or in another stretch of observation.
    if time_ns == 0 || open.epoch != config.calls_epoch {
        return;
    }
    // The end of a signal's handler: the registers are those of what it interrupted, which made no call.
    if number == RT_SIGRETURN {
        return;
    }
    let probe = Probe::GoSyscall as u8;
    let Some(counters) = counters(config, probe) else { return };
    let now = now_ns();
    let mut ns = now.saturating_sub(time_ns);
    // The runtime's own (threads that wait for work, the network poller) are made on system stacks; so are those of C code.
    let at = in_system_call(&user_registers(), config, &UserMemory);
    if at.is_some() {
        if open.interrupted == number + 1 {
            ns += open.before_ns;
        }
        (open.interrupted, open.before_ns) = (0, 0);
        // The call goes on: no hit yet.
        if RESTARTS.contains(&ctx.arg::<i64>(1)) {
            (open.interrupted, open.before_ns) = (number + 1, ns);
            return;
        }
    }
    counters.hit();
    if config.abi_version != ABI_VERSION {
        counters.refused();
        return;
    }
    let Some(at) = at else { return counters.skipped() };
    let Some(counts) = switch_counters(config) else { return counters.faulted() };
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let hit = Hit { config, counters, header: header(probe, now, ids, cpu, 0), cookie: 0 };
    let (stack, _) = stack_of(&at, &hit.header, config, counts);
    close(&hit, SUM_SYSTEM_CALL, number, stack, ns);
}
