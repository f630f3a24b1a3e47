//! The bytes of a file: all of them in memory, or its pages read again where they are asked for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Reads a file again that was read before: fills a buffer with the bytes from an offset on, all of which were there at
/// first. False where they can't be read, or where the file may not be what it was.
pub(super) type Reread = dyn Fn(u64, &mut [u8]) -> bool + Send + Sync;

/// Bytes of a page.
const PAGE: usize = 4096;
/// Pages of a generation, of which there are two: half a megabyte. A place's name takes about eight pages, and the
/// names of one package lie together.
const PAGES: usize = 64;

/// A file of which pages are held for a while.
pub(super) struct Pages {
    file: Box<Reread>,
    len: usize,
    held: Mutex<Held>,
    unread: AtomicU64,
}

/// The pages that were asked for last: when there are too many, those of the older generation go, and what is asked
/// for again comes back into the younger one.
#[derive(Debug, Default)]
struct Held {
    young: HashMap<usize, Arc<[u8]>>,
    old: HashMap<usize, Arc<[u8]>>,
}

impl Held {
    fn get(&mut self, page: usize) -> Option<Arc<[u8]>> {
        if let Some(bytes) = self.young.get(&page) {
            return Some(Arc::clone(bytes));
        }
        let bytes = self.old.remove(&page)?;
        self.insert(page, Arc::clone(&bytes));
        Some(bytes)
    }

    fn insert(&mut self, page: usize, bytes: Arc<[u8]>) {
        if self.young.len() >= PAGES {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(page, bytes);
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Pages {
    fn page(&self, page: usize) -> Option<Arc<[u8]>> {
        // What a thread that panicked has left is whole pages.
        if let Some(bytes) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(page) {
            return Some(bytes);
        }
        let start = page.checked_mul(PAGE)?;
        let mut bytes = vec![0; self.len.checked_sub(start)?.min(PAGE)];
        // Not under the lock: a file system may take its time.
        if !(self.file)(start as u64, &mut bytes) {
            self.unread.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(page, Arc::clone(&bytes));
        Some(bytes)
    }

    fn get(&self, range: Range<usize>) -> Option<Vec<u8>> {
        if range.end > self.len {
            return None;
        }
        let mut found = Vec::with_capacity(range.end.checked_sub(range.start)?);
        let mut at = range.start;
        while at < range.end {
            let bytes = self.page(at / PAGE)?;
            let end = (range.end - at / PAGE * PAGE).min(PAGE);
            found.extend_from_slice(bytes.get(at % PAGE..end)?);
            at = (at / PAGE + 1) * PAGE;
        }
        Some(found)
    }
}

/// The bytes of a file.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// In memory.
    Whole(Arc<[u8]>),
    /// In the file.
    Pages(Arc<Pages>),
}

impl Contents {
    /// Those that a file has again.
    pub(super) fn reread(len: usize, file: Box<Reread>) -> Self {
        Self::Pages(Arc::new(Pages { file, len, held: Mutex::default(), unread: AtomicU64::new(0) }))
    }

    /// How often some that were asked for could not be read again.
    pub(super) fn unread(&self) -> u64 {
        match self {
            Self::Whole(_) => 0,
            Self::Pages(pages) => pages.unread.load(Ordering::Relaxed),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Pages(pages) => pages.len,
        }
    }

    /// All of them, where they are in memory; else none.
    pub(super) fn whole(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Pages(_) => &[],
        }
    }

    /// Some of them: `None` where they are not all there.
    pub(super) fn get(&self, range: Range<usize>) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Whole(bytes) => bytes.get(range).map(Cow::Borrowed),
            Self::Pages(pages) => pages.get(range).map(Cow::Owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    /// A file that counts how often it is read.
    struct Counted {
        bytes: Vec<u8>,
        reads: AtomicUsize,
        lost: AtomicBool,
    }

    fn counted(len: usize) -> (Arc<Counted>, Contents) {
        let bytes = (0..len).map(|at| (at % 251) as u8).collect();
        let file = Arc::new(Counted { bytes, reads: AtomicUsize::new(0), lost: AtomicBool::new(false) });
        let read = Arc::clone(&file);
        let reread = move |offset: u64, into: &mut [u8]| {
            read.reads.fetch_add(1, Ordering::Relaxed);
            into.copy_from_slice(&read.bytes[offset as usize..][..into.len()]);
            !read.lost.load(Ordering::Relaxed)
        };
        let contents = Contents::reread(len, Box::new(reread));
        (file, contents)
    }

    #[test]
    fn any_part_is_the_same_as_of_the_whole() {
        let (file, contents) = counted(3 * PAGE + 100);
        let whole = Contents::Whole(file.bytes.clone().into());
        let places = [0, 1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 99, 3 * PAGE + 100, 5 * PAGE];
        for start in places {
            for end in places.into_iter().filter(|end| *end >= start) {
                assert_eq!(contents.get(start..end), whole.get(start..end), "{start}..{end}");
            }
        }
        assert_eq!((contents.len(), contents.whole().len()), (whole.len(), 0));
    }

    #[test]
    fn what_is_asked_for_often_is_held_and_the_rest_let_go() {
        let (file, contents) = counted(PAGE * PAGES * 8);
        let reads = || file.reads.load(Ordering::Relaxed);
        for page in 0..PAGES * 8 {
            assert!(contents.get(page * PAGE..page * PAGE + 8).is_some());
            assert!(contents.get(8..16).is_some());
        }
        assert_eq!(reads(), PAGES * 8);
        let Contents::Pages(pages) = &contents else { unreachable!() };
        let held = pages.held.lock().unwrap();
        assert!(held.young.len() <= PAGES && held.old.len() <= PAGES);
    }

    #[test]
    fn what_can_not_be_read_is_not_there() {
        let (file, contents) = counted(2 * PAGE);
        assert!(contents.get(0..8).is_some());
        file.lost.store(true, Ordering::Relaxed);
        // What was read before the loss is what it was.
        assert!(contents.get(8..16).is_some());
        assert_eq!(contents.get(PAGE..PAGE + 8), None);
        assert_eq!(contents.get(PAGE - 8..PAGE + 8), None);
        assert_eq!(contents.unread(), 2);
    }
}
