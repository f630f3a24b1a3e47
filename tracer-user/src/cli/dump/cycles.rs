//! `--waits`: goroutines that wait for each other, as text and JSON.

use std::collections::HashMap;
use std::fmt::Write as _;

use gotrail::agent::{Reached, Ring, Rings, Waited, find_rings};
use gotrail::detect::Degree;
use gotrail::memory::{Goroutine, Symbolizer, Target};
use gotrail::model::{Edge, Evidence};
use gotrail::text::{duration, printable};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::{Dump, document, waits};

/// Most rings, steps of one and ids that are shown as text.
const RINGS: usize = 20;
const STEPS: usize = 12;
const IDS: usize = 8;

/// Looks for them.
pub(super) fn find(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> Result<Rings, Failure> {
    Ok(find_rings(dump.runtime, dump.snapshot, dump.details, symbolizer, dump.prove_for)?)
}

/// For people: `DEADLOCK (confirmed): goroutine 7 waits for ...`.
pub(super) fn text(dump: &Dump<'_>, rings: &Rings, symbolizer: &mut Symbolizer) -> String {
    let goroutines: HashMap<u64, &Goroutine> = dump.snapshot.goroutines.iter().map(|g| (g.goid, g)).collect();
    let mut out = String::new();
    // Writing to a String can't fail.
    for found in rings.rings.iter().take(RINGS) {
        let members = found.ring.members.len();
        let _ = writeln!(
            out,
            "DEADLOCK ({}): {}",
            found.degree.name(),
            if members == 1 {
                "a goroutine waits for itself".to_owned()
            } else {
                format!("{members} goroutines wait for each other")
            }
        );
        for edge in found.ring.path.iter().take(STEPS) {
            let _ =
                writeln!(out, "    goroutine {} waits for {},", edge.waiter, thing(dump, rings, edge.thing));
            if let Some(g) = goroutines.get(&edge.waiter) {
                let _ = writeln!(out, "        in {}", waits::place(dump, g, symbolizer));
            }
            let _ = writeln!(out, "    {} goroutine {}", because(edge.evidence), edge.ender);
        }
        if found.ring.path.len() > STEPS {
            let _ = writeln!(out, "    and so on around: --format json has all of it");
        }
        if !found.ring.behind.is_empty() {
            let _ = writeln!(
                out,
                "    {} behind them: goroutine {}",
                waits::wait(found.ring.behind.len()),
                ids(&found.ring.behind)
            );
        }
        let _ = writeln!(out, "    evidence: {}", evidence(rings, found));
        let _ = writeln!(out, "    it would be disproved by: {}", disproof(found.degree));
        out.push('\n');
    }
    if rings.rings.len() > RINGS {
        let _ = writeln!(out, "{} more deadlocks: --format json has them all\n", rings.rings.len() - RINGS);
    }
    if let Some(why) = &rings.refused {
        let _ = writeln!(out, "Not looked for goroutines that wait for each other: {}\n", printable(why));
    }
    out
}

fn ids(goids: &[u64]) -> String {
    let ids: Vec<String> = goids.iter().take(IDS).map(u64::to_string).collect();
    let more = if goids.len() > IDS { ", …" } else { "" };
    format!("{}{more}", ids.join(", "))
}

/// `sync.Mutex 0xc000012345`
fn thing(dump: &Dump<'_>, rings: &Rings, number: usize) -> String {
    let Some(found) = rings.things.get(number) else { return "something".to_owned() };
    match (found.target, found.lock) {
        (Target::Channel(at), _) => {
            let known = dump.details.channels.get(&at).and_then(|channel| channel.element.as_deref());
            format!("channel {} (chan {})", document::hex(at), printable(known.unwrap_or("?")))
        }
        (_, Some(lock)) => format!("{} {}", lock.state.type_name(), document::hex(lock.address)),
        (target, None) => format!("{} {}", target.name(), document::hex(target.address())),
    }
}

const fn because(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Holds => "which is held, by its code, by",
        Evidence::Gives => "which, by its code, could be unlocked by",
        Evidence::Pointer => "which, of all stacks, leads back only to such as wait, like",
        Evidence::Before => "where before it waits",
    }
}

