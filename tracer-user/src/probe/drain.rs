//! One thread that empties the ring on a timer: records wake nobody.

use std::collections::HashMap;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::Probe;

use crate::model::Event;
use crate::record::decode;

/// How often the ring is emptied.
const INTERVAL: Duration = Duration::from_millis(10);
/// Records in one batch.
const BATCH: usize = 4096;
/// Batches that wait for the consumer. When it is full, records stay in the ring, whose losses are counted.
const QUEUE: usize = 64;

/// What the drain saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) received: HashMap<Probe, u64>,
    pub(super) gaps: u64,
    pub(super) undecodable: u64,
    pub(super) procid_mismatches: u64,
}

/// A running drain.
#[derive(Debug)]
pub(super) struct Drain {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts the thread. The receiver ends when the drain does.
    pub(super) fn start(
        ring: RingBuf<MapData>,
        bias: u64,
        check_procid: bool,
        on_tick: Box<dyn FnMut() + Send>,
    ) -> std::io::Result<(Self, Receiver<Vec<Event>>)> {
        let (sender, receiver) = sync_channel(QUEUE);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let worker = Worker {
            ring,
            bias,
            check_procid,
            on_tick,
            sequences: HashMap::new(),
            seen: Arc::clone(&seen),
            pending: Vec::with_capacity(BATCH),
        };
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("ring-drain".to_owned())
            .spawn(move || worker.run(&stopped, &sender))?;
        Ok((Self { stop, seen, thread: Some(thread) }, receiver))
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the thread to empty the ring a last time and to end; call it when the links are closed. The
    /// consumer must go on receiving until the channel ends.
    pub(super) fn finish(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits for the thread.
    pub(super) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic of the drain has printed itself; what it had counted is still read.
            drop(thread.join());
        }
    }
}

struct Worker {
    ring: RingBuf<MapData>,
    bias: u64,
    check_procid: bool,
    /// Called whenever the ring was emptied.
    on_tick: Box<dyn FnMut() + Send>,
    /// Numbers seen of each CPU.
    sequences: HashMap<u16, Numbers>,
    seen: Arc<Mutex<Seen>>,
    pending: Vec<Event>,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool, sender: &SyncSender<Vec<Event>>) {
        debug_assert!(self.ring.as_raw_fd() >= 0);
        loop {
            // Read before emptying: what is in the ring when the links are closed is taken.
            let last = stop.load(Ordering::Acquire);
            if !self.empty(sender, last) {
                return;
            }
            (self.on_tick)();
            if last {
                return;
            }
            std::thread::sleep(INTERVAL);
        }
    }

    /// Takes what is in the ring; `false` if nobody listens any more.
    fn empty(&mut self, sender: &SyncSender<Vec<Event>>, last: bool) -> bool {
        loop {
            let mut seen = Seen::default();
            while self.pending.len() < BATCH {
                let Some(item) = self.ring.next() else { break };
                let Some(decoded) = decode(&item, self.bias) else {
                    seen.undecodable += 1;
                    continue;
                };
                *seen.received.entry(decoded.probe).or_default() += 1;
                if self.check_procid && needs_procid(decoded.probe) && !decoded.procid_matches {
                    seen.procid_mismatches += 1;
                }
                self.sequences
                    .entry(decoded.cpu)
                    .or_insert(Numbers::new(decoded.sequence))
                    .take(decoded.sequence);
                self.pending.push(decoded.event);
            }
            seen.gaps = self.sequences.values().map(Numbers::missing).sum();
            self.add(&seen);
            if self.pending.is_empty() {
                return true;
            }
            let full = self.pending.len() >= BATCH;
            // Records of several CPUs interleave; the model wants them by time.
            self.pending.sort_by_key(|event| event.time_ns);
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    highest: u32,
    span: u64,
    received: u64,
}

impl Numbers {
    pub(super) const fn new(first: u32) -> Self {
        Self { highest: first.wrapping_sub(1), span: 0, received: 0 }
    }

    pub(super) const fn take(&mut self, number: u32) {
        self.received += 1;
        let ahead = number.wrapping_sub(self.highest);
        // More than half the range ahead is behind.
        if ahead != 0 && ahead < 1 << 31 {
            self.span += ahead as u64;
            self.highest = number;
        }
    }

    pub(super) const fn missing(&self) -> u64 {
        self.span.saturating_sub(self.received)
    }
}

/// T2's sites read no M.
const fn needs_procid(probe: Probe) -> bool {
    !matches!(probe, Probe::GoCreate | Probe::GoExit)
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    fn missing(numbers: &[u32]) -> u64 {
        let mut seen = Numbers::new(numbers[0]);
        numbers.iter().for_each(|number| seen.take(*number));
        seen.missing()
    }

    #[test]
    fn loss_1_gaps_are_what_is_missing_up_to_the_highest() {
        assert_eq!(missing(&[5, 6, 7]), 0);
        assert_eq!(missing(&[5, 9]), 3);
        assert_eq!(missing(&[5, 7, 6, 8]), 0, "swapped by preemption");
        assert_eq!(missing(&[u32::MAX, 0, 2]), 1, "the numbers wrap");
    }
}
