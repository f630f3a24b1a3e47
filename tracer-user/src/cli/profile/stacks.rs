//! The rows of a profile by state and stack, and the frames of each.

use std::collections::HashMap;
use std::sync::Arc;

use gotrail::binary::Frame;
use gotrail::memory::{LEFT_OUT, Labels, Pc, Symbolizer};
use gotrail::model::{Class, Row, Share};

use super::Profile;

/// Time in one state with one stack.
pub(super) struct Stacked {
    pub(super) class: Class,
    pub(super) wait_reason: u8,
    /// Number of the stack.
    pub(super) stack: u32,
    /// Where goroutines that run without a known stack began.
    pub(super) startpc: u64,
    pub(super) share: Share,
    /// How often goroutines were found there.
    pub(super) found: u64,
    /// The same by sets of labels, for those that have any.
    pub(super) labels: Vec<(u32, f64)>,
}

/// The rows that are shown, without their labels, the longest first.
///
/// Samples on a CPU hit any instruction: those that differ in their innermost line alone are taken together, under the
/// line that was hit most.
pub(super) fn of(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> Vec<Stacked> {
    let same = alike(profile, symbolizer);
    let mut by_key: HashMap<(Class, u8, u32, u64), Stacked> = HashMap::new();
    for row in shown(profile, &same) {
        let activity = row.activity;
        // Who has a stack began where that begins.
        let startpc =
            if profile.profiler.sampler.stack(activity.stack).is_some() { 0 } else { activity.startpc };
        let key = (activity.class, activity.wait_reason, activity.stack, startpc);
        let stacked = by_key.entry(key).or_insert_with(|| Stacked {
            class: activity.class,
            wait_reason: activity.wait_reason,
            stack: activity.stack,
            startpc,
            share: Share::default(),
            found: 0,
            labels: Vec::new(),
        });
        // Parts of one line are off together.
        stacked.share.time_ns += row.share.time_ns;
        stacked.share.error_ns += row.share.error_ns;
        stacked.found += row.found;
        if profile.profiler.sampler.labels(row.labels).is_some() {
            stacked.labels.push((row.labels, row.share.time_ns));
        }
    }
    let mut all: Vec<Stacked> = by_key.into_values().collect();
    all.sort_by(|a, b| {
        b.share.time_ns.total_cmp(&a.share.time_ns).then_with(|| {
            (a.class, a.wait_reason, a.stack, a.startpc).cmp(&(b.class, b.wait_reason, b.stack, b.startpc))
        })
    });
    for stacked in &mut all {
        stacked.labels.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    }
    all
}

/// The rows that are shown, by labels too.
pub(super) fn shown(profile: &Profile<'_>, same: &HashMap<u32, u32>) -> Vec<Row> {
    let mut rows = profile.profiler.wall.rows(same);
    rows.retain(|row| profile.shows(row.activity.class, row.activity.wait_reason));
    rows
}

/// Which stacks of samples on a CPU are taken for which.
fn alike(profile: &Profile<'_>, symbolizer: &mut Symbolizer) -> HashMap<u32, u32> {
    let mut hits: Vec<(u32, u64)> = profile.profiler.wall.hits().into_iter().collect();
    hits.sort_by_key(|(stack, count)| (std::cmp::Reverse(*count), *stack));
    let mut first: HashMap<Vec<(String, u32)>, u32> = HashMap::new();
    let mut same = HashMap::new();
    for (stack, _) in hits {
        let mut key: Vec<(String, u32)> = frames(profile, (Class::Running, stack, 0), symbolizer)
            .iter()
            .flat_map(|(_, frames)| frames.iter().map(|f| (f.function.clone(), f.line)).collect::<Vec<_>>())
            .collect();
        if let Some((_, line)) = key.first_mut() {
            *line = 0;
        }
        let representative = *first.entry(key).or_insert(stack);
        if representative != stack {
            same.insert(stack, representative);
        }
    }
    same
}

/// The frames of a stack by address, innermost first; without an address where it says what is not known.
pub(super) fn frames(
    profile: &Profile<'_>,
    (class, stack, startpc): (Class, u32, u64),
    symbolizer: &mut Symbolizer,
) -> Vec<(Option<Pc>, Arc<[Frame]>)> {
    let binary = profile.runtime.binary();
    let Some(stack_of) = profile.profiler.sampler.stack(stack) else {
        let why = match (class, stack) {
            (_, LEFT_OUT) => "[stack left out]",
            (Class::Running, _) => "[running: no stack known]",
            _ => "[stack changed while read]",
        };
        let mut frames = vec![(None, word(why))];
        if startpc != 0 {
            frames.push((
                Some(Pc { address: startpc, exact: true }),
                symbolizer.frames(binary, Pc { address: startpc, exact: true }),
            ));
        }
        return frames;
    };
    let mut frames = Vec::with_capacity(stack_of.pcs.len());
    for pc in &stack_of.pcs {
        let found = symbolizer.frames(binary, *pc);
        frames.push(if found.is_empty() {
            (None, word("[not Go code: vdso or C]"))
        } else {
            (Some(*pc), found)
        });
    }
    if stack_of.truncated {
        frames.push((None, word("[more frames]")));
    }
    frames
}

/// A frame that is none of the program's.
fn word(text: &str) -> Arc<[Frame]> {
    Arc::new([Frame {
        function: text.to_owned(),
        file: String::new(),
        line: 0,
        inlined: false,
        offset: 0,
        wrapper: false,
    }])
}

/// Labels by their number.
pub(super) fn labels<'p>(profile: &'p Profile<'_>, number: u32) -> Option<&'p Arc<Labels>> {
    profile.profiler.sampler.labels(number)
}
