//! `--waits`: what is waited on, who waits there, and who could end it as far as memory tells.
//!
//! Nothing here says who *will* wake somebody. Go records neither who holds a lock nor who will use a channel. That
//! nobody can wake the waiter of a nil channel is certain; an address on a stack is a hint, as slots of frames keep
//! what was there before. Goroutines that wait for each other are in `cycles.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;

use gotrail::memory::{Direction, Goroutine, Holders, Lock, LockState, Symbolizer, Target, Timer, Wait};
use gotrail::text::{duration, printable};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::{Dump, cycles, document, group, io, text};

/// Most things that are shown as text.
const THINGS: usize = 40;
/// Most places of one thing that are shown as text.
const PLACES: usize = 5;
/// Most goroutines that are named as having an address on their stack.
const ON_STACKS: usize = 1024;

/// Something that goroutines wait on.
struct Thing<'a> {
    target: Target,
    /// Each once, in the order of their ids.
    waiters: Vec<&'a Goroutine>,
    receive: usize,
    send: usize,
    in_select: usize,
    lock: Option<Lock>,
    /// Others that have its address on their stack.
    on_stacks: Vec<u64>,
}

impl Thing<'_> {
    /// One of many cases of a single goroutine: a `select` has them by the dozen.
    fn is_private(&self) -> bool {
        self.waiters.len() == 1 && self.in_select == 1
    }
}

/// All of them, the one with the most waiters first.
struct Things<'a> {
    things: Vec<Thing<'a>>,
    holders: Holders,
    forever: Vec<&'a Goroutine>,
}

fn things<'a>(dump: &Dump<'a>, symbolizer: &mut Symbolizer) -> Result<Things<'a>, Failure> {
    let shown: HashSet<u64> = dump.shown.iter().map(|g| g.goid).collect();
    let mut by_target: BTreeMap<Target, Thing<'a>> = BTreeMap::new();
    let mut forever = Vec::new();
    for g in &dump.snapshot.goroutines {
        let Some(wait) = dump.details.waits.get(&g.goid) else { continue };
        if *wait == Wait::Forever && shown.contains(&g.goid) {
            forever.push(g);
        }
        for target in wait.targets().collect::<BTreeSet<_>>() {
            let thing = by_target.entry(target).or_insert_with(|| Thing {
                target,
                waiters: Vec::new(),
                receive: 0,
                send: 0,
                in_select: 0,
                lock: None,
                on_stacks: Vec::new(),
            });
            thing.waiters.push(g);
            let waits =
                |direction| usize::from(operations(wait, target).any(|found| found == Some(direction)));
            thing.receive += waits(Direction::Receive);
            thing.send += waits(Direction::Send);
            thing.in_select += usize::from(matches!(wait, Wait::Select { .. }));
        }
    }
    let mut things: Vec<Thing<'a>> = by_target
        .into_values()
        .filter(|thing| thing.waiters.iter().any(|g| shown.contains(&g.goid)))
        .collect();
    for thing in &mut things {
        if !matches!(thing.target, Target::Channel(_)) {
            let functions = functions(dump, thing.waiters[0], symbolizer);
            thing.lock = dump.runtime.lock(thing.target.address(), functions.iter().map(String::as_str));
        }
    }
    let holders = dump.runtime.holders(&things.iter().flat_map(addresses).collect())?;
    for thing in &mut things {
        let waiting: HashSet<u64> = thing.waiters.iter().map(|g| g.goid).collect();
        let found: BTreeSet<u64> = addresses(thing)
            .iter()
            .filter_map(|address| holders.by_address.get(address))
            .flatten()
            .copied()
            .filter(|goid| !waiting.contains(goid))
            .collect();
        thing.on_stacks = found.into_iter().collect();
    }
    things.sort_by_key(|thing| (std::cmp::Reverse(thing.waiters.len()), thing.target));
    Ok(Things { things, holders, forever })
}

