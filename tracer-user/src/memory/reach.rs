//! Which goroutines' stacks lead to some things, and in which frames: who could end a wait, as far as stacks tell.
//!
//! A word of a frame is a hint: slots keep what was there before, and what a goroutine reaches through the heap is not
//! on its stack at all.

use std::collections::HashSet;
use std::ops::Range;

use super::reader::{Reader, u64_at};
use super::roots::FrameMaps;
use super::runtime::{Runtime, RuntimeError};
use super::stack::{Pc, StackCopy, Unwinder};

/// Bytes of one stack that are searched.
const STACK_MOST: u64 = 256 * 1024;
/// Bytes of stacks that are searched in all: some seconds.
const MOST: u64 = 1 << 34;
/// Places that are told in all.
const MOST_FOUND: usize = 1 << 22;
/// Bytes of arguments that are searched with a frame.
const MOST_ARGUMENTS: u64 = 4096;
/// Goroutines at a time.
const BATCH: usize = 64;
/// The longest range that can be asked for.
pub const LONGEST: u64 = 16 * 1024;

/// A thing that is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// Pointers into this range lead to it; at most [`LONGEST`] bytes.
    pub range: Range<u64>,
    /// A variable of the program: the code of a function that uses it has its address.
    pub variable: Option<Range<u64>>,
}

/// A goroutine whose stack leads to a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The goroutine.
    pub goid: u64,
    /// The thing, by its number.
    pub thing: usize,
    /// The frames that do. Empty for a goroutine that runs, or ran meanwhile, whose frames are not known.
    pub frames: Vec<ReachedFrame>,
    /// What leads there may still be used, as far as is known: it is no leftover.
    pub is_live: bool,
}

/// A frame that leads to a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReachedFrame {
    /// Its number from the innermost on.
    pub number: usize,
    /// Where it is in the code.
    pub pc: Pc,
    /// Its stack pointer.
    pub sp: u64,
}

/// What a search found.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// By thing, then by goroutine.
    pub found: Vec<Reached>,
    /// Stacks that were not searched: they could not be read, or there were too many.
    pub not_searched: usize,
    /// Stacks of which only a part was.
    pub cut: usize,
}

impl<R: Reader> Runtime<'_, R> {
    /// A word of the process's memory; `None` where it can't be read.
    pub fn word_at(&self, address: u64) -> Option<u64> {
        self.memory.u64(address).ok()
    }

    /// Searches the stacks of all goroutines, also those that run: of these all that was ever written to the stack.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn reach(&self, things: &[Sought]) -> Result<Reach, RuntimeError> {
        let mut reach = Reach::default();
        if things.is_empty() {
            return Ok(reach);
        }
        let index = Index::of(things);
        let layout = &self.binary.layout().g;
        let size = layout.size as usize;
        let mut unwinder = Unwinder::new(self.binary, self.bias);
        let mut maps = FrameMaps::default();
        let mut left = MOST;
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let read = |parts: &[(u64, usize)]| self.memory.read_batch(parts).map_err(|e| self.read_error(e));
        for chunk in self.pointers(at, len)?.chunks(BATCH) {
            let parts: Vec<(u64, usize)> = chunk.iter().map(|g| (*g, size)).collect();
            let (before, is_read) = read(&parts)?;
            let mut searched = Vec::new();
            for ((g, bytes), is_read) in chunk.iter().zip(before.chunks_exact(size)).zip(is_read) {
                if !is_read || !self.status(bytes).is_alive() {
                    continue;
                }
                let start = self.start(bytes);
                let (lo, hi) = (u64_at(bytes, layout.stack_lo), u64_at(bytes, layout.stack_hi));
                let from = start.map_or(lo, |start| start.sp);
                let length = hi.saturating_sub(from).min(STACK_MOST);
                if lo == 0 || from & 7 != 0 || length > left {
                    reach.not_searched += 1;
                    continue;
                }
                left -= length;
                reach.cut += usize::from(hi - from > STACK_MOST);
                // Of one that runs the upper end is in use for certain.
                let from = if start.is_some() { from } else { hi - length };
                searched.push((*g, bytes, start, (from, length as usize)));
            }
            let stacks: Vec<(u64, usize)> = searched.iter().map(|(.., stack)| *stack).collect();
            let (bytes, are_read) = read(&stacks)?;
            let (after, _) = read(&searched.iter().map(|(g, ..)| (*g, size)).collect::<Vec<_>>())?;
            let mut rest = bytes.as_slice();
            for (((_, before, start, (from, len)), is_read), after) in
                searched.iter().zip(are_read).zip(after.chunks_exact(size))
            {
                let (stack, behind) = rest.split_at(*len);
                rest = behind;
                if !is_read {
                    reach.not_searched += 1;
                    continue;
                }
                let copy = StackCopy { start: *from, bytes: stack };
                let goid = u64_at(before, layout.goid);
                let mut found: Vec<Reached> = Vec::new();
                // One that has moved meanwhile ran, and its frames are not what they were.
                let Some(start) = start.as_ref().filter(|_| self.unchanged(before, after)) else {
                    for thing in stack.chunks_exact(8).flat_map(|word| index.of_word(u64_at(word, 0))) {
                        note(&mut found, goid, thing, None);
                    }
                    reach.take(found);
                    continue;
                };
                let mut in_code = Vec::new();
                let (frames, complete) = unwinder.frames(start.pc, start.sp, start.exact, &copy);
                reach.cut += usize::from(!complete);
                for (number, frame) in frames.iter().enumerate() {
                    let place = ReachedFrame { number, pc: frame.pc, sp: frame.range.start };
                    let own = frame.range.start..frame.range.end + frame.arguments.min(MOST_ARGUMENTS);
                    for thing in copy.words(own).flat_map(|word| index.of_word(word)) {
                        note(&mut found, goid, thing, Some(place));
                    }
                    for thing in index.of_code(self, frame.pc) {
                        in_code.push(thing);
                        note(&mut found, goid, thing, Some(place));
                    }
                }
                if !found.is_empty()
                    && let Some(words) = self.live_words(before, *start, &copy, &mut unwinder, &mut maps)
                {
                    let live: HashSet<usize> =
                        words.into_iter().flat_map(|word| index.of_word(word)).chain(in_code).collect();
                    for reached in &mut found {
                        reached.is_live = live.contains(&reached.thing);
                    }
                }
                reach.take(found);
            }
        }
        reach.found.sort_by_key(|found| (found.thing, found.goid));
        Ok(reach)
    }
}

