//! What gotrail, its keeper and the holders say to each other, a packet for each message. All are the same executable, so there is
//! no version.

use bytemuck::{Pod, Zeroable};

/// Sites of one tier at most: the bound of a plan.
pub(super) const MAX_SITES: usize = 1024;

/// [`Order::kind`]: here are a tier's program and sites, with the descriptors of program, executable and, but to a holder, which
/// makes the link at once, a pidfd.
pub(super) const PREPARE: u32 = 1;
/// [`Order::kind`]: here are a tier's programs for [`TRACEPOINTS`], with three descriptors: the programs in their order, pidfd.
pub(super) const TRACE: u32 = 5;
/// [`Order::kind`]: have the tier's probes on until `lease_ns` from now.
pub(super) const BEGIN: u32 = 2;
/// [`Order::kind`]: let those that are on stay on until `lease_ns` from now. Nothing happens if they are off.
pub(super) const RENEW: u32 = 3;
/// [`Order::kind`]: take them off now.
pub(super) const END: u32 = 4;

/// The tracepoints of the one tier that has no sites.
pub(in crate::probe) const TRACEPOINTS: [&std::ffi::CStr; 2] = [c"sys_enter", c"sys_exit"];

/// What gotrail tells the keeper.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Order {
    /// `PREPARE`, `TRACE`, `BEGIN`, `RENEW` or `END`.
    pub(super) kind: u32,
    /// `TIER_` bit.
    pub(super) tier: u32,
    /// Length of the lease from the receipt on.
    pub(super) lease_ns: u64,
    /// `PREPARE`: the process that the link is scoped to, 0 for all.
    pub(super) pid: u32,
    /// `PREPARE`: how many [`Site`]s follow.
    pub(super) sites: u32,
    /// `PREPARE`: 1 if each of them takes a link of its own.
    pub(super) single: u32,
    /// And what `perf_event_open` calls uprobes then.
    pub(super) event_kind: u32,
}
const _: () = assert!(size_of::<Order>() == 32);

/// A site, as the kernel takes it.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(in crate::probe) struct Site {
    /// Offset in the file.
    pub(in crate::probe) offset: u64,
    /// Attach cookie.
    pub(in crate::probe) cookie: u64,
}
const _: () = assert!(size_of::<Site>() == 16);

/// [`Message::kind`]: the probes are on since `at_ns`.
pub(super) const ON: u32 = 1;
/// [`Message::kind`]: the probes began to go at `at_ns`, for the reason in `detail`.
pub(super) const OFF: u32 = 2;
/// [`Message::kind`]: a holder was started for the tier, here is a pidfd of it.
pub(super) const HOLDER: u32 = 5;
/// [`Message::kind`]: the lease was renewed: a sign of life.
pub(super) const KEPT: u32 = 4;
/// [`Message::kind`]: the probes can't be put on; `detail` is the errno.
pub(super) const REFUSED: u32 = 3;

/// What the keeper tells gotrail.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Message {
    /// `ON`, `OFF`, `HOLDER`, `KEPT` or `REFUSED`.
    pub(super) kind: u32,
    /// `TIER_` bit.
    pub(super) tier: u32,
    /// `CLOCK_MONOTONIC` ns.
    pub(super) at_ns: u64,
    /// By kind.
    pub(super) detail: u32,
    /// Zero.
    pub(super) padding: u32,
}
const _: () = assert!(size_of::<Message>() == 24);

/// Why probes went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// gotrail asked for it.
    Asked,
    /// The lease was over.
    Deadline,
    /// The target ended.
    TargetGone,
    /// The keeper itself ended.
    KeeperGone,
}

impl Why {
    pub(super) const fn to_wire(self) -> u32 {
        match self {
            Self::Asked => 0,
            Self::Deadline => 1,
            Self::TargetGone => 2,
            Self::KeeperGone => 3,
        }
    }

    pub(super) const fn from_wire(number: u32) -> Self {
        match number {
            0 => Self::Asked,
            1 => Self::Deadline,
            2 => Self::TargetGone,
            _ => Self::KeeperGone,
        }
    }

    /// What it is called in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Deadline => "lease over",
            Self::TargetGone => "process gone",
            Self::KeeperGone => "keeper gone",
        }
    }
}
