//! One thread that empties the ring on a timer: records wake nobody.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::Probe;

use crate::model::{Event, Switch, SwitchKind};
use crate::record::{Decoded, decode, decode_switch};

/// How often the ring is emptied while there is something in it.
const INTERVAL: Duration = Duration::from_millis(10);
/// And while there is nothing, at last: a storm that begins then has not filled the ring.
pub(super) const IDLE_INTERVAL: Duration = Duration::from_millis(20);
/// Records in one batch.
pub(super) const BATCH: usize = 4096;
/// Batches that wait for the consumer. When it is full, records stay in the ring, whose losses are counted.
const QUEUE: usize = 64;

/// What the drain saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) received: HashMap<Probe, u64>,
    /// Records that were taken out of the ring and dropped, as their consumer was behind.
    pub(super) overflowed: HashMap<Probe, u64>,
    /// Records that are missing from the numbers of the CPUs; of one of many processes it can't be told.
    pub(super) gaps: u64,
    pub(super) undecodable: u64,
    pub(super) procid_mismatches: u64,
}

/// What a ring carries.
pub(super) trait Item: Send + Sized + 'static {
    /// Makes one of the bytes of a record.
    fn decode(bytes: &[u8], bias: u64) -> Option<Decoded<Self>>;

    /// When it was.
    fn time_ns(&self) -> u64;

    /// What stands for `lost` records between two times, if the stream is to say so in their place.
    fn gap(from_ns: u64, until_ns: u64, lost: u64) -> Option<Self>;
}

impl Item for Event {
    fn decode(bytes: &[u8], bias: u64) -> Option<Decoded<Self>> {
        decode(bytes, bias)
    }

    fn time_ns(&self) -> u64 {
        self.time_ns
    }

    fn gap(_: u64, _: u64, _: u64) -> Option<Self> {
        None
    }
}

impl Item for Switch {
    fn decode(bytes: &[u8], bias: u64) -> Option<Decoded<Self>> {
        decode_switch(bytes, bias)
    }

    fn time_ns(&self) -> u64 {
        self.time_ns
    }

    fn gap(from_ns: u64, until_ns: u64, lost: u64) -> Option<Self> {
        Some(Self { time_ns: from_ns, goid: 0, kind: SwitchKind::Gap { until_ns, lost } })
    }
}

/// What is put into the stream from this side of the ring. Clones are the same.
#[derive(Debug)]
pub(super) struct Marks<T>(Arc<Mutex<Waiting<T>>>);

impl<T> Clone for Marks<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Marks<T> {
    /// Puts a mark into the stream, before the records that are made from now on.
    pub(super) fn before(&self, mark: T) {
        self.waiting().before.push(mark);
    }

    /// Puts a mark into the stream, behind the records that were made until now.
    pub(super) fn behind(&self, mark: T) {
        self.waiting().behind.push(mark);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks that the drain has not taken yet.
#[derive(Debug)]
struct Waiting<T> {
    /// Before records that are made from now on.
    before: Vec<T>,
    /// Behind all records that were made until now.
    behind: Vec<T>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { before: Vec::new(), behind: Vec::new() }
    }
}

/// A running drain.
#[derive(Debug)]
pub(super) struct Drain<T> {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    marks: Marks<T>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Item> Drain<T> {
    /// Starts the thread. The receiver ends when the drain does. The ring is looked at each `idle_interval` while it is
    /// empty.
    pub(super) fn start(
        name: &str,
        ring: RingBuf<MapData>,
        bias: u64,
        check_procid: bool,
        idle_interval: Duration,
        on_tick: Box<dyn FnMut() + Send>,
    ) -> std::io::Result<(Self, Receiver<Vec<T>>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let marks = Marks::default();
        let worker = Worker {
            ring,
            bias,
            check_procid,
            idle_interval,
            on_tick,
            sequences: HashMap::new(),
            seen: Arc::clone(&seen),
            marks: marks.clone(),
            taken: 0,
            pending: Vec::with_capacity(BATCH),
        };
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(move || worker.run(&stopped, &sender))?;
        Ok((Self { stop, seen, marks, thread: Some(thread) }, receiver))
    }

