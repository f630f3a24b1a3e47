//! The governor: keeps what the probes cost within the budget (COST-1), on a thread of its own.
//!
//! Dear tiers are on all the time while that fits, else in sampling windows whose length and spacing follow the measured
//! rate, else not at all. What decides ([`decide`], [`tier`], [`rare`], [`purse`]) is pure; [`worker`] is what the thread does.

mod costs;
mod decide;
mod purse;
mod rare;
mod run;
mod step;
#[cfg(test)]
mod tests;
mod tier;
mod worker;

pub use costs::{Costs, Prices};
pub use run::{Ledger, TierState};
pub(super) use run::{Running, Subject};
pub use step::{Mode, Numbers, Step, Stretch};
pub(super) use tier::STEADY_LEASE;
