//! What the governor of the probes' cost did, and what they cost, in text and JSON.

use gotrail::agent::{Ledger, Mode, Numbers, Prices, Step, Stretch};
use gotrail::memory::monotonic_ns;
use gotrail::model::Estimate;
use gotrail::probe::{Calibration, Relink, Why};
use gotrail::text::duration;
use serde_json::{Value, json};
use tracer_ebpf::{Probe, TIER_SYSCALLS, TIER_T1, TIER_T2, TIER_T3};

use super::json::wall;

/// Something to tell.
pub(crate) struct Told {
    /// The type of its JSON line.
    pub(crate) kind: &'static str,
    /// For people; `None` if it is for those who ask for events.
    pub(crate) text: Option<String>,
    /// What is told of it with `--events`.
    pub(crate) event: Option<String>,
    /// The line's fields.
    pub(crate) fields: Value,
}

impl Told {
    fn note(kind: &'static str, text: String, mut fields: Value) -> Self {
        if let Some(object) = fields.as_object_mut() {
            object.insert("message".to_owned(), json!(text));
        }
        Self { kind, text: Some(text), event: None, fields }
    }
}

/// The short name of a tier.
pub(crate) const fn tier_name(tier: u32) -> &'static str {
    match tier {
        TIER_T1 => "T1",
        TIER_T2 => "T2",
        TIER_T3 => "T3",
        TIER_SYSCALLS => "syscalls",
        _ => "?",
    }
}

/// What a tier observes.
const fn subject(tier: u32) -> &'static str {
    match tier {
        TIER_T2 => "goroutine creations and exits",
        TIER_T3 => "switches between goroutines",
        TIER_SYSCALLS => "system calls",
        _ => "rare events",
    }
}

/// A step of the governor, if it is worth telling.
pub(crate) fn step(step: &Step) -> Option<Told> {
    match step {
        Step::Mode { tier, from, to, numbers } => Some(mode(*tier, *from, *to, numbers)),
        Step::Ended(stretch) => Some(window(stretch)),
        Step::Asked { tier, left_ns, numbers } => {
            let mut text = format!(
                "observing {} costs about {:.1} % of the process's CPU time ({:.0} hits a second), as was asked for",
                subject(*tier),
                numbers.predicted * 100.0,
                numbers.hits_per_second
            );
            if *tier == TIER_SYSCALLS {
                text.push_str(
                    "; system calls of all other processes of this machine are a little slower meanwhile",
                );
            }
            let fields = json!({ "tier": tier_name(*tier), "left_ns": left_ns });
            Some(Told::note("asked", text, with(numbers, fields)))
        }
        Step::Refused { tier, why } => Some(Told::note(
            "refused",
            format!("{} can't be observed at the moment: {why}", subject(*tier)),
            json!({ "tier": tier_name(*tier), "why": why }),
        )),
        Step::TakeOff { probes, numbers } => {
            let names = names(probes);
            let text = format!(
                "no longer observed: {}; {}; they are tried again after a while",
                names.join(", "),
                reckon(numbers)
            );
            Some(Told::note("demoted", text, with(numbers, json!({ "tier": "T1", "probes": names }))))
        }
        Step::PutBack { probes } => {
            let names = names(probes);
            let text = format!("observed again, on trial: {}", names.join(", "));
            Some(Told::note("restored", text, json!({ "tier": "T1", "probes": names })))
        }
        Step::Priced { prices, calibration } => Some(priced(*prices, calibration)),
        Step::Begun { .. } | Step::Relink { .. } => None,
    }
}

fn names(probes: &[Probe]) -> Vec<&'static str> {
    probes.iter().map(|probe| probe.name()).collect()
}

fn mode(tier: u32, from: Mode, to: Mode, numbers: &Numbers) -> Told {
    let subject = subject(tier);
    let (kind, text) = match to {
        Mode::Steady => (
            "restored",
            format!(
                "observed one by one again: {subject}; about {:.0} hits a second fit the budget of {:.1} %",
                numbers.hits_per_second,
                numbers.budget * 100.0
            ),
        ),
        Mode::Windows if tier == TIER_T3 => {
            ("restored", format!("observed in bursts again: {subject}{}", all_the_time(numbers)))
        }
        Mode::Windows if from == Mode::Off => {
            ("restored", format!("observed in sampling windows again: {subject}{}", all_the_time(numbers)))
        }
        Mode::Windows => (
            "demoted",
            format!(
                "no longer observed one by one, only in sampling windows: {subject}; {}",
                reckon(numbers)
            ),
        ),
        Mode::Off => (
            "demoted",
            if tier == TIER_T3 {
                format!(
                    "not observed for some seconds, since not even short bursts and what they cost to come and go fit the budget of {:.1} %: {subject}; in the last one {:.0} hits a second",
                    numbers.budget * 100.0,
                    numbers.hits_per_second
                )
            } else {
                format!("no longer observed, known from memory alone: {subject}; {}", reckon(numbers))
            },
        ),
    };
    let fields = json!({ "tier": tier_name(tier), "from": from.name(), "to": to.name() });
    Told::note(kind, text, with(numbers, fields))
}

