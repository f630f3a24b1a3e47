//! For other tools: folded stacks and pprof.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use gotrail::binary::Frame;
use gotrail::export::pprof::{Builder, Kinds};
use gotrail::memory::Symbolizer;
use gotrail::model::Class;
use gotrail::text::printable;

use super::super::mapping;
use super::{Profile, stacks};

/// What a sample's values are.
const KINDS: Kinds<'static> = &[
    ("wall", "nanoseconds"),
    ("running", "nanoseconds"),
    ("runnable", "nanoseconds"),
    ("syscall", "nanoseconds"),
    ("waiting", "nanoseconds"),
    ("samples", "count"),
];

/// `state;[wait reason;]outermost;...;innermost microseconds`, a line for each stack.
pub(super) fn folded(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> String {
    lines(profile, symbolizer, |_| "").into_iter().map(|(line, us)| format!("{line} {us}\n")).collect()
}

/// The lines of the folded form without their number, and that: microseconds. To each name `mark` may append something.
pub(super) fn lines(
    profile: &Profile<'_>,
    symbolizer: &mut Symbolizer,
    mark: impl Fn(Class) -> &'static str,
) -> BTreeMap<String, u64> {
    let mut times: BTreeMap<String, f64> = BTreeMap::new();
    for stacked in &profile.stacks {
        let mark = mark(stacked.class);
        // A semicolon separates, and no Go name has one.
        let name = |text: &str| format!("{}{mark}", printable(text).replace(';', ":"));
        let mut names = Vec::new();
        for (_, frames) in
            stacks::frames(profile, (stacked.class, stacked.stack, stacked.startpc), symbolizer)
        {
            names.extend(frames.iter().filter(|frame| !frame.wrapper).map(|frame| name(&frame.function)));
        }
        names.extend(profile.reason(stacked.class, stacked.wait_reason).map(name));
        names.push(name(stacked.class.name()));
        names.reverse();
        *times.entry(names.join(";")).or_default() += stacked.share.time_ns;
    }
    let whole = times.into_iter().map(|(line, ns)| (line, (ns / 1e3).round() as u64));
    whole.filter(|(_, us)| *us != 0).collect()
}

/// Time by state, with state, wait reason and labels of each sample.
pub(super) fn pprof(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> Vec<u8> {
    let (wall, bias) = (&profile.profiler.wall, profile.runtime.bias());
    let file = mapping::file(profile.target);
    let began = mapping::unix_ns(profile.runtime, profile.summary.began_ns);
    let mut builder = Builder::new(began, KINDS, &mapping::of(profile.runtime, &file));
    let elapsed = i64::try_from(wall.elapsed_ns()).unwrap_or(i64::MAX);
    let looks = i64::try_from(wall.looks().saturating_sub(1)).unwrap_or(1).max(1);
    builder.over(elapsed, elapsed / looks, KINDS[0].0);
    for row in stacks::shown(profile, &HashMap::new()) {
        let activity = row.activity;
        let ns = row.share.time_ns.round() as i64;
        let mut values = [0; KINDS.len()];
        values[0] = ns;
        // The classes are in the order of the kinds.
        values[1 + activity.class as usize] = ns;
        values[KINDS.len() - 1] = i64::try_from(row.found).unwrap_or(i64::MAX);
        let frames: Vec<(u64, Arc<[Frame]>)> =
            stacks::frames(profile, (activity.class, activity.stack, activity.startpc), symbolizer)
                .into_iter()
                .map(|(pc, frames)| match pc {
                    // As runtime/pprof does it: within the call, so that a tool that looks itself finds its line.
                    Some(pc) => (pc.address.wrapping_add(bias).wrapping_sub(u64::from(!pc.exact)), frames),
                    None => (pseudo(&frames), frames),
                })
                .collect();
        let found = stacks::labels(profile, row.labels);
        // Labels are what a program was given from elsewhere, and pprof prints them as they are.
        let found: Vec<(String, String)> = found
            .map(|labels| labels.pairs.iter().map(|(k, v)| (printable(k), printable(v))).collect())
            .unwrap_or_default();
        let reason =
            profile.reason(activity.class, activity.wait_reason).map(|reason| ("wait_reason", reason));
        let own = std::iter::once(("state", activity.class.name())).chain(reason);
        let labels = found.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        builder.add(
            &values,
            frames.iter().map(|(address, frames)| (*address, frames.as_ref())),
            own.chain(labels),
        );
    }
    builder.encode()
}

/// An address for a frame that has none: pprof tells frames apart by it. No process has code in its first page.
fn pseudo(frames: &[Frame]) -> u64 {
    1 + frames
        .iter()
        .flat_map(|frame| frame.function.bytes())
        .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()) % 4093)
}
