//! Stops of the world that are long enough to be felt.

use std::collections::BTreeMap;

use super::finding::{Degree, Finding, Role};
use super::sites::{Context, blocked_frame, duration, readable, short, site};
use crate::model::{Pause, StwReason};

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    let mut long: BTreeMap<&'static str, Vec<&Pause>> = BTreeMap::new();
    for pause in context.process.stw.recent().filter(|p| p.total_ns() >= context.thresholds.long_stw_ns) {
        long.entry(pause.reason.map_or("unknown", StwReason::name)).or_default().push(pause);
    }
    long.into_iter().filter_map(|(reason, pauses)| finding(context, reason, &pauses)).collect()
}

fn finding(context: &Context<'_>, reason: &'static str, pauses: &[&Pause]) -> Option<Finding> {
    let longest = pauses.iter().max_by_key(|p| p.total_ns())?;
    let frames = context.call_frames(&longest.caller);
    let caller = blocked_frame(&frames).cloned();
    let mut evidence = vec![format!(
        "{} stops for \"{reason}\" lasted {} or more; the longest {}",
        pauses.len(),
        duration(context.thresholds.long_stw_ns),
        duration(longest.total_ns())
    )];
    match longest.stopping_ns() {
        Some(stopping) => evidence.push(format!(
            "{} of that went by until all goroutines had stopped, {} until the world was started again",
            duration(stopping),
            duration(longest.total_ns().saturating_sub(stopping))
        )),
        None => evidence
            .push("this Go version (before 1.23) does not tell how much of that was stopping".to_owned()),
    }
    if let Some(caller) = &caller {
        evidence.push(format!("asked for by {} at {}", caller.function, short(caller)));
    }
    let slow_to_stop = longest.stopping_ns().is_some_and(|s| s * 2 > longest.total_ns());
    Some(Finding {
        id: "long-stw",
        key: format!("long-stw:{reason}"),
        title: format!("the whole program stood still for {} ({reason})", duration(longest.total_ns())),
        degree: Degree::Confirmed,
        evidence,
        goids: longest.goid.into_iter().collect(),
        count: pauses.len() as u64,
        sites: site(Role::Called, caller.as_ref()).into_iter().collect(),
        stack: readable(frames),
        trend: None,
        advice: if slow_to_stop {
            "some goroutine could not be interrupted (a long system call is not the cause, a tight loop in assembly or C-less code may be), or the CPUs were taken away: compare with CPU throttling and steal time"
        } else {
            "the work done while the world stood still was long: avoid the call named above in production, or make it rarer"
        },
        disproof: "the machine itself stood still (suspend, CPU steal, throttling): other programs paused at the same time",
    })
}
