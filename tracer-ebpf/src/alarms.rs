//! Wakes the governor when probes are hit often: what a target loses before somebody looks is bounded by hits then, and not by
//! time.

use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;

use crate::maps::Counters;

/// The agent waits for these. One that has no room is none: somebody is awake then.
#[map]
static ALARMS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// After so many hits of a probe on a CPU, less one; the agent sets it when it loads the programs. A power of two less one.
#[unsafe(no_mangle)]
static ALARM_MASK: u64 = 1023;

/// `BPF_RB_FORCE_WAKEUP`.
const WAKE: u64 = 2;

/// Tells of a hit that was just counted, if it is one to tell of.
#[inline(always)]
pub fn tell(counters: Counters) {
    tell_each(counters, 0);
}

/// The same for hits that cost up to ten times as much, as a stack goes with them.
#[inline(always)]
pub fn tell_dear(counters: Counters) {
    tell_each(counters, 3);
}

#[inline(always)]
fn tell_each(counters: Counters, shift: u32) {
    // SAFETY: a constant that the loader may have changed before the programs were loaded.
    let mask = unsafe { core::ptr::read_volatile(&raw const ALARM_MASK) } >> shift;
    let hits = counters.hits();
    if hits & mask == 0 {
        let _ = ALARMS.output(&hits, WAKE);
    }
}
