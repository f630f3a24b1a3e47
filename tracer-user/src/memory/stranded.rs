//! Goroutines that nothing can wake: what they wait on is reached by nothing that can still run.
//!
//! The rule is that of Go 1.27's own leak profile (runtime/mgc.go, `findGoroutineLeaks`), applied to every version: mark
//! from everything but the stacks of goroutines that wait on objects of the heap; whose object is reached may be woken, so
//! its stack counts too; what is left when nothing changes any more can't be woken, as whoever would had to reach it.
//!
//! The process runs meanwhile, so one scan may miss a pointer that moves. Being stranded is stable, being missed is not:
//! what counts is the same park, unreached in [`NEEDED`] scans in a row at random moments. A pointer that is only in a
//! register is seen when its goroutine is next preempted; where one has run on all the time without, nothing is proved.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::details::{Details, Want};
use super::goroutine::{Park, Status};
use super::mark::Mark;
use super::reader::{Reader, field, u8_at, u64_at};
use super::roots::FrameMaps;
use super::runtime::{Runtime, RuntimeError};
use super::snapshot::Snapshot;
use super::stack::Unwinder;
use super::wait::Wait;

/// Scans in a row in which a goroutine has to be unreached.
pub const NEEDED: u32 = 10;
/// Times that what changes is read again within a scan.
const PASSES: usize = 4;
/// Goroutines at a time.
const BATCH: usize = 256;

/// Why nothing can be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unproven(pub String);

/// What one scan found.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Goroutines whose wait nothing that can run reaches, each with its park.
    pub stranded: HashMap<u64, Place>,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes of all that is reached, by those that are stranded too.
    pub reached_bytes: u64,
}

/// Where a goroutine is parked, and on what: the same as long as nobody wakes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    g: u64,
    park: Option<Park>,
    objects: Vec<u64>,
}

/// Scans one process again and again.
pub struct Prover<'r, 'a, R> {
    runtime: &'r Runtime<'a, R>,
    maps: FrameMaps,
    /// By goroutine: in how many scans in a row it was stranded in one place.
    streaks: HashMap<u64, (Place, u32)>,
    scans: u32,
    /// Those that ran in every scan so far without a switch: goroutine, P and its count of switches.
    unseen: Option<HashSet<(u64, u64, u32)>>,
}

struct Candidate {
    goid: u64,
    place: Place,
    sudogs: Vec<u64>,
    waits_on_channels: bool,
}

impl<'r, 'a, R: Reader> Prover<'r, 'a, R> {
    /// For one process.
    pub fn new(runtime: &'r Runtime<'a, R>) -> Self {
        Self { runtime, maps: FrameMaps::default(), streaks: HashMap::new(), scans: 0, unseen: None }
    }

    /// How many scans there were.
    #[must_use]
    pub const fn scans(&self) -> u32 {
        self.scans
    }

    /// In how many scans in a row, up to the last one, a goroutine was stranded.
    #[must_use]
    pub fn streak(&self, goid: u64) -> u32 {
        self.streaks.get(&goid).map_or(0, |(_, streak)| *streak)
    }

    /// Whether the registers of each goroutine that runs were seen: it was preempted since the first scan.
    #[must_use]
    pub fn has_seen_registers(&self) -> bool {
        self.unseen.as_ref().is_some_and(HashSet::is_empty)
    }

