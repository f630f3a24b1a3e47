//! All goroutines at one moment, without stopping any.

use std::sync::Arc;

use super::details::{Budget, Details, Draft, Want};
use super::figures::Figures;
use super::gather::Gather;
use super::goroutine::{Goroutine, Park, SCAN, Status};
use super::hash::Map;
use super::monotonic_ns;
use super::parked::Cycles;
use super::reader::{Reader, field, u8_at, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};
use super::stack::{End, Stack, StackCopy, Unwinder};
use super::threads::Thread;

/// Goroutines that are read and looked at again before the next ones: few, so that the time in between is short and
/// what was read stays in the processor's cache.
const CHUNK: usize = 1024;
/// Bytes of each stack that are read at first (most parked stacks are shorter), and where that was not enough.
const STACK_WINDOWS: [u64; 3] = [2 << 10, 16 << 10, 256 << 10];
/// Bytes of stacks held at a time.
const STACK_BATCH: usize = 4 << 20;
/// Bytes of long stacks that are read for one snapshot: some seconds. Behind them stacks are cut, and say so.
const LONG_STACKS: u64 = 1 << 34;

/// All goroutines of a process. Each is consistent in itself (read again and found unchanged, or marked
/// torn); the process ran on meanwhile, so two may be from moments apart.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was begun, `CLOCK_MONOTONIC` ns; of a core file as [`Runtime::now_ns`].
    pub taken_ns: u64,
    /// How long it took, ns.
    pub took_ns: u64,
    /// Goroutines that exist, in the order of their ids.
    pub goroutines: Vec<Goroutine>,
    /// Of these, how many changed while being read, so that their stack is missing.
    pub torn: usize,
    /// Entries of allgs whose memory could not be read.
    pub unread: usize,
    /// Goroutines whose stack's memory could not be read.
    pub unread_stacks: usize,
    /// Bytes of both.
    pub unread_bytes: u64,
    /// The runtime's figures.
    pub figures: Figures,
}

impl Snapshot {
    /// One of nobody, for tests.
    #[cfg(test)]
    pub(crate) fn empty(taken_ns: u64) -> Self {
        Self {
            taken_ns,
            took_ns: 1,
            goroutines: Vec::new(),
            torn: 0,
            unread: 0,
            unread_stacks: 0,
            unread_bytes: 0,
            figures: Figures::default(),
        }
    }

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

/// What was read of stacks, beside the stacks.
struct StackReads {
    /// Bytes of long ones that may be read yet.
    long_left: u64,
    /// How many could not be read, and how many bytes of them.
    unread: usize,
    unread_bytes: u64,
}

/// A snapshot in the making: what is known for all of it, and what was read so far.
struct Reading<'a> {
    want: Want,
    /// Which thread runs which g.
    threads: Map<u64, Thread>,
    unwinder: Unwinder<'a>,
    system: SystemStarts,
    stack_reads: StackReads,
    budget: Budget,
    goroutines: Vec<Goroutine>,
    details: Details,
}

/// What is read of some goroutines beside their g structures, and these once more behind it.
#[derive(Default)]
struct Pass {
    stacks: Gather,
    again: Gather,
}

