//! The maps, and the accounting that every record goes through.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use tracer_ebpf::{MAX_PROBES, MAX_PROCESSES, ProbeCounters, ProcConfig, counter_index};

/// Processes that are watched; a hit of any other one ends here.
#[map]
static PROCESSES: HashMap<u32, ProcConfig> = HashMap::with_max_entries(MAX_PROCESSES, 0);

/// Every record. The agent sets the size when it loads the programs.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

#[map]
static COUNTERS: PerCpuArray<ProbeCounters> = PerCpuArray::with_max_entries(MAX_PROCESSES * MAX_PROBES, 0);

#[map]
static SEQUENCE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// Leaves the consumer asleep: it comes by timer. A wakeup costs the target more than all else a probe does.
const BPF_RB_NO_WAKEUP: u64 = 1;

#[inline(always)]
pub fn process(tgid: u32) -> Option<&'static ProcConfig> {
    let config = PROCESSES.get_ptr(&tgid)?;
    // SAFETY: the agent writes an entry before it switches tiers on and replaces it whole; the kernel keeps
    // the memory of map values valid for the length of a program run.
    Some(unsafe { &*config })
}

#[inline(always)]
pub fn counters(config: &ProcConfig, probe: u8) -> Option<&'static mut ProbeCounters> {
    let counters = COUNTERS.get_ptr_mut(counter_index(config.slot, probe))?;
    // SAFETY: the row belongs to this CPU, and a program is not interrupted by another one that counts in
    // the same row: uprobe programs run with migration off, one at a time on a CPU for one task.
    Some(unsafe { &mut *counters })
}

#[inline(always)]
pub fn next_sequence() -> u32 {
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else { return 0 };
    // SAFETY: as for the counters.
    unsafe {
        *sequence = (*sequence).wrapping_add(1);
        *sequence
    }
}

/// Reserves a record, lets `fill` write it (it says whether some read failed), hands it over, and counts.
#[inline(always)]
pub fn emit<T: 'static>(counters: &mut ProbeCounters, fill: impl FnOnce(&mut T) -> bool) {
    let Some(mut entry) = EVENTS.reserve::<T>(0) else {
        counters.lost_ring += 1;
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a T, 8-byte aligned. Every T here is plain old data, for which any bytes
    // are valid. What `fill` leaves out (the unused ends of the arrays, whose lengths are in the record) still
    // holds bytes of this ring's own earlier records, which its one reader has had anyway.
    let record = unsafe { &mut *record };
    if fill(record) {
        counters.partial += 1;
    }
    entry.submit(BPF_RB_NO_WAKEUP);
    counters.delivered += 1;
}
