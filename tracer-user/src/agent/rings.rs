//! Goroutines that wait for each other in a ring: what memory, code and stacks say of it, joined.
//!
//! Go records neither who holds a lock nor who will use a channel. What counts here: that the lock is taken; which
//! stacks lead to it, in which frames; whether the code of these has locked that very address on every way to its place,
//! and has not given it back; and that all of it is the same at a second look. A ring by a mere pointer is suspected, one by locks that are
//! held is confirmed, and one whose things nothing that can still run reaches is proved (`memory/stranded.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::binary::{LockingCode, Operand};
use crate::detect::Degree;
use crate::memory::{
    Details, Goroutine, LONGEST, Lock, LockState, NEEDED, Prover, Reach, ReachedFrame, Reader, Runtime,
    RuntimeError, Snapshot, Sought, Spans, Symbolizer, Target, Unproven, Wait, Want,
};
use crate::model::{self, Evidence, WaitGraph};

/// Time between the two looks, at least.
const BETWEEN: Duration = Duration::from_millis(50);
/// Scans in a row that reach what a ring waits on, after which that is believed.
const ENOUGH_REACHED: u32 = 3;
/// Bytes of a `sync.RWMutex`, the largest of the locks.
const LOCK_SIZE: u64 = 24;
/// Bytes of a `sync.Mutex`.
const MUTEX_SIZE: u64 = 8;
/// Bytes of a block that small values share (`maxTinySize`, runtime/malloc.go).
const TINY: u64 = 16;
/// Where in a `sync.RWMutex` writers and readers wait (sync/rwmutex.go, Go 1.18 to 1.27).
const WRITER_SEM: u64 = 8;
const READER_SEM: u64 = 12;

/// Something that goroutines wait on.
#[derive(Clone, Debug)]
pub struct Waited {
    /// Where.
    pub target: Target,
    /// The lock behind it.
    pub lock: Option<Lock>,
    /// Who waits, in the order of their ids.
    pub waiters: Vec<u64>,
    /// Goroutines that have a pointer to it on their stack, and are not counted among those who could end the wait:
    /// another holds the lock by its code.
    pub others: Vec<u64>,
    /// A goroutine that runs may have a pointer to it.
    pub seen_running: bool,
}

/// Goroutines that wait for each other.
#[derive(Clone, Debug)]
pub struct Ring {
    /// How sure that is.
    pub degree: Degree,
    /// Who, once around, and who is stuck behind; things by their number in [`Rings::things`].
    pub ring: model::Ring,
    /// Whether anything that can still run reaches what its members wait on.
    pub reach: Reached,
}

/// What scans of the whole heap said of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Nothing does, in so many scans in a row.
    ByNothing(u32),
    /// Something does, in each of so many scans: by the heap, a variable, or another stack.
    BySomething(u32),
    /// Not known, and why.
    Unknown(String),
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Rings {
    /// The things that are waited on.
    pub things: Vec<Waited>,
    /// The rings.
    pub rings: Vec<Ring>,
    /// Stacks that were not searched, or only in part.
    pub not_searched: usize,
    /// Time between the two looks, ns.
    pub between_ns: u64,
    /// Why rings were not looked for.
    pub refused: Option<String>,
    /// Rings by pointers alone that are none, as something else reaches what they wait on.
    pub dropped: usize,
}