fn operations(wait: &Wait, target: Target) -> impl Iterator<Item = Option<Direction>> {
    let cases = match wait {
        Wait::Channel(case) => std::slice::from_ref(case),
        Wait::Select { cases, .. } => cases.as_slice(),
        _ => &[],
    };
    cases.iter().filter(move |case| case.channel == target.address()).map(|case| case.direction)
}

/// Where code that can end the wait has a pointer to.
fn addresses(thing: &Thing<'_>) -> Vec<u64> {
    std::iter::once(thing.target.address()).chain(thing.lock.map(|lock| lock.address)).collect()
}

/// The functions on a stack, innermost first.
pub(super) fn functions(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> Vec<String> {
    let mut names = Vec::new();
    for pc in &g.stack.pcs {
        let frames = symbolizer.frames(dump.runtime.binary(), *pc);
        names.extend(frames.iter().map(|frame| frame.function.clone()));
    }
    names
}

/// The innermost frame that is the program's own: not of the runtime, and not of what waits on its behalf.
pub(super) fn place(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer) -> String {
    for pc in &g.stack.pcs {
        for frame in symbolizer.frames(dump.runtime.binary(), *pc).iter() {
            let name = frame.function.as_str();
            let waits = ["sync.", "internal/", "reflect.", "time.", "net.", "os."]
                .iter()
                .any(|part| name.starts_with(part));
            if text::is_shown(frame) && !waits {
                return format!("{}  {}:{}", printable(name), printable(&frame.file), frame.line);
            }
        }
    }
    "a stack that is not known".to_owned()
}

/// For people.
pub(super) fn text(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> Result<String, Failure> {
    let Things { things, holders, forever } = things(dump, symbolizer)?;
    let mut out = cycles::text(dump, &cycles::find(dump, symbolizer)?, symbolizer);
    // Writing to a String can't fail.
    if !forever.is_empty() {
        let _ = writeln!(
            out,
            "{} for ever: on a nil channel, or in a select without a case. Nothing can wake {}.",
            wait(forever.len()),
            if forever.len() == 1 { "it" } else { "them" }
        );
        members(dump, &forever, symbolizer, &mut out);
        out.push('\n');
    }
    let (private, shared): (Vec<&Thing<'_>>, Vec<&Thing<'_>>) =
        things.iter().partition(|thing| thing.is_private());
    for thing in shared.iter().take(THINGS) {
        let age = dump.oldest(&thing.waiters);
        let _ = writeln!(out, "{} {}{age}", wait(thing.waiters.len()), what(dump, thing));
        members(dump, &thing.waiters, symbolizer, &mut out);
        let _ = writeln!(out, "    ends by: {}", ends_by(dump, thing));
        if !thing.on_stacks.is_empty() {
            let ids: Vec<String> = thing.on_stacks.iter().take(8).map(u64::to_string).collect();
            let more = if thing.on_stacks.len() > 8 { ", …" } else { "" };
            let _ = writeln!(out, "    its address is on the stack of: goroutine {}{more}", ids.join(", "));
        }
        out.push('\n');
    }
    if shared.len() > THINGS {
        let _ = writeln!(
            out,
            "{} more things are waited on: --format json has them all\n",
            shared.len() - THINGS
        );
    }
    if !private.is_empty() {
        let mut waiters: Vec<&Goroutine> = private.iter().map(|thing| thing.waiters[0]).collect();
        waiters.sort_by_key(|g| g.goid);
        waiters.dedup_by_key(|g| g.goid);
        let _ = writeln!(
            out,
            "{} in a select on {} channels that nobody else waits on: --format json has them",
            wait(waiters.len()),
            private.len()
        );
        members(dump, &waiters, symbolizer, &mut out);
        out.push('\n');
    }
    out.push_str(&io::text(dump, symbolizer));
    let others = others(dump);
    if !others.is_empty() {
        let _ = writeln!(out, "not waiting for another goroutine, or not known to: {others}");
    }
    if !things.is_empty() {
        let _ = writeln!(
            out,
            "An address on a stack is a hint at who may wake the waiters: it can be left over from before, and others may reach the thing through the heap. {} stacks were not searched, of {} only a part.",
            holders.not_searched, holders.cut
        );
    }
    Ok(out)
}

pub(super) fn wait(count: usize) -> String {
    if count == 1 { "1 goroutine waits".to_owned() } else { format!("{count} goroutines wait") }
}

/// Who waits, and where in the code.
fn members(dump: &Dump<'_>, waiters: &[&Goroutine], symbolizer: &mut Symbolizer, out: &mut String) {
    let _ = writeln!(out, "    goroutines: {}", group::goids(waiters));
    let mut places: HashMap<String, usize> = HashMap::new();
    for g in waiters {
        *places.entry(place(dump, g, symbolizer)).or_default() += 1;
    }
    let mut places: Vec<(String, usize)> = places.into_iter().collect();
    places.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let count = places.len();
    for (place, times) in places.into_iter().take(PLACES) {
        let times = if count == 1 { String::new() } else { format!("  ({times} of them)") };
        let _ = writeln!(out, "    in {place}{times}");
    }
    if count > PLACES {
        let _ = writeln!(out, "    in {} more places", count - PLACES);
    }
}

/// `on channel 0xc000112060 (chan main.order, 0 of 4 buffered): 3 receive, 2 of them in a select`
fn what(dump: &Dump<'_>, thing: &Thing<'_>) -> String {
    let address = document::hex(thing.target.address());
    match (thing.target, thing.lock) {
        (Target::Channel(at), _) => {
            let known = dump.details.channels.get(&at);
            let kind = known.map_or_else(
                || "could not be read".to_owned(),
                |channel| {
                    format!(
                        "chan {}, {}{}",
                        printable(channel.element.as_deref().unwrap_or("of a type made at run time")),
                        if channel.capacity == 0 {
                            "unbuffered".to_owned()
                        } else {
                            format!("{} of {} buffered", channel.length, channel.capacity)
                        },
                        if channel.closed { ", closed" } else { "" }
                    )
                },
            );
            let mut ways = Vec::new();
            for (count, way) in [(thing.receive, "receive"), (thing.send, "send")] {
                if count != 0 {
                    ways.push(format!("{count} {way}"));
                }
            }
            if thing.in_select != 0 {
                ways.push(format!("{} in a select", thing.in_select));
            }
            let fires =
                known.and_then(|channel| channel.timer).map(|timer| fires(dump, timer)).unwrap_or_default();
            format!("on channel {address} ({kind}{fires}): {}", ways.join(", "))
        }
        (_, Some(lock)) => {
            let state = match lock.state {
                LockState::Mutex { locked, starving } => match (locked, starving) {
                    (true, true) => "locked, with a waiter that has starved",
                    (true, false) => "locked",
                    (false, _) => "not locked at this moment",
                }
                .to_owned(),
                LockState::RwMutex { writer: true, readers_before_writer: 0 } => {
                    "a writer holds it".to_owned()
                }
                LockState::RwMutex { writer: true, readers_before_writer: readers } => {
                    format!("a writer waits for {readers} readers to leave")
                }
                LockState::RwMutex { writer: false, .. } => "no writer at this moment".to_owned(),
                LockState::WaitGroup { counter } => format!("its counter is {counter}"),
                LockState::Cond => format!("its waiters are at {address}"),
            };
            format!("on {} {} ({state})", lock.state.type_name(), document::hex(lock.address))
        }
        (target, None) => format!("on {} {address}", target.name()),
    }
}

/// `, its timer fires in 3.2 s, and then every 5.0 s`
fn fires(dump: &Dump<'_>, timer: Timer) -> String {
    if timer.when_ns == 0 {
        return ", its timer is stopped".to_owned();
    }
    let left = duration(timer.when_ns.saturating_sub(dump.runtime.now_ns()));
    match timer.period_ns {
        0 => format!(", its timer fires in {left}"),
        period => format!(", its timer fires in {left}, and then every {}", duration(period)),
    }
}

/// What would wake them.
fn ends_by(dump: &Dump<'_>, thing: &Thing<'_>) -> &'static str {
    match (thing.target, thing.lock.map(|lock| lock.state)) {
        // Two parked goroutines never face each other across a channel: the second would have served the first.
        (Target::Channel(at), _)
            if thing.send == 0
                && dump.details.channels.get(&at).is_some_and(|channel| channel.timer.is_some()) =>
        {
            "its timer"
        }
        (Target::Channel(_), _) if thing.send == 0 => {
            "a send, or close; no goroutine is parked sending there"
        }
        (Target::Channel(_), _) if thing.receive == 0 => "a receive; no goroutine is parked receiving there",
        (Target::Channel(_), _) => "an operation on it by another goroutine",
        (_, Some(LockState::Mutex { .. })) => "Unlock by whoever holds it; Go does not record who that is",
        (_, Some(LockState::RwMutex { .. })) => {
            "Unlock or RUnlock by those who hold it; Go does not record them"
        }
        (_, Some(LockState::WaitGroup { .. })) => "Done, that many times",
        (Target::Cond(_), _) => "Signal or Broadcast",
        (_, Some(LockState::Cond) | None) => "a release of the semaphore",
    }
}

/// What all others do: state and count.
fn others(dump: &Dump<'_>) -> String {
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for g in &dump.shown {
        let wait = dump.details.waits.get(&g.goid);
        let is_told = |wait: &Wait| {
            matches!(wait, Wait::Forever | Wait::Io(Some(_))) || wait.targets().next().is_some()
        };
        if !wait.is_some_and(is_told) {
            *states.entry(printable(dump.state(g))).or_default() += 1;
        }
    }
    let states: Vec<String> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    states.join(", ")
}

/// For JSON: fields beside the goroutines.
pub(super) fn json(
    dump: &Dump<'_>,
    symbolizer: &mut Symbolizer,
) -> Result<Vec<(&'static str, Value)>, Failure> {
    let Things { things, holders, forever } = things(dump, symbolizer)?;
    let targets: Vec<Value> = things
        .iter()
        .map(|thing| {
            let mut value = match thing.target {
                Target::Channel(address) => document::channel(dump, address),
                _ => json!({ "lock": thing.lock.map(lock) }),
            };
            value["kind"] = json!(thing.target.name());
            value["address"] = json!(document::hex(thing.target.address()));
            value["goroutines"] = thing.waiters.iter().map(|g| g.goid).collect();
            value["receive"] = json!(thing.receive);
            value["send"] = json!(thing.send);
            value["in_select"] = json!(thing.in_select);
            value["oldest_wait_for_ns"] = json!(thing.waiters.iter().filter_map(|g| dump.age(g)).max());
            value["oldest_wait_for_at_least_ns"] =
                json!(thing.waiters.iter().filter_map(|g| dump.least_age(g)).max());
            value["on_stacks_of"] = thing.on_stacks.iter().take(ON_STACKS).copied().collect();
            value["on_stacks_left_out"] = json!(thing.on_stacks.len().saturating_sub(ON_STACKS));
            value
        })
        .collect();
    let (cycles, why_none) = cycles::json(dump, &cycles::find(dump, symbolizer)?, symbolizer);
    Ok(vec![
        ("cycles", cycles),
        ("cycles_not_looked_for", why_none),
        ("targets", Value::Array(targets)),
        ("waiting_for_ever", forever.iter().map(|g| g.goid).collect()),
        ("stacks_not_searched", json!(holders.not_searched)),
        ("stacks_cut", json!(holders.cut)),
    ])
}

/// A lock of package sync.
pub(super) fn lock(lock: Lock) -> Value {
    let mut value = match lock.state {
        LockState::Mutex { locked, starving } => json!({ "locked": locked, "starving": starving }),
        LockState::RwMutex { writer, readers_before_writer } => {
            json!({ "writer": writer, "readers_before_writer": readers_before_writer })
        }
        LockState::WaitGroup { counter } => json!({ "counter": counter }),
        LockState::Cond => json!({}),
    };
    value["type"] = json!(lock.state.type_name());
    value["address"] = json!(document::hex(lock.address));
    value
}
