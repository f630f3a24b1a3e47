//! One body per tier: filter, count, decide, hand over.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::programs::ProbeContext;
use tracer_ebpf::decide::{crash, current, header, is_crash, is_stacked, lifetime, plain, stacked};
use tracer_ebpf::{
    ABI_VERSION, COOKIE_STACK_CHECK, CrashEvent, EventHeader, FLAG_PARTIAL, PlainEvent, Probe, ProcConfig,
    StackEvent, TIER_T1, TIER_T2, TIER_T3,
};

use crate::alarms;
use crate::kernel::{UserMemory, cookie, current_ids, now_ns, register, registers, stack_check_fails};
use crate::maps::{Counters, counters, emit, emit_with_room, next_sequence, process};
use crate::stacks::outside;

pub struct Hit {
    pub config: &'static ProcConfig,
    pub counters: Counters,
    /// Not numbered yet: only what becomes a record has a number.
    pub header: EventHeader,
    pub cookie: u64,
}

/// Passes hits of watched processes whose tier is on, counted.
#[inline(always)]
pub fn filter(ctx: &ProbeContext, tier: u32) -> Option<Hit> {
    let pid_tgid = current_ids();
    let config = process((pid_tgid >> 32) as u32)?;
    let now = now_ns();
    if tier == TIER_T3 && (config.tiers & tier == 0 || now >= config.switches_until_ns) {
        outside(config);
        return None;
    }
    if config.tiers & tier == 0 {
        return None;
    }
    let cookie = cookie(ctx);
    if cookie & COOKIE_STACK_CHECK != 0 && stack_check_fails(ctx) {
        return None;
    }
    let probe = cookie as u8;
    let counters = counters(config, probe & 31)?;
    counters.hit();
    if config.abi_version != ABI_VERSION {
        counters.refused();
        return None;
    }
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(ctx, "probe {} of {}", probe, pid_tgid >> 32);
    let header = header(probe, now, pid_tgid, cpu, 0);
    Some(Hit { config, counters, header, cookie })
}

/// Tier T1.
#[inline(always)]
pub fn rare(ctx: &ProbeContext) {
    let Some(Hit { config, counters, header, cookie: _ }) = filter(ctx, TIER_T1) else { return };
    alarms::tell_dear(counters);
    let registers = registers(ctx);
    let current = current(&registers, header.tid, config, &UserMemory);
    let header =
        EventHeader { goid: current.goid, flags: current.flags, sequence: next_sequence(), ..header };
    if is_crash(header.probe) {
        emit::<CrashEvent>(counters, |event| {
            event.header = header;
            crash(header.probe, &registers, &current, config, &UserMemory, event);
            event.header.flags & FLAG_PARTIAL != 0
        });
    } else if is_stacked(header.probe) {
        emit::<StackEvent>(counters, |event| {
            event.header = header;
            stacked(header.probe, &registers, &current, config, &UserMemory, event);
            event.header.flags & FLAG_PARTIAL != 0
        });
    } else {
        emit::<PlainEvent>(counters, |event| {
            event.header = header;
            plain(header.probe, &registers, config, &UserMemory, event);
            event.header.flags & FLAG_PARTIAL != 0
        });
    }
}

/// Tier T2.
#[inline(always)]
pub fn lifetimes(ctx: &ProbeContext) {
    let Some(Hit { config, counters, header, cookie }) = filter(ctx, TIER_T2) else { return };
    alarms::tell(counters);
    let is_exit = header.probe == Probe::GoExit as u8;
    let g = register(ctx, (cookie >> 8) as u8);
    let header = EventHeader { sequence: next_sequence(), ..header };
    emit_with_room::<PlainEvent>(counters, |event| {
        event.header = header;
        lifetime(g, config, &UserMemory, is_exit, event);
        event.header.flags & FLAG_PARTIAL != 0
    });
}
