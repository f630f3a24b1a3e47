//! `--group`: goroutines with the same stack in the same state as one, the largest group first.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use gotrail::memory::{Goroutine, Labels, Stack, Status, Symbolizer};
use gotrail::text::printable;
use serde_json::{Value, json};

use super::{Dump, document, text};

/// Most ids of a group that are named in text.
const GOIDS: usize = 8;
/// Most sets of labels of a group that are named in text, and in JSON.
const LABELS_IN_TEXT: usize = 3;
/// Most labels of one set that are shown in text.
const PAIRS: usize = 8;
const LABELS_IN_JSON: usize = 64;

/// What its members share.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    stack: &'a Stack,
    status: Status,
    /// Its wait reason, while it is parked.
    reason: Option<u8>,
    /// A stack that is unknown because the goroutine changed is not one that is unknown because it runs.
    torn: bool,
}

/// Goroutines that do the same.
struct Group<'a> {
    members: Vec<&'a Goroutine>,
    /// Sets of labels, the most frequent first.
    labels: Vec<(&'a Labels, usize)>,
}

fn groups<'a>(dump: &Dump<'a>) -> Vec<Group<'a>> {
    let mut by_key: HashMap<Key<'a>, Vec<&'a Goroutine>> = HashMap::new();
    for &g in &dump.shown {
        let reason = g.status.is_parked().then_some(g.wait_reason);
        let key = Key { stack: &g.stack, status: g.status, reason, torn: g.torn };
        by_key.entry(key).or_default().push(g);
    }
    let mut groups: Vec<Group<'a>> = by_key
        .into_values()
        .map(|members| {
            let mut labels: BTreeMap<&Labels, usize> = BTreeMap::new();
            for g in &members {
                if let Some(Some(found)) = dump.details.labels.get(&g.goid) {
                    *labels.entry(found.as_ref()).or_default() += 1;
                }
            }
            let mut labels: Vec<(&Labels, usize)> = labels.into_iter().collect();
            labels.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            Group { labels, members }
        })
        .collect();
    groups.sort_by_key(|group| (std::cmp::Reverse(group.members.len()), group.members[0].goid));
    groups
}

/// For people: a head, the labels, and the stack as in a traceback.
pub(super) fn text(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> String {
    let mut out = String::new();
    let mut texts = text::Texts::new(dump, symbolizer);
    for group in groups(dump) {
        let (count, first) = (group.members.len(), group.members[0]);
        let age = dump.oldest(&group.members);
        let noun = if count == 1 { "goroutine" } else { "goroutines" };
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "{count} {noun} [{}{age}{}]: {}",
            dump.head(first),
            locked(&group.members),
            goids(&group.members)
        );
        let mut labels: Vec<String> = group
            .labels
            .iter()
            .take(LABELS_IN_TEXT)
            .map(|(labels, times)| format!("{} ({times})", in_line(labels)))
            .collect();
        if group.labels.len() > LABELS_IN_TEXT {
            labels.push(format!("{} more sets", group.labels.len() - LABELS_IN_TEXT));
        }
        if !labels.is_empty() {
            let _ = writeln!(out, "labels: {}", labels.join("; "));
        }
        texts.stack(first, &mut out);
        let mut creators: BTreeMap<String, usize> = BTreeMap::new();
        for g in &group.members {
            if let Some(created) = texts.created_at(g) {
                *creators.entry(created).or_default() += 1;
            }
        }
        let lone = creators.len() == 1;
        for (created, times) in creators {
            out.push_str(&created);
            if !lone {
                let _ = writeln!(out, "\t({times} of them)");
            }
        }
        out.push('\n');
    }
    out.truncate(out.strip_suffix('\n').map_or(out.len(), str::len));
    out
}

/// How many of them are locked to their threads.
fn locked(members: &[&Goroutine]) -> String {
    match members.iter().filter(|g| g.locked).count() {
        0 => String::new(),
        count if count == members.len() => ", locked to thread".to_owned(),
        count => format!(", {count} locked to threads"),
    }
}

/// The first ids.
pub(super) fn goids(members: &[&Goroutine]) -> String {
    let ids: Vec<String> = members.iter().take(GOIDS).map(|g| g.goid.to_string()).collect();
    let more = if members.len() > GOIDS { ", …" } else { "" };
    format!("{}{more}", ids.join(", "))
}

/// `tenant=acme, shard=7`, with nothing in it that a terminal could obey.
fn in_line(labels: &Labels) -> String {
    let mut pairs: Vec<String> = labels
        .pairs
        .iter()
        .take(PAIRS)
        .map(|(key, value)| format!("{}={}", printable(key), printable(value)))
        .collect();
    let more = labels.pairs.len().saturating_sub(PAIRS) + labels.left_out;
    if more != 0 {
        pairs.push(format!("{more} more"));
    }
    pairs.join(", ")
}

/// The groups for JSON.
pub(super) fn json(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> Value {
    let groups = groups(dump).into_iter().map(|group| {
        let first = group.members[0];
        let labels: Vec<Value> = group
            .labels
            .iter()
            .take(LABELS_IN_JSON)
            .map(|(labels, count)| json!({ "labels": document::labels(labels), "count": count }))
            .collect();
        let mut creators: BTreeMap<u64, (usize, &Goroutine)> = BTreeMap::new();
        for &g in &group.members {
            creators.entry(g.gopc).or_insert((0, g)).0 += 1;
        }
        let created: Vec<Value> = creators
            .into_values()
            .filter_map(|(count, g)| {
                let mut place = document::created_by(dump, g, symbolizer)?;
                place["count"] = json!(count);
                // That of one of them only.
                place.as_object_mut()?.remove("goid");
                Some(place)
            })
            .collect();
        let mut value = json!({
            "count": group.members.len(),
            "status": first.status.name(),
            "wait_reason": first.status.is_parked().then(|| dump.runtime.wait_reason(first.wait_reason)),
            "oldest_wait_for_ns": group.members.iter().filter_map(|g| dump.age(g)).max(),
            "oldest_wait_for_at_least_ns": group.members.iter().filter_map(|g| dump.least_age(g)).max(),
            "goids": group.members.iter().map(|g| g.goid).collect::<Vec<_>>(),
            "labels": labels,
            "label_sets_left_out": group.labels.len().saturating_sub(LABELS_IN_JSON),
            "created_by": created,
            "locked_to_thread": group.members.iter().filter(|g| g.locked).count(),
            "torn": first.torn,
        });
        document::add_stack(&mut value, dump, first, symbolizer);
        value
    });
    Value::Array(groups.collect())
}
