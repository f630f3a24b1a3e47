//! Findings: what is wrong, with evidence, a degree, and what would disprove it. Pure: model in, findings
//! out. One file for each kind.

mod crash;
mod deadlock;
mod figures;
mod finding;
mod forced_gc;
mod gomaxprocs;
mod leak;
mod ledger;
mod long_stw;
mod sites;
mod stuck;
mod text;

pub use figures::{Look, Remark, remarks};
pub use finding::{Degree, Finding, Role, SiteRef, State, Trend};
pub use ledger::{Change, Ledger, Reported};
#[cfg(feature = "probe")]
pub(crate) use sites::call_frames;
pub use sites::{Context, Thresholds, caller_site, system_call_frame};
pub use stuck::watched_connections;
pub use text::{crash_text, panic_type};

/// Looks for everything once.
#[must_use]
pub fn examine(context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(crash::detect(context));
    findings.extend(deadlock::detect(context));
    findings.extend(stuck::detect(context));
    findings.extend(leak::detect(context));
    findings.extend(forced_gc::detect(context));
    findings.extend(gomaxprocs::detect(context));
    findings.extend(long_stw::detect(context));
    findings
}
