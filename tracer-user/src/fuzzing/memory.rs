//! Memory of a Go process that lies: a small runtime that holds together, and an input that says where it does not.

use std::cell::Cell;
use std::collections::HashSet;
use std::hint::black_box;

use super::random::Random;
use super::said;
use crate::binary::GoBinary;
use crate::detect::{Look, remarks};
use crate::memory::stats::Rates;
use crate::memory::{
    Details, MAX_CASES, MAX_LABELS, ReadError, Reader, Runtime, Symbolizer, Target, Wait, Want,
};
use crate::target::Registers;

/// Where the executable is loaded.
const BIAS: u64 = 0x1_0000;
/// Where the heap begins, as Go has it.
const HEAP: u64 = 0xc0_0000_0000;
/// Where the arrays of pointers are in it, and then one stretch for each kind of structure.
const ARRAYS: u64 = HEAP;
const GS: u64 = HEAP + 0x1_0000;
const MS: u64 = HEAP + 0x4_0000;
const PS: u64 = HEAP + 0x5_0000;
const WAITS: u64 = HEAP + 0x7_0000;
const STACKS: u64 = HEAP + 0x8_0000;
const HEAP_SIZE: usize = 0x10_0000;
/// Bytes of each.
const G_STRIDE: u64 = 0x800;
const M_STRIDE: u64 = 0x1000;
const P_STRIDE: u64 = 0x4000;
const STACK_SIZE: u64 = 0x2000;
/// A waiter, a channel and labels of each goroutine.
const WAIT_SIZE: u64 = 0x300;
const COUNTS: (u64, u64, u64) = (40, 5, 3);
/// The number of the first thread.
const THREAD: u64 = 100;
/// Reads that one look at a process of this size may take, with everything in it a lie.
const MOST_READS: u64 = 4_000_000;

/// What is at some place instead, from a read on: memory changes while it is read.
struct Lie {
    address: u64,
    /// `None`: nothing is mapped there.
    value: Option<u64>,
    since: u64,
}

/// A process that is as it should be.
#[derive(Debug)]
pub struct Honest<'a> {
    binary: &'a GoBinary,
    globals: (u64, Vec<u8>),
    heap: Vec<u8>,
}

struct Lies<'a> {
    process: &'a Honest<'a>,
    lies: Vec<Lie>,
    reads: Cell<u64>,
}

impl<'a> Honest<'a> {
    fn region(&self, address: u64) -> Option<(u64, &[u8])> {
        let inside = |start: u64, bytes: &[u8]| address.wrapping_sub(start) < bytes.len() as u64;
        if inside(HEAP, &self.heap) {
            Some((HEAP, &self.heap))
        } else if inside(self.globals.0, &self.globals.1) {
            Some((self.globals.0, &self.globals.1))
        } else {
            None
        }
    }

