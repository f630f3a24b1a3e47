//! The heap's objects by address: which object a pointer leads into.
//!
//! `mspan` and what it says of its objects: runtime/mheap.go, runtime/mbitmap.go (`objIndex`), the same from Go 1.18 to
//! 1.27 but for the width of `nelems`.

use super::reader::{Reader, field, u8_at, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};

/// Most spans that are read: a heap of a terabyte has as many.
const MOST: u64 = 1 << 27;
/// Spans at a time.
const BATCH: usize = 1 << 14;
/// Bytes of a page (`_PageSize`).
const PAGE: u64 = 8192;
/// `mSpanInUse`: its objects are the program's.
const IN_USE: u8 = 1;

/// Objects of one size, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Address of its first byte.
    pub start: u64,
    /// Address behind its last object.
    pub limit: u64,
    /// Bytes of each object.
    pub size: u64,
    /// The multiplier of `objIndex`; 0 where the span is one object.
    pub multiplier: u32,
    /// Its objects hold no pointers.
    pub noscan: bool,
    /// Its list of specials.
    pub specials: u64,
}

impl Span {
    /// How many objects it has room for.
    #[must_use]
    pub const fn count(&self) -> u64 {
        match (self.limit - self.start).checked_div(self.size) {
            Some(count) => count,
            None => 0,
        }
    }

    /// The number of the object that holds an address of the span.
    #[must_use]
    pub const fn index(&self, address: u64) -> u64 {
        ((address - self.start) * self.multiplier as u64) >> 32
    }
}

/// An object of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its first byte.
    pub base: u64,
    /// Its size class: the value itself may be smaller.
    pub size: u64,
    /// Its span, by its number in [`Spans`].
    pub span: usize,
    /// Its number in the span.
    pub index: u64,
}

/// All spans in use, by address.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    spans: Vec<Span>,
    /// The span of each page from the first on, by number; one more than that, 0 for none. Empty where the heap is so
    /// scattered that the table would be too large.
    pages: Vec<u32>,
}

/// Most pages of the table: those of half a terabyte.
const MOST_PAGES: u64 = 1 << 26;

impl Spans {
    pub(super) fn new(mut spans: Vec<Span>) -> Self {
        spans.sort_unstable_by_key(|span| span.start);
        spans.dedup_by_key(|span| span.start);
        let (low, high) = match (spans.first(), spans.last()) {
            (Some(first), Some(last)) => (first.start, last.limit),
            _ => return Self::default(),
        };
        let count = (high - low).div_ceil(PAGE);
        let mut pages = Vec::new();
        if count <= MOST_PAGES {
            pages = vec![0; count as usize];
            for (number, span) in (1..).zip(&spans) {
                let first = ((span.start - low) / PAGE) as usize;
                let last = (span.limit - low).div_ceil(PAGE) as usize;
                for page in pages.get_mut(first..last).into_iter().flatten() {
                    *page = number;
                }
            }
        }
        Self { spans, pages }
    }

    /// In the order of their addresses.
    #[must_use]
    pub fn all(&self) -> &[Span] {
        &self.spans
    }

    /// The first address of the first one, and the one behind the last object of the last.
    #[must_use]
    pub fn bounds(&self) -> (u64, u64) {
        match (self.spans.first(), self.spans.last()) {
            (Some(first), Some(last)) => (first.start, last.limit),
            _ => (0, 0),
        }
    }

    /// The object that holds an address.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Object> {
        let (low, high) = self.bounds();
        if address < low || address >= high {
            return None;
        }
        let at = if self.pages.is_empty() {
            self.spans.partition_point(|span| span.start <= address).checked_sub(1)?
        } else {
            let number = *self.pages.get(((address - low) / PAGE) as usize)?;
            (number as usize).checked_sub(1)?
        };
        let span = self.spans.get(at)?;
        if address < span.start || address >= span.limit {
            return None;
        }
        let index = span.index(address);
        (index < span.count()).then(|| Object {
            base: span.start + index * span.size,
            size: span.size,
            span: at,
            index,
        })
    }

    /// Bytes of the objects that may hold pointers.
    #[must_use]
    pub fn scannable(&self) -> u64 {
        self.spans.iter().filter(|span| !span.noscan).map(|span| span.limit - span.start).sum()
    }
}

