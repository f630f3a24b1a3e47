//! Taking rare probes off that cost too much, and putting them back; and putting back what somebody took.

use tracer_ebpf::{Probe, TIER_T1, TIER_T2, TIER_T3};

use super::{Owner, Session};
use crate::binary::{Plan, Site, Unavailable};
use crate::memory::monotonic_ns;
use crate::probe::check::check_sites;
use crate::probe::error::ProbeError;
use crate::probe::keeper::GOING_NS;
use crate::probe::kernel::{Kernel, Links};
use crate::probe::links::{link, prepare};

/// The link of the rare tier was made anew: from one time to another (`CLOCK_MONOTONIC` ns) none of its probes was on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relink {
    /// When the old one was dropped.
    pub from_ns: u64,
    /// When the new one was there.
    pub to_ns: u64,
    /// The process whose cost was the reason; `None` if somebody had killed the process that held the link.
    pub by: Option<u32>,
    /// What is off from then on.
    pub off: Vec<Probe>,
    /// Why there is no new one, if there is not.
    pub failed: Option<String>,
}

/// The tiers whose links are held for as long as they are wanted.
const EACH: [u32; 3] = [TIER_T1, TIER_T2, TIER_T3];

/// Probes that somebody took were put on again: from one time to another (`CLOCK_MONOTONIC` ns) they were off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// `TIER_` bit.
    pub tier: u32,
    /// When they were still on.
    pub from_ns: u64,
    /// When they were on again.
    pub to_ns: u64,
    /// Why they are not, if they are not.
    pub failed: Option<String>,
}

/// What is said when that is not done for the time being.
pub(in crate::probe) const TOO_OFTEN: &str =
    "time and again somebody kills the process that holds them; they are tried again in some minutes";
/// When it is tried again after it failed, ns.
pub(in crate::probe) const AGAIN_NS: u64 = 10_000_000_000;
/// And for each link, where a site takes one: they go one by one.
pub(in crate::probe) const GOING_EACH_NS: u64 = 150_000_000;

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
        let mut by = Some(self.target.pid());
        if self.links.take_killed(TIER_T1) != 0 {
            (from_ns, by) = (self.on_until_ns(TIER_T1), None);
        }
        self.tell_relink(Relink { from_ns, to_ns: monotonic_ns(), by, off, failed });
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

    /// Has those probes put on again that somebody took by killing the process that held them. Says so of the rare tier by
    /// [`Self::relinks`], and returns the others.
    pub fn mend(&mut self) -> Vec<Mended> {
        if let Owner::Fleet(member) = &self.owner {
            member.mend();
            return Vec::new();
        }
        if self.links.is_closed() {
            return self.find_killed();
        }
        let Some(ended) = self.links.ended() else { return Vec::new() };
        let now_ns = monotonic_ns();
        if let Some((next_ns, by)) = self.missing {
            if now_ns >= next_ns && self.mends.is_allowed(now_ns) {
                let failed = self.relink(TIER_T1).err().map(|error| error.to_string());
                self.tell_rare(self.since_ns, by, failed);
            }
        } else if ended == 0 {
            self.seen_ns = now_ns;
            return Vec::new();
        }
        let mut mended = Vec::new();
        for tier in EACH.into_iter().filter(|tier| ended & tier != 0) {
            // Somebody else may have been quicker, whose reason is told.
            if self.links.take_off(tier) == 0 {
                continue;
            }
            self.links.take_killed(tier);
            let failed = if !self.mends.is_allowed(now_ns) {
                Some(TOO_OFTEN.to_owned())
            } else if tier == TIER_T3 {
                Some("switches are not observed any more".to_owned())
            } else {
                self.relink(tier).err().map(|error| error.to_string())
            };
            mended.extend(self.tell_mended(tier, failed));
        }
        if self.missing.is_none() {
            self.seen_ns = monotonic_ns();
        }
        mended
    }

    /// What somebody took just before all were taken off.
    fn find_killed(&mut self) -> Vec<Mended> {
        let why = "the watch ends";
        if let Some((_, by)) = self.missing {
            self.tell_rare(self.since_ns, by, Some(why.to_owned()));
            self.missing = None;
        }
        let killed = self.links.take_killed(u32::MAX);
        EACH.into_iter()
            .filter(|tier| killed & tier != 0)
            .filter_map(|tier| self.tell_mended(tier, Some(why.to_owned())))
            .collect()
    }

    fn tell_mended(&mut self, tier: u32, failed: Option<String>) -> Option<Mended> {
        let from_ns = self.on_until_ns(tier);
        if tier != TIER_T1 {
            return Some(Mended { tier, from_ns, to_ns: monotonic_ns(), failed });
        }
        self.tell_rare(from_ns, None, failed);
        None
    }

    fn tell_rare(&mut self, from_ns: u64, by: Option<u32>, failed: Option<String>) {
        let off = self.taken_off.iter().map(|site| site.probe).collect();
        self.tell_relink(Relink { from_ns, to_ns: monotonic_ns(), by, off, failed });
    }

    fn tell_relink(&mut self, relink: Relink) {
        self.since_ns = relink.to_ns;
        self.missing = relink.failed.is_some().then(|| (relink.to_ns.saturating_add(AGAIN_NS), relink.by));
        self.relinks.push(relink);
    }

    /// Until when the probes of a tier were on at least that somebody took.
    fn on_until_ns(&self, tier: u32) -> u64 {
        let each = if self.kind == Links::Single { self.plan.tier(tier).count() as u64 } else { 0 };
        let until_ns = self.seen_ns.saturating_sub(GOING_NS + GOING_EACH_NS * each);
        if tier == TIER_T1 { until_ns.max(self.since_ns) } else { until_ns }
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