/// Why something is observed only now and then, where that is known.
fn all_the_time(numbers: &Numbers) -> String {
    if numbers.predicted > numbers.budget {
        format!("; all the time, {}", reckon(numbers))
    } else {
        "; what it costs all the time is not known yet".to_owned()
    }
}

/// Why something costs too much.
fn reckon(numbers: &Numbers) -> String {
    format!(
        "{:.0} hits a second would cost {:.1} % of the process's CPU time, the budget is {:.1} %",
        numbers.hits_per_second,
        numbers.predicted * 100.0,
        numbers.budget * 100.0
    )
}

fn with(numbers: &Numbers, mut fields: Value) -> Value {
    if let Some(object) = fields.as_object_mut() {
        object.insert("hits_per_second".to_owned(), json!(numbers.hits_per_second));
        object.insert("predicted_share".to_owned(), json!(numbers.predicted));
        object.insert("budget_share".to_owned(), json!(numbers.budget));
        object.insert("target_cpus".to_owned(), json!(numbers.cpus));
    }
    fields
}

/// A stretch of time in which a tier was observed: a sampling window, or all the time up to then.
fn window(stretch: &Stretch) -> Told {
    let length = stretch.end_ns - stretch.begin_ns;
    let hits: u64 = stretch.hits.iter().map(|(_, n)| n).sum();
    let fields = json!({
        "tier": tier_name(stretch.tier),
        "begin": wall(stretch.begin_ns),
        "begin_ns": stretch.begin_ns,
        "end_ns": stretch.end_ns,
        "length_ns": length,
        "ended_by": stretch.why.name(),
        "cost_ns": stretch.cost_ns,
        "hits": stretch.hits.iter().map(|(probe, n)| (probe.name().to_owned(), json!(n)))
            .collect::<serde_json::Map<String, Value>>(),
    });
    let kind = if stretch.sampled { "window" } else { "observed" };
    let event = format!(
        "{kind}  {}: {} long, {hits} hits cost the process {} ({})",
        subject(stretch.tier),
        duration(length),
        duration(stretch.cost_ns),
        stretch.why.name()
    );
    Told { kind, text: None, event: Some(event), fields }
}

/// A tier that is observed all the time was not.
pub(crate) fn gap(tier: u32, from_ns: u64, to_ns: u64, why: Why) -> Told {
    let because = match why {
        Why::Deadline => "gotrail was stopped or starved, and the lease of the probes ran out",
        Why::KeeperGone => "a process that keeps the probes was killed or stopped",
        Why::TargetGone | Why::Asked => why.name(),
    };
    let ago = duration(monotonic_ns().saturating_sub(to_ns));
    let text = format!(
        "gap: {} were not observed for {}{}, until {ago} ago: {because}",
        subject(tier),
        if why == Why::KeeperGone { "up to " } else { "" },
        duration(to_ns.saturating_sub(from_ns))
    );
    let fields = json!({
        "tier": tier_name(tier),
        "from": wall(from_ns),
        "from_ns": from_ns,
        "to_ns": to_ns,
        "length_ns": to_ns.saturating_sub(from_ns),
        "why": why.name(),
    });
    Told::note("gap", text, fields)
}

/// That the link of the rare tier was made anew, to the watch of a process.
pub(crate) fn relinked(relink: &Relink, pid: u32) -> Told {
    let Relink { from_ns, to_ns, by, off, failed } = relink;
    let off = names(off);
    // Nobody tells when one is killed.
    let most = if by.is_none() { "up to " } else { "" };
    let now_ns = monotonic_ns();
    let mut text = match failed {
        Some(_) => {
            format!("gap: no rare probe is on since {most}{} ago", duration(now_ns.saturating_sub(*from_ns)))
        }
        None => format!(
            "gap: no rare probe was on for {most}{}, until {} ago",
            duration(to_ns.saturating_sub(*from_ns)),
            duration(now_ns.saturating_sub(*to_ns))
        ),
    };
    match by {
        None => text.push_str(": somebody killed the process that held them"),
        Some(by) if *by != pid => {
            text.push_str(&format!(", for what they cost process {by}, which has the same"));
        }
        Some(_) => {}
    }
    match failed {
        Some(why) => text.push_str(&format!("; they are not put back: {why}")),
        None if off.is_empty() => text.push_str("; all are on again"),
        None => text.push_str(&format!("; off from then on: {}", off.join(", "))),
    }
    let fields = json!({
        "tier": "T1",
        "from": wall(*from_ns),
        "from_ns": from_ns,
        "to_ns": to_ns,
        "length_ns": to_ns.saturating_sub(*from_ns),
        "why": if by.is_some() { "relinked" } else { "holder gone" },
        "for_process": by,
        "off": off,
        "failed": failed,
    });
    Told::note("gap", text, fields)
}