    /// What puts marks into the stream.
    pub(super) fn marks(&self) -> Marks<T> {
        self.marks.clone()
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the thread to empty the ring a last time and to end; call it when the links are closed. The
    /// consumer must go on receiving until the channel ends.
    pub(super) fn finish(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Waits for the thread.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the drain has printed itself; what it had counted is still read.
            drop(thread.join());
        }
    }
}

struct Worker<T> {
    ring: RingBuf<MapData>,
    bias: u64,
    check_procid: bool,
    idle_interval: Duration,
    /// Called whenever the ring was emptied.
    on_tick: Box<dyn FnMut() + Send>,
    /// Numbers seen of each CPU.
    sequences: HashMap<u16, Numbers>,
    seen: Arc<Mutex<Seen>>,
    marks: Marks<T>,
    /// Records taken out of the ring.
    taken: u64,
    pending: Vec<T>,
}

impl<T: Item> Worker<T> {
    fn run(mut self, stop: &AtomicBool, sender: &SyncSender<Vec<T>>) {
        debug_assert!(self.ring.as_raw_fd() >= 0);
        let mut pause = INTERVAL;
        loop {
            // Read before emptying: what is in the ring when the links are closed is taken.
            let last = stop.load(Ordering::Acquire);
            let before = self.taken;
            if !self.empty(sender, last) {
                return;
            }
            (self.on_tick)();
            if last {
                return;
            }
            let idle = self.taken == before;
            pause = if idle { (2 * pause).min(self.idle_interval) } else { INTERVAL };
            // Whoever has it finish wakes it.
            std::thread::park_timeout(pause);
        }
    }

    /// Takes what is in the ring; `false` if nobody listens any more.
    fn empty(&mut self, sender: &SyncSender<Vec<T>>, last: bool) -> bool {
        // Taken before the ring is read: what was made before such a mark is in the ring by now.
        let mut behind = std::mem::take(&mut self.marks.waiting().behind);
        loop {
            let mut is_empty = false;
            let mut seen = Seen::default();
            while self.pending.len() < BATCH {
                let Some(item) = self.ring.next() else {
                    is_empty = true;
                    break;
                };
                self.taken += 1;
                let Some(decoded) = T::decode(&item, self.bias) else {
                    seen.undecodable += 1;
                    continue;
                };
                *seen.received.entry(decoded.probe).or_default() += 1;
                if self.check_procid && needs_procid(decoded.probe) && !decoded.procid_matches {
                    seen.procid_mismatches += 1;
                }
                let at_ns = decoded.event.time_ns();
                self.sequences
                    .entry(decoded.cpu)
                    .or_insert_with(|| Numbers::new(decoded.sequence, at_ns))
                    .take(decoded.sequence, at_ns);
                self.pending.push(decoded.event);
            }
            seen.gaps = self.sequences.values().map(Numbers::missing).sum();
            self.add(&seen);
            // Each in the place of what is missing: what lies between two of them is whole.
            let holes = self.sequences.values_mut().flat_map(Numbers::take_holes);
            self.pending.extend(holes.filter_map(|hole| T::gap(hole.from_ns, hole.until_ns, hole.lost)));
            // Taken after the ring was read: what is made after such a mark is not in this batch, or sorted behind it.
            let marks = std::mem::take(&mut self.marks.waiting().before);
            self.pending.extend(marks);
            let full = !is_empty;
            // Records of several CPUs interleave; the model wants them by time.
            self.pending.sort_by_key(T::time_ns);
            if is_empty {
                self.pending.append(&mut behind);
            }
            if self.pending.is_empty() {
                return true;
            }
            let batch = std::mem::take(&mut self.pending);
            if last {
                if sender.send(batch).is_err() {
                    return false;
                }
            } else {
                match sender.try_send(batch) {
                    Ok(()) => {}
                    Err(TrySendError::Full(batch)) => {
                        // The consumer is behind: leave the rest in the ring until it has caught up.
                        self.pending = batch;
                        self.marks.waiting().behind.splice(0..0, behind);
                        return true;
                    }
                    Err(TrySendError::Disconnected(_)) => return false,
                }
            }
            if !full && !last {
                return true;
            }
        }
    }

