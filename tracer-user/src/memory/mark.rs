//! Which objects of the heap can be reached: a mark from outside, by words.
//!
//! Any word that leads into an object counts as a pointer, but where a mask says that it is none. What is found is a
//! superset of what the collector would find, but for what moves while it is read: a pointer that is copied into an
//! object already read and wiped from its old place is missed. So one mark proves nothing; see `stranded.rs`.
//!
//! The unit of work is a span, first come first served: all its objects that wait are read at once.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::reader::{ReadError, Reader, u64_at};
use super::spans::{Object, Spans};

/// Bytes that are read at once.
const WINDOW: u64 = 256 * 1024;

/// One bit for each object of a span.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn get(&self, index: u64) -> bool {
        self.0.get((index / 64) as usize).is_some_and(|word| word >> (index % 64) & 1 != 0)
    }

    /// Sets it; false if it was set.
    fn set(&mut self, index: u64, count: u64) -> bool {
        if self.0.is_empty() {
            self.0 = vec![0; count.div_ceil(64) as usize];
        }
        let Some(word) = self.0.get_mut((index / 64) as usize) else { return false };
        let bit = 1 << (index % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[derive(Clone, Debug, Default)]
struct Marks {
    reached: Bits,
    /// Numbers of objects that are reached and not read yet.
    pending: Vec<u64>,
}

/// A mark under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    spans: Spans,
    marks: Vec<Marks>,
    queue: VecDeque<usize>,
    /// By the begin of the object: its words that are no pointers, by address.
    masks: HashMap<u64, Vec<Range<u64>>>,
    /// Bytes of the objects that were reached.
    pub(super) reached_bytes: u64,
    /// Objects that could not be read.
    pub(super) unread: usize,
    /// Bytes that were read.
    pub(super) read_bytes: u64,
}

impl Mark {
    pub(super) fn new(spans: Spans) -> Self {
        let marks = vec![Marks::default(); spans.all().len()];
        Self { spans, marks, ..Self::default() }
    }

    pub(super) const fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Takes over the spans as they are now: new ones have come.
    pub(super) fn renew(&mut self, spans: Spans) {
        let old: HashMap<(u64, u64), usize> =
            self.spans.all().iter().enumerate().map(|(at, span)| ((span.start, span.size), at)).collect();
        let mut marks = vec![Marks::default(); spans.all().len()];
        let mut queue = VecDeque::new();
        for (at, span) in spans.all().iter().enumerate() {
            if let Some(known) = old.get(&(span.start, span.size)).and_then(|at| self.marks.get_mut(*at)) {
                marks[at] = std::mem::take(known);
                if !marks[at].pending.is_empty() {
                    queue.push_back(at);
                }
            }
        }
        (self.spans, self.marks, self.queue) = (spans, marks, queue);
    }

    /// Words from one address to another are no pointers.
    pub(super) fn mask(&mut self, range: Range<u64>) {
        if let Some(object) = self.spans.find(range.start) {
            self.masks.entry(object.base).or_default().push(range);
        }
    }

    /// Takes a word for a pointer.
    pub(super) fn push(&mut self, word: u64) {
        let Some(object) = self.spans.find(word) else { return };
        self.push_object(object);
    }

    fn push_object(&mut self, object: Object) {
        let (Some(span), Some(marks)) = (self.spans.all().get(object.span), self.marks.get_mut(object.span))
        else {
            return;
        };
        if !marks.reached.set(object.index, span.count()) {
            return;
        }
        self.reached_bytes += object.size;
        if !span.noscan {
            if marks.pending.is_empty() {
                self.queue.push_back(object.span);
            }
            marks.pending.push(object.index);
        }
    }

    /// Whether the object that holds an address is reached; `None` if it is in no object.
    pub(super) fn is_reached(&self, address: u64) -> Option<bool> {
        let object = self.spans.find(address)?;
        Some(self.marks.get(object.span)?.reached.get(object.index))
    }

    /// Reads what is reached until nothing is left.
    pub(super) fn drain(&mut self, memory: &impl Reader) -> Result<(), ReadError> {
        let mut buffer = Vec::new();
        while let Some(at) = self.queue.pop_front() {
            let (Some(span), Some(marks)) = (self.spans.all().get(at).copied(), self.marks.get_mut(at))
            else {
                continue;
            };
            let mut pending = std::mem::take(&mut marks.pending);
            pending.sort_unstable();
            let mut rest = pending.as_slice();
            while let Some((&first, _)) = rest.split_first() {
                let start = span.start + first * span.size;
                if span.size > WINDOW {
                    self.read_large(memory, start, span.size.min(span.limit - start), &mut buffer)?;
                    rest = &rest[1..];
                    continue;
                }
                // As many as fit into one window.
                let fits = rest.partition_point(|index| (index - first + 1) * span.size <= WINDOW);
                let (these, behind) = rest.split_at(fits.max(1));
                rest = behind;
                let last = these.last().copied().unwrap_or(first);
                let len = (last - first + 1) * span.size;
                if self.read(memory, start, len, &mut buffer)? {
                    for index in these {
                        let base = span.start + index * span.size;
                        let offset = (base - start) as usize;
                        let bytes = buffer.get(offset..offset + span.size as usize).unwrap_or_default();
                        self.words(base, base, bytes);
                    }
                }
            }
        }
        Ok(())
    }

    fn read_large(
        &mut self,
        memory: &impl Reader,
        base: u64,
        size: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        for offset in (0..size).step_by(WINDOW as usize) {
            let len = (size - offset).min(WINDOW);
            if self.read(memory, base + offset, len, buffer)? {
                let bytes = std::mem::take(buffer);
                self.words(base, base + offset, &bytes);
                *buffer = bytes;
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        memory: &impl Reader,
        start: u64,
        len: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, ReadError> {
        buffer.clear();
        buffer.resize(len as usize, 0);
        self.read_bytes += len;
        match memory.read(start, buffer) {
            Ok(()) => Ok(true),
            Err(fatal @ (ReadError::Gone | ReadError::NotPermitted { .. })) => Err(fatal),
            Err(_) => {
                self.unread += 1;
                Ok(false)
            }
        }
    }

    /// The words of an object, or of a part of it.
    fn words(&mut self, base: u64, start: u64, bytes: &[u8]) {
        let masks = self.masks.get(&base).cloned().unwrap_or_default();
        let (low, high) = self.spans.bounds();
        for (number, word) in bytes.chunks_exact(8).enumerate() {
            let word = u64_at(word, 0);
            if word < low || word >= high {
                continue;
            }
            let at = start + number as u64 * 8;
            if !masks.iter().any(|range| range.contains(&at)) {
                self.push(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::fake::FakeMemory;
    use super::super::spans::Span;
    use super::*;

    const BASE: u64 = 0xc0_0000_0000;

    /// Objects of 64 bytes: each word as given, the rest zero.
    fn heap(words: &[(u64, usize, u64)]) -> (Mark, FakeMemory) {
        let span = Span {
            start: BASE,
            limit: BASE + 8192,
            size: 64,
            multiplier: 1 << 26,
            noscan: false,
            specials: 0,
        };
        let mut bytes = vec![0; 8192];
        for (object, word, value) in words {
            let at = (*object * 64) as usize + word * 8;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let mut memory = FakeMemory::default();
        memory.put(BASE, &bytes);
        (Mark::new(Spans::new(vec![span])), memory)
    }

    #[test]
    fn what_a_chain_of_pointers_leads_to_is_reached_and_nothing_else() {
        // 0 points into the midst of 5, 5 to 7; 9 points to 11 and is reached by nothing.
        let (mut mark, memory) =
            heap(&[(0, 3, BASE + 5 * 64 + 13), (5, 7, BASE + 7 * 64), (9, 0, BASE + 11 * 64)]);
        mark.push(BASE + 8);
        mark.drain(&memory).unwrap();
        let reached: Vec<u64> = (0..128).filter(|i| mark.is_reached(BASE + i * 64) == Some(true)).collect();
        assert_eq!(reached, [0, 5, 7]);
        assert_eq!((mark.reached_bytes, mark.unread), (192, 0));
        assert_eq!(mark.is_reached(BASE - 1), None);
    }

    #[test]
    fn a_masked_word_is_no_pointer_and_rings_end() {
        let (mut mark, memory) =
            heap(&[(0, 0, BASE + 64), (0, 1, BASE + 128), (1, 0, BASE), (2, 0, BASE + 192)]);
        mark.mask(BASE + 8..BASE + 16);
        mark.push(BASE);
        mark.drain(&memory).unwrap();
        assert_eq!(mark.is_reached(BASE + 64), Some(true));
        assert_eq!(mark.is_reached(BASE + 128), Some(false));
    }

    #[test]
    fn a_renewed_table_keeps_what_is_reached() {
        let (mut mark, memory) = heap(&[(0, 0, BASE + 64)]);
        mark.push(BASE);
        let (other, _) = heap(&[]);
        mark.renew(other.spans);
        mark.drain(&memory).unwrap();
        assert_eq!(mark.is_reached(BASE + 64), Some(true));
    }
}
