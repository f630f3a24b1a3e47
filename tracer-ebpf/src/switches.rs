//! Tier T3: what happens at each switch between goroutines, as records or as sums.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use aya_ebpf::programs::ProbeContext;
use tracer_ebpf::decide::Fault;
use tracer_ebpf::switch::{Run, park, ready, run};
use tracer_ebpf::{
    CONFIG_ALARM_SWITCHES, CONFIG_SUM_SWITCHES, EventHeader, FLAG_PARTIAL, Probe, SwitchEvent, TIER_T3,
};

use crate::alarms;
use crate::kernel::{UserMemory, register, registers};
use crate::maps::{Counters, deliver};
use crate::stacks::{stack_of, switch_counters};
use crate::sums;
use crate::tiers::{Hit, filter};

/// Records of T3. The agent sets the size when it loads the programs.
#[map]
static SWITCHES: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Numbers the records of each CPU in this ring.
#[map]
static SWITCH_SEQUENCE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub fn next_switch() -> u32 {
    crate::maps::next_of(&SWITCH_SEQUENCE)
}

/// Hands a record over and says whether the ring had room.
#[inline(always)]
pub fn submit<T: 'static>(counters: Counters, fill: impl FnOnce(&mut T) -> bool) -> bool {
    deliver(&SWITCHES, counters, fill)
}

/// Tier T3.
#[inline(always)]
pub fn switches(ctx: &ProbeContext) {
    let Some(hit) = filter(ctx, TIER_T3) else { return };
    let g = register(ctx, (hit.cookie >> 8) as u8);
    let counters = hit.counters;
    let probe = hit.header.probe;
    if hit.config.flags & CONFIG_ALARM_SWITCHES != 0 {
        alarms::tell(counters);
    }
    let done = if probe == Probe::GoPark as u8 {
        parks(&hit, g)
    } else if probe == Probe::GoReady as u8 {
        wakes(ctx, &hit, g)
    } else {
        runs(ctx, &hit, g)
    };
    if done.is_err() {
        counters.faulted();
    }
}

#[inline(always)]
fn parks(hit: &Hit, g: u64) -> Result<(), Fault> {
    let park = park(g, hit.config, &UserMemory)?;
    let Some(counts) = switch_counters(hit.config) else { return Err(Fault) };
    let (stack, flags) = stack_of(&park, &hit.header, hit.config, counts);
    if hit.config.flags & CONFIG_SUM_SWITCHES != 0 {
        sums::parks(hit, &park, stack, counts);
    } else {
        send(hit, park.goid, park.flags | flags, 0, stack, park.reason);
    }
    Ok(())
}

#[inline(always)]
fn wakes(ctx: &ProbeContext, hit: &Hit, g: u64) -> Result<(), Fault> {
    let ready = ready(g, registers(ctx).g, hit.config, &UserMemory)?;
    if hit.config.flags & CONFIG_SUM_SWITCHES != 0 {
        let Some(counts) = switch_counters(hit.config) else { return Err(Fault) };
        sums::wakes(hit, ready.goid, counts);
    } else {
        send(hit, ready.waker, ready.flags, ready.goid, 0, 0);
    }
    Ok(())
}

#[inline(always)]
fn runs(ctx: &ProbeContext, hit: &Hit, g: u64) -> Result<(), Fault> {
    let Run::Runs { goid, flags } = run(g, &registers(ctx), hit.config, &UserMemory)? else {
        hit.counters.skipped();
        return Ok(());
    };
    if hit.config.flags & CONFIG_SUM_SWITCHES != 0 {
        let Some(counts) = switch_counters(hit.config) else { return Err(Fault) };
        sums::runs(hit, goid, counts);
    } else {
        send(hit, goid, flags, 0, 0, 0);
    }
    Ok(())
}

#[inline(always)]
fn send(hit: &Hit, goid: u64, flags: u8, other: u64, stack: u32, reason: u8) {
    let header = EventHeader { goid, flags, sequence: next_switch(), ..hit.header };
    submit::<SwitchEvent>(hit.counters, |record| {
        *record = SwitchEvent { header, other, stack, reason, padding: [0; 3] };
        flags & FLAG_PARTIAL != 0
    });
}