    fn add(&self, new: &Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (probe, count) in &new.received {
            *seen.received.entry(*probe).or_default() += count;
        }
        seen.gaps = new.gaps;
        seen.undecodable += new.undecodable;
        seen.procid_mismatches += new.procid_mismatches;
    }
}

/// The numbers of one CPU's records. They may come a little out of order, or twice, where programs preempted
/// each other; what counts is how many there are up to the highest.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    highest: u32,
    /// When the record with the highest number was made.
    at_ns: u64,
    span: u64,
    received: u64,
    holes: Vec<Hole>,
}

/// Records of a CPU that are missing between two that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    from_ns: u64,
    until_ns: u64,
    lost: u64,
}

impl Numbers {
    pub(super) const fn new(first: u32, at_ns: u64) -> Self {
        Self { highest: first.wrapping_sub(1), at_ns, span: 0, received: 0, holes: Vec::new() }
    }

    pub(super) fn take(&mut self, number: u32, at_ns: u64) {
        self.received += 1;
        let ahead = number.wrapping_sub(self.highest);
        // More than half the range ahead is behind.
        if ahead != 0 && ahead < 1 << 31 {
            if ahead > 1 {
                let lost = u64::from(ahead) - 1;
                self.holes.push(Hole { from_ns: self.at_ns, until_ns: at_ns, lost });
            }
            self.span += u64::from(ahead);
            (self.highest, self.at_ns) = (number, at_ns);
        } else if let Some(hole) = self.holes.last_mut() {
            // Late, not lost.
            hole.lost -= 1;
            if hole.lost == 0 {
                self.holes.pop();
            }
        }
    }

    pub(super) const fn missing(&self) -> u64 {
        self.span.saturating_sub(self.received)
    }

    /// The holes since this was asked last.
    pub(super) fn take_holes(&mut self) -> Vec<Hole> {
        std::mem::take(&mut self.holes)
    }
}

/// T2's sites read no M.
pub(super) const fn needs_procid(probe: Probe) -> bool {
    !matches!(probe, Probe::GoCreate | Probe::GoExit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[u32]) -> Numbers {
        let mut seen = Numbers::new(numbers[0], 0);
        numbers.iter().zip(1..).for_each(|(number, at)| seen.take(*number, 10 * at));
        seen
    }

    fn missing(numbers: &[u32]) -> u64 {
        let mut seen = seen(numbers);
        let (missing, holes) = (seen.missing(), seen.take_holes());
        assert_eq!(holes.iter().map(|hole| hole.lost).sum::<u64>(), missing);
        assert_eq!(seen.take_holes(), []);
        missing
    }

    #[test]
    fn loss_1_gaps_are_what_is_missing_up_to_the_highest() {
        assert_eq!(missing(&[5, 6, 7]), 0);
        assert_eq!(missing(&[5, 9]), 3);
        assert_eq!(missing(&[5, 7, 6, 8]), 0, "swapped by preemption");
        assert_eq!(missing(&[u32::MAX, 0, 2]), 1, "the numbers wrap");
    }

    #[test]
    fn loss_1_a_gap_is_where_records_are_missing_and_no_longer() {
        let hole = |from_ns, until_ns, lost| Hole { from_ns, until_ns, lost };
        assert_eq!(seen(&[5, 6, 9, 10, 11, 20]).take_holes(), [hole(20, 30, 2), hole(50, 60, 8)]);
        assert_eq!(seen(&[5, 8, 7, 9]).take_holes(), [hole(10, 20, 1)], "one of two came late");
    }
}