impl<R: Reader> Runtime<'_, R> {
    /// Reads all spans; `None` where the layout or the heap's address is not known for this version.
    ///
    /// # Errors
    /// [`RuntimeError`], also if what is read can't be a heap.
    pub fn spans(&self) -> Result<Option<Spans>, RuntimeError> {
        let layout = &self.binary.layout().mspan;
        let (Some(mheap), Some(allspans)) =
            (self.binary.globals().optional.mheap, self.binary.layout().mheap.allspans)
        else {
            return Ok(None);
        };
        let (Some(start), Some(npages), Some(elemsize), Some(limit)) =
            (layout.start_addr, layout.npages, layout.elemsize, layout.limit)
        else {
            return Ok(None);
        };
        let (Some(div_mul), Some(spanclass), Some(state), Some(specials)) =
            (layout.div_mul, layout.spanclass, layout.state, layout.specials)
        else {
            return Ok(None);
        };
        let fields = [start, npages, elemsize, limit, div_mul, spanclass, state, specials];
        let size = fields.into_iter().max().unwrap_or(0) + 8;
        let mut header = [0; 16];
        let at = field(self.global(mheap), allspans);
        self.memory.read(at, &mut header).map_err(|e| self.read_error(e))?;
        let (list, count) = (u64_at(&header, 0), u64_at(&header, 8));
        if list & 7 != 0 || count == 0 || count > MOST {
            return Err(self.no_heap(format!("mheap_.allspans is at {list:#x} and {count} long")));
        }
        let mut spans = Vec::new();
        let mut wrong = 0_usize;
        for first in (0..count).step_by(BATCH) {
            let addresses = self.pointers(list + first * 8, (count - first).min(BATCH as u64))?;
            let parts: Vec<(u64, usize)> = addresses.iter().map(|span| (*span, size as usize)).collect();
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            for (span, read) in bytes.chunks_exact(size as usize).zip(read) {
                if !read {
                    wrong += 1;
                    continue;
                }
                if u8_at(span, state) != IN_USE {
                    continue;
                }
                let found = Span {
                    start: u64_at(span, start),
                    limit: u64_at(span, limit),
                    size: u64_at(span, elemsize),
                    multiplier: u32_at(span, div_mul),
                    noscan: u8_at(span, spanclass) & 1 != 0,
                    specials: u64_at(span, specials),
                };
                let pages = u64_at(span, npages);
                // A span that is being set up does not hold together.
                let room = pages.checked_mul(PAGE).and_then(|len| found.start.checked_add(len));
                if found.start == 0
                    || !found.start.is_multiple_of(PAGE)
                    || found.size < 8
                    || found.limit <= found.start
                    || room.is_none_or(|end| found.limit > end)
                {
                    wrong += 1;
                    continue;
                }
                spans.push(found);
            }
        }
        // A few change while they are read; with wrong offsets nearly all are wrong.
        if wrong * 8 > spans.len() {
            return Err(
                self.no_heap(format!("{wrong} spans of {} do not hold together", spans.len() + wrong))
            );
        }
        Ok(Some(Spans::new(spans)))
    }

    fn no_heap(&self, what: String) -> RuntimeError {
        RuntimeError::SelfCheck { pid: self.pid, what, layout: self.binary.layout_source().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_the_object_that_holds_it() {
        let multiplier = |size: u64| (u64::from(u32::MAX) / size + 1) as u32;
        let span = |start: u64, size: u64, count: u64| Span {
            start,
            limit: start + size * count,
            size,
            multiplier: multiplier(size),
            noscan: false,
            specials: 0,
        };
        let one = Span { multiplier: 0, ..span(0x10_0000, 40960, 1) };
        let spans = Spans::new(vec![span(0x1_0000, 48, 170), one]);
        assert_eq!(spans.find(0x1_0000 + 47).unwrap().base, 0x1_0000);
        let found = spans.find(0x1_0000 + 48 * 169 + 5).unwrap();
        assert_eq!((found.base, found.index, found.span), (0x1_0000 + 48 * 169, 169, 0));
        // Behind the last object, and before the first.
        assert_eq!(spans.find(0x1_0000 + 48 * 170), None);
        assert_eq!(spans.find(0xffff), None);
        assert_eq!(spans.find(0x10_0000 + 40959).unwrap().base, 0x10_0000);
    }
}
