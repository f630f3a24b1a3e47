//! Garbage collection driven by hand: `runtime.GC` in a loop, automatic GC switched off.

use std::collections::BTreeMap;

use super::finding::{Degree, Finding, Role, SiteRef};
use super::sites::{Context, blocked_frame, short};
use crate::binary::{Argument, CallSite, Frame, Hazard};
use crate::model::TuningKind;

/// How long is watched before anything is said.
const SETTLE_NS: u64 = 4_500_000_000;

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    find(context).into_iter().collect()
}

fn find(context: &Context<'_>) -> Option<Finding> {
    let process = context.process;
    let figures = process.figures.as_ref()?;
    let first = process.first_figures.as_ref()?;
    let forced = figures.forced_gc_cycles.wrapping_sub(first.forced_gc_cycles);
    let seconds = process.watched_ns() as f64 / 1e9;
    let per_minute = if seconds > 0.0 { f64::from(forced) * 60.0 / seconds } else { 0.0 };
    let often = forced >= 3 && per_minute >= context.thresholds.forced_gc_per_minute;
    let off = figures.gc_percent < 0 && figures.memory_limit.is_none_or(|limit| limit == i64::MAX);
    // Who switches automatic GC off usually collects by hand: wait a moment, to tell both at once.
    if process.watched_ns() < SETTLE_NS || (!often && !off) {
        return None;
    }
    let callers = callers(context);
    let mut evidence = Vec::new();
    let mut sites = Vec::new();
    if forced > 0 {
        evidence.push(format!(
            "{forced} forced cycles in {seconds:.0} s ({per_minute:.1} a minute); {} of all {} cycles since the start were forced",
            figures.forced_gc_cycles, figures.gc_cycles
        ));
    }
    for (place, (frame, count)) in &callers {
        evidence.push(format!("{count} calls of runtime.GC from {} at {place}", frame.function));
        sites.push(SiteRef::new(Role::Called, frame));
    }
    if off {
        evidence.push("automatic GC is off (GOGC is negative) and there is no memory limit: the heap grows until somebody calls runtime.GC".to_owned());
    }
    let mut static_site = |hazard: Hazard, wanted: &dyn Fn(&CallSite) -> bool| {
        for call in
            context.hazards.iter().filter(|c| c.hazard == hazard && !c.in_standard_library && wanted(c))
        {
            let argument = match call.argument {
                Argument::Constant(value) => format!("{}({value})", hazard.name()),
                Argument::None => format!("{}()", hazard.name()),
                Argument::Computed => format!("{}(…)", hazard.name()),
            };
            let site = SiteRef::new(Role::Called, &call.caller);
            if !sites.contains(&site) {
                evidence.push(format!(
                    "the code has {argument} in {} at {}",
                    call.caller.function,
                    short(&call.caller)
                ));
                sites.push(site);
            }
        }
    };
    if often {
        static_site(Hazard::Gc, &|_| true);
    }
    if off {
        static_site(Hazard::SetGcPercent, &|call| !matches!(call.argument, Argument::Constant(n) if n >= 0));
    }
    let title = match (often, off) {
        (true, true) => format!(
            "the program runs the garbage collector by hand, {per_minute:.0} times a minute, with automatic GC off"
        ),
        (true, false) => format!("the program forces a garbage collection {per_minute:.0} times a minute"),
        _ => "automatic garbage collection is off, and there is no memory limit".to_owned(),
    };
    Some(Finding {
        id: "forced-gc",
        key: "forced-gc".to_owned(),
        title,
        degree: if forced >= 10 || !callers.is_empty() || !often {
            Degree::Confirmed
        } else {
            Degree::Suspected
        },
        evidence,
        goids: process
            .tunings()
            .filter(|t| t.kind == TuningKind::ForcedGc)
            .filter_map(|t| t.goid)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .take(16)
            .collect(),
        count: u64::from(forced),
        stack: process
            .tunings()
            .rev()
            .find(|t| t.kind == TuningKind::ForcedGc)
            .map(|t| super::sites::readable(context.call_frames(&t.caller)))
            .unwrap_or_default(),
        sites,
        trend: None,
        advice: "remove the calls and let the pacer work (GOGC=100); to bound memory use GOMEMLIMIT or debug.SetMemoryLimit instead",
        disproof: "the forced cycles stop, and GOGC is positive or a memory limit is set",
    })
}

/// Who called `runtime.GC` while we watched.
fn callers(context: &Context<'_>) -> BTreeMap<String, (Frame, u64)> {
    let mut callers: BTreeMap<String, (Frame, u64)> = BTreeMap::new();
    for tuning in context.process.tunings().filter(|t| t.kind == TuningKind::ForcedGc) {
        let frames = context.call_frames(&tuning.caller);
        if let Some(frame) = blocked_frame(&frames) {
            callers.entry(short(frame)).or_insert_with(|| (frame.clone(), 0)).1 += 1;
        }
    }
    callers
}
