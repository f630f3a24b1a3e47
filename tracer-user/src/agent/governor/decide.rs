//! The governor's decisions: pure, by what it is told of time, CPU time and hits.

use std::collections::HashMap;

use tracer_ebpf::{Probe, TIER_T1, TIER_T3};

use super::costs::Costs;
use super::purse::Purse;
use super::rare::Rare;
use super::step::{Mode, Step};
use super::tier::{Command, Rule, Tier};
use crate::probe::Why;

/// One look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    /// When, `CLOCK_MONOTONIC` ns.
    pub(super) at_ns: u64,
    /// CPU time that the target has used so far, ns.
    pub(super) cpu_ns: u64,
    /// Hits so far, of the probes that were looked at.
    pub(super) hits: &'a [(Probe, u64)],
    /// What T3's programs did so far besides hits, which is paid for too: traps outside of a stretch, and frames walked.
    pub(super) outside: u64,
    pub(super) frames: u64,
    /// By tier: how many hits a second there would be, as memory tells.
    pub(super) hints: &'a [(u32, f64)],
}

/// What is to be done, and what is to be told.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) commands: Vec<Command>,
    pub(super) steps: Vec<Step>,
}

/// Keeps what the probes cost within the budget.
#[derive(Debug)]
pub(super) struct Governor {
    purse: Purse,
    pub(super) costs: Costs,
    last: Option<(u64, u64)>,
    hits: HashMap<Probe, u64>,
    outside: u64,
    frames: u64,
    spent_ns: u64,
    asked_ns: u64,
    tiers: Vec<Tier>,
    rare: Rare,
}

impl Governor {
    /// `share` is the part of the target's CPU time that may be lost.
    pub(super) fn new(share: f64, costs: Costs, rules: &[Rule], at_ns: u64) -> Self {
        Self {
            purse: Purse::new(share),
            costs,
            last: None,
            hits: HashMap::new(),
            outside: 0,
            frames: 0,
            spent_ns: 0,
            asked_ns: 0,
            tiers: rules.iter().map(|rule| Tier::new(*rule, at_ns)).collect(),
            rare: Rare::default(),
        }
    }

    /// Takes in a look, without deciding.
    pub(super) fn note(&mut self, look: &Look<'_>) {
        let (then, cpu_then) =
            self.last.replace((look.at_ns, look.cpu_ns)).unwrap_or((look.at_ns, look.cpu_ns));
        let took = look.at_ns.saturating_sub(then);
        let mut new: Vec<(Probe, u64, u64)> = Vec::with_capacity(look.hits.len());
        for &(probe, hits) in look.hits {
            let more = hits.saturating_sub(self.hits.insert(probe, hits).unwrap_or(0));
            new.push((probe, more, more.saturating_mul(self.costs.hit_ns(probe))));
        }
        let frames = look.frames.saturating_sub(std::mem::replace(&mut self.frames, look.frames));
        if let Some((.., cost)) = new.iter_mut().find(|(probe, ..)| *probe == Probe::GoPark) {
            *cost = cost.saturating_add(frames.saturating_mul(self.costs.frame_ns()));
        }
        let outside = look.outside.saturating_sub(std::mem::replace(&mut self.outside, look.outside));
        let outside = outside.saturating_mul(self.costs.prices().record_ns);
        let spent = outside + new.iter().map(|(.., cost)| cost).sum::<u64>();
        // What the user asked for whatever it costs is not paid from the purse, but told.
        let asked_tiers = self.tiers.iter().filter(|tier| tier.rule.until_ns.is_some());
        let asked_tiers = asked_tiers.fold(0, |sum, tier| sum | tier.rule.tier);
        let asked = new.iter().filter(|(probe, ..)| probe.tier() & asked_tiers != 0);
        let asked =
            asked.map(|(.., cost)| cost).sum::<u64>() + if asked_tiers & TIER_T3 != 0 { outside } else { 0 };
        self.spent_ns += spent;
        self.asked_ns += asked;
        let cpu = look.cpu_ns.saturating_sub(cpu_then);
        self.purse.pass(took, cpu, spent - asked);
        let of = |tier: u32| -> Vec<(Probe, u64, u64)> {
            new.iter().filter(|(probe, ..)| probe.tier() == tier).copied().collect()
        };
        self.rare.pass(took, &of(TIER_T1));
        for tier in &mut self.tiers {
            if tier.rule.tier == TIER_T3 {
                tier.pass_edges(outside);
            }
            tier.pass(took, cpu, &of(tier.rule.tier));
        }
    }

    /// Takes in a look and decides.
    pub(super) fn look(&mut self, look: &Look<'_>) -> Orders {
        self.note(look);
        let mut orders = Orders::default();
        self.rare.decide(look.at_ns, &self.purse, &mut orders.steps);
        for tier in &mut self.tiers {
            let id = tier.rule.tier;
            let hint = look.hints.iter().find(|(tier, _)| *tier == id).map(|(_, hits)| *hits);
            let price = price_of(&self.costs, id);
            let command = tier.decide(look.at_ns, &mut self.purse, hint, price, &mut orders.steps);
            orders.commands.extend(command);
        }
        orders
    }

    /// A tier's probes are on. Take in a look before.
    pub(super) fn begun(&mut self, tier: u32, since_ns: u64) -> Option<Step> {
        self.tier(tier).map(|tier| tier.begun(since_ns))
    }

    /// A tier is not even begun with, as it would have so many hits a second, of a target that uses so many CPUs.
    pub(super) fn begin_demoted(&mut self, tier: u32, hits: f64, cpus: f64) -> Option<Step> {
        let cost = hits * price_of(&self.costs, tier) as f64;
        let tier = self.tiers.iter_mut().find(|known| known.rule.tier == tier)?;
        Some(tier.begin_demoted(hits, cost, cpus, &self.purse))
    }

    /// A tier's probes have gone. Take in a look before, so that all their hits are known.
    pub(super) fn ended(&mut self, tier: u32, end_ns: u64, now_ns: u64, why: Why) -> Option<Step> {
        self.tier(tier).and_then(|tier| tier.ended(end_ns, now_ns, why))
    }

    /// A tier's probes could not be put on.
    pub(super) fn refused(&mut self, tier: u32, now_ns: u64) {
        if let Some(tier) = self.tier(tier) {
            tier.refused(now_ns);
        }
    }

    fn tier(&mut self, id: u32) -> Option<&mut Tier> {
        self.tiers.iter_mut().find(|tier| tier.rule.tier == id)
    }

    /// How each tier is observed.
    pub(super) fn modes(&self) -> impl Iterator<Item = (u32, Mode, bool)> {
        self.tiers.iter().map(|tier| (tier.rule.tier, tier.mode(), tier.is_on()))
    }

    /// What all hits so far cost the target, ns, as priced when they came.
    pub(super) const fn spent_ns(&self) -> u64 {
        self.spent_ns
    }

    /// Of that, what was asked for whatever it costs.
    pub(super) const fn asked_ns(&self) -> u64 {
        self.asked_ns
    }

    /// CPUs that the target uses.
    pub(super) fn cpus(&self) -> f64 {
        self.purse.cpus()
    }
}

/// What a hit of a tier's dearest probe costs, ns.
fn price_of(costs: &Costs, tier: u32) -> u64 {
    let probes = Probe::ALL.into_iter().filter(|probe| probe.tier() == tier);
    probes.map(|probe| costs.hit_ns(probe)).max().unwrap_or(0)
}