    fn put(&mut self, address: u64, value: u64) {
        let (start, bytes) =
            if address >= HEAP { (HEAP, &mut self.heap) } else { (self.globals.0, &mut self.globals.1) };
        let at = usize::try_from(address.wrapping_sub(start)).unwrap_or(usize::MAX);
        if let Some(word) = bytes.get_mut(at..at.saturating_add(8)) {
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// What a goroutine waits on, of another kind each, and its labels.
    fn put_wait(&mut self, index: u64, g: u64) {
        const REASONS: [&str; 6] =
            ["chan receive", "chan send", "select", "sync.Mutex.Lock", "sync.Cond.Wait", "semacquire"];
        let layout = self.binary.layout();
        let reason = REASONS[index as usize % REASONS.len()];
        let number = layout.wait_reasons.iter().position(|text| text == reason).unwrap_or(0) as u64;
        let (sudog, channel, labels) =
            (WAITS + index * WAIT_SIZE, WAITS + index * WAIT_SIZE + 0x100, WAITS + index * WAIT_SIZE + 0x200);
        let c = if index as usize % REASONS.len() < 3 { channel } else { 0 };
        // Every other one waits where only its stack says so.
        let waiting = if index % 12 < 6 { sudog } else { 0 };
        for (address, offset, value) in [
            (g, layout.g.waitreason, number),
            (g, layout.g.waiting, waiting),
            (g, layout.g.labels, labels),
            (sudog, layout.sudog.g, g),
            (sudog, layout.sudog.elem, channel),
            (sudog, layout.sudog.c, c),
            (sudog, layout.sudog.is_select, u64::from(reason == "select")),
            (channel, layout.hchan.dataqsiz, 4),
            (channel, layout.hchan.recvq_first, sudog),
            // As a slice, and as a map with one bucket.
            (labels, 0, labels + 0x20),
            (labels, 8, 1),
            (labels, 16, 1),
            (labels + 0x20, 0, 1),
            (labels + 0x20, 8, 3),
            (labels + 0x20, 16, channel),
        ] {
            self.put(address + u64::from(offset), value);
        }
    }

    /// A runtime that passes the check.
    #[must_use]
    pub fn new(binary: &'a GoBinary) -> Self {
        let (layout, globals) = (binary.layout(), binary.globals());
        let named = globals.named().map(|(_, address)| address.wrapping_add(BIAS));
        let first = named.iter().copied().min().unwrap_or(0);
        let last = named.iter().copied().max().unwrap_or(0);
        // Real ones are less than a megabyte apart; what is further off faults.
        let size = usize::try_from(last - first).unwrap_or(0).min(4 << 20) + (64 << 10);
        let mut memory = Self { binary, globals: (first, vec![0; size]), heap: vec![0; HEAP_SIZE] };
        let at = |address: u64, offset: u32| address.wrapping_add(BIAS).wrapping_add(u64::from(offset));
        let (gs, ms, ps) = COUNTS;
        for (global, array, count) in [(globals.allgs, ARRAYS, gs), (globals.allp, ARRAYS + 0x8000, ps)] {
            for (index, value) in (0..).zip([array, count, count]) {
                memory.put(at(global, index * 8), value);
            }
        }
        memory.put(at(globals.allm, 0), MS);
        memory.put(at(globals.sched, layout.sched.goidgen), 1000);
        for index in 0..ps {
            memory.put(ARRAYS + 0x8000 + index * 8, PS + index * P_STRIDE);
            memory.put(PS + index * P_STRIDE + u64::from(layout.p.id), index);
        }
        for index in 0..ms {
            let m = MS + index * M_STRIDE;
            let next = if index + 1 == ms { 0 } else { m + M_STRIDE };
            for (offset, value) in [
                (layout.m.g0, GS + index * G_STRIDE),
                (layout.m.alllink, next),
                (layout.m.procid, THREAD + index),
                (layout.m.gsignal, GS + (ms + index) * G_STRIDE),
                // The first one runs.
                (layout.m.curg, GS + (2 * ms + index) * G_STRIDE),
            ] {
                memory.put(m + u64::from(offset), value);
            }
        }
        // The collector's helpers, as in any process; the others begin with any function.
        const OWN: [&str; 3] = ["runtime.bgsweep", "runtime.bgscavenge", "runtime.forcegchelper"];
        let own = binary.symbols().find(binary.image(), OWN).into_iter().flatten();
        let others = binary.symbols().functions().iter().rev().step_by(41).take(20).copied();
        let starts: Vec<u64> = own.chain(others).map(|f| f.entry.wrapping_add(BIAS)).collect();
        let functions = binary.symbols().functions();
        for index in 0..gs {
            let (g, stack) = (GS + index * G_STRIDE, STACKS + index * STACK_SIZE);
            memory.put(ARRAYS + index * 8, g);
            let function = functions.get(index as usize * 31 % functions.len().max(1));
            let pc = function.map_or(0, |f| f.entry.wrapping_add(BIAS).wrapping_add(index & 7));
            let status = [4, 1, 2, 3, 4, 6, 9, 4][index as usize & 7];
            for (offset, value) in [
                (layout.g.m, MS + index % ms * M_STRIDE),
                (layout.g.goid, 1 + index),
                (layout.g.stack_lo, stack),
                (layout.g.stack_hi, stack + STACK_SIZE),
                (layout.g.sched_sp, stack + 0x40 * (index + 1)),
                (layout.g.sched_pc, pc),
                (layout.g.syscallsp, stack + 0x80 * (index & 31) + 8),
                (layout.g.syscallpc, pc),
                (layout.g.startpc, starts[index as usize % starts.len()]),
                (layout.g.gopc, pc),
            ] {
                memory.put(g + u64::from(offset), value);
            }
            let status_at = g + u64::from(layout.g.atomicstatus);
            let word = memory.region(status_at).and_then(|(start, bytes)| {
                let at = usize::try_from(status_at - start + 4).ok()?;
                Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
            });
            memory.put(status_at, u64::from(word.unwrap_or(0)) << 32 | status);
            memory.put_wait(index, g);
            for word in 0..STACK_SIZE / 8 {
                let function = functions.get((index * 97 + word * 13) as usize % functions.len().max(1));
                memory.put(
                    stack + word * 8,
                    function.map_or(0, |f| f.entry.wrapping_add(BIAS).wrapping_add(5)),
                );
            }
        }
        memory
    }
}

impl Reader for Lies<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), ReadError> {
        let read = self.reads.get() + 1;
        self.reads.set(read);
        assert!(read <= MOST_READS, "more than {MOST_READS} reads");
        let fault = ReadError::Fault { address };
        let (start, bytes) = self.process.region(address).ok_or_else(|| fault.clone())?;
        let at = usize::try_from(address - start).map_err(|_| fault.clone())?;
        let end = at.checked_add(into.len()).ok_or_else(|| fault.clone())?;
        into.copy_from_slice(bytes.get(at..end).ok_or_else(|| fault.clone())?);
        let len = into.len() as u64;
        let told =
            |lie: &&Lie| lie.since <= read && lie.address.wrapping_add(7).wrapping_sub(address) < len + 7;
        for lie in self.lies.iter().filter(told) {
            for (index, byte) in (0_u64..).zip(lie.value.unwrap_or(0).to_le_bytes()) {
                let place = lie.address.wrapping_add(index).wrapping_sub(address);
                if let Some(slot) = usize::try_from(place).ok().and_then(|place| into.get_mut(place)) {
                    if lie.value.is_none() {
                        return Err(fault);
                    }
                    *slot = byte;
                }
            }
        }
        Ok(())
    }
}

