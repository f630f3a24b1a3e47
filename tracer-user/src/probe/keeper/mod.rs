//! The keeper: a small process that holds the links of the dear tiers, each for the length of a lease.
//!
//! Skipping a probe's body does not save its trap, so a dear probe must go when its time is up, whatever gotrail is
//! doing then: stopped by a signal, starved, stuck or dead. What holds a link must therefore not be gotrail. The keeper
//! makes the links itself, so that there is no moment at which gotrail has one, and drops each at its deadline unless it
//! was told otherwise; it drops all of them at once when its socket to gotrail closes or gotrail's process ends. Should
//! the keeper itself be stopped, gotrail kills it, and the links go with it.

mod client;
mod link;
mod server;
mod warm;
mod wire;

pub(super) use client::Leased;
pub use client::{Leases, Report};
pub(super) use link::create;
pub(super) use wire::Site;
pub use wire::Why;

pub use server::may_be_real_time;
pub(super) use server::run;

/// First argument by which gotrail runs as a keeper.
pub(super) const VERB: &str = "keeper";
