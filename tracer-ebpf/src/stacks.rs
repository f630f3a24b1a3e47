//! Stacks of T3: each is handed over once and named by its id from then on.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray};
use tracer_ebpf::switch::{Park, copy, identify};
use tracer_ebpf::{
    EventHeader, FLAG_PARTIAL, MAX_PROCESSES, MAX_STACKS, Probe, ProcConfig, SwitchCounters, SwitchStack,
};

use crate::kernel::UserMemory;
use crate::maps::{add, counters};
use crate::switches::{next_switch, submit};

/// Stacks that were handed over.
#[map]
static STACKS: HashMap<u32, u64> = HashMap::with_max_entries(MAX_STACKS, 0);

#[map]
static SWITCH_COUNTERS: PerCpuArray<SwitchCounters> = PerCpuArray::with_max_entries(MAX_PROCESSES, 0);

/// `BPF_NOEXIST`: of two that meet a stack first at the same time, one hands it over.
const NO_EXIST: u64 = 1;

#[inline(always)]
pub fn switch_counters(config: &ProcConfig) -> Option<&'static SwitchCounters> {
    let counters = SWITCH_COUNTERS.get_ptr_mut(config.slot)?;
    // SAFETY: the kernel keeps the memory of map values valid for the length of a program run; they are changed by
    // atomic instructions alone.
    Some(unsafe { &*counters })
}

/// A trap of T3 outside of a stretch.
#[inline(always)]
pub fn outside(config: &ProcConfig) {
    if let Some(counters) = switch_counters(config) {
        add(&raw const counters.outside, 1);
    }
}

/// The id of the stack that a goroutine parks with, 0 if it can't have one, and `FLAG_` bits.
#[inline(always)]
pub fn stack_of(
    park: &Park,
    header: &EventHeader,
    config: &ProcConfig,
    counts: &SwitchCounters,
) -> (u32, u8) {
    if park.pc == 0 {
        add(&raw const counts.unread, 1);
        return (0, FLAG_PARTIAL);
    }
    let stack = identify(park, u64::from(config.slot), &UserMemory);
    add(&raw const counts.frames, u64::from(stack.frames));
    if stack.flags & FLAG_PARTIAL != 0 {
        add(&raw const counts.partial, 1);
    }
    if let Some(known) = STACKS.get_ptr(&stack.id) {
        // SAFETY: as above; entries are written once.
        return if unsafe { *known } == stack.hash {
            add(&raw const counts.known, 1);
            (stack.id, stack.flags)
        } else {
            add(&raw const counts.collided, 1);
            (0, stack.flags)
        };
    }
    // Full, or another CPU was faster, which hands it over.
    if STACKS.insert(&stack.id, &stack.hash, NO_EXIST).is_err() {
        return if STACKS.get_ptr(&stack.id).is_some() {
            add(&raw const counts.known, 1);
            (stack.id, stack.flags)
        } else {
            add(&raw const counts.full, 1);
            (0, stack.flags)
        };
    }
    if hand_over(park, stack.id, header, config) {
        add(&raw const counts.new, 1);
        (stack.id, stack.flags)
    } else {
        add(&raw const counts.unsent, 1);
        // Whoever comes next tries again. That it is not there any more is no harm.
        let _ = STACKS.remove(&stack.id);
        (0, stack.flags)
    }
}

#[inline(always)]
fn hand_over(park: &Park, id: u32, header: &EventHeader, config: &ProcConfig) -> bool {
    let Some(counters) = counters(config, Probe::GoStack as u8) else { return false };
    counters.hit();
    let header = EventHeader {
        probe: Probe::GoStack as u8,
        sequence: next_switch(),
        goid: park.goid,
        flags: park.flags,
        ..*header
    };
    submit::<SwitchStack>(counters, |record| {
        record.header = header;
        record.stack = id;
        copy(park, &UserMemory, record);
        record.header.flags & FLAG_PARTIAL != 0
    })
}
