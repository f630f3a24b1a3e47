//! Taking rare probes off that cost too much, and putting them back.

use tracer_ebpf::{Probe, TIER_T1};

use super::{Owner, Session};
use crate::binary::{Plan, Site, Unavailable};
use crate::memory::monotonic_ns;
use crate::probe::check::check_sites;
use crate::probe::error::ProbeError;
use crate::probe::kernel::Kernel;
use crate::probe::links::{link, prepare};

/// The link of the rare tier was made anew: from one time to another (`CLOCK_MONOTONIC` ns) none of its probes was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relink {
    /// When the old one was dropped.
    pub from_ns: u64,
    /// When the new one was there.
    pub to_ns: u64,
    /// The process whose cost was the reason.
    pub by: u32,
    /// What is off from then on.
    pub off: Vec<Probe>,
    /// Why there is no new one, if there is not.
    pub failed: Option<String>,
}

/// Has a plan without the probes that are off, whose sites are kept aside, and those with it that are not any more.
pub(in crate::probe) fn set_off(plan: &mut Plan, aside: &mut Vec<Site>, off: &[Probe]) {
    let all = std::mem::take(&mut plan.sites).into_iter().chain(std::mem::take(aside));
    (*aside, plan.sites) = all.partition(|site| off.contains(&site.probe));
    plan.unavailable.retain(|u| u.why != TAKEN_OFF);
    let lost = off.iter().map(|probe| Unavailable { probe: *probe, why: TAKEN_OFF.to_owned(), lost: true });
    plan.unavailable.extend(lost);
}

/// What is said of them.
const TAKEN_OFF: &str = "taken off: it is hit too often for the budget";

impl Session {
    /// Takes some probes of the rare tier off and leaves the others on. A link can't be changed: it is dropped and made
    /// anew, and what is hit in between is not seen ([`Self::relinks`]): shortest where it need not go `at_once`.
    ///
    /// # Errors
    /// [`ProbeError`] if the rest can't be put back; the tier is off then.
    pub fn take_off(&mut self, probes: &[Probe], at_once: bool) -> Result<(), ProbeError> {
        if let Owner::Fleet(member) = &self.owner {
            return member.take_off(probes);
        }
        let changed = self.plan.sites.iter().any(|s| s.probe.tier() == TIER_T1 && probes.contains(&s.probe));
        let off: Vec<Probe> =
            self.taken_off.iter().map(|site| site.probe).chain(probes.iter().copied()).collect();
        set_off(&mut self.plan, &mut self.taken_off, &off);
        if !changed || self.links.tiers() & TIER_T1 == 0 {
            return Ok(());
        }
        // What takes longest is done while the old one is still there. If it fails, it does once more, and that is told.
        let mut from_ns = monotonic_ns();
        if at_once {
            self.links.detach(TIER_T1);
        } else if let Owner::Alone(alone) = &mut self.owner {
            drop(prepare(&mut alone.ebpf, TIER_T1, self.kind, &Kernel::known(self.kind)));
        }
        if !at_once {
            from_ns = monotonic_ns();
            self.links.detach(TIER_T1);
        }
        let made = self.relink(TIER_T1);
        let failed = made.as_ref().err().map(ToString::to_string);
        let by = self.target.pid();
        self.relinks.push(Relink { from_ns, to_ns: monotonic_ns(), by, off, failed });
        made
    }

    /// Puts probes back that were taken off, by a link of their own.
    ///
    /// # Errors
    /// [`ProbeError`]; then they stay off.
    pub fn put_back(&mut self, probes: &[Probe]) -> Result<(), ProbeError> {
        if let Owner::Fleet(member) = &self.owner {
            return member.put_back(probes);
        }
        let back: Vec<Site> = self.taken_off.iter().filter(|s| probes.contains(&s.probe)).cloned().collect();
        if !back.is_empty() {
            self.link_sites(TIER_T1, &back.iter().collect::<Vec<_>>())?;
        }
        let still = self.taken_off.iter().map(|site| site.probe).filter(|probe| !probes.contains(probe));
        let still: Vec<Probe> = still.collect();
        set_off(&mut self.plan, &mut self.taken_off, &still);
        Ok(())
    }

    /// How the link of the rare tier was made anew since this was asked last, by whomever.
    pub fn relinks(&mut self) -> Vec<Relink> {
        let Owner::Fleet(member) = &self.owner else { return std::mem::take(&mut self.relinks) };
        let relinks = member.relinks();
        if let Some(last) = relinks.last() {
            set_off(&mut self.plan, &mut self.taken_off, &last.off);
        }
        relinks
    }

    /// Puts a tier on that is off and not had by lease.
    ///
    /// # Errors
    /// [`ProbeError`]; then it stays off.
    pub fn relink(&mut self, tier: u32) -> Result<(), ProbeError> {
        let sites: Vec<Site> = self.plan.tier(tier).cloned().collect();
        if sites.is_empty() || self.links.tiers() & tier != 0 {
            return Ok(());
        }
        self.link_sites(tier, &sites.iter().collect::<Vec<_>>())
    }

    fn link_sites(&mut self, tier: u32, sites: &[&Site]) -> Result<(), ProbeError> {
        // What is shared is linked by its owner.
        let Owner::Alone(alone) = &mut self.owner else { return Ok(()) };
        // Nothing is put on again at the end, not even for the moment that it takes to be refused.
        if self.links.is_closed() {
            return Ok(());
        }
        let kernel = Kernel::known(self.kind);
        check_sites(&self.target, self.bias, &self.plan.sites)?;
        let made = link(&mut alone.ebpf, tier, sites, &self.target, self.kind, &kernel)?;
        self.links.add(tier, made.link);
        Ok(())
    }
}
