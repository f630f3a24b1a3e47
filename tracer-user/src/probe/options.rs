//! How a session is attached.

use std::time::Duration;

use tracer_ebpf::{TIER_SYSCALLS, TIER_T1, TIER_T2, TIER_T3};

/// How long switches are observed that were asked for, until somebody renews.
pub(super) const SWITCHES_LEASE: Duration = Duration::from_secs(1);

/// How much longer than asked for a lease is, so that whoever is awake ends it in order.
const IN_ORDER: Duration = Duration::from_millis(200);

/// How a session is attached.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `TIER_` bits.
    pub tiers: u32,
    /// Bytes of the ring buffer; the kernel wants a power of two of pages.
    pub ring_bytes: u32,
    /// Copy panic and fatal texts out of the process (SEC-1).
    pub capture_text: bool,
    /// How long the second tier is on at first: until then somebody must have looked at what it costs, and renewed. Nothing:
    /// it is off, where it can be had by lease.
    pub first_lease: Duration,
    /// What T3 makes of switches.
    pub switches: SwitchMode,
    /// With T3 among the tiers: observe switches from the begin, for so long. `None`: when somebody asks for a lease.
    pub switches_for: Option<Duration>,
    /// Observe the system calls of goroutines from the begin, for so long. The tracepoints are run for those of all
    /// processes of the machine meanwhile.
    pub syscalls_for: Option<Duration>,
}

/// What T3 makes of switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwitchMode {
    /// A record of each.
    #[default]
    Records,
    /// Distributions by wait reason and stack, counted in the kernel: several times cheaper to take in, but it does
    /// not tell who woke whom.
    Sums,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tiers: TIER_T1 | TIER_T2,
            ring_bytes: 4 << 20,
            capture_text: true,
            first_lease: Duration::from_millis(250),
            switches: SwitchMode::Records,
            switches_for: None,
            syscalls_for: None,
        }
    }
}

/// The tiers that are on from the begin, and for how long at first.
pub(super) fn first_leases(options: &Options) -> impl Iterator<Item = (u32, Duration)> {
    let switches = options.switches_for.map(|_| (TIER_T3, SWITCHES_LEASE));
    // Nothing in the programs ends them: no longer than was asked for, and what it takes to be ended in order.
    let syscalls = options.syscalls_for.map(|time| (TIER_SYSCALLS, SWITCHES_LEASE.min(time + IN_ORDER)));
    [(TIER_T2, options.first_lease)]
        .into_iter()
        .chain(switches)
        .chain(syscalls)
        .filter(|(_, length)| !length.is_zero())
}
