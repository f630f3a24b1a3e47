//! Looks at all goroutines again and again, and unwinds those alone that have moved since the last look.

mod interner;
mod sight;
mod span;

use std::sync::Arc;

use super::goroutine::Status;
use super::labels::{self, Labels};
use super::monotonic_ns;
use super::reader::{Reader, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::snapshot::SystemStarts;
use super::stack::{Stack, Unwinder};
use interner::Interner;
pub use interner::{LEFT_OUT, NONE};
use sight::{Found, GROUP, LONG_STACKS, Near, Place};
use span::Spans;

/// Goroutines, dead ones too, that are looked at; what is held of each is below 100 bytes.
const MOST_GOROUTINES: usize = 1 << 20;
/// Different stacks that are told apart, and addresses in them together.
const MOST_STACKS: usize = 1 << 16;
const MOST_ADDRESSES: usize = 1 << 22;
/// Different sets of labels that are told apart, and bytes in them together.
const MOST_LABELS: usize = 1 << 14;
const MOST_LABEL_BYTES: usize = 1 << 24;
/// Bytes of labels that may be read in one look.
const LABELS_A_LOOK: u64 = 1 << 22;

/// One goroutine at one look.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Its place in the runtime's list, which another goroutine may have had before.
    pub index: usize,
    /// Its id.
    pub goid: u64,
    /// What it does.
    pub status: Status,
    /// Why it waits, while it is parked.
    pub wait_reason: u8,
    /// It has not run since the last look: it was in this state all the time.
    pub unmoved: bool,
    /// Its stack, for [`Sampler::stack`]; [`NONE`] where it can't be known.
    pub stack: u32,
    /// Its labels, for [`Sampler::labels`]; [`NONE`] if it has none, or none are read.
    pub labels: u32,
    /// Entry of its start function, linked.
    pub startpc: u64,
    /// Part of the runtime itself.
    pub system: bool,
}

/// What a look was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When it began, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// Goroutines that exist.
    pub alive: u64,
    /// Of these, those that were not there at the last look.
    pub new: u64,
    /// Goroutines of the last look that are gone.
    pub ended: u64,
    /// Stacks that were unwound.
    pub unwound: u64,
    /// Goroutines that moved while their stack was read, twice: their state is known, their stack is not.
    pub torn: u64,
    /// Entries of the list that could not be read.
    pub unread: u64,
    /// Entries of the list beyond what is looked at.
    pub beyond: u64,
}

/// What is remembered of an entry of the runtime's list.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// 0 if there was no goroutine at the last look.
    goid: u64,
    place: Place,
    stack: u32,
    labels: u32,
    startpc: u64,
    system: bool,
}

impl Slot {
    fn sight(&self, index: usize, unmoved: bool) -> Sight {
        Sight {
            index,
            goid: self.goid,
            status: self.place.status(),
            wait_reason: self.place.wait_reason,
            unmoved,
            stack: self.stack,
            labels: self.labels,
            startpc: self.startpc,
            system: self.system,
        }
    }
}

/// Looks at all goroutines of a process.
pub struct Sampler<'a, R> {
    runtime: &'a Runtime<'a, R>,
    unwinder: Unwinder<'a>,
    system: SystemStarts,
    spans: Spans,
    slots: Vec<Slot>,
    stacks: Interner<Stack>,
    labels: Interner<Labels>,
    want_labels: bool,
}

impl<'a, R: Reader> Sampler<'a, R> {
    /// One that has not looked yet. Labels are contents of the process: they are read only if wanted.
    #[must_use]
    pub fn new(runtime: &'a Runtime<'a, R>, want_labels: bool) -> Self {
        Self {
            runtime,
            unwinder: Unwinder::new(runtime.binary, runtime.bias),
            system: SystemStarts::default(),
            spans: Spans::default(),
            slots: Vec::new(),
            stacks: Interner::new(MOST_STACKS, MOST_ADDRESSES),
            labels: Interner::new(MOST_LABELS, MOST_LABEL_BYTES),
            want_labels,
        }
    }

    /// Looks at all goroutines once, and hands over each.
    ///
    /// # Errors
    /// [`RuntimeError::Read`], with `Gone` if the process ends meanwhile.
    pub fn look(&mut self, mut see: impl FnMut(Sight)) -> Result<Look, RuntimeError> {
        let mut look = Look { at_ns: monotonic_ns(), ..Look::default() };
        self.unwinder.renew();
        look.beyond = self.spans.extend(self.runtime, MOST_GOROUTINES)?;
        self.slots.resize(self.spans.len(), Slot::default());
        let spans = std::mem::take(&mut self.spans);
        let looked = self.look_at(&spans, &mut look, &mut see);
        self.spans = spans;
        looked?;
        Ok(look)
    }

