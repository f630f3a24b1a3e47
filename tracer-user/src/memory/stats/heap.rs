//! Memory that Go has from the system, and what it is used for (runtime/mstats.go).
//!
//! The statistics are three sets of counts. Programs write to one of them, a reader inside of the process moves the
//! writers on to the next and adds up those before. Their sum counts, except in the moment in which the reader has
//! added one to another and not cleared it yet: then the set that should be empty is not, and we look again.

use super::super::reader::{Reader, field, u32_at, u64_at};
use super::super::runtime::{Runtime, RuntimeError};
use super::Unknown;
use super::histogram::Histogram;
use super::plausible::Trusted;

/// The sets of statistics.
const SETS: usize = 3;
/// Looks at them before the reader inside is held to be stuck.
const LOOKS: usize = 64;
/// A set has some 1200 bytes.
const MOST_BYTES: u32 = 1 << 14;

/// The sizes of small objects by size class (runtime/sizeclasses.go; the same from Go 1.18 to 1.27). The first stands
/// for large objects.
pub const SIZE_CLASSES: [u16; 68] = [
    0, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384,
    416, 448, 480, 512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072,
    3200, 3456, 4096, 4864, 5376, 6144, 6528, 6784, 6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568,
    14336, 16384, 18432, 19072, 20480, 21760, 24576, 27264, 28672, 32768,
];
/// Objects above this are large.
pub const LARGEST_SMALL: u16 = 32768;

/// Objects of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SizeClass {
    /// Bytes of one object; 0 for large ones, of any size.
    pub size: u16,
    /// Objects allocated so far.
    pub allocs: u64,
    /// Objects freed so far.
    pub frees: u64,
}

/// Memory in bytes, by use. All of it is Go's: memory of C code is not among it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// Objects: live, dead and not found to be yet, and dead and not swept yet.
    pub objects: u64,
    /// In spans of objects but no object: free slots, and what rounding up wastes.
    pub unused: u64,
    /// Free, and kept.
    pub free: u64,
    /// Free, and given back to the system: address space alone.
    pub released: u64,
    /// Stacks of goroutines.
    pub stacks: u64,
    /// Stacks of threads that Go mapped itself.
    pub os_stacks: u64,
    /// Structures that describe spans: in use and spare; `None` if `runtime.mheap_` is not known.
    pub mspan: Option<(u64, u64)>,
    /// Caches of Ps, likewise.
    pub mcache: Option<(u64, u64)>,
    /// Taken for both together.
    pub span_metadata: u64,
    /// The collector's own.
    pub gc_metadata: u64,
    /// Buckets of profiles.
    pub profile_buckets: u64,
    /// Anything else.
    pub other: u64,
    /// All of it, address space that was given back included.
    pub total: u64,
    /// Objects allocated so far, by size class; large ones first.
    pub classes: Vec<SizeClass>,
    /// Bytes of objects allocated so far.
    pub allocated_bytes: u64,
    /// Bytes of objects freed so far.
    pub freed_bytes: u64,
    /// Objects allocated so far, tiny ones by the block.
    pub allocs: u64,
    /// Objects freed so far.
    pub frees: u64,
    /// Tiny objects so far, several of which share a block.
    pub tiny_allocs: u64,
}

impl Heap {
    /// What is mapped and usable: all but what was given back.
    #[must_use]
    pub const fn ready(&self) -> u64 {
        self.total.saturating_sub(self.released)
    }

    /// What the runtime needs for itself.
    #[must_use]
    pub const fn own(&self) -> u64 {
        self.os_stacks
            .saturating_add(self.span_metadata)
            .saturating_add(self.gc_metadata)
            .saturating_add(self.profile_buckets)
            .saturating_add(self.other)
    }

    /// Objects that exist.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.allocs.saturating_sub(self.frees)
    }

    /// Objects allocated so far by size, as `runtime/metrics` puts them into buckets.
    #[must_use]
    pub fn allocs_by_size(&self) -> Histogram {
        self.by_size(|class| class.allocs)
    }

    /// Likewise, objects freed.
    #[must_use]
    pub fn frees_by_size(&self) -> Histogram {
        self.by_size(|class| class.frees)
    }

    fn by_size(&self, count: impl Fn(&SizeClass) -> u64) -> Histogram {
        // A class holds what is larger than the class before: (32, 48] is [33, 49). The last is for large ones.
        let begins: Vec<u64> = SIZE_CLASSES.iter().map(|size| u64::from(*size) + 1).collect();
        let (large, small) =
            self.classes.split_first().map_or((0, &[][..]), |(large, small)| (count(large), small));
        // Nothing is smaller than a byte.
        Histogram::new(&begins, [0].into_iter().chain(small.iter().map(count)).chain([large]))
    }
}

/// A sum of the three sets.
struct Counts<'a> {
    sets: &'a [u8],
    size: usize,
}

impl Counts<'_> {
    fn at(&self, offset: u32) -> u64 {
        self.sets.chunks_exact(self.size).fold(0, |sum, set| sum.wrapping_add(u64_at(set, offset)))
    }

    /// Bytes: differences of which the sum is not negative, unless it was changed while it was read.
    fn bytes(&self, offset: u32) -> u64 {
        self.at(offset).cast_signed().max(0).unsigned_abs()
    }
}