/// Looks for rings among the goroutines of a snapshot that was taken with [`Want::waits`]. Where there are some, the heap
/// is read again and again to prove them, for at most `prove_for`.
///
/// # Errors
/// [`RuntimeError::Read`].
pub fn find_rings<R: Reader>(
    runtime: &Runtime<'_, R>,
    snapshot: &Snapshot,
    details: &Details,
    symbolizer: &mut Symbolizer,
    prove_for: Duration,
) -> Result<Rings, RuntimeError> {
    let mut rings = Rings { things: things(runtime, snapshot, details, symbolizer), ..Rings::default() };
    if rings.things.is_empty() {
        return Ok(rings);
    }
    let spans = match runtime.spans() {
        Ok(spans) => spans,
        Err(RuntimeError::SelfCheck { what, .. }) => {
            rings.refused = Some(what);
            return Ok(rings);
        }
        Err(error) => return Err(error),
    };
    let Some(spans) = spans else {
        rings.refused = Some(format!(
            "where the heap keeps its objects is not known for Go {}, so it is not known what leads to a lock",
            runtime.binary().version()
        ));
        return Ok(rings);
    };
    let sought: Vec<Sought> = rings.things.iter().map(|thing| sought(runtime, thing, &spans)).collect();
    let reach = runtime.reach(&sought)?;
    rings.not_searched = reach.not_searched + reach.cut;
    let graph = Judge { runtime, snapshot, details, symbolizer, code: LockingCode::default() }
        .graph(&mut rings.things, &reach);
    let found = graph.rings();
    if found.is_empty() {
        return Ok(rings);
    }
    std::thread::sleep(BETWEEN);
    let (again, details_again) = runtime.snapshot_with(Want { waits: true, ..Want::default() })?;
    rings.between_ns = again.taken_ns.saturating_sub(snapshot.taken_ns);
    let parks = |snapshot: &Snapshot| -> HashMap<u64, crate::memory::Park> {
        snapshot.goroutines.iter().filter_map(|g| Some((g.goid, g.park?))).collect()
    };
    let (before, after) = (parks(snapshot), parks(&again));
    let stuck = graph.stuck();
    for ring in found {
        let is_same = |goid: &u64| {
            before.get(goid).is_some_and(|park| after.get(goid) == Some(park))
                && details.waits.get(goid) == details_again.waits.get(goid)
        };
        let still_taken = |number: &usize| {
            rings.things.get(*number).is_none_or(|thing| thing.lock.is_none_or(|lock| runtime.is_taken(lock)))
        };
        if !ring.members.iter().all(is_same) || !ring.things.iter().all(still_taken) {
            continue;
        }
        let is_held = |number: &usize| {
            let (Some(node), Some(thing)) = (graph.things.get(*number), rings.things.get(*number)) else {
                return false;
            };
            // One that has a pointer to it and can go on may give it back for another.
            !thing.seen_running
                && thing.others.iter().all(|goid| stuck.contains(goid))
                && node.enders.values().all(|evidence| matches!(evidence, Evidence::Holds | Evidence::Before))
        };
        let is_confirmed = rings.not_searched == 0 && ring.things.iter().all(is_held);
        let degree = if is_confirmed { Degree::Confirmed } else { Degree::Suspected };
        let reach = Reached::Unknown("it was not asked for".to_owned());
        rings.rings.push(Ring { degree, ring, reach });
    }
    if !prove_for.is_zero() && !rings.rings.is_empty() {
        prove(runtime, &mut rings.rings, prove_for)?;
    }
    let before = rings.rings.len();
    let things = &rings.things;
    rings.rings.retain(|found| !is_open(found, &graph, things));
    rings.dropped = before - rings.rings.len();
    Ok(rings)
}

/// Whether a ring by pointers alone is none: something else reaches what it waits on. Who holds a lock by its code is not
/// freed by another that only reaches it.
fn is_open(found: &Ring, graph: &WaitGraph, things: &[Waited]) -> bool {
    let by_pointer = |number: &usize| {
        let is_lock = things
            .get(*number)
            .and_then(|thing| thing.lock)
            .is_some_and(|lock| matches!(lock.state, LockState::Mutex { .. } | LockState::RwMutex { .. }));
        let held = graph.things.get(*number).is_some_and(|node| {
            node.enders.values().any(|evidence| matches!(evidence, Evidence::Holds | Evidence::Before))
        });
        !(is_lock && held)
    };
    matches!(found.reach, Reached::BySomething(_)) && found.ring.things.iter().any(by_pointer)
}

/// Scans the heap until each ring is proved, or was reached in as many scans as are needed to say so, or the time is up.
fn prove<R: Reader>(
    runtime: &Runtime<'_, R>,
    rings: &mut [Ring],
    prove_for: Duration,
) -> Result<(), RuntimeError> {
    let begin = Instant::now();
    let mut prover = Prover::new(runtime);
    let mut reached: Vec<u32> = vec![0; rings.len()];
    let mut why = None;
    loop {
        let scan_begin = Instant::now();
        match prover.scan() {
            Ok(Ok(_)) => {}
            Ok(Err(Unproven(reason))) | Err(RuntimeError::SelfCheck { what: reason, .. }) => {
                why = Some(reason);
                break;
            }
            Err(error) => return Err(error),
        }
        let mut undecided = false;
        for (ring, reached) in rings.iter().zip(&mut reached) {
            let streak = ring.ring.members.iter().map(|goid| prover.streak(*goid)).min().unwrap_or(0);
            *reached = if streak == 0 { *reached + 1 } else { 0 };
            undecided |= if streak == 0 { *reached < ENOUGH_REACHED } else { streak < NEEDED };
        }
        undecided |= !prover.has_seen_registers() && prover.scans() < 4 * NEEDED;
        if !undecided || begin.elapsed() + scan_begin.elapsed() >= prove_for {
            break;
        }
        std::thread::sleep(prover.gap());
    }
    for (ring, reached) in rings.iter_mut().zip(reached) {
        let streak = ring.ring.members.iter().map(|goid| prover.streak(*goid)).min().unwrap_or(0);
        ring.reach = match &why {
            Some(why) => Reached::Unknown(why.clone()),
            None if streak == 0 => Reached::BySomething(reached),
            None if !prover.has_seen_registers() => Reached::Unknown(
                "a goroutine ran all the time without being preempted, so that its registers were not seen"
                    .to_owned(),
            ),
            None => Reached::ByNothing(streak),
        };
        if matches!(ring.reach, Reached::ByNothing(streak) if streak >= NEEDED) {
            ring.degree = Degree::Proved;
        }
    }
    Ok(())
}

