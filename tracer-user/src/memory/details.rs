//! What goroutines wait on, and their labels: read together with the goroutines, and kept only where these did
//! not change meanwhile.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::ancestors::Ancestor;
use super::labels::{self, Labels};
use super::reader::{Reader, field, u8_at, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::snapshot::RawG;
use super::stack::Unwinder;
use super::wait::{Case, Channel, Direction, Kind, MAX_CASES, Target, Timer, Wait};

/// Most cases of a `select` (`selectgo`, runtime/select.go).
const MOST_CASES: usize = 1 << 16;

/// What is read beyond the goroutines themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// What they wait on.
    pub waits: bool,
    /// Their pprof labels: contents of the process.
    pub labels: bool,
    /// Not their stacks: states, reasons and places of creation alone.
    pub no_stacks: bool,
    /// Their ancestors, which the runtime keeps with `GODEBUG=tracebackancestors=N` only, and the bubbles of
    /// testing/synctest that they are in.
    pub origins: bool,
    /// With `waits`: where the runtime keeps what it knows of those that wait.
    pub places: bool,
}

/// Where the runtime keeps what it knows of a parked goroutine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its `g`.
    pub(super) g: u64,
    /// `g.waiting`.
    pub(super) waiting: u64,
    /// Its `sudog`s.
    pub(super) sudogs: Vec<u64>,
}

/// What one snapshot may read of it: far more than real programs have, so that memory that was made to lead astray
/// costs seconds. What is beyond is told as unread.
pub(super) struct Budget {
    /// `sudog`s and waiters of lists.
    pub(super) waiters: usize,
    /// Bytes of labels and of the maps that they are in.
    pub(super) labels: u64,
    /// Bytes of the names of channels' elements: each channel has its own copy.
    names: usize,
    /// Addresses on the stacks of ancestors.
    pub(super) ancestors: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { waiters: 1 << 23, labels: 1 << 26, names: 1 << 26, ancestors: 1 << 22 }
    }
}

/// What goroutines wait on, and their labels.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// By goroutine id: what those wait on that wait on something known.
    pub waits: HashMap<u64, Wait>,
    /// By address: the channels that are waited on.
    pub channels: HashMap<u64, Channel>,
    /// By goroutine id: the labels of those that have any; `None` where they could not be read.
    pub labels: HashMap<u64, Option<Arc<Labels>>>,
    /// By goroutine id: the ancestors of those that have any, the nearest first.
    pub ancestors: HashMap<u64, Vec<Ancestor>>,
    /// By goroutine id: the numbers of the testing/synctest bubbles of those that are in one.
    pub bubbles: HashMap<u64, u64>,
    /// By goroutine id, of those that wait.
    pub(super) places: HashMap<u64, Place>,
}

/// A parked goroutine.
pub(super) struct Parked {
    /// Address of its `g`.
    pub(super) g: u64,
    pub(super) pc: u64,
    pub(super) sp: u64,
    pub(super) stack: Range<u64>,
}

/// What was read of some goroutines, before it is known whether they stayed as they were.
pub(super) struct Draft {
    /// For each of them.
    waits: Vec<Option<Wait>>,
    /// For each of them, its `sudog`s on channels.
    queued: Vec<Vec<Sudog>>,
    channels: HashMap<u64, RawChannel>,
    labels: Vec<Option<Option<Arc<Labels>>>>,
    /// For each of them; empty if not wanted.
    ancestors: Vec<Vec<Ancestor>>,
    bubbles: Vec<Option<u64>>,
    /// For each of them, its `g` and `g.waiting`; empty if not wanted.
    places: Vec<(u64, u64)>,
}

#[derive(Clone, Copy)]
struct Sudog {
    at: u64,
    next: u64,
}

struct RawChannel {
    channel: Channel,
    receivers: u64,
    senders: u64,
}

