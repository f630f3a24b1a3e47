//! What the collector starts from: variables, stacks, finalizers and cleanups. Each choice errs to "reached".
//!
//! Structures: `finBlock` (runtime/mfinal.go), `cleanupBlock` (runtime/mcleanup.go), `special` (runtime/mheap.go), the
//! same from Go 1.18 to 1.27 where the table has no field for them.

use std::collections::HashMap;
use std::sync::Arc;

use super::mark::Mark;
use super::reader::{ReadError, Reader, field, u8_at, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::snapshot::Start;
use super::stack::{Pc, StackCopy, Unwinder};
use crate::binary::{Architecture, FrameMap};

/// Bytes that are read at once.
const WINDOW: usize = 256 * 1024;
/// Bytes of variables that are read; those of the largest programs are some ten megabytes.
const MOST_VARIABLES: u64 = 1 << 32;
/// Bytes of one stack that are read: the runtime's own limit is a gigabyte (`maxstacksize`).
const MOST_STACK: u64 = 1 << 30;
/// Longest list of blocks, specials of a span, and deferred calls that is followed.
const MOST_BLOCKS: usize = 1 << 16;
const MOST_SPECIALS: usize = 1 << 13;
const MOST_DEFERS: usize = 1 << 16;
/// Bytes of a block of finalizers or cleanups (`finBlockSize`, `cleanupBlockSize`: 4096), and where in it the link to
/// the next of all is.
const BLOCK: usize = 4096;
const FINALIZERS_LINK: u32 = 0;
const CLEANUPS_LINK: u32 = 16;
/// Bytes of the largest special (`specialPinCounter`, `specialfinalizer` and the like).
const SPECIAL: usize = 64;

/// Frame maps by address, each looked up once.
#[derive(Debug, Default)]
pub(super) struct FrameMaps {
    maps: HashMap<u64, Option<Arc<FrameMap>>>,
    /// By place: whether it is in a frame of which the maps do not tell.
    untold: HashMap<u64, bool>,
}

/// Why the roots can't be told.
pub(super) type Missing = &'static str;

impl<R: Reader> Runtime<'_, R> {
    /// Variables, finalizers, cleanups and specials.
    pub(super) fn mark_globals(&self, mark: &mut Mark) -> Result<Result<(), Missing>, RuntimeError> {
        for range in self.binary.variables() {
            if range.end.saturating_sub(range.start) > MOST_VARIABLES {
                return Ok(Err("the program's variables are larger than what is read"));
            }
            let mut at = range.start;
            while at < range.end {
                let len = (range.end - at).min(WINDOW as u64) as usize;
                if !self.mark_words(self.global(at), len, mark)? {
                    return Ok(Err("the program's variables could not be read"));
                }
                at += len as u64;
            }
        }
        let heap = &self.binary.globals().optional;
        let Some(allfin) = heap.allfin else {
            return Ok(Err("where the runtime keeps its finalizers is not known for this version"));
        };
        if !self.mark_blocks(self.global(allfin), FINALIZERS_LINK, mark)? {
            return Ok(Err("the list of finalizers does not hold together"));
        }
        if self.binary.version().minor >= 25 {
            let (Some(cleanups), Some(all)) = (heap.cleanups, self.binary.layout().cleanups.all) else {
                return Ok(Err("where the runtime keeps its cleanups is not known for this version"));
            };
            if !self.mark_blocks(field(self.global(cleanups), all), CLEANUPS_LINK, mark)? {
                return Ok(Err("the list of cleanups does not hold together"));
            }
        }
        self.mark_specials(mark)
    }

    /// All words from an address on; false if they can't be read.
    fn mark_words(&self, address: u64, len: usize, mark: &mut Mark) -> Result<bool, RuntimeError> {
        let mut bytes = vec![0; len];
        match self.memory.read(address, &mut bytes) {
            Ok(()) => {}
            Err(fatal @ (ReadError::Gone | ReadError::NotPermitted { .. })) => {
                return Err(self.read_error(fatal));
            }
            Err(_) => return Ok(false),
        }
        bytes.chunks_exact(8).for_each(|word| mark.push(u64_at(word, 0)));
        Ok(true)
    }

    /// A list of blocks of which each is read whole; `head` is the address of the pointer to the first.
    fn mark_blocks(&self, head: u64, link: u32, mark: &mut Mark) -> Result<bool, RuntimeError> {
        let mut at = self.memory.u64(head).map_err(|e| self.read_error(e))?;
        for _ in 0..MOST_BLOCKS {
            if at == 0 {
                return Ok(true);
            }
            if at & 7 != 0 || !self.mark_words(at, BLOCK, mark)? {
                return Ok(false);
            }
            let Ok(next) = self.memory.u64(field(at, link)) else { return Ok(false) };
            at = next;
        }
        Ok(false)
    }

    /// Of each object with a finalizer, a cleanup or a weak pointer: the object and what the special holds. The collector
    /// keeps less alive; but from outside it can't be told what is about to be called.
    fn mark_specials(&self, mark: &mut Mark) -> Result<Result<(), Missing>, RuntimeError> {
        let layout = &self.binary.layout().special;
        let (Some(next), Some(offset), Some(kind)) = (layout.next, layout.offset, layout.kind) else {
            return Ok(Err(
                "where the runtime keeps what is special of objects is not known for this version",
            ));
        };
        let minor = self.binary.version().minor;
        // Kinds that keep something alive: finalizer, weak handle, cleanup (`_KindSpecial...`, runtime/mheap.go).
        let keeps = |kind: u8| match minor {
            ..=22 => kind == 1,
            23 | 24 => matches!(kind, 1 | 2 | 6),
            _ => matches!(kind, 2 | 3 | 7),
        };
        let spans: Vec<(u64, u64)> = mark
            .spans()
            .all()
            .iter()
            .filter(|span| span.specials != 0)
            .map(|span| (span.start, span.specials))
            .collect();
        for (start, first) in spans {
            let mut at = first;
            for _ in 0..MOST_SPECIALS {
                let mut bytes = [0; SPECIAL];
                // The list changes while it is followed; where it leads astray, its end is not found.
                if at == 0 || at & 7 != 0 || self.memory.read(at, &mut bytes).is_err() {
                    break;
                }
                if keeps(u8_at(&bytes, kind)) {
                    let distance = if minor >= 24 {
                        u64_at(&bytes, offset)
                    } else {
                        u64::from(u32_at(&bytes, offset) & 0xffff)
                    };
                    mark.push(start.wrapping_add(distance));
                    bytes.chunks_exact(8).for_each(|word| mark.push(u64_at(word, 0)));
                }
                at = u64_at(&bytes, next);
            }
        }
        Ok(Ok(()))
    }

    /// The pointers of a goroutine's stack. By the compiler's maps where each frame has one, else all words: also of one
    /// that runs, whose registers were saved on its stack when it was last preempted.
    pub(super) fn mark_stack(
        &self,
        g: &[u8],
        unwinder: &mut Unwinder<'_>,
        maps: &mut FrameMaps,
        mark: &mut Mark,
    ) -> Result<bool, RuntimeError> {
        let layout = &self.binary.layout().g;
        let (lo, hi) = (u64_at(g, layout.stack_lo), u64_at(g, layout.stack_hi));
        if lo >= hi || hi - lo > MOST_STACK || lo & 7 != 0 {
            return Ok(false);
        }
        let start = self.start(g).filter(|_| self.has_maps(g));
        let from = start.map_or(lo, |start| start.sp);
        let mut bytes = vec![0; (hi - from) as usize];
        match self.memory.read(from, &mut bytes) {
            Ok(()) => {}
            Err(fatal @ (ReadError::Gone | ReadError::NotPermitted { .. })) => {
                return Err(self.read_error(fatal));
            }
            Err(_) => return Ok(false),
        }
        let copy = StackCopy { start: from, bytes: &bytes };
        let exact = start.and_then(|start| self.exact_words(start, lo, hi, g, &copy, unwinder, maps));
        match exact {
            Some(words) => words.into_iter().for_each(|word| mark.push(word)),
            None => bytes.chunks_exact(8).for_each(|word| mark.push(u64_at(word, 0))),
        }
        self.mark_defers(g, mark);
        Ok(true)
    }

    /// Whether the compiler's maps tell of a goroutine's frames.
    fn has_maps(&self, g: &[u8]) -> bool {
        let layout = &self.binary.layout().g;
        u64_at(g, layout.panic_) == 0
            && u32_at(g, layout.atomicstatus) & super::goroutine::SCAN == 0
            && layout.async_safe_point.is_some_and(|at| u8_at(g, at) == 0)
    }

    /// The words of a goroutine's stack that it may still use, by the compiler's maps. `None` where these do not tell, or
    /// not all.
    pub(super) fn live_words(
        &self,
        g: &[u8],
        start: Start,
        copy: &StackCopy<'_>,
        unwinder: &mut Unwinder<'_>,
        maps: &mut FrameMaps,
    ) -> Option<Vec<u64>> {
        let layout = &self.binary.layout().g;
        // What deferred calls hold is not on the stack alone.
        let defers = layout.defer_.is_none_or(|at| u64_at(g, at) != 0);
        if defers || !self.has_maps(g) {
            return None;
        }
        let (lo, hi) = (u64_at(g, layout.stack_lo), u64_at(g, layout.stack_hi));
        self.exact_words(start, lo, hi, g, copy, unwinder, maps)
    }

    /// Deferred calls: those on the heap, and what those on the stack hold.
    fn mark_defers(&self, g: &[u8], mark: &mut Mark) {
        let layout = self.binary.layout();
        let (Some(first), Some(size), Some(link)) = (layout.g.defer_, layout.defer.size, layout.defer.link)
        else {
            return;
        };
        let mut at = u64_at(g, first);
        for _ in 0..MOST_DEFERS {
            let mut bytes = vec![0; size as usize];
            if at == 0 || self.memory.read(at, &mut bytes).is_err() {
                break;
            }
            mark.push(at);
            bytes.chunks_exact(8).for_each(|word| mark.push(u64_at(word, 0)));
            at = u64_at(&bytes, link);
        }
    }

    /// The live words of a stack by its maps; `None` where one frame has none.
    #[expect(clippy::too_many_arguments, reason = "what one stack is, and what is known of frames")]
    fn exact_words(
        &self,
        start: Start,
        lo: u64,
        hi: u64,
        g: &[u8],
        copy: &StackCopy<'_>,
        unwinder: &mut Unwinder<'_>,
        maps: &mut FrameMaps,
    ) -> Option<Vec<u64>> {
        let (frames, complete) = unwinder.frames(start.pc, start.sp, start.exact, copy);
        if !complete {
            return None;
        }
        let mut words = Vec::new();
        let mut objects: Vec<(u64, u64)> = Vec::new();
        let (last, inner) = frames.split_last()?;
        if inner.iter().chain([last]).any(|frame| maps.does_not_tell(self, frame.pc)) {
            return None;
        }
        for frame in inner {
            let map = maps.find(self, frame.pc)?;
            let (sp, end) = (frame.range.start, frame.range.end);
            // `stkframe.varp` and `.argp` (runtime/traceback.go, `gentraceback` and `unwinder.resolveInternal`).
            let (mut locals_end, arguments, least) = match self.binary.architecture() {
                Architecture::Amd64 => (end.wrapping_sub(8), end, 0),
                Architecture::Arm64 => (end, end.wrapping_add(8), 16),
            };
            if locals_end > sp {
                locals_end -= 8;
            }
            if locals_end.saturating_sub(sp) > least {
                if !map.has_locals {
                    return None;
                }
                let first = locals_end.checked_sub(u64::from(map.locals.words) * 8)?;
                for word in map.locals.pointers() {
                    words.push(copy.word_at(first + word * 8)?);
                }
            }
            for word in map.arguments.pointers() {
                words.push(copy.word_at(arguments + word * 8)?);
            }
            for (offset, size) in &map.objects {
                let base = if *offset < 0 { locals_end } else { arguments };
                let at = base.wrapping_add_signed(i64::from(*offset));
                if at >= sp {
                    objects.push((at, u64::from(*size)));
                }
            }
        }
        // The outermost frame is `goexit`, or the start of the program.
        let layout = self.binary.layout();
        let deferred = layout.g.defer_.map_or(0, |at| u64_at(g, at));
        if (lo..hi).contains(&deferred) {
            // A deferred call on the stack: what it holds may lead to variables there.
            let size = u64::from(layout.defer.size?);
            words.extend((0..size / 8).filter_map(|word| copy.word_at(deferred + word * 8)));
        }
        objects.sort_unstable();
        let mut is_read = vec![false; objects.len()];
        let mut at = 0;
        while let Some(word) = words.get(at).copied() {
            at += 1;
            if !(lo..hi).contains(&word) {
                continue;
            }
            let Some(found) = objects.partition_point(|(start, _)| *start <= word).checked_sub(1) else {
                continue;
            };
            let (start, size) = objects[found];
            if word < start + size && !std::mem::replace(&mut is_read[found], true) {
                words.extend((0..size / 8).filter_map(|word| copy.word_at(start + word * 8)));
            }
        }
        Some(words)
    }
}

impl FrameMaps {
    /// Frames of which the compiler's maps do not tell: those that a signal interrupted, and what reflect made.
    fn does_not_tell<R: Reader>(&mut self, runtime: &Runtime<'_, R>, pc: Pc) -> bool {
        *self.untold.entry(pc.address).or_insert_with(|| {
            runtime.binary.function_name(pc.address).is_none_or(|name| {
                name.starts_with("runtime.asyncPreempt")
                    || name.starts_with("runtime.debugCall")
                    || matches!(
                        &*name,
                        "runtime.sigpanic" | "reflect.makeFuncStub" | "reflect.methodValueCall"
                    )
            })
        })
    }

    fn find<R: Reader>(&mut self, runtime: &Runtime<'_, R>, pc: Pc) -> Option<Arc<FrameMap>> {
        let binary = runtime.binary;
        self.maps
            .entry(pc.address)
            .or_insert_with(|| binary.symbols().frame_map(binary.image(), pc.address).map(Arc::new))
            .clone()
    }
}
