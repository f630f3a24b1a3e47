//! GOMAXPROCS below the CPUs that the process may use, or changed while it runs.

use super::finding::{Degree, Finding, Role, SiteRef};
use super::sites::{Context, blocked_frame, short};
use crate::binary::{Argument, Hazard};
use crate::model::TuningKind;

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    find(context).into_iter().collect()
}

fn find(context: &Context<'_>) -> Option<Finding> {
    let figures = context.process.figures.as_ref()?;
    let limit = context.cpu_limit?;
    let (now, usable) = (figures.gomaxprocs, limit.usable());
    let changes: Vec<_> = context
        .process
        .tunings()
        .filter_map(|t| match t.kind {
            TuningKind::Gomaxprocs(procs) => Some((t, procs)),
            _ => None,
        })
        .collect();
    if now >= usable && changes.is_empty() {
        return None;
    }
    let mut evidence = Vec::new();
    let mut sites = Vec::new();
    if now < usable {
        let quota = limit.quota.map_or_else(String::new, |q| format!(", cgroup quota {q:.2} CPUs"));
        evidence.push(format!(
            "GOMAXPROCS is {now}; the process may use {usable} CPUs (affinity {}{quota})",
            limit.affinity
        ));
    }
    for (tuning, procs) in &changes {
        let frames = context.call_frames(&tuning.caller);
        match blocked_frame(&frames) {
            Some(frame) => {
                evidence.push(format!(
                    "set to {procs} while we watched, by {} at {}",
                    frame.function,
                    short(frame)
                ));
                sites.push(SiteRef::new(Role::Called, frame));
            }
            None => evidence.push(format!("set to {procs} while we watched, by the runtime itself")),
        }
    }
    for call in context.hazards.iter().filter(|c| c.hazard == Hazard::Gomaxprocs && !c.in_standard_library) {
        let argument = match call.argument {
            // GOMAXPROCS(0) only asks.
            Argument::Constant(n) if n < 1 => continue,
            Argument::Constant(n) => n.to_string(),
            _ => "…".to_owned(),
        };
        let site = SiteRef::new(Role::Called, &call.caller);
        if !sites.contains(&site) {
            evidence.push(format!(
                "the code has runtime.GOMAXPROCS({argument}) in {} at {}",
                call.caller.function,
                short(&call.caller)
            ));
            sites.push(site);
        }
    }
    if let Some(value) = &context.env_gomaxprocs {
        evidence.push(format!("its environment has GOMAXPROCS={}", crate::text::printable(value)));
    }
    let title = if now < usable {
        format!(
            "GOMAXPROCS is {now} although {usable} CPUs may be used: Go code runs on {now} of them at a time"
        )
    } else {
        format!("GOMAXPROCS was changed {} times while the program runs; it is {now} now", changes.len())
    };
    Some(Finding {
        id: "gomaxprocs",
        key: "gomaxprocs".to_owned(),
        title,
        degree: Degree::Confirmed,
        evidence,
        goids: changes.iter().filter_map(|(t, _)| t.goid).take(16).collect(),
        count: u64::from(now),
        sites,
        stack: Vec::new(),
        trend: None,
        advice: "remove the call (or the environment variable) and let the runtime choose; each change stops the world",
        disproof: "the limit is meant: then set the CPU affinity or quota to the same number",
    })
}
