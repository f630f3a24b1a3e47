//! What one look at an input may take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Memory beyond what grows with the file.
const MEMORY: usize = 64 << 20;
/// Memory for each byte of the file.
const MEMORY_PER_BYTE: usize = 8;
/// Time of the processor, in a build without optimisation.
const TIME: Duration = Duration::from_secs(10);

thread_local! {
    /// Bytes that this thread holds (others may have allocated what it frees), and the most since the count began.
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counted by thread.
pub(crate) struct Counting;

fn count(change: isize) {
    // A thread that ends frees after its counters are gone.
    let _ = HELD.try_with(|held| {
        let now = held.get() + change;
        held.set(now);
        let _ = MOST.try_with(|most| most.set(most.get().max(now)));
    });
}

// SAFETY: everything is the system allocator's; counting neither allocates nor touches the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a moment.
        count(size.cast_signed());
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Time of the processor that this thread has had: a busy machine does not count.
fn spent() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Runs one look at an input of so many bytes, and holds it to the bounds.
///
/// # Panics
/// If it goes beyond one.
pub(crate) fn bounded<T>(told: &str, len: usize, look: impl FnOnce() -> T) -> T {
    let (held, begun) = (HELD.get(), spent());
    MOST.set(held);
    let result = look();
    let (took, more) = (spent().saturating_sub(begun), MOST.get() - held);
    let bound = MEMORY + len * MEMORY_PER_BYTE;
    assert!(usize::try_from(more).unwrap_or(0) <= bound, "{told}: it held {more} bytes, more than {bound}");
    assert!(took <= TIME, "{told}: it took {took:?}");
    result
}
