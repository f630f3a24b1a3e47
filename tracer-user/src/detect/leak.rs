//! Goroutine leaks: a population with one creation and one blocking site that grows and never wakes.
//!
//! A number alone proves nothing: worker pools and long polls are parked for hours by design. What a leak
//! does, and they do not, is grow in window after window while nobody of it ever moves.

use std::collections::BTreeMap;

use super::finding::{Degree, Finding, Role, Trend};
use super::sites::{Context, blocked_frame, duration, readable, short, site};
use crate::binary::Frame;
use crate::model::{Group, WaitClass};

/// Shortest time of watching that a leak is suspected after.
const SUSPECT_AFTER_NS: u64 = 8_000_000_000;
/// Shortest time that it is confirmed after.
const CONFIRM_AFTER_NS: u64 = 18_000_000_000;
/// Windows that the time is cut into; the population must grow in all but one.
const WINDOWS: usize = 5;
/// Least growth.
const LEAST_GROWTH: u64 = 5;
/// Longest stretch that is looked back.
const LOOK_BACK_NS: u64 = 60_000_000_000;

struct Population<'a> {
    groups: Vec<&'a Group>,
    frames: Vec<Frame>,
    blocked: Frame,
}

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    let mut populations: BTreeMap<(u64, u8, String, u32), Population<'_>> = BTreeMap::new();
    for group in context.process.groups.iter().filter(|g| g.count() > 0 && g.key.gopc != 0) {
        if !context.class(group).is_blocking() {
            continue;
        }
        let frames = context.group_frames(group);
        let Some(blocked) = blocked_frame(&frames).cloned() else { continue };
        // Connections of net/http are told apart by what their handlers do: see `stuck`.
        if super::stuck::is_http_handler(&frames) {
            continue;
        }
        populations
            .entry((group.key.gopc, group.key.wait_reason, blocked.file.clone(), blocked.line))
            .or_insert_with(|| Population { groups: Vec::new(), frames, blocked })
            .groups
            .push(group);
    }
    populations
        .into_iter()
        .filter_map(|((gopc, reason, ..), population)| judge(context, gopc, reason, population))
        .collect()
}

fn judge(context: &Context<'_>, gopc: u64, reason: u8, population: Population<'_>) -> Option<Finding> {
    let Population { groups, frames, blocked } = population;
    let created = context.creation(gopc);
    let key =
        format!("goroutine-leak:{}:{}", created.as_ref().map(short).unwrap_or_default(), short(&blocked));
    let count: u64 = groups.iter().map(|g| g.count()).sum();
    let series = series(context, &groups);
    let (first, last) = (*series.first()?, *series.last()?);
    let growth = last.1.saturating_sub(first.1);
    let span = last.0 - first.0;
    let left: u64 = groups.iter().map(|g| g.left_total).sum();
    // A worker may be seen once before its only job; who has settled does not move again.
    let still = left * 10 <= growth.max(count);
    let windows = growing_windows(&series);
    let growing = growth >= LEAST_GROWTH && windows + 1 >= WINDOWS && still;
    let known = context.ledger.is_active(&key);
    let degree = if growing && span >= CONFIRM_AFTER_NS && growth >= 2 * LEAST_GROWTH {
        Degree::Confirmed
    } else if growing && span >= SUSPECT_AFTER_NS {
        Degree::Suspected
    } else if known && still && count >= LEAST_GROWTH {
        // It has stopped growing, but those that leaked are still there.
        Degree::Suspected
    } else {
        return None;
    };
    let words = context.wait_reason(reason);
    let oldest = groups.iter().map(|g| g.oldest_ns).min().unwrap_or(context.now_ns);
    let mut evidence = vec![
        format!(
            "{count} goroutines parked in \"{words}\" at {}, all created at {}",
            short(&blocked),
            created.as_ref().map_or_else(|| "an unknown place".to_owned(), short)
        ),
        format!(
            "{} more in {}; grew in {windows} of {WINDOWS} windows; {left} woke up meanwhile",
            growth,
            duration(span)
        ),
        format!(
            "the oldest has been parked for at least {}",
            duration(context.now_ns.saturating_sub(oldest))
        ),
    ];
    if frames.iter().any(|f| f.function == "runtime.chanrecv2") {
        evidence.push(
            "they wait in `for … range` over a channel (or `v, ok := <-c`): it is never closed".to_owned(),
        );
    }
    if context.class(groups.first()?) == WaitClass::Forever {
        evidence.push("nothing can ever wake them: the wait has no other side".to_owned());
    }
    let rate = if span == 0 { 0.0 } else { growth as f64 * 60e9 / span as f64 };
    Some(Finding {
        id: "goroutine-leak",
        key,
        title: format!(
            "goroutine leak: {count} goroutines of {} wait for ever at {} ({rate:.0} more a minute)",
            created.as_ref().map_or("an unknown creator", |f| f.function.as_str()),
            short(&blocked)
        ),
        degree,
        evidence,
        goids: groups.iter().flat_map(|g| g.members.iter().copied()).take(16).collect(),
        count,
        sites: [site(Role::Created, created.as_ref()), site(Role::Blocked, Some(&blocked))]
            .into_iter()
            .flatten()
            .collect(),
        stack: readable(frames),
        trend: Some(Trend { oldest_ns: oldest, wait_reason: words.to_owned(), samples: series }),
        advice: "find who should close or feed the channel (or release the lock) at the blocking line, and make that happen on every path; or give the goroutine a context to end by",
        disproof: "the population stops growing, or its members begin to wake up",
    })
}