/// What speaks for it.
fn evidence(rings: &Rings, found: &Ring) -> String {
    let mut text = format!(
        "no member has moved in {}, and no stack but theirs, of all that were searched, leads to what they wait on",
        duration(rings.between_ns)
    );
    let mut others: Vec<u64> = things(rings, found).flat_map(|thing| thing.others.iter().copied()).collect();
    others.sort_unstable();
    others.dedup();
    if !others.is_empty() {
        text = format!(
            "no member has moved in {}; the code of members takes the locks and has not given them back; goroutine {} too {} a pointer to one of them, but did not take it",
            duration(rings.between_ns),
            ids(&others),
            if others.len() == 1 { "has" } else { "have" },
        );
    }
    match &found.reach {
        Reached::ByNothing(scans) => {
            let _ = write!(
                text,
                "; in {scans} scans of the heap in a row nothing that can run reached these things"
            );
        }
        Reached::BySomething(_) => {
            text.push_str("; not proved: other goroutines or variables reach these things");
        }
        Reached::Unknown(why) => {
            let _ = write!(text, "; not proved: {}", printable(why));
        }
    }
    if rings.not_searched != 0 {
        let _ = write!(text, "; {} stacks were not searched, or only in part", rings.not_searched);
    }
    text
}

fn things<'a>(rings: &'a Rings, found: &'a Ring) -> impl Iterator<Item = &'a Waited> {
    found.ring.things.iter().filter_map(|number| rings.things.get(*number))
}

const fn disproof(degree: Degree) -> &'static str {
    match degree {
        Degree::Proved => {
            "a pointer to these things where Go's own collector would not see one either: in C memory, or as a number"
        }
        Degree::Confirmed => "a goroutine that unlocks what another one has locked",
        Degree::Suspected => {
            "a goroutine that reaches one of these things through the heap or a variable, and ends the wait"
        }
    }
}

/// For JSON: the rings, and why they were not looked for.
pub(super) fn json(dump: &Dump<'_>, rings: &Rings, symbolizer: &mut Symbolizer) -> (Value, Value) {
    let goroutines: HashMap<u64, &Goroutine> = dump.snapshot.goroutines.iter().map(|g| (g.goid, g)).collect();
    let cycles = rings.rings.iter().map(|found| {
        let path: Vec<Value> = found
            .ring
            .path
            .iter()
            .map(|edge: &Edge| {
                json!({
                    "goid": edge.waiter,
                    "waits_in": goroutines.get(&edge.waiter).map(|g| waits::place(dump, g, symbolizer)),
                    "thing": rings.things.get(edge.thing).map(|thing| document::hex(address(thing))),
                    "could_be_ended_by": edge.ender,
                    "evidence": edge.evidence.name(),
                })
            })
            .collect();
        let things: Vec<Value> = things(rings, found)
            .map(|thing| {
                json!({
                    "kind": thing.lock.map_or(thing.target.name(), |lock| lock.state.type_name()),
                    "address": document::hex(address(thing)),
                    "goroutines_waiting": thing.waiters,
                    "others_with_pointer": thing.others,
                })
            })
            .collect();
        json!({
            "degree": found.degree.name(),
            "goids": found.ring.members,
            "things": things,
            "path": path,
            "waiting_behind": found.ring.behind,
            "evidence": evidence(rings, found),
            "disproved_by": disproof(found.degree),
            "unreached_scans": match found.reach {
                Reached::ByNothing(scans) => Some(scans),
                Reached::BySomething(_) => Some(0),
                Reached::Unknown(_) => None,
            },
        })
    });
    (Value::Array(cycles.collect()), json!(rings.refused))
}

/// Of a lock the structure's address, of a channel what `%p` prints.
fn address(thing: &Waited) -> u64 {
    thing.lock.map_or(thing.target.address(), |lock| lock.address)
}