    /// Scans once.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn scan(&mut self) -> Result<Result<Scan, Unproven>, RuntimeError> {
        let runtime = self.runtime;
        let unproven = |why: &str| Ok(Err(Unproven(why.to_owned())));
        let (snapshot, details) =
            runtime.snapshot_with(Want { waits: true, places: true, ..Want::default() })?;
        let Some(spans) = runtime.spans()? else {
            return unproven("where the heap keeps its objects is not known for this version");
        };
        if let Some(why) = runtime.doubts_heap(spans.all())? {
            return Ok(Err(Unproven(why)));
        }
        let mut mark = Mark::new(spans);
        runtime.mask_runtime(&mut mark)?;
        let mut left = runtime.candidates(&snapshot, &details, &mark);
        for candidate in &left {
            runtime.mask_candidate(candidate, &mut mark);
        }
        let mut unwinder = Unwinder::new(runtime.binary, runtime.bias);
        for pass in 0..=PASSES {
            if pass > 0 {
                let Some(spans) = runtime.spans()? else { return unproven("the heap is gone") };
                mark.renew(spans);
            }
            if let Err(why) = runtime.mark_globals(&mut mark)? {
                return unproven(why);
            }
            let known: HashMap<u64, &Candidate> =
                left.iter().map(|candidate| (candidate.place.g, candidate)).collect();
            let moved = runtime.mark_stacks(&known, &mut unwinder, &mut self.maps, &mut mark)?;
            for candidate in left.iter().filter(|candidate| moved.contains(&candidate.place.g)) {
                candidate.place.objects.iter().for_each(|object| mark.push(*object));
            }
            left.retain(|candidate| !moved.contains(&candidate.place.g));
            runtime.revive(&mut left, &mut unwinder, &mut self.maps, &mut mark)?;
        }
        if mark.unread > 0 {
            return Ok(Err(Unproven(format!("{} objects of the heap could not be read", mark.unread))));
        }
        self.note_running()?;
        let stranded: HashMap<u64, Place> =
            left.iter().map(|candidate| (candidate.goid, candidate.place.clone())).collect();
        // With those that are stranded, all that the collector found alive must have been reached.
        runtime.mark_left(&left, &mut unwinder, &mut self.maps, &mut mark)?;
        if let Some(why) = runtime.doubts_mark(mark.reached_bytes)? {
            return Ok(Err(Unproven(why)));
        }
        self.scans += 1;
        let before = std::mem::take(&mut self.streaks);
        for (goid, place) in &stranded {
            let streak =
                before.get(goid).filter(|(known, _)| known == place).map_or(0, |(_, streak)| *streak);
            self.streaks.insert(*goid, (place.clone(), streak + 1));
        }
        Ok(Ok(Scan { stranded, read_bytes: mark.read_bytes, reached_bytes: mark.reached_bytes }))
    }

    /// Who runs, on what P, at which of its switches.
    fn note_running(&mut self) -> Result<(), RuntimeError> {
        let runtime = self.runtime;
        let layout = runtime.binary.layout();
        let read = |address: u64| runtime.memory.u64(address).map_err(|e| runtime.read_error(e));
        let mut running = HashSet::new();
        let (at, len, _) = runtime.slice(runtime.binary.globals().allp)?;
        for p in runtime.pointers(at, len)? {
            let m = read(field(p, layout.p.m))?;
            if m == 0 {
                continue;
            }
            let g = read(field(m, layout.m.curg))?;
            if g == 0 {
                continue;
            }
            let (goid, status) = (
                read(field(g, layout.g.goid)).unwrap_or(0),
                runtime.memory.u32(field(g, layout.g.atomicstatus)).unwrap_or(0),
            );
            let tick = layout.p.schedtick.and_then(|at| runtime.memory.u32(field(p, at)).ok()).unwrap_or(0);
            if Status::from_word(status) == Status::Running {
                running.insert((goid, p, tick));
            }
        }
        match &mut self.unseen {
            Some(unseen) => unseen.retain(|known| running.contains(known)),
            None => self.unseen = Some(running),
        }
        Ok(())
    }

    /// A random time to wait before the next scan.
    #[must_use]
    pub fn gap(&self) -> Duration {
        use std::hash::{BuildHasher as _, RandomState};
        Duration::from_millis(3 + RandomState::new().hash_one(self.scans) % 40)
    }
}

