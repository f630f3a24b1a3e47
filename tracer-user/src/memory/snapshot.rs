//! All goroutines at one moment, without stopping any.

use std::collections::HashMap;

use super::details::{Budget, Details, Want};
use super::figures::Figures;
use super::goroutine::{Goroutine, Park, Status};
use super::monotonic_ns;
use super::reader::{Reader, field, u8_at, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::stack::{End, Stack, StackCopy, Unwinder};

/// Bytes of each stack that are read at first; most parked stacks are shorter.
const STACK_WINDOW: u64 = 2048;
/// Bytes that are read where that was not enough.
const STACK_MOST: u64 = 256 * 1024;
/// Bytes of stacks held at a time.
const STACK_BATCH: usize = 16 * 1024 * 1024;
/// Bytes of long stacks that are read for one snapshot: some seconds. Behind them stacks are cut, and say so.
const LONG_STACKS: u64 = 1 << 34;

/// All goroutines of a process. Each is consistent in itself (read again and found unchanged, or marked
/// torn); the process ran on meanwhile, so two may be from moments apart.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was begun, `CLOCK_MONOTONIC` ns.
    pub taken_ns: u64,
    /// How long it took, ns.
    pub took_ns: u64,
    /// Goroutines that exist, in the order of their ids.
    pub goroutines: Vec<Goroutine>,
    /// Of these, how many changed while being read, so that their stack is missing.
    pub torn: usize,
    /// Entries of allgs whose memory could not be read.
    pub unread: usize,
    /// The runtime's figures.
    pub figures: Figures,
}

impl Snapshot {
    /// Goroutines that belong to the program, not to the runtime.
    pub fn user(&self) -> impl Iterator<Item = &Goroutine> {
        self.goroutines.iter().filter(|g| !g.system)
    }
}

/// One g structure, and where it is.
pub(super) struct RawG<'a> {
    pub(super) address: u64,
    pub(super) bytes: &'a [u8],
}

/// Where what is read goes.
struct Into<'a> {
    want: Want,
    goroutines: &'a mut Vec<Goroutine>,
    details: &'a mut Details,
}