/// Looks at a process whose memory the input speaks of: lies of sixteen bytes each, of a place (4 bytes), the read
/// from which on (2), a kind (2) and a value (8).
pub fn memory(process: &Honest<'_>, input: &[u8]) {
    let mut memory = Lies { process, lies: Vec::new(), reads: Cell::new(0) };
    let binary = process.binary;
    let (start, size) = (process.globals.0, process.globals.1.len() as u64);
    let functions = binary.symbols().functions();
    for chunk in input.as_chunks::<16>().0 {
        let word = u64::from_le_bytes(*chunk.first_chunk().unwrap_or(&[0; 8]));
        let value = u64::from_le_bytes(*chunk.last_chunk().unwrap_or(&[0; 8]));
        let (place, since, kind) = (word & 0xffff_ffff, word >> 32 & 0xffff, word >> 48);
        let globals = binary.globals().named();
        let address = match kind & 7 {
            0 => HEAP + place % HEAP_SIZE as u64,
            1 => GS + place % (COUNTS.0 * G_STRIDE),
            2 => MS + place % (COUNTS.1 * M_STRIDE),
            3 => ARRAYS + place % 0x400,
            4 if place & 1 == 0 => WAITS + (place >> 1) % (COUNTS.0 * WAIT_SIZE),
            4 => STACKS + place % (COUNTS.0 * STACK_SIZE),
            5 => start + place % size,
            _ => globals[(place >> 16) as usize % globals.len()].1.wrapping_add(BIAS) + (place & 0x1f8),
        };
        let value = match kind >> 3 & 7 {
            0 => Some(value),
            1 => Some(value & 0xff),
            2 => Some(GS + value % (COUNTS.0 * G_STRIDE)),
            3 => Some(STACKS + value % (COUNTS.0 * STACK_SIZE)),
            4 => functions
                .get(value as usize % functions.len().max(1))
                .map(|f| f.entry.wrapping_add(BIAS).wrapping_add(value >> 56)),
            5 if value & 1 == 0 => Some(MS + (value >> 1) % (COUNTS.1 * M_STRIDE)),
            5 => Some(WAITS + (value >> 1) % (COUNTS.0 * WAIT_SIZE)),
            6 => None,
            _ => Some(value & 0x3ff_ffff),
        };
        memory.lies.push(Lie { address: address & !7, value, since });
    }
    look(&Runtime::over(memory, binary, BIAS, &registers(binary)), input.is_empty());
}