fn priced(prices: Prices, calibration: &Result<Calibration, String>) -> Told {
    let event = match calibration {
        Ok(measured) => calibrated(measured),
        Err(why) => format!("what a probe hit costs is assumed: {why}"),
    };
    let fields = json!({
        "measured": calibration.is_ok(),
        "why_not": calibration.as_ref().err(),
        "record_ns": prices.record_ns,
        "stack_ns": prices.stack_ns,
        "step_ns": prices.step_ns,
        "calibration": calibration.as_ref().ok().map(calibration_json),
    });
    Told { kind: "calibrated", text: None, event: Some(event), fields }
}

/// A calibration in words.
pub(crate) fn calibrated(measured: &Calibration) -> String {
    format!(
        "a hit costs {} bare, {} with a record, {} with a deep stack, {} where the kernel steps over the instruction (quartiles {} apart; measured in {})",
        duration(measured.trap_ns),
        duration(measured.record_ns),
        duration(measured.stack_ns),
        duration(measured.stepped_ns),
        duration(measured.spread_ns),
        duration(measured.took_ns)
    )
}

/// A calibration as JSON.
pub(crate) fn calibration_json(measured: &Calibration) -> Value {
    json!({
        "trap_ns": measured.trap_ns,
        "record_ns": measured.record_ns,
        "stack_ns": measured.stack_ns,
        "stepped_ns": measured.stepped_ns,
        "spread_ns": measured.spread_ns,
        "took_ns": measured.took_ns,
    })
}

/// What the probes have cost so far.
pub(crate) fn ledger(ledger: &Ledger, budget: f64) -> Value {
    let prices = ledger.costs.prices();
    json!({
        "at_ns": ledger.at_ns,
        "target_cpu_ns": ledger.cpu_ns,
        "target_cpus": ledger.cpus,
        "predicted_ns": ledger.spent_ns,
        "asked_ns": ledger.asked_ns,
        "predicted_share": (ledger.cpu_ns != 0).then(|| ledger.spent_ns as f64 / ledger.cpu_ns as f64),
        "budget_share": budget,
        "measured": ledger.measured,
        "ns_per_hit": prices.record_ns,
        "ns_per_hit_with_stack": prices.stack_ns,
        "tiers": ledger.tiers.iter().map(|tier| json!({
            "tier": tier_name(tier.tier),
            "mode": tier.mode.name(),
            "on": tier.on,
            "observed_ns": tier.observed_ns,
            "stretches": tier.stretches,
        })).collect::<Vec<_>>(),
    })
}

/// The summary's line on cost.
pub(crate) fn summary(ledger: &Ledger, budget: f64) -> String {
    let prices = ledger.costs.prices();
    let how = if ledger.measured { "measured on this host" } else { "assumed" };
    let share = if ledger.spent_ns > ledger.cpu_ns {
        // What a hit costs is measured beforehand, and not each one costs so much.
        "next to all of it".to_owned()
    } else {
        format!("{:.2} %", ledger.spent_ns as f64 * 100.0 / ledger.cpu_ns.max(1) as f64)
    };
    // What counts for a target that uses next to nothing.
    let governed = ledger.spent_ns.saturating_sub(ledger.asked_ns) as f64;
    let floor = if governed > budget * ledger.cpu_ns as f64 { ", or 0.1 % of one CPU" } else { "" };
    let asked = if ledger.asked_ns == 0 {
        String::new()
    } else {
        format!(", {} of it for what was asked for", duration(ledger.asked_ns))
    };
    format!(
        "about {} of the process's {} of CPU time, {share} (budget {:.1} %{floor}{asked}), by hits at {} each, {} with a stack ({how})",
        duration(ledger.spent_ns),
        duration(ledger.cpu_ns),
        budget * 100.0,
        duration(prices.record_ns),
        duration(prices.stack_ns)
    )
}

/// A rate with its interval.
pub(crate) fn estimate(estimate: Option<Estimate>) -> Value {
    json!(estimate.map(|e| json!({
        "per_second": e.per_second,
        "low": e.low,
        "high": e.high,
        "confidence": 0.95,
    })))
}
