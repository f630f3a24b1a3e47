//! The rare tier: its probes stay on, but for those that turn out not to be rare.

use std::collections::HashMap;

use tracer_ebpf::Probe;

use super::purse::Purse;
use super::step::Step;
use super::tier::numbers;

const SECOND: f64 = 1e9;
/// How long rates are gathered before they are judged, ns, where it is not certain before what will be found.
const GATHER: u64 = 200_000_000;
/// How long it takes until probes have gone that are to be taken off, ns: the rest is linked anew.
const GOES_WITHIN: f64 = 0.05 * SECOND;
/// How long a probe that was taken off stays off at first, ns; twice as long each time.
const BACK_AFTER: u64 = 30_000_000_000;
/// And at most.
const BACK_AT_LATEST: u64 = 3_600_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Out {
    times: u32,
    until_ns: u64,
    back: bool,
}

/// What is known of the rare tier.
#[derive(Debug, Default)]
pub(super) struct Rare {
    gathered: u64,
    spent: HashMap<Probe, (u64, u64)>,
    out: HashMap<Probe, Out>,
}

impl Rare {
    /// Takes in what happened since the last look: hits and cost by probe.
    pub(super) fn pass(&mut self, took: u64, hits: &[(Probe, u64, u64)]) {
        // What came before the first look came in a time that is not known.
        if took == 0 {
            return;
        }
        self.gathered += took;
        for &(probe, more, cost) in hits {
            // Until it has gone, which was decided already.
            if self.out.get(&probe).is_some_and(|out| !out.back) {
                continue;
            }
            let sum = self.spent.entry(probe).or_default();
            *sum = (sum.0 + more, sum.1 + cost);
        }
    }

    /// Decides who goes: the dearest, when they have overdrawn the purse.
    pub(super) fn decide(&mut self, now_ns: u64, purse: &Purse, steps: &mut Vec<Step>) {
        let back: Vec<Probe> = self
            .out
            .iter_mut()
            .filter(|(_, out)| !out.back && out.until_ns <= now_ns)
            .map(|(probe, out)| {
                out.back = true;
                *probe
            })
            .collect();
        if !back.is_empty() {
            steps.push(Step::PutBack { probes: back });
        }
        let limit = purse.income() / 2.0;
        let so_far = self.spent.values().map(|(_, cost)| *cost).sum::<u64>() as f64;
        // Nothing that is still to come would bring it below the limit.
        let certain = so_far > limit * GATHER as f64 / SECOND;
        let seconds = self.gathered as f64 / SECOND;
        let whole = so_far / seconds;
        // Half of what can be saved up is there for a short burst, which may be what somebody is looking for.
        let until_gone = (whole * GOES_WITHIN / SECOND).min(purse.cap() / 2.0);
        let is_early = self.gathered < GATHER;
        if self.gathered == 0 || is_early && (!certain || purse.left() >= until_gone) {
            return;
        }
        let mut spent: Vec<(Probe, (u64, u64))> = self.spent.drain().collect();
        self.gathered = 0;
        if purse.left() >= until_gone || whole <= limit {
            return;
        }
        spent.sort_by_key(|(_, (_, cost))| std::cmp::Reverse(*cost));
        let (mut probes, mut hits, mut cost) = (Vec::new(), 0, whole);
        for (probe, (count, ns)) in spent {
            if cost <= limit {
                break;
            }
            cost -= ns as f64 / seconds;
            hits += count;
            probes.push(probe);
            let out = self.out.entry(probe).or_insert(Out { times: 0, until_ns: 0, back: false });
            let after = BACK_AFTER.saturating_mul(1 << out.times.min(16)).min(BACK_AT_LATEST);
            *out = Out { times: out.times + 1, until_ns: now_ns.saturating_add(after), back: false };
        }
        steps.push(Step::TakeOff {
            probes,
            numbers: numbers(hits as f64 / seconds, whole, purse.cpus(), purse),
        });
    }
}
