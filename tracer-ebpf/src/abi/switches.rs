//! What crosses the kernel border for T3: records of single switches, stacks, and sums made in the kernel.

use bytemuck::{Pod, Zeroable};

use super::EventHeader;
use crate::buckets::BUCKETS;

/// Name of the ring buffer of T3: one of its own, so that a storm of switches costs no rare event its place.
pub const MAP_SWITCHES: &str = "SWITCHES";
/// Name of the hash map `stack id (u32) -> hash (u64)` of the stacks that were handed over.
pub const MAP_STACKS: &str = "STACKS";
/// Name of the per-CPU array of [`SwitchCounters`], indexed by the slot of the process.
pub const MAP_SWITCH_COUNTERS: &str = "SWITCH_COUNTERS";
/// Name of the LRU map `goid -> `[`OpenWait`].
pub const MAP_OPEN_WAITS: &str = "OPEN_WAITS";
/// Name of the per-CPU hash map [`SumKey`]` -> `[`Sum`].
pub const MAP_SUMS: &str = "SUMS";

/// Name of the LRU map `thread (u32) -> `[`OpenCall`].
pub const MAP_OPEN_CALLS: &str = "OPEN_CALLS";

/// Threads whose system call is measured at once.
pub const MAX_OPEN_CALLS: u32 = 16_384;
/// Stacks that are told apart at once.
pub const MAX_STACKS: u32 = 8192;
/// Goroutines whose wait is measured at once in the kernel; the one longest untouched goes first.
pub const MAX_OPEN_WAITS: u32 = 65_536;
/// Distributions kept in the kernel.
pub const MAX_SUMS: u32 = 4096;
/// Return addresses of a goroutine that parks. Half of [`super::MAX_FRAMES`]: a switch is no rare event.
///
/// A power of two, so that masking an index keeps it in bounds for the verifier.
pub const MAX_SWITCH_FRAMES: usize = 32;
/// Calls of `gogo` that resume nothing: two in `newstack`, one each in `recovery` and `goschedguarded_m`; room for
/// copies that the compiler makes.
pub const MAX_RESUMES: usize = 6;
/// Ranges of assembly without a frame that makes system calls: that of package syscall and that of x/sys/unix, whose functions
/// lie one behind the other.
pub const MAX_FRAMELESS: usize = 4;
/// Calls of `gogo` in `coroswitch_m`; room for a copy.
pub const MAX_COROUTINE_CALLS: usize = 2;

/// [`EventHeader::flags`] of [`super::Probe::GoRun`]: one coroutine hands over to another, without the scheduler.
pub const FLAG_COROUTINE: u8 = 128;

/// One switch. With the eight bytes that the ring puts before it, it fits a cache line.
///
/// | probe | `header.goid` | `other` | `stack`, `reason` |
/// |---|---|---|---|
/// | `GoPark` | who parks | 0 | where (0 unknown), wait reason |
/// | `GoReady` | who wakes (0: the scheduler) | who is woken | 0 |
/// | `GoRun` | who runs now | 0 | 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SwitchEvent {
    /// Who, when, where.
    pub header: EventHeader,
    /// Another goroutine, see the table.
    pub other: u64,
    /// Id of the stack, 0 if unknown.
    pub stack: u32,
    /// Number of the wait reason in this Go version.
    pub reason: u8,
    /// Zero.
    pub padding: [u8; 3],
}
const _: () = assert!(size_of::<SwitchEvent>() == 48);

/// A stack that [`SwitchEvent`]s name by its id, sent once ([`super::Probe::GoStack`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SwitchStack {
    /// Who had it first, when, where.
    pub header: EventHeader,
    /// Its id, not 0.
    pub stack: u32,
    /// How many of `pcs` are set.
    pub len: u32,
    /// Program counters, innermost first; the first is exact, the others are return addresses.
    pub pcs: [u64; MAX_SWITCH_FRAMES],
}
const _: () = assert!(size_of::<SwitchStack>() == 296);

/// What became of stacks and of waits measured in the kernel, on one CPU.
///
/// Of each park that has a record or a place in a sum, the stack is exactly one of `known`, `new`, `collided`, `full`,
/// `unsent` and `unread`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct SwitchCounters {
    /// Stacks that had been handed over before.
    pub known: u64,
    /// Stacks that were handed over.
    pub new: u64,
    /// Stacks with the id of another one: the switch has none.
    pub collided: u64,
    /// Stacks beyond [`MAX_STACKS`]: the switch has none.
    pub full: u64,
    /// Stacks for which the ring had no room: the switch has none, and the next one tries again.
    pub unsent: u64,
    /// Stacks of which not even the first address could be read.
    pub unread: u64,
    /// Stacks, among those above, that were read in part: an outer frame was not resident.
    pub partial: u64,
    /// Waits that began to be measured in the kernel.
    pub opened: u64,
    /// Waits whose end was measured. What was opened is closed, still open, or evicted.
    pub closed: u64,
    /// Wake-ups and runs of goroutines whose wait was not seen to begin.
    pub unmatched: u64,
    /// Traps of T3 outside of a stretch of observation: they cost the target a trap, and nothing is made of them.
    pub outside: u64,
    /// Frames that were walked to tell stacks apart: what a park costs depends on them.
    pub frames: u64,
}
const _: () = assert!(size_of::<SwitchCounters>() == 96);

/// A wait that is being measured in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct OpenWait {
    /// When the goroutine parked, 0 if that was not seen.
    pub parked_ns: u64,
    /// When it was woken, 0 if it was not, or unseen.
    pub ready_ns: u64,
    /// Where it parked.
    pub stack: u32,
    /// The stretch of observation; what was begun in another one is not gone on with.
    pub epoch: u32,
    /// Why it parked.
    pub reason: u32,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<OpenWait>() == 32);

/// A system call that has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct OpenCall {
    /// When; 0 when it has ended.
    pub time_ns: u64,
    /// [`super::ProcConfig::calls_epoch`] then.
    pub epoch: u32,
    /// Its number on this architecture.
    pub number: u32,
    /// How long a call took until a signal interrupted it, which the thread makes anew, ns.
    pub before_ns: u64,
    /// That call's number and one; 0 for none.
    pub interrupted: u32,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<OpenCall>() == 32);

/// [`SumKey::kind`]: from park to wake-up.
pub const SUM_BLOCKED: u8 = 1;
/// [`SumKey::kind`]: from park to run, where the wake-up is not seen (network poller, GC workers).
pub const SUM_BLOCKED_TO_RUN: u8 = 2;
/// [`SumKey::kind`]: from wake-up to run. By reason alone.
pub const SUM_RUNNABLE: u8 = 3;

/// [`SumKey::kind`]: in a system call.
pub const SUM_SYSTEM_CALL: u8 = 4;

/// What a sum is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct SumKey {
    /// Slot of the process.
    pub slot: u8,
    /// A `SUM_` number.
    pub kind: u8,
    /// Wait reason, or number of the system call.
    pub reason: u16,
    /// Stack id; 0 unknown, or not by stack.
    pub stack: u32,
}
const _: () = assert!(size_of::<SumKey>() == 8);

/// A distribution of times in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub total_ns: u64,
    /// By bucket, see [`crate::buckets::bucket`].
    pub buckets: [u64; BUCKETS],
}
const _: () = assert!(size_of::<Sum>() == 16 + 8 * BUCKETS);
