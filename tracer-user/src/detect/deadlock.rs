//! Deadlock: every goroutine of the program waits for another one.

use super::finding::{Degree, Finding, Role};
use super::sites::{Context, blocked_frame, duration, readable, short, site};
use crate::memory::Status;
use crate::model::WaitClass;

/// How long nobody must have moved.
const STILL_NS: u64 = 5_000_000_000;

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    find(context).into_iter().collect()
}

fn find(context: &Context<'_>) -> Option<Finding> {
    let process = context.process;
    let (_, last) = process.observed?;
    if process.watched_ns() < STILL_NS {
        return None;
    }
    let (mut total, mut selecting, mut oldest, mut newest) = (0_u64, 0_u64, u64::MAX, 0);
    for (_, tracked) in process.goroutines.iter().filter(|(_, t)| !t.system) {
        let seen = tracked.last.as_ref().filter(|seen| seen.at_ns == last)?;
        let words = context.wait_reason(seen.wait_reason);
        if !matches!(seen.status, Status::Waiting | Status::Leaked) || !WaitClass::of(words).is_blocking() {
            // This one waits for signals of the operating system in every program that asks for them.
            if context.binary.function_name(tracked.startpc).as_deref() == Some("os/signal.loop") {
                continue;
            }
            return None;
        }
        total += 1;
        selecting += u64::from(words == "select");
        oldest = oldest.min(seen.parked_since_ns);
        newest = newest.max(seen.parked_since_ns);
    }
    if total == 0 || last.saturating_sub(newest) < STILL_NS {
        return None;
    }
    let mut groups: Vec<_> = process.groups.iter().filter(|g| g.count() > 0).collect();
    groups.sort_by_key(|g| std::cmp::Reverse(g.count()));
    let mut evidence = vec![format!(
        "all {total} goroutines of the program wait for another one, none for the network, a timer or a system call; nobody has moved for {}",
        duration(last - newest)
    )];
    for group in groups.iter().take(5) {
        let frames = context.group_frames(group);
        if let Some(blocked) = blocked_frame(&frames) {
            evidence.push(format!(
                "{} in \"{}\" at {}",
                group.count(),
                context.wait_reason(group.key.wait_reason),
                short(blocked)
            ));
        }
    }
    if selecting != 0 {
        evidence.push(format!(
            "{selecting} of them wait in a select, which may hold a timer that is yet to fire"
        ));
    }
    let frames = groups.first().map(|g| context.group_frames(g)).unwrap_or_default();
    Some(Finding {
        id: "deadlock",
        key: "deadlock".to_owned(),
        title: format!("deadlock: all {total} goroutines wait for each other"),
        degree: if selecting == 0 { Degree::Confirmed } else { Degree::Suspected },
        evidence,
        goids: groups.iter().flat_map(|g| g.members.iter().copied()).take(16).collect(),
        count: total,
        sites: site(Role::Blocked, blocked_frame(&frames)).into_iter().collect(),
        stack: readable(frames),
        trend: None,
        advice: "look at who holds what in the stacks of `gotrail dump`: a cycle of locks, or a channel whose other side has ended",
        disproof: "a goroutine moves: a timer, a signal or C code may still wake one",
    })
}
