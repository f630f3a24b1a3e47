//! One ring for many processes: a thread empties it on a timer and hands each process what is its own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use bytemuck::pod_read_unaligned;
use tracer_ebpf::EventHeader;

use super::super::drain::{BATCH, Seen, needs_procid};
use super::super::session::Stream;
use crate::model::Event;
use crate::record::decode;

/// How often the ring is emptied: its records are rare.
const INTERVAL: Duration = Duration::from_millis(50);
/// Events of one process that wait for its consumer, beside as many that are on their way to it. What is beyond is dropped
/// and counted: the ring is never left for the sake of one process, as the others' events are in it too.
const PENDING: usize = 4 * BATCH;
/// Records that are taken in one go at most.
const AT_ONCE: usize = 1 << 16;

/// What a process is handed its events by.
#[derive(Debug)]
struct Route {
    bias: u64,
    check_procid: bool,
    sender: SyncSender<Vec<Event>>,
    pending: Vec<Event>,
    seen: Arc<Mutex<Seen>>,
    /// It has left: it gets what is in the ring, and then the end.
    leaving: bool,
}

type Routes = Arc<Mutex<HashMap<u32, Route>>>;

/// A running drain. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct FleetDrain {
    stop: Arc<AtomicBool>,
    routes: Routes,
    strays: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl FleetDrain {
    /// Starts the thread.
    pub(super) fn start(ring: RingBuf<MapData>) -> std::io::Result<Self> {
        let (stop, routes) = (Arc::new(AtomicBool::new(false)), Routes::default());
        let strays = Arc::new(AtomicU64::new(0));
        let worker = Worker { ring, routes: Arc::clone(&routes), strays: Arc::clone(&strays) };
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("fleet-drain".to_owned()).spawn(move || worker.run(&stopped))?;
        Ok(Self { stop, routes, strays, thread: Some(thread) })
    }

    /// Hands the events of a process out from now on.
    pub(super) fn enter(&self, pid: u32, bias: u64, check_procid: bool) -> (Stream, Arc<Mutex<Seen>>) {
        let (sender, stream) = sync_channel(1);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let route = Route {
            bias,
            check_procid,
            sender,
            pending: Vec::new(),
            seen: Arc::clone(&seen),
            leaving: false,
        };
        lock(&self.routes).insert(pid, route);
        (stream, seen)
    }

    /// Hands out what is in the ring of a process, and then the end of its stream.
    pub(super) fn leave(&self, pid: u32) {
        if let Some(route) = lock(&self.routes).get_mut(&pid) {
            route.leaving = true;
        }
        self.wake();
    }

    /// Likewise for all processes.
    pub(super) fn leave_all(&self) {
        lock(&self.routes).values_mut().for_each(|route| route.leaving = true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Records of processes that nobody was waiting for.
    pub(super) fn strays(&self) -> u64 {
        self.strays.load(Ordering::Acquire)
    }
}

impl Drop for FleetDrain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the drain has printed itself.
            drop(thread.join());
        }
    }
}

fn lock(routes: &Routes) -> MutexGuard<'_, HashMap<u32, Route>> {
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    ring: RingBuf<MapData>,
    routes: Routes,
    strays: Arc<AtomicU64>,
}

impl Worker {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            self.empty();
            std::thread::park_timeout(INTERVAL);
        }
    }

    fn empty(&mut self) {
        let routes = Arc::clone(&self.routes);
        // Held throughout: who leaves is either seen before the ring is read, or has another turn.
        let mut routes = lock(&routes);
        let mut is_empty = false;
        for _ in 0..AT_ONCE {
            let Some(item) = self.ring.next() else {
                is_empty = true;
                break;
            };
            let header = item.get(..size_of::<EventHeader>()).map(pod_read_unaligned::<EventHeader>);
            let Some(header) = header else {
                self.strays.fetch_add(1, Ordering::AcqRel);
                continue;
            };
            match routes.get_mut(&header.tgid) {
                Some(route) => route.take(&item),
                None => drop(self.strays.fetch_add(1, Ordering::AcqRel)),
            }
        }
        routes.retain(|_, route| route.hand_over(is_empty));
    }
}

impl Route {
    fn take(&mut self, bytes: &[u8]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(decoded) = decode(bytes, self.bias) else {
            seen.undecodable += 1;
            return;
        };
        if self.pending.len() >= PENDING {
            *seen.overflowed.entry(decoded.probe).or_default() += 1;
            return;
        }
        *seen.received.entry(decoded.probe).or_default() += 1;
        if self.check_procid && needs_procid(decoded.probe) && !decoded.procid_matches {
            seen.procid_mismatches += 1;
        }
        self.pending.push(decoded.event);
    }

    /// Passes on what there is; `false` when that was the last.
    fn hand_over(&mut self, is_empty: bool) -> bool {
        if !self.pending.is_empty() {
            let mut batch = std::mem::take(&mut self.pending);
            // Records of several CPUs interleave; the model wants them by time.
            batch.sort_by_key(|event| event.time_ns);
            match self.sender.try_send(batch) {
                Ok(()) => {}
                Err(TrySendError::Full(batch)) => self.pending = batch,
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        !(self.leaving && is_empty && self.pending.is_empty())
    }
}
