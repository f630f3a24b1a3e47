//! The dump as JSON: documented, stable names.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use gotrail::memory::{
    Case, Direction, Goroutine, Labels, Pc, Stack, Status, Symbolizer, Target, Timer, Wait,
};
use gotrail::target::Descriptor;
use serde_json::{Map, Value, json};

use super::super::args::DumpArgs;
use super::super::failure::Failure;
use super::super::json;
use super::{Dump, core_file, group, waits};

/// Bytes of text that are given away at a time.
const PIECE: usize = 64 << 10;

/// The whole answer, piece by piece: a million goroutines have gigabytes of it.
pub(super) fn write(
    dump: &Dump<'_>,
    args: &DumpArgs,
    symbolizer: &mut Symbolizer,
    mut give: impl FnMut(&str),
) -> Result<(), Failure> {
    let head = head(dump, args, symbolizer)?.to_string();
    if args.group {
        give(&safe(&head));
        give("\n");
        return Ok(());
    }
    // An object that is not empty, to which the goroutines are added as text.
    let mut out = head.strip_suffix('}').unwrap_or(&head).to_owned();
    out.push_str(",\"goroutines\":[");
    let mut waited = Waited { waiting: waiting(dump), locks: HashMap::new() };
    for (index, g) in dump.shown.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a String can't fail.
        let _ = write!(out, "{comma}{}", goroutine(dump, g, &mut waited, symbolizer));
        if out.len() >= PIECE {
            give(&safe(&out));
            out.clear();
        }
    }
    out.push_str("]}\n");
    give(&safe(&out));
    Ok(())
}

/// All but the goroutines one by one.
fn head(dump: &Dump<'_>, args: &DumpArgs, symbolizer: &mut Symbolizer) -> Result<Value, Failure> {
    let (binary, snapshot) = (dump.runtime.binary(), dump.snapshot);
    let mut document = json!({
        "schema": "gotrail.dump/1",
        "pid": dump.subject.pid(),
        "go_version": binary.version().to_string(),
        "layout_source": binary.layout_source().to_string(),
        "taken_at": wall(dump, snapshot.taken_ns),
        "took_ns": snapshot.took_ns,
        "torn": snapshot.torn,
        "unread": snapshot.unread,
        "unread_stacks": snapshot.unread_stacks,
        "unread_bytes": snapshot.unread_bytes,
    });
    if let Some(core) = dump.subject.core() {
        document["core"] = core_file::json(dump, core, symbolizer);
    }
    if args.group {
        document["groups"] = group::json(dump, symbolizer);
    }
    if args.waits {
        for (name, value) in waits::json(dump, symbolizer)? {
            document[name] = value;
        }
    }
    Ok(document)
}

/// What goroutines wait on together.
struct Waited {
    /// How many on each thing.
    waiting: HashMap<Target, usize>,
    /// The locks behind semaphores and lists of waiters that were looked at.
    locks: HashMap<Target, Value>,
}

/// Locks that are remembered.
const MAX_LOCKS: usize = 1 << 16;