/// Threads on the stacks of goroutine, runtime and signal handler, and elsewhere, between the functions that lead from
/// one to the other.
fn registers(binary: &GoBinary) -> Vec<(u32, Registers)> {
    const BETWEEN: [&str; 4] =
        ["runtime.sigtramp", "runtime.systemstack", "runtime.mcall", "runtime.morestack"];
    let between = binary.symbols().find(binary.image(), BETWEEN);
    let (_, ms, _) = COUNTS;
    (0..ms)
        .map(|index| {
            let g = [2 * ms, ms, 0, ms, 0][index as usize % 5] + index;
            let pc = between[index as usize % 4].map_or(0, |f| f.entry.wrapping_add(BIAS).wrapping_add(16));
            let sp = STACKS + g * STACK_SIZE + 0x40 * (index + 1);
            ((THREAD + index) as u32, Registers { pc, sp, link: Some(pc) })
        })
        .collect()
}

fn look(runtime: &Runtime<'_, Lies<'_>>, honest: bool) {
    let checked = runtime.check_again();
    assert!(!honest || checked.is_ok(), "an honest process is refused: {checked:?}");
    // A process that passed may become anything afterwards, so what follows runs either way.
    checked.as_ref().err().into_iter().for_each(said);
    runtime.count_goroutines().as_ref().err().into_iter().for_each(said);
    runtime.figures().as_ref().err().into_iter().for_each(said);
    match runtime.stats() {
        Ok(stats) => {
            assert!(stats.collector.pauses.len() <= 256);
            let times = stats.schedule_latency.iter().chain(&stats.pauses.gc_total);
            times.for_each(|histogram| assert!(histogram.buckets().len() <= 721));
            let rates = Rates::between(&stats, &stats);
            assert_eq!((rates.cycles, rates.pause_ns), (0, 0));
            let look = Look { stats: &stats, rates: Some(&rates), cpu_limit: None, memory: None };
            black_box(remarks(&look));
            black_box(stats.heap.as_ref().map(|heap| (heap.allocs_by_size(), heap.own(), heap.ready())));
        }
        Err(error) => said(&error),
    }
    match runtime.snapshot_with(Want {
        waits: true,
        labels: true,
        origins: true,
        places: true,
        no_stacks: false,
    }) {
        Ok((snapshot, details)) => {
            look_closer(runtime, &details, honest);
            let mut symbolizer = Symbolizer::default();
            assert!(snapshot.goroutines.windows(2).all(|pair| pair[0].goid < pair[1].goid));
            assert!(!honest || snapshot.goroutines.len() > 20, "{}", snapshot.goroutines.len());
            for goroutine in &snapshot.goroutines {
                assert!(goroutine.stack.pcs.len() <= 256);
                for pc in goroutine.stack.pcs.iter().take(4) {
                    symbolizer.innermost_physical(runtime.binary(), *pc);
                }
                black_box(runtime.wait_reason(goroutine.wait_reason));
            }
        }
        Err(error) => said(&error),
    }
}

/// What goroutines wait on, who else can reach that, and their labels.
fn look_closer(runtime: &Runtime<'_, Lies<'_>>, details: &Details, honest: bool) {
    assert!(!honest || details.waits.len() > 5 && details.channels.len() > 2, "{details:?}");
    let targets: HashSet<u64> =
        details.waits.values().flat_map(Wait::targets).map(Target::address).take(64).collect();
    for target in &targets {
        for function in ["sync.(*Mutex).lockSlow", "sync.(*RWMutex).Lock", "sync.(*Cond).Wait"] {
            black_box(runtime.lock(*target, [function]));
        }
    }
    runtime.holders(&targets).as_ref().err().into_iter().for_each(said);
    for labels in details.labels.values().flatten() {
        assert!(labels.pairs.len() <= MAX_LABELS);
    }
    for wait in details.waits.values() {
        if let Wait::Select { cases, .. } = wait {
            assert!(cases.len() <= MAX_CASES);
        }
    }
}

/// An input of [`memory()`] with some lies.
#[must_use]
pub fn memory_input(random: &mut Random) -> Vec<u8> {
    let count = random.below(24) as usize + 1;
    let mut input = Vec::with_capacity(count * 16);
    for _ in 0..count {
        let since = if random.below(2) == 0 { 0 } else { random.below(2000) };
        let place = random.word() & 0xffff_ffff;
        input.extend((place | since << 32 | random.below(64) << 48).to_le_bytes());
        let value = random.word() >> random.below(64);
        input.extend(value.to_le_bytes());
    }
    input
}