    fn look_at(
        &mut self,
        spans: &Spans,
        look: &mut Look,
        see: &mut impl FnMut(Sight),
    ) -> Result<(), RuntimeError> {
        let layout = &self.runtime.binary.layout().g;
        let size = layout.size as usize;
        let mut budget = (LABELS_A_LOOK, LONG_STACKS);
        let mut moved: Vec<Near> = Vec::new();
        for chunk in spans.chunks() {
            let (bytes, read) =
                self.runtime.memory.read_batch(&chunk.parts).map_err(|e| self.runtime.read_error(e))?;
            moved.clear();
            for member in &chunk.members {
                let slot = &mut self.slots[member.index];
                let g = bytes.get(member.offset..member.offset + size).unwrap_or_default();
                let is_read = read[member.part];
                if !is_read || !self.runtime.status(g).is_alive() {
                    look.unread += u64::from(!is_read);
                    look.ended += u64::from(slot.goid != 0);
                    *slot = Slot::default();
                    continue;
                }
                if slot.goid == u64_at(g, layout.goid) && Place::of(self.runtime, g).is_same(&slot.place) {
                    look.alive += 1;
                    see(slot.sight(member.index, true));
                } else {
                    moved.push(self.runtime.near(member.index, member.address, g));
                }
            }
            // All of these, those that run too, are looked at once more in one moment with their stack: who was found
            // to wait may run by then, and who ran may wait, so that taking the stack favours neither.
            self.look_closer(&moved, look, &mut budget, see)?;
        }
        Ok(())
    }

    fn look_closer(
        &mut self,
        moved: &[Near],
        look: &mut Look,
        (labels_left, stacks_left): &mut (u64, u64),
        see: &mut impl FnMut(Sight),
    ) -> Result<(), RuntimeError> {
        for group in moved.chunks(GROUP) {
            let seen = self.runtime.see(group, &mut self.unwinder, stacks_left)?;
            for (Near { index, .. }, seen) in group.iter().zip(seen) {
                let before = self.slots[*index];
                look.unread += u64::from(seen.is_none());
                let Some(seen) = seen.filter(|seen| self.runtime.status(&seen.g).is_alive()) else {
                    look.ended += u64::from(before.goid != 0);
                    self.slots[*index] = Slot::default();
                    continue;
                };
                let layout = &self.runtime.binary.layout().g;
                let goid = u64_at(&seen.g, layout.goid);
                let place = Place::of(self.runtime, &seen.g);
                look.alive += 1;
                if goid != before.goid {
                    look.new += 1;
                    look.ended += u64::from(before.goid != 0);
                }
                let stack = match seen.stack {
                    Found::Runs => NONE,
                    Found::Torn => {
                        look.torn += 1;
                        NONE
                    }
                    Found::Stack(stack) => {
                        look.unwound += 1;
                        let weight = stack.pcs.len();
                        self.stacks.number(stack, weight)
                    }
                };
                let pointer = if self.want_labels { u64_at(&seen.g, layout.labels) } else { 0 };
                let labels = self.read_labels(pointer, labels_left);
                let startpc = match u64_at(&seen.g, layout.startpc) {
                    0 => 0,
                    address => address.wrapping_sub(self.runtime.bias),
                };
                let system = self.system.is_system(self.runtime, startpc);
                self.slots[*index] = Slot { goid, place, stack, labels, startpc, system };
                see(self.slots[*index].sight(*index, false));
            }
        }
        Ok(())
    }

    fn read_labels(&mut self, pointer: u64, budget: &mut u64) -> u32 {
        if pointer == 0 {
            return NONE;
        }
        let minor = self.runtime.binary.version().minor;
        match labels::read(&self.runtime.memory, pointer, minor, budget) {
            Some(labels) if labels.pairs.is_empty() => NONE,
            Some(labels) => {
                let weight = labels.pairs.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
                self.labels.number(labels, weight)
            }
            None => LEFT_OUT,
        }
    }

    /// The number of the labels that `g.labels` points to; [`NONE`] if labels are not wanted.
    pub fn labels_at(&mut self, pointer: u64) -> u32 {
        let mut budget = LABELS_A_LOOK;
        if self.want_labels { self.read_labels(pointer, &mut budget) } else { NONE }
    }

    /// The number of a stack as a chain of frame pointers has it, of linked addresses.
    pub fn chain(&mut self, pcs: &[u64], maybe_return: bool, truncated: bool) -> u32 {
        let stack = self.unwinder.chain(pcs, maybe_return, truncated);
        let weight = stack.pcs.len();
        self.stacks.number(stack, weight)
    }

    /// Whether a start function belongs to the runtime itself.
    pub fn is_system(&mut self, startpc: u64) -> bool {
        self.system.is_system(self.runtime, startpc)
    }

    /// A stack by its number; `None` for [`NONE`] and [`LEFT_OUT`].
    #[must_use]
    pub fn stack(&self, number: u32) -> Option<&Arc<Stack>> {
        self.stacks.get(number)
    }

    /// Labels by their number, likewise.
    #[must_use]
    pub fn labels(&self, number: u32) -> Option<&Arc<Labels>> {
        self.labels.get(number)
    }

    /// How often a stack, and labels, were left out because too many were known already.
    #[must_use]
    pub fn left_out(&self) -> (u64, u64) {
        (self.stacks.left_out(), self.labels.left_out())
    }
}