impl<R: Reader> Runtime<'_, R> {
    /// Takes a snapshot.
    ///
    /// # Errors
    /// [`RuntimeError::Read`], with `Gone` if the process ends meanwhile.
    pub fn snapshot(&self) -> Result<Snapshot, RuntimeError> {
        Ok(self.snapshot_with(Want::default())?.0)
    }

    /// Takes a snapshot, with more about each goroutine.
    ///
    /// # Errors
    /// As [`Runtime::snapshot`].
    pub fn snapshot_with(&self, want: Want) -> Result<(Snapshot, Details), RuntimeError> {
        let taken_ns = monotonic_ns();
        let size = self.binary.layout().g.size as usize;
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let addresses = self.pointers(at, len)?;
        let threads = self.running_threads()?;
        let mut goroutines = Vec::new();
        let mut unread = 0;
        let mut unwinder = Unwinder::new(self.binary, self.bias);
        let mut system = SystemStarts::default();
        let mut details = Details::default();
        let (mut long_stacks, mut budget) = (LONG_STACKS, Budget::default());
        // A bounded number at a time, so that memory stays bounded with a million of them.
        for chunk in addresses.chunks(STACK_BATCH / STACK_WINDOW as usize) {
            let parts: Vec<(u64, usize)> = chunk.iter().map(|g| (*g, size)).collect();
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            let mut alive = Vec::new();
            for ((bytes, address), read) in bytes.chunks_exact(size).zip(chunk).zip(read) {
                if !read {
                    unread += 1;
                } else if self.status(bytes).is_alive() {
                    alive.push(RawG { address: *address, bytes });
                }
            }
            let mut into = Into { want, goroutines: &mut goroutines, details: &mut details };
            let limits = (&mut long_stacks, &mut budget);
            self.read_chunk(&alive, &threads, (&mut unwinder, limits), &mut system, &mut into)?;
        }
        // Read after the goroutines: a cycle that these know of is there.
        let cycles = self.cycles()?;
        for g in &mut goroutines {
            g.parked_by_ns = cycles.parked_by(g.wait_since_ns);
        }
        goroutines.sort_by_key(|g| g.goid);
        // A goroutine that ended, and one that got its g structure, may both be there.
        goroutines.dedup_by_key(|g| g.goid);
        let torn = goroutines.iter().filter(|g| g.torn).count();
        let figures = self.figures()?;
        let took_ns = monotonic_ns() - taken_ns;
        Ok((Snapshot { taken_ns, took_ns, goroutines, torn, unread, figures }, details))
    }

    /// How many goroutines exist, the runtime's own left out as far as it counts them itself
    /// (`sched.ngsys`, runtime/proc.go, `gcount`).
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn count_goroutines(&self) -> Result<u64, RuntimeError> {
        let layout = self.binary.layout();
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let parts: Vec<(u64, usize)> =
            self.pointers(at, len)?.into_iter().map(|g| (field(g, layout.g.atomicstatus), 4)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let alive = bytes
            .chunks_exact(4)
            .zip(read)
            .filter(|(word, read)| *read && Status::from_word(u32_at(word, 0)).is_alive())
            .count() as u64;
        let system = self.memory.u32(field(self.global(self.binary.globals().sched), layout.sched.ngsys));
        Ok(alive.saturating_sub(u64::from(system.map_err(|e| self.read_error(e))?)))
    }

    pub(super) fn status(&self, g: &[u8]) -> Status {
        Status::from_word(u32_at(g, self.binary.layout().g.atomicstatus))
    }

    /// Which thread runs which g: `m.curg` and `m.procid` of all Ms.
    fn running_threads(&self) -> Result<HashMap<u64, u32>, RuntimeError> {
        let layout = &self.binary.layout().m;
        let read = |address: u64| self.memory.u64(address).map_err(|e| self.read_error(e));
        let mut threads = HashMap::new();
        let mut m = read(self.global(self.binary.globals().allm))?;
        for _ in 0..1 << 16 {
            if m == 0 {
                break;
            }
            let curg = read(field(m, layout.curg))?;
            let procid = read(field(m, layout.procid))?;
            if curg != 0 {
                threads.insert(curg, u32::try_from(procid).unwrap_or(0));
            }
            m = read(field(m, layout.alllink))?;
        }
        Ok(threads)
    }

    /// Reads the stacks of some goroutines, checks that none changed meanwhile, and reads those that did
    /// once more.
    fn read_chunk(
        &self,
        raws: &[RawG<'_>],
        threads: &HashMap<u64, u32>,
        unwinding: (&mut Unwinder<'_>, (&mut u64, &mut Budget)),
        system: &mut SystemStarts,
        into: &mut Into<'_>,
    ) -> Result<(), RuntimeError> {
        let size = self.binary.layout().g.size as usize;
        let (unwinder, (long_stacks, budget)) = unwinding;
        let mut read_all = |raws: &[RawG<'_>]| {
            let stacks = self.stacks(raws, unwinder, long_stacks)?;
            let draft = self.draft(into.want, raws, unwinder, budget)?;
            let again: Vec<(u64, usize)> = raws.iter().map(|raw| (raw.address, size)).collect();
            let (bytes, read) = self.memory.read_batch(&again).map_err(|e| self.read_error(e))?;
            Ok::<_, RuntimeError>((stacks, draft, bytes, read))
        };
        let is_same = |raw: &RawG<'_>, now: &[u8]| {
            self.unchanged(raw.bytes, now) && self.same_details(into.want, raw.bytes, now)
        };
        let (stacks, draft, bytes, read) = read_all(raws)?;
        let (mut changed, mut unchanged) = (Vec::new(), Vec::new());
        let now = bytes.chunks_exact(size).zip(&read);
        for (index, ((raw, stack), (now, read))) in raws.iter().zip(stacks).zip(now).enumerate() {
            if *read && is_same(raw, now) {
                let goroutine = self.goroutine(raw, stack, false, threads, system);
                unchanged.push((index, goroutine.goid));
                into.goroutines.push(goroutine);
            } else if *read && self.status(now).is_alive() {
                changed.push(RawG { address: raw.address, bytes: now });
            }
        }
        into.details.absorb(draft, &unchanged);
        if changed.is_empty() {
            return Ok(());
        }
        let (stacks, draft, bytes, read) = read_all(&changed)?;
        unchanged.clear();
        let now = bytes.chunks_exact(size).zip(&read);
        for (index, ((raw, stack), (now, read))) in changed.iter().zip(stacks).zip(now).enumerate() {
            let whole = *read && is_same(raw, now);
            let stack = if whole { stack } else { Stack::default() };
            let goroutine = self.goroutine(raw, stack, !whole, threads, system);
            if whole {
                unchanged.push((index, goroutine.goid));
            }
            into.goroutines.push(goroutine);
        }
        into.details.absorb(draft, &unchanged);
        Ok(())
    }

    /// Whether a goroutine stayed as it was: same id, state, and place.
    pub(super) fn unchanged(&self, before: &[u8], after: &[u8]) -> bool {
        let g = &self.binary.layout().g;
        u64_at(before, g.goid) == u64_at(after, g.goid)
            && self.status(before) == self.status(after)
            && u64_at(before, g.sched_sp) == u64_at(after, g.sched_sp)
            && u64_at(before, g.sched_pc) == u64_at(after, g.sched_pc)
            && u64_at(before, g.stack_lo) == u64_at(after, g.stack_lo)
            && u8_at(before, g.tracking_seq) == u8_at(after, g.tracking_seq)
    }

    fn stacks(
        &self,
        raws: &[RawG<'_>],
        unwinder: &mut Unwinder<'_>,
        long_stacks: &mut u64,
    ) -> Result<Vec<Stack>, RuntimeError> {
        let starts: Vec<Option<Start>> = raws.iter().map(|raw| self.start(raw.bytes)).collect();
        let parts: Vec<(u64, usize)> =
            starts.iter().map(|start| start.map_or((0, 0), |s| (s.sp, s.len(STACK_WINDOW)))).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let mut rest = bytes.as_slice();
        let mut stacks = Vec::with_capacity(raws.len());
        for ((start, (_, len)), read) in starts.into_iter().zip(&parts).zip(read) {
            let (bytes, after) = rest.split_at(*len);
            rest = after;
            let Some(start) = start else {
                stacks.push(Stack::default());
                continue;
            };
            let copy = StackCopy { start: start.sp, bytes: if read { bytes } else { &[] } };
            let (mut stack, mut end) = unwinder.unwind(start.pc, start.sp, start.exact, &copy);
            let long = start.len(STACK_MOST);
            if end == End::NeedsMore && long > *len && long as u64 <= *long_stacks {
                *long_stacks -= long as u64;
                let mut more = vec![0; long];
                if self.memory.read(start.sp, &mut more).is_ok() {
                    (stack, end) = unwinder.unwind(
                        start.pc,
                        start.sp,
                        start.exact,
                        &StackCopy { start: start.sp, bytes: &more },
                    );
                }
            }
            stack.truncated |= end != End::Complete;
            stacks.push(stack);
        }
        Ok(stacks)
    }

    /// Where a goroutine's stack is unwound from; `None` for one that runs, whose saved registers are old.
    pub(super) fn start(&self, g: &[u8]) -> Option<Start> {
        let layout = &self.binary.layout().g;
        let (lo, hi) = (u64_at(g, layout.stack_lo), u64_at(g, layout.stack_hi));
        let (pc, sp, exact) = match self.status(g) {
            Status::Runnable | Status::Waiting | Status::Preempted | Status::Leaked => {
                (u64_at(g, layout.sched_pc), u64_at(g, layout.sched_sp), true)
            }
            // The caller of entersyscall, at the return address (runtime/proc.go, reentersyscall).
            Status::Syscall => (u64_at(g, layout.syscallpc), u64_at(g, layout.syscallsp), false),
            _ => return None,
        };
        (lo < sp && sp < hi && hi - lo < 1 << 40 && sp & 7 == 0).then_some(Start { pc, sp, hi, exact })
    }

    fn goroutine(
        &self,
        raw: &RawG<'_>,
        stack: Stack,
        torn: bool,
        threads: &HashMap<u64, u32>,
        system: &mut SystemStarts,
    ) -> Goroutine {
        let layout = &self.binary.layout().g;
        let g = raw.bytes;
        let status = self.status(g);
        let linked = |address: u64| if address == 0 { 0 } else { address.wrapping_sub(self.bias) };
        let startpc = linked(u64_at(g, layout.startpc));
        let park = status.is_parked().then(|| Park {
            depth: u64_at(g, layout.stack_hi).wrapping_sub(u64_at(g, layout.sched_sp)),
            pc: linked(u64_at(g, layout.sched_pc)),
            tracking: u8_at(g, layout.tracking_seq),
        });
        Goroutine {
            goid: u64_at(g, layout.goid),
            status,
            wait_reason: u8_at(g, layout.waitreason),
            wait_since_ns: if status.is_parked() || status == Status::Syscall {
                u64_at(g, layout.waitsince)
            } else {
                0
            },
            parked_by_ns: 0,
            gopc: linked(u64_at(g, layout.gopc)),
            startpc,
            parent_goid: layout.parent_goid.map_or(0, |at| u64_at(g, at)),
            thread_id: threads.get(&raw.address).copied(),
            locked: u64_at(g, layout.lockedm) != 0,
            system: system.is_system(self, startpc),
            park,
            stack,
            torn,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) pc: u64,
    pub(super) sp: u64,
    pub(super) hi: u64,
    pub(super) exact: bool,
}

impl Start {
    pub(super) fn len(&self, most: u64) -> usize {
        // Stacks are far smaller than the address space.
        (self.hi - self.sp).min(most) as usize
    }
}

/// Which start functions belong to the runtime itself (`isSystemGoroutine`, runtime/traceback.go).
#[derive(Debug, Default)]
pub(super) struct SystemStarts(HashMap<u64, bool>);

impl SystemStarts {
    pub(super) fn is_system<R: Reader>(&mut self, runtime: &Runtime<'_, R>, startpc: u64) -> bool {
        *self.0.entry(startpc).or_insert_with(|| {
            runtime.binary.function_name(startpc).is_some_and(|name| {
                name.starts_with("runtime.") && !matches!(name, "runtime.main" | "runtime.handleAsyncEvent")
            })
        })
    }
}