impl Waited {
    /// The lock of package sync that a goroutine waits in, by the functions on its stack.
    fn lock(&mut self, dump: &Dump<'_>, g: &Goroutine, target: Target, symbolizer: &mut Symbolizer) -> Value {
        if let Some(known) = self.locks.get(&target) {
            return known.clone();
        }
        let functions = waits::functions(dump, g, symbolizer);
        let lock = dump.runtime.lock(target.address(), functions.iter().map(String::as_str));
        let value = lock.map_or(Value::Null, waits::lock);
        if self.locks.len() >= MAX_LOCKS {
            self.locks.clear();
        }
        self.locks.insert(target, value.clone());
        value
    }
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

fn goroutine(dump: &Dump<'_>, g: &Goroutine, waited: &mut Waited, symbolizer: &mut Symbolizer) -> Value {
    let binary = dump.runtime.binary();
    let since = (g.wait_since_ns != 0).then_some(g.wait_since_ns);
    let mut value = json!({
        "goid": g.goid,
        "status": g.status.name(),
        "wait_reason": g.status.is_parked().then(|| dump.runtime.wait_reason(g.wait_reason)),
        "wait_since_ns": since,
        "wait_for_ns": dump.age(g),
        "wait_for_at_least_ns": dump.least_age(g),
        "wait": dump.details.waits.get(&g.goid).map(|found| wait(dump, found, &waited.waiting)),
        "labels": labels_of(dump, g),
        "start_function": binary.function_name(g.startpc),
        "created_by": created_by(dump, g, symbolizer),
        "thread_id": g.thread_id(),
        "processor": g.thread.and_then(|thread| thread.processor),
        "in_cgo": g.thread.is_some_and(|thread| thread.in_cgo),
        "running_for_at_least_ns": running(dump, g),
        "scan": g.scan,
        "bubble": dump.details.bubbles.get(&g.goid),
        "ancestors": ancestors(dump, g, symbolizer),
        "locked_to_thread": g.locked,
        "system": g.system,
        "torn": g.torn,
    });
    let target = match dump.details.waits.get(&g.goid) {
        Some(Wait::Semaphore(Some(address))) => Some(Target::Semaphore(*address)),
        Some(Wait::Cond(Some(address))) => Some(Target::Cond(*address)),
        _ => None,
    };
    if let Some(target) = target {
        value["wait"]["lock"] = waited.lock(dump, g, target, symbolizer);
    }
    add_stack(&mut value, dump, g, symbolizer);
    value
}

/// Adds the frames of a stack, innermost first; nothing where stacks were not asked for.
pub(super) fn add_stack(value: &mut Value, dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) {
    if dump.stacks {
        value["stack"] = Value::Array(frames(dump, &g.stack, symbolizer));
        value["stack_truncated"] = json!(g.stack.truncated);
    }
}

/// The frames of any stack, innermost first.
pub(super) fn frames(dump: &Dump<'_>, stack: &Stack, symbolizer: &mut Symbolizer) -> Vec<Value> {
    let mut frames = Vec::new();
    for pc in &stack.pcs {
        frames.extend(symbolizer.frames(dump.runtime.binary(), *pc).iter().map(json::frame));
    }
    frames
}

/// Where a goroutine was created.
pub(super) fn created_by(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> Option<Value> {
    let creation = Pc { address: g.gopc, exact: false };
    let frame = (g.gopc != 0 && g.goid != 1)
        .then(|| symbolizer.innermost(dump.runtime.binary(), creation))
        .flatten()?;
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
            "until": until_ns.and_then(|at| future(dump, at)),
            "remaining_ns": until_ns.map(|at| at.saturating_sub(dump.runtime.now_ns())),
        }),
        Wait::Io(None) => json!({ "kind": "io" }),
        Wait::Io(Some(poll)) => json!({
            "kind": "io",
            "fd": poll.fd,
            "mode": poll.mode(),
            "poll_desc": hex(poll.desc),
            "deadline": poll.deadline_ns.and_then(|at| future(dump, at)),
            "remaining_ns": poll.deadline_ns.map(|at| at.saturating_sub(dump.runtime.now_ns())),
            "file": dump.files.get(&poll.fd).map(file),
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
        "timer": known.and_then(|channel| channel.timer).map(|found| timer(dump, found)),
    })
}

/// When a timer fires next, and whether again.
fn timer(dump: &Dump<'_>, timer: Timer) -> Value {
    let when = (timer.when_ns != 0).then_some(timer.when_ns);
    json!({
        "fires": when.and_then(|at| future(dump, at)),
        "remaining_ns": when.map(|at| at.saturating_sub(dump.runtime.now_ns())),
        "period_ns": (timer.period_ns != 0).then_some(timer.period_ns),
    })
}

/// What a file descriptor is.
fn file(descriptor: &Descriptor) -> Value {
    json!({
        "kind": descriptor.kind,
        "local": descriptor.local,
        "remote": descriptor.remote,
        "state": descriptor.state,
    })
}

/// For how long it has run at least without its P switching to another, in ns.
fn running(dump: &Dump<'_>, g: &Goroutine) -> Option<u64> {
    let since = g.thread.filter(|_| g.status == Status::Running)?.since_ns?;
    Some(dump.snapshot.taken_ns.saturating_sub(since))
}

/// Who started who started it; `null` where the runtime does not keep that.
fn ancestors(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> Option<Vec<Value>> {
    let binary = dump.runtime.binary();
    let ancestors = dump.details.ancestors.get(&g.goid)?.iter().map(|ancestor| {
        let stack: Vec<Value> = ancestor
            .pcs
            .iter()
            .filter_map(|pc| symbolizer.innermost(binary, *pc))
            .map(|frame| json::frame(&frame))
            .collect();
        let creation = Pc { address: ancestor.gopc, exact: false };
        let created = (ancestor.gopc != 0).then(|| symbolizer.innermost(binary, creation)).flatten();
        json!({
            "goid": ancestor.goid,
            "stack": stack,
            "stack_truncated": ancestor.truncated,
            "created_by": created.as_ref().map(json::frame),
        })
    });
    Some(ancestors.collect())
}

/// An address as Go's `%p` prints it.
pub(super) fn hex(address: u64) -> String {
    format!("{address:#x}")
}

/// Wall time of a `CLOCK_MONOTONIC` time; `None` where that can't be known.
fn wall(dump: &Dump<'_>, at_ns: u64) -> Option<String> {
    let at = dump.runtime.wall(at_ns).filter(|_| at_ns != 0)?;
    Some(humantime::format_rfc3339_millis(at).to_string())
}

/// The same of a time to come; `None` for one that no calendar has: a sleep for ever.
fn future(dump: &Dump<'_>, at_ns: u64) -> Option<String> {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let left = Duration::from_nanos(at_ns.saturating_sub(dump.runtime.now_ns()));
    (left < CENTURY).then(|| wall(dump, at_ns)).flatten()
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
