//! The keeper: a small process that has the links of the dear tiers, each for the length of a lease.
//!
//! Skipping a probe's body does not save its trap, so a dear probe must go when its time is up, whatever gotrail is
//! doing then: stopped by a signal, starved, stuck or dead. What holds a link must therefore not be gotrail. The keeper
//! starts a holder for each lease, which makes the links, so that there is no moment at which gotrail has one; it ends the
//! holder at the deadline unless it was told otherwise, and all of them at once when its socket to gotrail closes or gotrail's
//! process ends. Should the keeper itself be stopped, gotrail kills it, and the holders go with it. What stays on as long as
//! gotrail does is in holders as well, that gotrail starts itself: why, says `holder.rs`.

mod client;
mod held;
mod holder;
mod link;
mod often;
mod packet;
mod server;
mod warm;
mod wire;

pub(super) use client::Leased;
pub use client::{Leases, Report};
pub(super) use held::{Held, run as run_holder};
pub(super) use often::Often;
pub(super) use wire::Site;
pub use wire::Why;

pub use server::may_be_real_time;
pub(super) use server::run;

/// How long before its end is seen a holder that was killed may have taken its probes along, ns: the kernel takes tens of
/// milliseconds for them, and some for each link.
pub(super) const GOING_NS: u64 = 250_000_000;

/// First argument by which gotrail runs as a keeper.
pub(super) const VERB: &str = "keeper";
/// First argument by which gotrail runs as a holder of links of its own.
pub(super) const HOLDER_VERB: &str = "holder";
