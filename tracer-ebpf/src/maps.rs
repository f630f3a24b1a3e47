//! The maps, and the accounting that every record goes through.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use tracer_ebpf::{MAX_PROBES, MAX_PROCESSES, MAX_THREADS, ProbeCounters, ProcConfig, counter_index};

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

/// Which M a thread is. Filled for a profile alone, so nothing is allocated before.
#[map]
static THREADS: HashMap<u32, u64> = HashMap::with_max_entries(MAX_THREADS, BPF_F_NO_PREALLOC);

/// Leaves the consumer asleep: it comes by timer. A wakeup costs the target more than all else a probe does.
const BPF_RB_NO_WAKEUP: u64 = 1;
/// What can be asked of a ring, in bytes (include/uapi/linux/bpf.h).
const BPF_RB_AVAIL_DATA: u64 = 0;
const BPF_RB_RING_SIZE: u64 = 1;

#[inline(always)]
pub fn process(tgid: u32) -> Option<&'static ProcConfig> {
    let config = PROCESSES.get_ptr(&tgid)?;
    // SAFETY: the agent writes an entry before it switches tiers on and replaces it whole; the kernel keeps
    // the memory of map values valid for the length of a program run.
    Some(unsafe { &*config })
}

/// The M of a thread, 0 if the agent has not told it.
#[inline(always)]
pub fn m_of(thread: u32) -> u64 {
    // SAFETY: the value is copied at once; the agent may write another meanwhile, which is as good.
    unsafe { THREADS.get(&thread) }.copied().unwrap_or(0)
}

#[inline(always)]
pub fn counters(config: &ProcConfig, probe: u8) -> Option<Counters> {
    let counters = COUNTERS.get_ptr_mut(counter_index(config.slot, probe))?;
    // SAFETY: the kernel keeps the memory of map values valid for the length of a program run.
    Some(Counters(unsafe { &*counters }))
}

/// One row of counters. A program may be preempted by another one on the same CPU that counts in the same
/// row, so each step is atomic.
#[derive(Clone, Copy)]
pub struct Counters(&'static ProbeCounters);

impl Counters {
    #[inline(always)]
    pub fn hit(self) {
        add_one(&raw const self.0.hits);
    }

    /// Hits so far.
    #[inline(always)]
    pub fn hits(self) -> u64 {
        // SAFETY: a number in a live map value, which others on this CPU may change meanwhile.
        unsafe { core::ptr::read_volatile(&raw const self.0.hits) }
    }

    #[inline(always)]
    pub fn refused(self) {
        add_one(&raw const self.0.refused);
    }

    #[inline(always)]
    pub fn summed(self) {
        add_one(&raw const self.0.summed);
    }

    #[inline(always)]
    pub fn lost_map(self) {
        add_one(&raw const self.0.lost_map);
    }

    #[inline(always)]
    pub fn skipped(self) {
        add_one(&raw const self.0.skipped);
    }

    #[inline(always)]
    pub fn faulted(self) {
        add_one(&raw const self.0.faulted);
    }

    #[inline(always)]
    fn delivered(self) {
        add_one(&raw const self.0.delivered);
    }

    #[inline(always)]
    fn lost(self) {
        add_one(&raw const self.0.lost_ring);
    }

    #[inline(always)]
    fn partial(self) {
        add_one(&raw const self.0.partial);
    }
}

#[inline(always)]
fn add_one(counter: *const u64) {
    add(counter, 1);
}

/// Adds to a number in the value of a map. The BPF target has no atomic read-modify-write in `core`; this is the
/// instruction itself.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn add(counter: *const u64, more: u64) {
    // SAFETY: the address is that of a counter in a live map value, aligned to 8 bytes.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {more}", counter = in(reg) counter, more = in(reg) more);
    }
}

/// Stands in where the programs are checked as host code, and never runs.
#[cfg(not(target_arch = "bpf"))]
pub fn add(_counter: *const u64, _more: u64) {}

#[inline(always)]
pub fn next_sequence() -> u32 {
    next_of(&SEQUENCE)
}

/// The next number of this CPU's records in one of the rings.
#[inline(always)]
pub fn next_of(numbers: &PerCpuArray<u32>) -> u32 {
    let Some(sequence) = numbers.get_ptr_mut(0) else { return 0 };
    // SAFETY: as for the counters. Two programs that preempt each other may take the same number or swap
    // theirs; the reader looks at how many there are between the first and the highest, not at each step.
    unsafe {
        *sequence = (*sequence).wrapping_add(1);
        *sequence
    }
}

/// Reserves a record, lets `fill` write it (it says whether some read failed), hands it over, and counts.
#[inline(always)]
pub fn emit<T: 'static>(counters: Counters, fill: impl FnOnce(&mut T) -> bool) {
    deliver(&EVENTS, counters, fill);
}

/// Likewise of records that may come in floods: they leave the last eighth of the ring to the others, among which is the
/// one that tells why the process died.
#[inline(always)]
pub fn emit_with_room<T: 'static>(counters: Counters, fill: impl FnOnce(&mut T) -> bool) {
    let (taken, size) = (EVENTS.query(BPF_RB_AVAIL_DATA), EVENTS.query(BPF_RB_RING_SIZE));
    if taken > size - size / 8 {
        counters.lost();
    } else {
        deliver(&EVENTS, counters, fill);
    }
}

/// Likewise into a ring, and says whether it had room.
#[inline(always)]
pub fn deliver<T: 'static>(ring: &RingBuf, counters: Counters, fill: impl FnOnce(&mut T) -> bool) -> bool {
    let Some(mut entry) = ring.reserve::<T>(0) else {
        counters.lost();
        return false;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the ring gave room for a T, 8-byte aligned. Every T here is plain old data, for which any bytes
    // are valid. What `fill` leaves out (the unused ends of the arrays, whose lengths are in the record) still
    // holds bytes of this ring's own earlier records, which its one reader has had anyway.
    let record = unsafe { &mut *record };
    if fill(record) {
        counters.partial();
    }
    entry.submit(BPF_RB_NO_WAKEUP);
    counters.delivered();
    true
}