impl<R: Reader> Runtime<'_, R> {
    /// Goroutines that wait on objects of the heap alone, or on nothing that exists.
    fn candidates(&self, snapshot: &Snapshot, details: &Details, mark: &Mark) -> Vec<Candidate> {
        let candidate = |g: &super::goroutine::Goroutine| {
            // One in a testing/synctest bubble is woken by the bubble's own clock.
            let reason = self.wait_reason(g.wait_reason);
            let in_bubble = reason.ends_with("(durable)") || reason.ends_with("(synctest)");
            if g.torn || g.scan || in_bubble || !g.status.is_parked() {
                return None;
            }
            let wait = details.waits.get(&g.goid)?;
            let place = details.places.get(&g.goid)?;
            let (objects, waits_on_channels): (Vec<u64>, bool) = match wait {
                Wait::Forever => (Vec::new(), true),
                Wait::Channel(case) => (vec![case.channel], true),
                Wait::Select { cases, left_out: 0 } => {
                    (cases.iter().map(|case| case.channel).collect(), true)
                }
                Wait::Semaphore(Some(address)) | Wait::Cond(Some(address)) => (vec![*address], false),
                _ => return None,
            };
            if objects.iter().any(|object| mark.spans().find(*object).is_none()) {
                return None;
            }
            Some(Candidate {
                goid: g.goid,
                place: Place { g: place.g, park: g.park, objects },
                sudogs: place.sudogs.clone(),
                waits_on_channels,
            })
        };
        snapshot.goroutines.iter().filter_map(candidate).collect()
    }

    /// Words of the runtime's own structures that are no pointers, or leave over what was there.
    fn mask_runtime(&self, mark: &mut Mark) -> Result<(), RuntimeError> {
        let layout = self.binary.layout();
        let read = |address: u64| self.memory.u64(address).map_err(|e| self.read_error(e));
        // The end of a stack is the begin of whatever lies behind it.
        let mask_g = |g: u64, mark: &mut Mark| {
            for at in
                [Some(layout.g.stack_lo), Some(layout.g.stack_hi), layout.g.stktopsp].into_iter().flatten()
            {
                mark.mask(field(g, at)..field(g, at) + 8);
            }
        };
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        for g in self.pointers(at, len)? {
            mask_g(g, mark);
        }
        let mut m = read(self.global(self.binary.globals().allm))?;
        for _ in 0..1 << 16 {
            if m == 0 {
                break;
            }
            mask_g(read(field(m, layout.m.g0))?, mark);
            mask_g(read(field(m, layout.m.gsignal))?, mark);
            m = read(field(m, layout.m.alllink))?;
        }
        let (at, len, _) = self.slice(self.binary.globals().allp)?;
        if let (Some(buffer), Some(size)) = (layout.p.wb_buf, layout.wbbuf.size) {
            for p in self.pointers(at, len)? {
                mark.mask(field(p, buffer)..field(p, buffer) + u64::from(size));
            }
        }
        Ok(())
    }

    /// What the runtime keeps of a goroutine that waits, and that only its waker uses.
    fn mask_candidate(&self, candidate: &Candidate, mark: &mut Mark) {
        let layout = self.binary.layout();
        let g = candidate.place.g;
        mark.mask(g..g + u64::from(layout.g.size));
        let at = if candidate.waits_on_channels { layout.sudog.c } else { layout.sudog.elem };
        // From Go 1.26 on a pair, of which the layout has the second.
        let before = if self.binary.version().minor >= 26 { 8 } else { 0 };
        for sudog in &candidate.sudogs {
            let end = field(*sudog, at) + 8;
            mark.mask(end - 8 - before..end);
        }
    }

    /// Marks from the stacks of all goroutines but the candidates, and returns those of these that have moved since.
    fn mark_stacks(
        &self,
        candidates: &HashMap<u64, &Candidate>,
        unwinder: &mut Unwinder<'_>,
        maps: &mut FrameMaps,
        mark: &mut Mark,
    ) -> Result<HashSet<u64>, RuntimeError> {
        let layout = &self.binary.layout().g;
        let size = layout.size as usize;
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let mut moved = HashSet::new();
        for chunk in self.pointers(at, len)?.chunks(BATCH) {
            let parts: Vec<(u64, usize)> = chunk.iter().map(|g| (*g, size)).collect();
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            for ((g, bytes), read) in chunk.iter().zip(bytes.chunks_exact(size)).zip(read) {
                if !read || !self.status(bytes).is_alive() {
                    continue;
                }
                if let Some(candidate) = candidates.get(g) {
                    if self.is_still(candidate, bytes) {
                        continue;
                    }
                    moved.insert(*g);
                    bytes.chunks_exact(8).for_each(|word| mark.push(u64_at(word, 0)));
                }
                // One whose stack can't be read is moving or ending; the next pass, or the next scan, sees it.
                self.mark_stack(bytes, unwinder, maps, mark)?;
            }
        }
        mark.drain(&self.memory).map_err(|e| self.read_error(e))?;
        Ok(moved)
    }

    fn is_still(&self, candidate: &Candidate, g: &[u8]) -> bool {
        let layout = &self.binary.layout().g;
        u64_at(g, layout.goid) == candidate.goid
            && self.status(g).is_parked()
            && candidate.place.park.is_some_and(|park| {
                park.depth == u64_at(g, layout.stack_hi).wrapping_sub(u64_at(g, layout.sched_sp))
                    && park.tracking == u8_at(g, layout.tracking_seq)
            })
    }

    /// Marks from the stacks of candidates whose object is reached, until there are none.
    fn revive(
        &self,
        left: &mut Vec<Candidate>,
        unwinder: &mut Unwinder<'_>,
        maps: &mut FrameMaps,
        mark: &mut Mark,
    ) -> Result<(), RuntimeError> {
        loop {
            let (revived, still): (Vec<Candidate>, Vec<Candidate>) =
                std::mem::take(left).into_iter().partition(|candidate| {
                    candidate.place.objects.iter().any(|at| mark.is_reached(*at) != Some(false))
                });
            *left = still;
            if revived.is_empty() {
                return Ok(());
            }
            self.mark_left(&revived, unwinder, maps, mark)?;
        }
    }

    /// Marks from the stacks of candidates, what they wait on, and what the runtime keeps of them.
    fn mark_left(
        &self,
        candidates: &[Candidate],
        unwinder: &mut Unwinder<'_>,
        maps: &mut FrameMaps,
        mark: &mut Mark,
    ) -> Result<(), RuntimeError> {
        let size = self.binary.layout().g.size as usize;
        for chunk in candidates.chunks(BATCH) {
            let parts: Vec<(u64, usize)> = chunk.iter().map(|candidate| (candidate.place.g, size)).collect();
            let (bytes, _) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            for (candidate, bytes) in chunk.iter().zip(bytes.chunks_exact(size)) {
                candidate.place.objects.iter().for_each(|object| mark.push(*object));
                bytes.chunks_exact(8).for_each(|word| mark.push(u64_at(word, 0)));
                self.mark_stack(bytes, unwinder, maps, mark)?;
            }
        }
        mark.drain(&self.memory).map_err(|e| self.read_error(e))
    }

    /// Why the table of spans can't be right: it is not what the collector counts, or has no goroutines in it.
    fn doubts_heap(&self, spans: &[super::spans::Span]) -> Result<Option<String>, RuntimeError> {
        let layout = self.binary.layout();
        let (at, len, _) = self.slice(self.binary.globals().allgs)?;
        let sample = self.pointers(at, len.min(64))?;
        let in_heap = |g: &u64| {
            let at = spans.partition_point(|span| span.start <= *g).checked_sub(1);
            at.and_then(|at| spans.get(at))
                .is_some_and(|span| !span.noscan && *g < span.limit && span.size >= u64::from(layout.g.size))
        };
        if !sample.iter().all(in_heap) {
            return Ok(Some("some goroutines lie in no object of the heap as it was read".to_owned()));
        }
        let Some(in_use) = layout.gc.heap_in_use else { return Ok(None) };
        let counted = self
            .memory
            .u64(field(self.global(self.binary.globals().gc_controller), in_use))
            .map_err(|e| self.read_error(e))?;
        let total: u64 = spans.iter().map(|span| (span.limit - span.start).next_multiple_of(8192)).sum();
        // Spans come and go while they are read.
        let slack = counted / 10 + (4 << 20);
        Ok((total.abs_diff(counted) > slack).then(|| {
            format!("the heap has {counted} bytes of spans by its own count, and {total} were found")
        }))
    }

    /// Why what was reached can't be all: the collector found more alive.
    fn doubts_mark(&self, reached: u64) -> Result<Option<String>, RuntimeError> {
        let layout = &self.binary.layout().gc;
        let marked = self
            .memory
            .u64(field(self.global(self.binary.globals().gc_controller), layout.heap_marked))
            .map_err(|e| self.read_error(e))?;
        // What the collector marked last may have been dropped since; but not nearly all of it.
        let slack = 4 << 20;
        Ok((reached + slack < marked / 2)
            .then(|| format!("the collector found {marked} bytes alive, and only {reached} were reached")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_the_same_only_with_the_same_park_on_the_same_objects() {
        let park = Some(Park { depth: 1, pc: 2, tracking: 3 });
        let place = Place { g: 1, park, objects: vec![7] };
        assert_eq!(place, place.clone());
        assert_ne!(place, Place { park: Some(Park { depth: 1, pc: 2, tracking: 4 }), ..place.clone() });
        assert_ne!(place, Place { objects: vec![8], ..place.clone() });
    }
}