fn note(found: &mut Vec<Reached>, goid: u64, thing: usize, frame: Option<ReachedFrame>) {
    let at = found.iter().position(|known| known.thing == thing).unwrap_or_else(|| {
        found.push(Reached { goid, thing, frames: Vec::new(), is_live: true });
        found.len() - 1
    });
    if let (Some(frame), Some(known)) = (frame, found.get_mut(at))
        && known.frames.last() != Some(&frame)
    {
        known.frames.push(frame);
    }
}

impl Reach {
    fn take(&mut self, found: Vec<Reached>) {
        if self.found.len() + found.len() > MOST_FOUND {
            self.not_searched += 1;
        } else {
            self.found.extend(found);
        }
    }
}

/// The things by address.
struct Index<'a> {
    /// By the begin of the range.
    by_start: Vec<(Range<u64>, usize)>,
    variables: Vec<(&'a Range<u64>, usize)>,
}

impl<'a> Index<'a> {
    fn of(things: &'a [Sought]) -> Self {
        let mut by_start: Vec<(Range<u64>, usize)> = things
            .iter()
            .enumerate()
            .map(|(number, thing)| {
                let end = thing.range.end.min(thing.range.start.saturating_add(LONGEST));
                (thing.range.start..end, number)
            })
            .collect();
        by_start.sort_by_key(|(range, _)| range.start);
        let variables =
            things.iter().enumerate().filter_map(|(number, thing)| Some((thing.variable.as_ref()?, number)));
        Self { by_start, variables: variables.collect() }
    }

    /// What a word leads to.
    fn of_word(&self, word: u64) -> impl Iterator<Item = usize> {
        let behind = self.by_start.partition_point(|(range, _)| range.start <= word);
        self.by_start
            .get(..behind)
            .unwrap_or_default()
            .iter()
            .rev()
            .take_while(move |(range, _)| word - range.start < LONGEST)
            .filter(move |(range, _)| range.contains(&word))
            .map(|(_, number)| *number)
    }

    /// What the code of a frame's function refers to.
    fn of_code<R: Reader>(&self, runtime: &Runtime<'_, R>, pc: Pc) -> Vec<usize> {
        if self.variables.is_empty() {
            return Vec::new();
        }
        let references = runtime.binary.references(pc.address);
        let refers = |range: &Range<u64>| references.iter().any(|at| range.contains(at));
        self.variables.iter().filter(|(range, _)| refers(range)).map(|(_, number)| *number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_leads_to_all_things_whose_range_holds_it() {
        let sought = |range: Range<u64>| Sought { range, variable: None };
        let things =
            [sought(0x1000..0x1040), sought(0x1000..0x1040), sought(0x1010..0x1011), sought(0x9000..0x9008)];
        let index = Index::of(&things);
        let of = |word| {
            let mut found: Vec<usize> = index.of_word(word).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(of(0x1008), [0, 1]);
        assert_eq!(of(0x1010), [0, 1, 2]);
        assert_eq!(of(0x1040), Vec::<usize>::new());
        assert_eq!(of(0x9007), [3]);
        assert_eq!(of(0), Vec::<usize>::new());
    }
}