/// All that is waited on, with the locks behind.
fn things<R: Reader>(
    runtime: &Runtime<'_, R>,
    snapshot: &Snapshot,
    details: &Details,
    symbolizer: &mut Symbolizer,
) -> Vec<Waited> {
    let mut waiters: BTreeMap<Target, Vec<&Goroutine>> = BTreeMap::new();
    for g in &snapshot.goroutines {
        let targets = details.waits.get(&g.goid).into_iter().flat_map(Wait::targets);
        for target in targets.collect::<BTreeSet<_>>() {
            waiters.entry(target).or_default().push(g);
        }
    }
    let thing = |(target, waiters): (Target, Vec<&Goroutine>)| {
        let lock = match target {
            Target::Channel(_) => None,
            _ => waiters.first().and_then(|g| lock(runtime, target, g, symbolizer)),
        };
        let waiters = waiters.into_iter().map(|g| g.goid).collect();
        Waited { target, lock, waiters, others: Vec::new(), seen_running: false }
    };
    waiters.into_iter().map(thing).collect()
}

/// The lock behind what a goroutine waits on.
fn lock<R: Reader>(
    runtime: &Runtime<'_, R>,
    target: Target,
    waiter: &Goroutine,
    symbolizer: &mut Symbolizer,
) -> Option<Lock> {
    let mut functions = Vec::new();
    for pc in &waiter.stack.pcs {
        let frames = symbolizer.frames(runtime.binary(), *pc);
        functions.extend(frames.iter().map(|frame| frame.function.clone()));
    }
    runtime.lock(target.address(), functions.iter().map(String::as_str))
}

/// What leads to a thing: to a channel a pointer to its begin, to a lock a pointer into the object that it is in.
fn sought<R: Reader>(runtime: &Runtime<'_, R>, thing: &Waited, spans: &Spans) -> Sought {
    let address = thing.lock.map_or(thing.target.address(), |lock| lock.address);
    if let (Target::Channel(at), None) = (thing.target, thing.lock) {
        return Sought { range: at..at + 1, variable: None };
    }
    let own = address..address.saturating_add(LOCK_SIZE);
    match spans.find(address) {
        // Small values without pointers share a block (`tinySpanClass`, runtime/mcache.go).
        Some(object)
            if object.size == TINY && spans.all().get(object.span).is_some_and(|span| span.noscan) =>
        {
            Sought { range: address..address + MUTEX_SIZE, variable: None }
        }
        Some(object) => {
            // Of a large object the part around it: it is an array, or one of few.
            let half = LONGEST / 2;
            let start = object.base.max(address.saturating_sub(half));
            let end = object.base.saturating_add(object.size).min(address.saturating_add(half));
            Sought { range: start..end, variable: None }
        }
        None => {
            let linked = |at: u64| at.wrapping_sub(runtime.bias());
            let variable: Range<u64> = linked(own.start)..linked(own.end);
            let is_variable =
                runtime.binary().variables().iter().any(|range| range.contains(&variable.start));
            Sought { range: own, variable: is_variable.then_some(variable) }
        }
    }
}

/// What a frame's code says of a lock.
enum Held {
    /// It has taken it and not given it back.
    Certainly,
    /// It may have: not all that it took is known, or what it called may have given it back, perhaps to take it again.
    Perhaps { again: bool },
    /// It has not, and gives locks back.
    OnlyGives,
    /// It has not.
    Not,
}