impl<R: Reader> Runtime<'_, R> {
    /// Takes a snapshot.
    ///
    /// # Errors
    /// [`RuntimeError::Read`], with `Gone` if the process ends meanwhile.
    pub fn snapshot(&self) -> Result<Snapshot, RuntimeError> {
        Ok(self.snapshot_with(Want::default())?.0)
    }

    /// Takes a snapshot, with more about each goroutine, or less.
    ///
    /// # Errors
    /// As [`Runtime::snapshot`].
    pub fn snapshot_with(&self, want: Want) -> Result<(Snapshot, Details), RuntimeError> {
        let (taken_ns, begun_ns) = (self.now_ns(), monotonic_ns());
        let size = self.binary.layout().g.size as usize;
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let addresses = self.pointers(at, len)?;
        let mut reading = Reading {
            want,
            threads: self.running_threads()?,
            unwinder: Unwinder::new(self.binary, self.bias),
            system: SystemStarts::default(),
            stack_reads: StackReads { long_left: LONG_STACKS, unread: 0, unread_bytes: 0 },
            budget: Budget::default(),
            // Room that is not used takes no memory.
            goroutines: Vec::with_capacity(addresses.len()),
            details: Details::default(),
        };
        let mut unread = 0;
        let (mut gs, mut passes) = (Gather::default(), <[Pass; 2]>::default());
        for chunk in addresses.chunks(CHUNK) {
            let parts: Vec<(u64, usize)> = chunk.iter().map(|g| (*g, size)).collect();
            gs.read(&self.memory, &parts).map_err(|e| self.read_error(e))?;
            let mut alive = Vec::with_capacity(chunk.len());
            for (bytes, address) in gs.parts().zip(chunk) {
                match bytes {
                    None => unread += 1,
                    Some(bytes) if self.status(bytes).is_alive() => {
                        alive.push(RawG { address: *address, bytes });
                    }
                    Some(_) => {}
                }
            }
            self.read_chunk(&alive, &mut reading, &mut passes)?;
        }
        drop(addresses);
        let Reading { mut goroutines, details, mut unwinder, stack_reads, .. } = reading;
        // Read after the goroutines: a cycle that these know of is there.
        note_parked(&mut goroutines, &self.cycles()?);
        self.fill_running(&mut goroutines, &mut unwinder)?;
        sort_by_goid(&mut goroutines);
        // A goroutine that ended, and one that got its g structure, may both be there.
        goroutines.dedup_by_key(|g| g.goid);
        let torn = goroutines.iter().filter(|g| g.torn).count();
        let figures = self.figures()?;
        let took_ns = monotonic_ns() - begun_ns;
        let unread_stacks = stack_reads.unread;
        let unread_bytes = (unread * size) as u64 + stack_reads.unread_bytes;
        let snapshot =
            Snapshot { taken_ns, took_ns, goroutines, torn, unread, unread_stacks, unread_bytes, figures };
        Ok((snapshot, details))
    }

    /// How many goroutines exist, the runtime's own left out as far as it counts them itself
    /// (`sched.ngsys`, runtime/proc.go, `gcount`).
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn count_goroutines(&self) -> Result<u64, RuntimeError> {
        let layout = self.binary.layout();
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let (mut alive, mut gs) = (0, Gather::default());
        for chunk in self.pointers(at, len)?.chunks(CHUNK) {
            let parts: Vec<(u64, usize)> =
                chunk.iter().map(|g| (field(*g, layout.g.atomicstatus), 4)).collect();
            gs.read(&self.memory, &parts).map_err(|e| self.read_error(e))?;
            let is_alive = |word: &&[u8]| Status::from_word(u32_at(word, 0)).is_alive();
            alive += gs.parts().flatten().filter(is_alive).count() as u64;
        }
        let system = self.memory.u32(field(self.global(self.binary.globals().sched), layout.sched.ngsys));
        Ok(alive.saturating_sub(u64::from(system.map_err(|e| self.read_error(e))?)))
    }

    pub(super) fn status(&self, g: &[u8]) -> Status {
        Status::from_word(u32_at(g, self.binary.layout().g.atomicstatus))
    }

    /// Reads the stacks of some goroutines, checks that none changed meanwhile, and reads those that did
    /// once more. So it does with a stack that leads nowhere: a goroutine that ran and parks again at the same place may
    /// look as before, as `g.trackingSeq` has 8 bits (runtime/runtime2.go). One that is the same both times leads nowhere.
    fn read_chunk(
        &self,
        raws: &[RawG<'_>],
        reading: &mut Reading<'_>,
        [first, second]: &mut [Pass; 2],
    ) -> Result<(), RuntimeError> {
        let (stacks, draft) = self.pass(raws, reading, first)?;
        let (mut changed, mut lost, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
        for (index, ((raw, stack), now)) in raws.iter().zip(stacks).zip(first.again.parts()).enumerate() {
            match now {
                Some(now) if !stack.lost && self.is_same(raw, now, reading.want) => {
                    unchanged.push((index, reading.add(self, raw, stack.stack, false)));
                }
                Some(now) if self.status(now).is_alive() => {
                    changed.push(RawG { address: raw.address, bytes: now });
                    lost.push(stack.lost.then_some(stack.stack));
                }
                _ => {}
            }
        }
        reading.details.absorb(draft, &unchanged);
        if changed.is_empty() {
            return Ok(());
        }
        let (stacks, draft) = self.pass(&changed, reading, second)?;
        unchanged.clear();
        let again = changed.iter().zip(stacks).zip(lost).zip(second.again.parts());
        for (index, (((raw, stack), before), now)) in again.enumerate() {
            let is_true = !stack.lost || before.as_ref() == Some(&stack.stack);
            let whole = is_true && now.is_some_and(|now| self.is_same(raw, now, reading.want));
            let stack = if whole { stack.stack } else { reading.unwinder.no_stack() };
            let goid = reading.add(self, raw, stack, !whole);
            if whole {
                unchanged.push((index, goid));
            }
        }
        reading.details.absorb(draft, &unchanged);
        Ok(())
    }

    /// Reads all that is wanted of some goroutines, and then themselves again.
    fn pass(
        &self,
        raws: &[RawG<'_>],
        reading: &mut Reading<'_>,
        pass: &mut Pass,
    ) -> Result<(Vec<Unwound>, Draft), RuntimeError> {
        let stacks = if reading.want.no_stacks {
            vec![Unwound { stack: reading.unwinder.no_stack(), lost: false }; raws.len()]
        } else {
            self.stacks(raws, reading, &mut pass.stacks)?
        };
        let draft = self.draft(reading.want, raws, &mut reading.unwinder, &mut reading.budget)?;
        let size = self.binary.layout().g.size as usize;
        let parts: Vec<(u64, usize)> = raws.iter().map(|raw| (raw.address, size)).collect();
        pass.again.read(&self.memory, &parts).map_err(|e| self.read_error(e))?;
        Ok((stacks, draft))
    }

    fn is_same(&self, raw: &RawG<'_>, now: &[u8], want: Want) -> bool {
        self.unchanged(raw.bytes, now) && self.same_details(want, raw.bytes, now)
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

    /// Their stacks, as far as they can be known.
    fn stacks(
        &self,
        raws: &[RawG<'_>],
        reading: &mut Reading<'_>,
        gather: &mut Gather,
    ) -> Result<Vec<Unwound>, RuntimeError> {
        let unwinder = &mut reading.unwinder;
        let mut stacks = vec![Unwound { stack: unwinder.no_stack(), lost: false }; raws.len()];
        let mut waiting: Vec<(usize, Start)> = raws
            .iter()
            .enumerate()
            .filter_map(|(index, raw)| Some((index, self.start(raw.bytes)?)))
            .collect();
        for (window, longer) in STACK_WINDOWS.into_iter().zip(STACK_WINDOWS.into_iter().skip(1).chain([0])) {
            let mut deeper = Vec::new();
            for batch in waiting.chunks(STACK_BATCH / window as usize) {
                let parts: Vec<(u64, usize)> =
                    batch.iter().map(|(_, start)| (start.sp, start.len(window))).collect();
                gather.read(&self.memory, &parts).map_err(|e| self.read_error(e))?;
                for ((index, start), bytes) in batch.iter().zip(gather.parts()) {
                    if bytes.is_none() {
                        reading.stack_reads.unread += 1;
                        reading.stack_reads.unread_bytes += start.len(window) as u64;
                    }
                    let copy = StackCopy { start: start.sp, bytes: bytes.unwrap_or_default() };
                    let end = unwinder.unwind(start.pc, start.sp, start.exact, &copy);
                    let more = start.len(longer) as u64;
                    let has_more = bytes.is_some_and(|bytes| (bytes.len() as u64) < more);
                    if end == End::NeedsMore && has_more && more <= reading.stack_reads.long_left {
                        reading.stack_reads.long_left -= more;
                        deeper.push((*index, *start));
                    } else {
                        stacks[*index] = Unwound { stack: unwinder.stack(), lost: end == End::Lost };
                    }
                }
            }
            waiting = deeper;
        }
        Ok(stacks)
    }

    /// Where a goroutine's stack is unwound from; `None` for one that runs, whose saved registers are old.
    pub(super) fn start(&self, g: &[u8]) -> Option<Start> {
        let layout = &self.binary.layout().g;
        let (lo, hi) = (u64_at(g, layout.stack_lo), u64_at(g, layout.stack_hi));
        let (pc, sp, exact) = match self.status(g) {
            // Behind the call with which it left the processor, as the runtime sees it too (`symPC`,
            // runtime/traceback.go).
            Status::Runnable | Status::Waiting | Status::Preempted | Status::Leaked => {
                (u64_at(g, layout.sched_pc), u64_at(g, layout.sched_sp), false)
            }
            // The caller of entersyscall, at the return address (runtime/proc.go, reentersyscall).
            Status::Syscall => (u64_at(g, layout.syscallpc), u64_at(g, layout.syscallsp), false),
            _ => return None,
        };
        (lo < sp && sp < hi && hi - lo < 1 << 40 && sp & 7 == 0).then_some(Start { pc, sp, hi, exact })
    }

    /// Whether one of the runtime's own goroutines is in a finalizer or a cleanup of the program: the runtime notes that
    /// in a variable, or in `g.runningCleanups`; what is seen from outside is that it waits, and not for its next task.
    fn runs_for_program(&self, g: &[u8]) -> bool {
        let layout = &self.binary.layout().g;
        let startpc = u64_at(g, layout.startpc).wrapping_sub(self.bias);
        let calls_back = self.binary.function_name(startpc).is_some_and(|name| {
            matches!(&*name, "runtime.runfinq" | "runtime.runFinalizers" | "runtime.runCleanups")
        });
        let reason = self.wait_reason(u8_at(g, layout.waitreason));
        calls_back && self.status(g).is_parked() && !matches!(reason, "finalizer wait" | "cleanup wait")
    }

    fn goroutine(
        &self,
        raw: &RawG<'_>,
        stack: Arc<Stack>,
        torn: bool,
        threads: &Map<u64, Thread>,
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
            thread: threads.get(&raw.address).copied(),
            scan: u32_at(g, layout.atomicstatus) & SCAN != 0,
            locked: u64_at(g, layout.lockedm) != 0,
            system: system.is_system(self, startpc) && !self.runs_for_program(g),
            park,
            stack,
            torn,
        }
    }
}

/// A goroutine's stack.
#[derive(Clone)]
struct Unwound {
    stack: Arc<Stack>,
    /// It leads to what is no code.
    lost: bool,
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

impl Reading<'_> {
    /// Takes a goroutine in; its id.
    fn add<R: Reader>(
        &mut self,
        runtime: &Runtime<'_, R>,
        raw: &RawG<'_>,
        stack: Arc<Stack>,
        torn: bool,
    ) -> u64 {
        let goroutine = runtime.goroutine(raw, stack, torn, &self.threads, &mut self.system);
        let goid = goroutine.goid;
        self.goroutines.push(goroutine);
        goid
    }
}

/// Notes since when they are parked for certain.
fn note_parked(goroutines: &mut [Goroutine], cycles: &Cycles) {
    // One cycle finds many.
    let mut last = (0, 0);
    for g in goroutines {
        if g.wait_since_ns != last.0 {
            last = (g.wait_since_ns, cycles.parked_by(g.wait_since_ns));
        }
        g.parked_by_ns = last.1;
    }
}

/// Sorts without moving each of them more than twice, and without room for a second copy.
fn sort_by_goid(goroutines: &mut [Goroutine]) {
    // There are no more than 2^22.
    let mut order: Vec<(u64, u32)> = (0..).zip(&*goroutines).map(|(index, g)| (g.goid, index)).collect();
    order.sort_unstable();
    for start in 0..order.len() {
        // Each place gets the one that belongs there, and what was there goes to where that one was.
        let mut at = start;
        loop {
            let from = std::mem::replace(&mut order[at].1, at as u32) as usize;
            if from == start {
                break;
            }
            goroutines.swap(at, from);
            at = from;
        }
    }
}

/// Which start functions belong to the runtime itself (`isSystemGoroutine`, runtime/traceback.go).
#[derive(Debug, Default)]
pub(super) struct SystemStarts(Map<u64, bool>);

impl SystemStarts {
    pub(super) fn is_system<R: Reader>(&mut self, runtime: &Runtime<'_, R>, startpc: u64) -> bool {
        *self.0.entry(startpc).or_insert_with(|| {
            runtime.binary.function_name(startpc).is_some_and(|name| {
                let own = ["runtime.main", "runtime.handleAsyncEvent", "runtime.corostart"];
                name.starts_with("runtime.") && !own.contains(&&*name)
            })
        })
    }
}