impl<R: Reader> Runtime<'_, R> {
    pub(super) fn heap(
        &self,
        trusted: &Trusted,
        unknown: &mut Vec<Unknown>,
    ) -> Result<Option<Heap>, RuntimeError> {
        let refuse = |why: &str| Unknown { what: "memory", why: why.to_owned() };
        let (ms, h) = (&self.binary.layout().memstats, &self.binary.layout().heap_stats);
        let (
            (Some(at), Some(generation), Some(size)),
            (Some(committed), Some(released), Some(in_heap), Some(in_stacks), Some(in_work_bufs)),
            (Some(tiny), Some(large_alloc), Some(large_allocs), Some(small_allocs)),
            (Some(large_free), Some(large_frees), Some(small_frees)),
        ) = (
            (ms.heap_stats, ms.heap_stats_gen, h.size),
            (h.committed, h.released, h.in_heap, h.in_stacks, h.in_work_bufs),
            (h.tiny_alloc_count, h.large_alloc, h.large_alloc_count, h.small_alloc_count),
            (h.large_free, h.large_free_count, h.small_free_count),
        )
        else {
            unknown.push(refuse("the layout of the heap's statistics is not known"));
            return Ok(None);
        };
        let classes = SIZE_CLASSES.len() as u32 * 8;
        let fits = |begin: u32, end: u32| begin.checked_add(classes).is_some_and(|behind| behind <= end);
        if size > MOST_BYTES || large_free != small_allocs.wrapping_add(classes) || !fits(small_frees, size) {
            unknown.push(refuse("this program has other size classes than those that are known"));
            return Ok(None);
        }
        let base = field(self.global(self.binary.globals().memstats), at);
        let Some(sets) = self.heap_stats(base, generation.wrapping_sub(at), size as usize)? else {
            unknown.push(refuse("the heap's statistics changed each time that they were looked at"));
            return Ok(None);
        };
        let counts = Counts { sets: &sets, size: size as usize };
        let class = |(index, size): (usize, &u16)| {
            let offset = index as u32 * 8;
            SizeClass {
                size: *size,
                allocs: counts.at(small_allocs + offset),
                frees: counts.at(small_frees + offset),
            }
        };
        let mut classes: Vec<SizeClass> = SIZE_CLASSES.iter().enumerate().map(class).collect();
        let (mut allocs, mut frees) = (counts.at(large_allocs), counts.at(large_frees));
        let (mut allocated, mut freed) = (counts.at(large_alloc), counts.at(large_free));
        for class in &classes {
            allocs = allocs.wrapping_add(class.allocs);
            frees = frees.wrapping_add(class.frees);
            allocated = allocated.wrapping_add(class.allocs.wrapping_mul(u64::from(class.size)));
            freed = freed.wrapping_add(class.frees.wrapping_mul(u64::from(class.size)));
        }
        if let Some(large) = classes.first_mut() {
            (large.allocs, large.frees) = (counts.at(large_allocs), counts.at(large_frees));
        }
        let [stacks_sys, mspan_sys, mcache_sys, buckets, gc_sys, other] = self
            .words(
                Some(self.binary.globals().memstats),
                [
                    ms.stacks_sys,
                    ms.mspan_sys,
                    ms.mcache_sys,
                    Some(ms.buckhash_sys),
                    ms.gc_misc_sys,
                    ms.other_sys,
                ],
            )?
            .map(Option::unwrap_or_default);
        let m = &self.binary.layout().mheap;
        let [mspan, mcache] =
            self.words(trusted.statistics.mheap, [m.spanalloc_inuse, m.cachealloc_inuse])?;
        let masks = h.in_ptr_scalar_bits.map_or(0, |offset| counts.bytes(offset));
        let (committed, released) = (counts.bytes(committed), counts.bytes(released));
        let (in_heap, stacks, work_bufs) =
            (counts.bytes(in_heap), counts.bytes(in_stacks), counts.bytes(in_work_bufs));
        let gc_metadata = work_bufs.saturating_add(masks).saturating_add(gc_sys);
        let objects = allocated.wrapping_sub(freed).cast_signed().max(0).unsigned_abs();
        Ok(Some(Heap {
            objects,
            unused: in_heap.saturating_sub(objects),
            free: [in_heap, stacks, work_bufs, masks].into_iter().fold(committed, u64::saturating_sub),
            released,
            stacks,
            os_stacks: stacks_sys,
            mspan: mspan.map(|used| (used, mspan_sys.saturating_sub(used))),
            mcache: mcache.map(|used| (used, mcache_sys.saturating_sub(used))),
            span_metadata: mspan_sys.saturating_add(mcache_sys),
            gc_metadata,
            profile_buckets: buckets,
            other,
            total: [released, stacks_sys, mspan_sys, mcache_sys, buckets, gc_sys, other]
                .into_iter()
                .fold(committed, u64::saturating_add),
            classes,
            allocated_bytes: allocated,
            freed_bytes: freed,
            allocs,
            frees,
            tiny_allocs: counts.at(tiny),
        }))
    }

    /// The three sets, in a moment in which their sum counts.
    fn heap_stats(&self, base: u64, generation: u32, size: usize) -> Result<Option<Vec<u8>>, RuntimeError> {
        let all = SETS * size;
        for _ in 0..LOOKS {
            let Some(bytes) = self.bytes_at(base, all)? else { return Ok(None) };
            // Read behind the sets: a reader that began meanwhile has moved on.
            let Some(word) = self.bytes_at(field(base, generation), 4)? else { return Ok(None) };
            let writing = u32_at(&word, 0) as usize;
            if writing >= SETS {
                return Ok(None);
            }
            let empty = (writing + 1) % SETS * size;
            let is_clear =
                bytes.get(empty..empty + size).is_some_and(|set| set.iter().all(|byte| *byte == 0));
            if is_clear {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}
