//! T3 summed up in the kernel: distributions by wait reason and stack, with no record of a single switch.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap, PerCpuHashMap};
use tracer_ebpf::buckets::{BUCKETS, bucket};
use tracer_ebpf::switch::Park;
use tracer_ebpf::{
    MAX_OPEN_WAITS, MAX_SUMS, OpenWait, SUM_BLOCKED, SUM_BLOCKED_TO_RUN, SUM_RUNNABLE, Sum, SumKey,
    SwitchCounters,
};

use crate::maps::add;
use crate::tiers::Hit;

/// Waits that have not ended. The one longest untouched is evicted; opened less closed less present tells how many.
#[map]
static OPEN_WAITS: LruHashMap<u64, OpenWait> = LruHashMap::with_max_entries(MAX_OPEN_WAITS, 0);

/// `BPF_F_NO_PREALLOC`: for each CPU there is a copy of each sum, of which most are never needed.
#[map]
static SUMS: PerCpuHashMap<SumKey, Sum> = PerCpuHashMap::with_max_entries(MAX_SUMS, 1);

/// What a sum begins with: larger than a program's stack. Never written to.
#[map]
static EMPTY_SUM: Array<Sum> = Array::with_max_entries(1, 0);

/// `BPF_ANY`.
const ANY: u64 = 0;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;

/// goids are of one process; the slot keeps those of two apart.
#[inline(always)]
fn key(hit: &Hit, goid: u64) -> u64 {
    goid | u64::from(hit.config.slot) << 56
}

/// The wait of a goroutine, if it was begun in this stretch of observation.
#[inline(always)]
fn open(hit: &Hit, key: u64) -> Option<&'static mut OpenWait> {
    let wait = OPEN_WAITS.get_ptr_mut(&key)?;
    // SAFETY: the kernel keeps the memory of map values valid for the length of a program run. One goroutine parks, is
    // woken and runs on one thread at a time, each after the other; an entry that is evicted and used anew meanwhile
    // gives one wrong time at worst, where an eviction was counted.
    let wait = unsafe { &mut *wait };
    (wait.epoch == hit.config.epoch).then_some(wait)
}

#[inline(always)]
pub fn parks(hit: &Hit, park: &Park, stack: u32, counts: &SwitchCounters) {
    let wait = OpenWait {
        parked_ns: hit.header.time_ns,
        ready_ns: 0,
        stack,
        epoch: hit.config.epoch,
        reason: u32::from(park.reason),
        padding: 0,
    };
    begin(hit, key(hit, park.goid), &wait, counts);
}

#[inline(always)]
fn begin(hit: &Hit, key: u64, wait: &OpenWait, counts: &SwitchCounters) {
    if let Some(old) = OPEN_WAITS.get_ptr_mut(&key) {
        // SAFETY: as in `open`.
        unsafe { *old = *wait };
        hit.counters.summed();
        return;
    }
    if OPEN_WAITS.insert(&key, wait, ANY).is_err() {
        hit.counters.lost_map();
        return;
    }
    add(&raw const counts.opened, 1);
    hit.counters.summed();
}

#[inline(always)]
pub fn wakes(hit: &Hit, goid: u64, counts: &SwitchCounters) {
    let key = key(hit, goid);
    let now = hit.header.time_ns;
    let Some(wait) = open(hit, key) else {
        add(&raw const counts.unmatched, 1);
        // How long it waited is not known; how long it waits to run from now on will be.
        let wait = OpenWait { ready_ns: now, epoch: hit.config.epoch, ..OpenWait::default() };
        return begin(hit, key, &wait, counts);
    };
    wait.ready_ns = now;
    let kind = if wait.parked_ns == 0 { 0 } else { SUM_BLOCKED };
    close(hit, kind, wait.reason, wait.stack, now.saturating_sub(wait.parked_ns));
}

#[inline(always)]
pub fn runs(hit: &Hit, goid: u64, counts: &SwitchCounters) {
    let key = key(hit, goid);
    let now = hit.header.time_ns;
    let Some(wait) = open(hit, key) else {
        add(&raw const counts.unmatched, 1);
        hit.counters.summed();
        return;
    };
    let wait = *wait;
    if OPEN_WAITS.remove(&key).is_ok() {
        add(&raw const counts.closed, 1);
    }
    if wait.ready_ns == 0 {
        close(hit, SUM_BLOCKED_TO_RUN, wait.reason, wait.stack, now.saturating_sub(wait.parked_ns));
    } else {
        close(hit, SUM_RUNNABLE, wait.reason, 0, now.saturating_sub(wait.ready_ns));
    }
}

/// Puts a time into its sum; `kind` 0 is none. The hit is counted either way.
#[inline(always)]
pub fn close(hit: &Hit, kind: u8, reason: u32, stack: u32, ns: u64) {
    if kind == 0 {
        return hit.counters.summed();
    }
    let Some(sum) = sum_of(hit, kind, reason, stack) else { return hit.counters.lost_map() };
    let at = bucket(ns);
    // The compiler forgets the bound by the time the address is made; the verifier wants it there.
    let at = if at < BUCKETS { at } else { 0 };
    // SAFETY: as for the counters: values of maps stay valid, and are changed by atomic instructions alone, since a
    // program may preempt another one on the same CPU.
    unsafe {
        add(&raw const (*sum).count, 1);
        add(&raw const (*sum).total_ns, ns);
        add((&raw const (*sum).buckets).cast::<u64>().add(at), 1);
    }
    hit.counters.summed();
}

#[inline(always)]
fn sum_of(hit: &Hit, kind: u8, reason: u32, stack: u32) -> Option<*mut Sum> {
    let key = SumKey { slot: hit.config.slot as u8, kind, reason: reason as u16, stack };
    if let Some(sum) = SUMS.get_ptr_mut(&key) {
        return Some(sum);
    }
    let empty = EMPTY_SUM.get(0)?;
    // That another one was faster is as good.
    let _ = SUMS.insert(&key, empty, NO_EXIST);
    SUMS.get_ptr_mut(&key)
}