/// Makes evidence of what was found.
struct Judge<'a, 'b, R> {
    runtime: &'a Runtime<'b, R>,
    snapshot: &'a Snapshot,
    details: &'a Details,
    symbolizer: &'a mut Symbolizer,
    code: LockingCode,
}

impl<R: Reader> Judge<'_, '_, R> {
    fn graph(&mut self, things: &mut [Waited], reach: &Reach) -> WaitGraph {
        let mut graph =
            WaitGraph { things: vec![model::Thing::default(); things.len()], ..WaitGraph::default() };
        let numbers: HashMap<Target, usize> =
            things.iter().enumerate().map(|(number, thing)| (thing.target, number)).collect();
        for (goid, wait) in &self.details.waits {
            let waits: BTreeSet<usize> =
                wait.targets().filter_map(|target| numbers.get(&target).copied()).collect();
            if *wait == Wait::Forever || !waits.is_empty() {
                graph.waits.insert(*goid, waits.into_iter().collect());
            }
        }
        // Cases that were left out may be the ones that end it.
        graph.waits.retain(|goid, _| {
            !matches!(self.details.waits.get(goid), Some(Wait::Select { left_out, .. }) if *left_out > 0)
        });
        let goroutines: HashMap<u64, &Goroutine> =
            self.snapshot.goroutines.iter().map(|g| (g.goid, g)).collect();
        let mut own_frames: HashMap<u64, usize> = HashMap::new();
        let mut rest = reach.found.as_slice();
        for number in 0..things.len() {
            let count = rest.iter().take_while(|found| found.thing == number).count();
            let (found, behind) = rest.split_at(count);
            rest = behind;
            let mut seen: BTreeMap<u64, Evidence> = BTreeMap::new();
            for reached in found {
                if reached.frames.is_empty() {
                    things[number].seen_running = true;
                    seen.insert(reached.goid, Evidence::Pointer);
                    continue;
                }
                let Some(&g) = goroutines.get(&reached.goid) else {
                    // Newer than the snapshot.
                    seen.insert(reached.goid, Evidence::Pointer);
                    continue;
                };
                let first = *own_frames.entry(g.goid).or_insert_with(|| self.first_own_frame(g));
                let evidence = self.evidence(&things[number], things, &numbers, g, first, &reached.frames);
                // A leftover of what was there before is no pointer that it can use.
                if let Some(evidence) = evidence.filter(|e| *e != Evidence::Pointer || reached.is_live) {
                    seen.insert(g.goid, evidence);
                }
            }
            let node = &mut graph.things[number];
            self.decide(&mut things[number], node, seen);
        }
        // A reader waits for the writer before it, and so does another writer.
        for number in 0..things.len() {
            let Some(lock) = things[number].lock else { continue };
            let target = things[number].target.address();
            let goes_first = match lock.state {
                LockState::RwMutex { readers_before_writer, .. } if target == lock.address + READER_SEM => {
                    readers_before_writer != 0
                }
                LockState::Mutex { .. } => true,
                _ => false,
            };
            let writers = numbers.get(&Target::Semaphore(lock.address + WRITER_SEM)).copied();
            if let (true, Some(writers)) = (goes_first, writers)
                && matches!(things[writers].lock.map(|lock| lock.state), Some(LockState::RwMutex { .. }))
            {
                let enders = things[writers].waiters.iter().map(|goid| (*goid, Evidence::Before)).collect();
                graph.things[number] = model::Thing { enders, open: false };
            }
        }
        graph
    }

    /// The first frame that is not of the runtime or of package sync: that which called what waits.
    fn first_own_frame(&mut self, g: &Goroutine) -> usize {
        let binary = self.runtime.binary();
        let waits = |name: &str| {
            ["runtime.", "sync.", "internal/sync.", "internal/poll."]
                .iter()
                .any(|part| name.starts_with(part))
        };
        g.stack
            .pcs
            .iter()
            .position(|pc| {
                let frames = self.symbolizer.frames(binary, *pc);
                !frames.last().is_some_and(|frame| waits(&frame.function))
            })
            .unwrap_or(g.stack.pcs.len())
    }