impl<R: Reader> Runtime<'_, R> {
    /// Reads what is wanted of some goroutines.
    pub(super) fn draft(
        &self,
        want: Want,
        raws: &[RawG<'_>],
        unwinder: &mut Unwinder<'_>,
        budget: &mut Budget,
    ) -> Result<Draft, RuntimeError> {
        let mut draft = Draft {
            waits: vec![None; raws.len()],
            queued: vec![Vec::new(); raws.len()],
            channels: HashMap::new(),
            labels: vec![None; raws.len()],
            ancestors: Vec::new(),
            bubbles: Vec::new(),
            places: Vec::new(),
        };
        if want.waits {
            self.draft_waits(raws, unwinder, budget, &mut draft)?;
        }
        if want.labels {
            self.draft_labels(raws, budget, &mut draft);
        }
        if want.places {
            let waiting = self.binary.layout().g.waiting;
            draft.places = raws.iter().map(|raw| (raw.address, u64_at(raw.bytes, waiting))).collect();
        }
        if want.origins {
            draft.ancestors = raws.iter().map(|raw| self.ancestors(raw.bytes, budget)).collect();
            draft.bubbles = raws.iter().map(|raw| self.bubble(raw.bytes)).collect();
        }
        Ok(draft)
    }

    /// The number of the bubble that a goroutine is in.
    fn bubble(&self, g: &[u8]) -> Option<u64> {
        let layout = self.binary.layout();
        let bubble = u64_at(g, layout.g.bubble?);
        (bubble != 0).then(|| self.memory.u64(field(bubble, layout.bubble.id?)).ok()).flatten()
    }

    /// Whether what leads to the details stayed the same.
    pub(super) fn same_details(&self, want: Want, before: &[u8], after: &[u8]) -> bool {
        let g = &self.binary.layout().g;
        (!want.waits || u64_at(before, g.waiting) == u64_at(after, g.waiting))
            && (!want.labels || u64_at(before, g.labels) == u64_at(after, g.labels))
    }

    fn draft_waits(
        &self,
        raws: &[RawG<'_>],
        unwinder: &mut Unwinder<'_>,
        budget: &mut Budget,
        draft: &mut Draft,
    ) -> Result<(), RuntimeError> {
        let layout = &self.binary.layout().g;
        let (mut lists, mut semaphores, mut conds) = (Vec::new(), Vec::new(), Vec::new());
        let (mut sleeps, mut polls) = (Vec::new(), Vec::new());
        for (index, raw) in raws.iter().enumerate() {
            if !self.status(raw.bytes).is_parked() {
                continue;
            }
            let waiting = u64_at(raw.bytes, layout.waiting);
            let kind = Kind::of(self.wait_reason(u8_at(raw.bytes, layout.waitreason)));
            draft.waits[index] = match kind {
                Kind::Other => None,
                Kind::Forever => Some(Wait::Forever),
                Kind::Sleep => {
                    let is_false = layout.bubble.is_some_and(|at| u64_at(raw.bytes, at) != 0);
                    let until_ns = layout.sleep_when.map(|at| u64_at(raw.bytes, at)).filter(|_| !is_false);
                    if layout.sleep_when.is_none() {
                        sleeps.push(index);
                    }
                    Some(Wait::Sleep { until_ns })
                }
                Kind::Io => {
                    polls.push(index);
                    Some(Wait::Io(None))
                }
                // Every case has a nil channel (`selectgo` leaves these out).
                Kind::Select if waiting == 0 => Some(Wait::Forever),
                Kind::Semaphore | Kind::Cond if waiting == 0 => {
                    if kind == Kind::Cond { &mut conds } else { &mut semaphores }.push(index);
                    None
                }
                Kind::Receive | Kind::Send | Kind::Select | Kind::Semaphore | Kind::Cond => {
                    lists.push((index, kind, waiting));
                    Some(Wait::Unread)
                }
            };
        }
        self.draft_lists(raws, lists, budget, draft)?;
        let parked = |indices: &[usize]| -> Vec<Parked> {
            let parked = |index: &usize| Parked {
                g: raws[*index].address,
                pc: u64_at(raws[*index].bytes, layout.sched_pc),
                sp: u64_at(raws[*index].bytes, layout.sched_sp),
                stack: u64_at(raws[*index].bytes, layout.stack_lo)
                    ..u64_at(raws[*index].bytes, layout.stack_hi),
            };
            indices.iter().map(parked).collect()
        };
        for (index, found) in semaphores.iter().zip(self.semaphores(&parked(&semaphores), unwinder)?) {
            draft.waits[*index] = Some(Wait::Semaphore(found.map(|(semaphore, _)| semaphore)));
            draft.queued[*index].extend(found.map(|(_, sudog)| Sudog { at: sudog, next: 0 }));
        }
        for (index, found) in conds.iter().zip(self.conds(&parked(&conds), unwinder, budget)?) {
            draft.waits[*index] = Some(Wait::Cond(found));
        }
        for (index, found) in polls.iter().zip(self.polls(&parked(&polls), unwinder)?) {
            draft.waits[*index] = Some(Wait::Io(found));
        }
        if let Some(timer) = layout.timer {
            let timers: Vec<u64> = sleeps.iter().map(|index| u64_at(raws[*index].bytes, timer)).collect();
            for (index, timer) in sleeps.iter().zip(self.timers(&timers)?) {
                // One that is being set has no time yet.
                let until_ns = timer.map(|timer| timer.when_ns).filter(|at| *at != 0);
                draft.waits[*index] = Some(Wait::Sleep { until_ns });
            }
        }
        Ok(())
    }

    /// Timers by address (`runtime.timer`, runtime/time.go); `None` for those that are none.
    fn timers(&self, addresses: &[u64]) -> Result<Vec<Option<Timer>>, RuntimeError> {
        let layout = &self.binary.layout().timer;
        let (Some(when), Some(period)) = (layout.when, layout.period) else {
            return Ok(vec![None; addresses.len()]);
        };
        let size = when.max(period) as usize + 8;
        let parts: Vec<(u64, usize)> = addresses.iter().map(|address| (*address, size)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let timers =
            parts.iter().zip(bytes.chunks_exact(size)).zip(read).map(|(((address, _), timer), read)| {
                (read && *address != 0)
                    .then(|| Timer { when_ns: u64_at(timer, when), period_ns: u64_at(timer, period) })
            });
        Ok(timers.collect())
    }

    /// Follows `g.waiting`: one `sudog`, or for a `select` a list of them in the order of the channels' addresses.
    fn draft_lists(
        &self,
        raws: &[RawG<'_>],
        mut lists: Vec<(usize, Kind, u64)>,
        budget: &mut Budget,
        draft: &mut Draft,
    ) -> Result<(), RuntimeError> {
        let layout = &self.binary.layout().sudog;
        let size = self.sudog_size();
        // One `sudog` of each list in a round.
        for _ in 0..MOST_CASES {
            if lists.is_empty() {
                break;
            }
            if lists.len() > budget.waiters {
                for (index, ..) in lists {
                    draft.waits[index] = Some(Wait::Unread);
                }
                break;
            }
            budget.waiters -= lists.len();
            let parts: Vec<(u64, usize)> = lists.iter().map(|(.., sudog)| (*sudog, size)).collect();
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            let mut longer = Vec::new();
            for (((index, kind, at), sudog), read) in
                lists.into_iter().zip(bytes.chunks_exact(size)).zip(read)
            {
                let wait = &mut draft.waits[index];
                let (c, elem) = (u64_at(sudog, layout.c), u64_at(sudog, layout.elem));
                if !read || u64_at(sudog, layout.g) != raws[index].address {
                    *wait = Some(Wait::Unread);
                    continue;
                }
                match kind {
                    Kind::Receive | Kind::Send if c != 0 => {
                        let direction = if kind == Kind::Send { Direction::Send } else { Direction::Receive };
                        *wait = Some(Wait::Channel(Case { channel: c, direction: Some(direction) }));
                    }
                    Kind::Select if c != 0 && u8_at(sudog, layout.is_select) != 0 => {
                        let case = Case { channel: c, direction: None };
                        match wait {
                            Some(Wait::Select { cases, left_out }) if cases.len() >= MAX_CASES => {
                                *left_out += 1;
                            }
                            Some(Wait::Select { cases, .. }) => cases.push(case),
                            _ => *wait = Some(Wait::Select { cases: vec![case], left_out: 0 }),
                        }
                        let next = u64_at(sudog, layout.waitlink);
                        if next != 0 {
                            longer.push((index, kind, next));
                        }
                    }
                    // Here waitlink is the next waiter, another goroutine (`semaRoot.queue`, runtime/sema.go).
                    Kind::Semaphore if c == 0 && elem != 0 => *wait = Some(Wait::Semaphore(Some(elem))),
                    Kind::Cond if c == 0 && elem != 0 => *wait = Some(Wait::Cond(Some(elem))),
                    _ => *wait = Some(Wait::Unread),
                }
                if draft.queued[index].len() < MAX_CASES {
                    draft.queued[index].push(Sudog { at, next: u64_at(sudog, layout.next) });
                }
            }
            lists = longer;
        }
        self.draft_channels(draft, budget)
    }

    fn draft_channels(&self, draft: &mut Draft, budget: &mut Budget) -> Result<(), RuntimeError> {
        let layout = &self.binary.layout().hchan;
        let distinct: HashSet<u64> = draft
            .waits
            .iter()
            .flatten()
            .flat_map(Wait::targets)
            .filter_map(|target| match target {
                Target::Channel(address) => Some(address),
                _ => None,
            })
            .collect();
        let fields = [
            layout.recvq_first,
            layout.sendq_first,
            layout.elemtype,
            layout.closed,
            layout.timer.unwrap_or(0),
        ];
        let size = fields.into_iter().max().unwrap_or(0) as usize + 8;
        let parts: Vec<(u64, usize)> = distinct.into_iter().map(|address| (address, size)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut names: HashMap<u64, Option<String>> = HashMap::new();
        let mut timers = Vec::new();
        for (((address, _), hchan), read) in parts.iter().zip(bytes.chunks_exact(size)).zip(read) {
            if !read {
                continue;
            }
            let (length, capacity) = (u64_at(hchan, layout.qcount), u64_at(hchan, layout.dataqsiz));
            let element = names
                .entry(u64_at(hchan, layout.elemtype))
                .or_insert_with_key(|descriptor| {
                    self.binary.type_name(descriptor.wrapping_sub(self.bias)).map(|found| found.name)
                })
                .clone()
                .filter(|name| {
                    let left = budget.names.checked_sub(name.len());
                    budget.names = left.unwrap_or(budget.names);
                    left.is_some()
                });
            let closed = u32_at(hchan, layout.closed) != 0;
            let timer = layout.timer.map_or(0, |at| u64_at(hchan, at));
            if timer != 0 {
                timers.push((*address, timer));
            }
            let channel = Channel { element, capacity, length, closed, timer: None };
            let receivers = u64_at(hchan, layout.recvq_first);
            let senders = u64_at(hchan, layout.sendq_first);
            draft.channels.insert(*address, RawChannel { channel, receivers, senders });
        }
        let addresses: Vec<u64> = timers.iter().map(|(_, timer)| *timer).collect();
        for ((channel, _), timer) in timers.iter().zip(self.timers(&addresses)?) {
            if let Some(known) = draft.channels.get_mut(channel) {
                known.channel.timer = timer;
            }
        }
        Ok(())
    }

    fn draft_labels(&self, raws: &[RawG<'_>], budget: &mut Budget, draft: &mut Draft) {
        let at = self.binary.layout().g.labels;
        let minor = self.binary.version().minor;
        // Many share theirs: children have their parents'. What is set is not written to any more.
        let mut known: HashMap<u64, Option<Arc<Labels>>> = HashMap::new();
        for (raw, labels) in raws.iter().zip(&mut draft.labels) {
            let pointer = u64_at(raw.bytes, at);
            if pointer != 0 {
                let read = known.entry(pointer).or_insert_with(|| {
                    labels::read(&self.memory, pointer, minor, &mut budget.labels).map(Arc::new)
                });
                *labels = Some(read.clone());
            }
        }
    }
}

impl Details {
    /// Takes over what was read of those goroutines that did not change: index and id.
    pub(super) fn absorb(&mut self, mut draft: Draft, unchanged: &[(usize, u64)]) {
        let next: HashMap<u64, u64> = unchanged
            .iter()
            .flat_map(|(index, _)| &draft.queued[*index])
            .map(|sudog| (sudog.at, sudog.next))
            .collect();
        let mut queues: HashMap<u64, (HashSet<u64>, HashSet<u64>)> = HashMap::new();
        for (index, goid) in unchanged {
            let Some(mut wait) = draft.waits[*index].take() else { continue };
            if let Wait::Select { cases, .. } = &mut wait {
                for (case, sudog) in cases.iter_mut().zip(&draft.queued[*index]) {
                    let Some(channel) = draft.channels.get(&case.channel) else { continue };
                    let (receivers, senders) = queues
                        .entry(case.channel)
                        .or_insert_with(|| (queue(channel.receivers, &next), queue(channel.senders, &next)));
                    case.direction =
                        direction(channel, receivers.contains(&sudog.at), senders.contains(&sudog.at));
                }
            }
            if let Some((g, waiting)) = draft.places.get(*index).copied() {
                let sudogs = draft.queued[*index].iter().map(|sudog| sudog.at).collect();
                self.places.insert(*goid, Place { g, waiting, sudogs });
            }
            self.waits.insert(*goid, wait);
        }
        for (index, goid) in unchanged {
            if let Some(labels) = draft.labels[*index].take() {
                self.labels.insert(*goid, labels);
            }
            if let Some(ancestors) = draft.ancestors.get_mut(*index).filter(|found| !found.is_empty()) {
                self.ancestors.insert(*goid, std::mem::take(ancestors));
            }
            if let Some(Some(bubble)) = draft.bubbles.get(*index) {
                self.bubbles.insert(*goid, *bubble);
            }
        }
        self.channels.extend(draft.channels.into_iter().map(|(address, raw)| (address, raw.channel)));
    }
}

/// Which queue a case of a `select` is in, that has been in one of the two all the time.
fn direction(channel: &RawChannel, receives: bool, sends: bool) -> Option<Direction> {
    match (receives, sends) {
        (true, false) => Some(Direction::Receive),
        (false, true) => Some(Direction::Send),
        (true, true) => None,
        (false, false) if channel.senders == 0 && channel.receivers != 0 => Some(Direction::Receive),
        (false, false) if channel.receivers == 0 && channel.senders != 0 => Some(Direction::Send),
        (false, false) => None,
    }
}

/// The part of a channel's queue that is known, from its first `sudog` on.
fn queue(first: u64, next: &HashMap<u64, u64>) -> HashSet<u64> {
    let mut queue = HashSet::new();
    let mut at = first;
    while at != 0 && queue.insert(at) {
        let Some(following) = next.get(&at) else { break };
        at = *following;
    }
    queue
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(receivers: u64, senders: u64) -> RawChannel {
        let channel = Channel { element: None, capacity: 0, length: 0, closed: false, timer: None };
        RawChannel { channel, receivers, senders }
    }

    #[test]
    fn a_queue_is_followed_as_far_as_it_is_known_and_a_ring_ends() {
        let next = HashMap::from([(1, 2), (2, 3), (5, 6), (6, 5)]);
        assert_eq!(queue(1, &next), HashSet::from([1, 2, 3]));
        assert_eq!(queue(5, &next), HashSet::from([5, 6]));
        assert_eq!(queue(0, &next), HashSet::new());
    }

    #[test]
    fn a_case_is_in_the_queue_that_has_it_or_in_the_only_one() {
        assert_eq!(direction(&channel(1, 2), true, false), Some(Direction::Receive));
        assert_eq!(direction(&channel(1, 2), false, true), Some(Direction::Send));
        assert_eq!(direction(&channel(1, 0), false, false), Some(Direction::Receive));
        assert_eq!(direction(&channel(0, 2), false, false), Some(Direction::Send));
        assert_eq!(direction(&channel(1, 2), false, false), None);
    }
}