/// Members of all groups together at each snapshot of the time looked at, oldest first.
fn series(context: &Context<'_>, groups: &[&Group]) -> Vec<(u64, u64)> {
    let from = context.now_ns.saturating_sub(LOOK_BACK_NS);
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for sample in groups.iter().flat_map(|g| &g.samples).filter(|s| s.at_ns >= from) {
        *counts.entry(sample.at_ns).or_default() += sample.count;
    }
    // Before the first sample of the first group there was nobody, if the process was watched then.
    if let (Some((first, _)), Some((watched, _))) =
        (context.process.observed, counts.first_key_value().map(|(t, c)| (*t, *c)))
        && first < watched
    {
        counts.insert(first.max(from), 0);
    }
    counts.into_iter().collect()
}

/// In how many of [`WINDOWS`] equal stretches the population grew.
fn growing_windows(series: &[(u64, u64)]) -> usize {
    let (Some((first, _)), Some((last, _))) = (series.first(), series.last()) else { return 0 };
    let width = (last - first) / WINDOWS as u64;
    if width == 0 {
        return 0;
    }
    let at = |time: u64| series.iter().rev().find(|(t, _)| *t <= time).map_or(0, |(_, count)| *count);
    (0..WINDOWS as u64).filter(|i| at(first + (i + 1) * width) > at(first + i * width)).count()
}

#[cfg(test)]
mod tests {
    use super::growing_windows;

    #[test]
    fn growth_must_go_on() {
        let steady: Vec<(u64, u64)> = (0..20).map(|i| (i, i * 3)).collect();
        assert_eq!(growing_windows(&steady), 5);
        let ramp: Vec<(u64, u64)> = (0..20).map(|i| (i, i.min(4) * 25)).collect();
        assert!(growing_windows(&ramp) <= 2, "a start-up ramp is no leak");
        let flat: Vec<(u64, u64)> = (0..20).map(|i| (i, 100)).collect();
        assert_eq!(growing_windows(&flat), 0);
        let waves: Vec<(u64, u64)> = (0..20).map(|i| (i, (i % 4) * 10)).collect();
        assert!(growing_windows(&waves) <= 3, "load that comes and goes is no leak");
    }
}