    /// What the frames of a goroutine that lead to a thing say; `None` if nothing but that it waits there.
    fn evidence(
        &mut self,
        thing: &Waited,
        things: &[Waited],
        numbers: &HashMap<Target, usize>,
        g: &Goroutine,
        first: usize,
        frames: &[ReachedFrame],
    ) -> Option<Evidence> {
        let waits_here = thing.waiters.binary_search(&g.goid).is_ok();
        let Some(lock) = thing.lock else {
            let own = frames.iter().any(|frame| frame.number >= first);
            return (own && !waits_here).then_some(Evidence::Pointer);
        };
        // A reader and a writer of one lock wait at different places in it.
        let waits_at_lock = waits_here
            || self.details.waits.get(&g.goid).into_iter().flat_map(Wait::targets).any(|target| {
                let found = numbers.get(&target).and_then(|number| things.get(*number)?.lock);
                found.is_some_and(|found| found.address == lock.address)
            });
        let is_lock = matches!(lock.state, LockState::Mutex { .. } | LockState::RwMutex { .. });
        let mut best = None;
        for frame in frames.iter().filter(|frame| frame.number >= first) {
            let evidence = if is_lock { self.held(lock, g, frame) } else { Held::Not };
            let evidence = match evidence {
                Held::Certainly => Evidence::Holds,
                // It must get it before it can give it back, and that it has called what waits says nothing.
                Held::Not | Held::OnlyGives if waits_at_lock => continue,
                // One that waits to take it again, or in this frame for the first time. A reader may have it already
                // while it waits behind the writer that this is about.
                Held::Perhaps { again }
                    if waits_at_lock && (again || waits_here && frame.number == first) =>
                {
                    continue;
                }
                Held::OnlyGives => Evidence::Gives,
                Held::Perhaps { .. } | Held::Not => Evidence::Pointer,
            };
            best = best.max(Some(evidence));
        }
        best
    }

    /// Whether a frame holds a lock.
    fn held(&mut self, lock: Lock, g: &Goroutine, frame: &ReachedFrame) -> Held {
        let (runtime, binary) = (self.runtime, self.runtime.binary());
        let locking = self.code.at(binary, frame.pc.address, frame.pc.exact);
        let is_it = |operand: &Operand| match *operand {
            Operand::Variable(at) => at.wrapping_add(runtime.bias()) == lock.address,
            Operand::Slot { at, plus } => runtime
                .word_at(frame.sp.wrapping_add_signed(at))
                .is_some_and(|word| word.wrapping_add(plus) == lock.address),
        };
        let is_held = locking.holding.held.iter().any(is_it);
        if !is_held && !locking.holding.maybe {
            return if locking.only_gives { Held::OnlyGives } else { Held::Not };
        }
        let again = self.may_have_given_up(g, frame.number);
        if is_held && !again { Held::Certainly } else { Held::Perhaps { again } }
    }

    /// Whether what a frame called may have given back what the frame holds, to take it again or not.
    fn may_have_given_up(&mut self, g: &Goroutine, number: usize) -> bool {
        let binary = self.runtime.binary();
        let Some(inner) = g.stack.pcs.get(..number) else { return true };
        inner.iter().any(|pc| {
            let frames = self.symbolizer.frames(binary, *pc);
            // A condition's lock is given back while it is waited for; deferred calls may have been made.
            let gives_up = frames.iter().any(|frame| {
                matches!(
                    frame.function.as_str(),
                    "sync.(*Cond).Wait" | "runtime.deferreturn" | "runtime.gopanic" | "runtime.Goexit"
                )
            });
            gives_up || self.code.at(binary, pc.address, pc.exact).holding.gave
        })
    }

    /// Who of those that were seen could end the wait.
    fn decide(&self, thing: &mut Waited, node: &mut model::Thing, seen: BTreeMap<u64, Evidence>) {
        let is_held = seen.values().any(|evidence| *evidence == Evidence::Holds);
        for (goid, evidence) in seen {
            if is_held && evidence == Evidence::Pointer {
                thing.others.push(goid);
            } else {
                node.enders.insert(goid, evidence);
            }
        }
        let can_end_itself = match (thing.target, thing.lock.map(|lock| lock.state)) {
            (Target::Channel(at), _) => {
                self.details.channels.get(&at).is_none_or(|channel| channel.closed || channel.timer.is_some())
            }
            (_, Some(LockState::Mutex { locked, .. })) => !locked,
            (_, Some(LockState::RwMutex { .. } | LockState::Cond)) => false,
            (_, Some(LockState::WaitGroup { counter })) => counter <= 0,
            // A semaphore of the runtime's own.
            (_, None) => true,
        };
        // Where nobody was seen, somebody reaches it through the heap, or nobody does.
        node.open = can_end_itself || node.enders.is_empty();
    }
}
