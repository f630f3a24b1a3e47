//! The dump as JSON: documented, stable names.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use gotrail::memory::{Case, Direction, Goroutine, Labels, Pc, Symbolizer, Target, Wait, monotonic_ns};
use serde_json::{Map, Value, json};

use super::super::args::DumpArgs;
use super::super::failure::Failure;
use super::super::json;
use super::{Dump, group, waits};

/// The whole answer.
pub(super) fn of(dump: &Dump<'_>, args: &DumpArgs, symbolizer: &mut Symbolizer) -> Result<Value, Failure> {
    let (binary, snapshot) = (dump.runtime.binary(), dump.snapshot);
    let mut document = json!({
        "schema": "gotrail.dump/1",
        "pid": dump.target.pid(),
        "go_version": binary.version().to_string(),
        "layout_source": binary.layout_source().to_string(),
        "taken_at": json::wall(snapshot.taken_ns),
        "took_ns": snapshot.took_ns,
        "torn": snapshot.torn,
        "unread": snapshot.unread,
    });
    if args.group {
        document["groups"] = group::json(dump, symbolizer);
    } else {
        let waiting = waiting(dump);
        let goroutines = dump.shown.iter().map(|g| goroutine(dump, g, &waiting, symbolizer));
        document["goroutines"] = Value::Array(goroutines.collect());
    }
    if args.waits {
        for (name, value) in waits::json(dump, symbolizer)? {
            document[name] = value;
        }
    }
    Ok(document)
}

/// How many goroutines wait on each thing, those that are not shown too.
fn waiting(dump: &Dump<'_>) -> HashMap<Target, usize> {
    let mut waiting = HashMap::new();
    for wait in dump.details.waits.values() {
        let mut targets: Vec<Target> = wait.targets().collect();
        targets.dedup();
        for target in targets {
            *waiting.entry(target).or_default() += 1;
        }
    }
    waiting
}

fn goroutine(
    dump: &Dump<'_>,
    g: &Goroutine,
    waiting: &HashMap<Target, usize>,
    symbolizer: &mut Symbolizer,
) -> Value {
    let binary = dump.runtime.binary();
    let since = (g.wait_since_ns != 0).then_some(g.wait_since_ns);
    json!({
        "goid": g.goid,
        "status": g.status.name(),
        "wait_reason": g.status.is_parked().then(|| dump.runtime.wait_reason(g.wait_reason)),
        "wait_since_ns": since,
        "wait_for_ns": dump.age(g),
        "wait_for_at_least_ns": dump.least_age(g),
        "wait": dump.details.waits.get(&g.goid).map(|found| wait(dump, found, waiting)),
        "labels": labels_of(dump, g),
        "start_function": binary.function_name(g.startpc),
        "created_by": created_by(dump, g, symbolizer),
        "stack": stack(dump, g, symbolizer),
        "stack_truncated": g.stack.truncated,
        "thread_id": g.thread_id,
        "locked_to_thread": g.locked,
        "system": g.system,
        "torn": g.torn,
    })
}

/// The frames of a stack, innermost first.
pub(super) fn stack(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> Vec<Value> {
    let mut frames = Vec::new();
    for pc in &g.stack.pcs {
        frames.extend(symbolizer.frames(dump.runtime.binary(), *pc).iter().map(json::frame));
    }
    frames
}

/// Where a goroutine was created.
pub(super) fn created_by(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> Option<Value> {
    let creation = Pc { address: g.gopc, exact: false };
    let frame = (g.gopc != 0).then(|| symbolizer.innermost(dump.runtime.binary(), creation)).flatten()?;
    Some(json!({
        "function": frame.function,
        "file": frame.file,
        "line": frame.line,
        "goid": (g.parent_goid != 0).then_some(g.parent_goid),
    }))
}

fn wait(dump: &Dump<'_>, wait: &Wait, waiting: &HashMap<Target, usize>) -> Value {
    let count = |target: Target| waiting.get(&target).copied().unwrap_or(0);
    let cases = |cases: &[Case]| -> Vec<Value> {
        cases
            .iter()
            .map(|case| {
                let mut value = channel(dump, case.channel);
                value["direction"] = json!(case.direction.map(Direction::name));
                value["goroutines_waiting"] = json!(count(Target::Channel(case.channel)));
                value
            })
            .collect()
    };
    let at = |kind: &str, address: Option<u64>, target: fn(u64) -> Target| {
        json!({
            "kind": kind,
            "address": address.map(hex),
            "goroutines_waiting": address.map(|address| count(target(address))),
        })
    };
    match wait {
        Wait::Channel(case) => json!({ "kind": "channel", "cases": cases(&[*case]) }),
        Wait::Select { cases: all, left_out } => {
            json!({ "kind": "select", "cases": cases(all), "cases_left_out": left_out })
        }
        Wait::Semaphore(address) => at("semaphore", *address, Target::Semaphore),
        Wait::Cond(address) => at("cond", *address, Target::Cond),
        Wait::Sleep { until_ns } => json!({
            "kind": "sleep",
            "until": until_ns.and_then(future),
            "remaining_ns": until_ns.map(|at| at.saturating_sub(monotonic_ns())),
        }),
        Wait::Forever => json!({ "kind": "forever" }),
        Wait::Unread => json!({ "kind": "unread" }),
    }
}

/// A channel, with what is known of it.
pub(super) fn channel(dump: &Dump<'_>, address: u64) -> Value {
    let known = dump.details.channels.get(&address);
    json!({
        "channel": hex(address),
        "element_type": known.and_then(|channel| channel.element.as_deref()),
        "capacity": known.map(|channel| channel.capacity),
        "length": known.map(|channel| channel.length),
        "closed": known.map(|channel| channel.closed),
    })
}

/// An address as Go's `%p` prints it.
pub(super) fn hex(address: u64) -> String {
    format!("{address:#x}")
}

/// Wall time of a `CLOCK_MONOTONIC` time to come; `None` for one that no calendar has: a sleep for ever.
fn future(at_ns: u64) -> Option<String> {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let left = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns()));
    let at = SystemTime::now().checked_add(left).filter(|_| left < CENTURY)?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}

/// A goroutine's labels as an object, an empty one if it has none; `null` if they were not, or could not be, read.
fn labels_of(dump: &Dump<'_>, g: &Goroutine) -> Value {
    match dump.details.labels.get(&g.goid) {
        _ if !dump.labels || g.torn => Value::Null,
        None => json!({}),
        Some(None) => Value::Null,
        Some(Some(found)) => labels(found),
    }
}

/// Labels as an object.
pub(crate) fn labels(labels: &Labels) -> Value {
    Value::Object(labels.pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Map<_, _>>())
}

/// JSON with nothing in it that a terminal could obey: what [`gotrail::text::printable`] escapes in text is here
/// written as an escape of JSON's own, so that it means the same.
pub(crate) fn safe(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        let bidi = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        // Outside of strings JSON is ASCII, and serde_json has escaped what is below 0x20.
        if bidi || matches!(c, '\u{7f}'..='\u{9f}') {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_1_json_keeps_its_meaning_and_nothing_that_a_terminal_obeys() {
        let text = "a\u{1b}[31m\u{9b}31m\u{7f}\u{202e}naïve";
        let value = json!({ text: text });
        let safe = safe(&value.to_string());
        assert!(safe.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{safe:?}");
        assert_eq!(serde_json::from_str::<Value>(&safe).unwrap(), value);
    }
}
