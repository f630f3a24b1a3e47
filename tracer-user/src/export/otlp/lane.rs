//! One signal's bounded queue and account.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::state::{Signal, SignalState};
use crate::memory::monotonic_ns;

/// Findings, stops and cycles that may wait (COST-2).
pub const TRACES_CAPACITY: usize = 4096;
/// Of these, places that only findings may take: a storm of stops must not push findings out.
pub const TRACES_RESERVED: usize = 512;
/// Measurements that may wait; the oldest gives way.
pub const METRICS_CAPACITY: usize = 128;
/// Crashes that may wait.
pub const LOGS_CAPACITY: usize = 256;

/// Weight of a batch.
const BATCH: usize = 512;
/// How long an item waits for others to travel with.
const LINGER: Duration = Duration::from_millis(500);
/// How long a backend without this signal is left alone.
const UNSUPPORTED_FOR: Duration = Duration::from_secs(60);

/// What a queue needs to know of its items.
pub(super) trait Load: Send {
    /// Items that may wait, those under way included.
    const CAPACITY: usize;
    /// Places only for precious ones.
    const RESERVED: usize = 0;
    /// Whether the oldest makes room, rather than the newest being refused.
    const OLDEST_GIVES_WAY: bool = false;

    /// Share of a batch.
    fn weight(&self) -> usize;

    /// Whether it may take a reserved place.
    fn is_precious(&self) -> bool {
        false
    }
}

/// One signal's bounded queue and account.
#[derive(Debug)]
pub(super) struct Lane<T> {
    inner: Mutex<Inner<T>>,
    wake: Notify,
}

#[derive(Debug)]
struct Inner<T> {
    queue: VecDeque<T>,
    /// Of the queue, all together.
    weight: usize,
    under_way: u64,
    closing: bool,
    closed: bool,
    unsupported_until: Option<Instant>,
    /// All but `waiting`, which is the queue's to tell.
    state: SignalState,
}

impl<T: Load> Inner<T> {
    fn waiting(&self) -> u64 {
        self.queue.len() as u64 + self.under_way
    }

    fn push(&mut self, item: T) {
        self.weight += item.weight();
        self.queue.push_back(item);
    }

    fn pop(&mut self) -> Option<T> {
        let item = self.queue.pop_front()?;
        self.weight -= item.weight();
        Some(item)
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.weight = 0;
    }
}

impl<T: Load> Lane<T> {
    /// `endpoint` is what may be shown of it; without one the lane takes nothing and counts nothing.
    pub(super) fn new(signal: Signal, endpoint: Option<String>) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            weight: 0,
            under_way: 0,
            closing: false,
            closed: false,
            unsupported_until: None,
            state: SignalState { signal, endpoint, ..SignalState::default() },
        };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Nothing in here panics between two related changes.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an item, or counts it as dropped. Never blocks for longer than a few moves of memory.
    pub(super) fn offer(&self, item: T) {
        let mut inner = self.lock();
        if inner.state.endpoint.is_none() {
            return;
        }
        inner.state.offered += 1;
        if inner.closing || inner.unsupported_until.is_some_and(|until| Instant::now() < until) {
            inner.state.dropped += 1;
            return;
        }
        let places = if item.is_precious() { T::CAPACITY } else { T::CAPACITY - T::RESERVED };
        if inner.waiting() >= places as u64 {
            inner.state.dropped += 1;
            if !T::OLDEST_GIVES_WAY || inner.pop().is_none() {
                return;
            }
        }
        inner.push(item);
        // In between nobody waits for anything but time.
        let matters = inner.queue.len() == 1 || inner.weight >= BATCH;
        drop(inner);
        if matters {
            self.wake.notify_one();
        }
    }

    /// The next batch, once it is full or has waited for [`LINGER`]; `None` once the lane is closing and empty.
    pub(super) async fn next(&self) -> Option<Vec<T>> {
        loop {
            {
                let inner = self.lock();
                if !inner.queue.is_empty() {
                    break;
                }
                if inner.closing {
                    return None;
                }
            }
            self.wake.notified().await;
        }
        let linger = sleep(LINGER);
        tokio::pin!(linger);
        while !self.is_ready() {
            tokio::select! {
                () = &mut linger => break,
                () = self.wake.notified() => {}
            }
        }
        Some(self.take())
    }

    fn is_ready(&self) -> bool {
        let inner = self.lock();
        inner.closing || inner.weight >= BATCH
    }

    fn take(&self) -> Vec<T> {
        let mut inner = self.lock();
        let mut batch = Vec::new();
        let mut weight = 0;
        while weight < BATCH
            && let Some(item) = inner.pop()
        {
            weight += item.weight();
            batch.push(item);
        }
        inner.under_way += batch.len() as u64;
        batch
    }

    /// The backend took the batch, but for `rejected` of what it was made of.
    pub(super) fn sent(&self, rejected: u64, complaint: Option<String>) {
        let mut inner = self.lock();
        inner.state.sent += inner.under_way;
        inner.under_way = 0;
        inner.state.batches += 1;
        inner.state.rejected += rejected;
        inner.state.failing_since_ns = None;
        inner.state.unsupported = false;
        inner.unsupported_until = None;
        if complaint.is_some() {
            inner.state.last_error = complaint;
        }
    }

    /// A request failed; the batch will be sent again.
    pub(super) fn failed(&self, error: String) {
        let mut inner = self.lock();
        inner.state.failing_since_ns.get_or_insert_with(monotonic_ns);
        inner.state.last_error = Some(error);
    }

    /// The batch is sent again.
    pub(super) fn retried(&self) {
        self.lock().state.retries += 1;
    }

    /// Whether the last request failed.
    pub(super) fn is_failing(&self) -> bool {
        self.lock().state.failing_since_ns.is_some()
    }

    /// The backend will never take the batch.
    pub(super) fn refused(&self, error: String) {
        self.failed(error);
        let mut inner = self.lock();
        inner.state.dropped += inner.under_way;
        inner.under_way = 0;
    }

    /// The backend has no place for this signal.
    pub(super) fn unsupported(&self, error: String) {
        self.refused(error);
        let mut inner = self.lock();
        inner.state.unsupported = true;
        inner.unsupported_until = Some(Instant::now() + UNSUPPORTED_FOR);
        inner.state.dropped += inner.queue.len() as u64;
        inner.clear();
    }

    /// Takes no more, and lets what waits go at once.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.wake.notify_one();
    }

    /// Gives up what still waits.
    pub(super) fn abandon(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        if !inner.closed {
            inner.closed = true;
            inner.state.dropped += inner.waiting();
        }
        inner.clear();
        inner.under_way = 0;
    }

    /// How the signal is doing.
    pub(super) fn state(&self) -> SignalState {
        let inner = self.lock();
        SignalState { waiting: inner.waiting(), ..inner.state.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain<const PRECIOUS: bool>(#[expect(dead_code, reason = "tells them apart while debugging")] u64);

    impl<const PRECIOUS: bool> Load for Plain<PRECIOUS> {
        const CAPACITY: usize = 10;
        const RESERVED: usize = 4;

        fn weight(&self) -> usize {
            256
        }

        fn is_precious(&self) -> bool {
            PRECIOUS
        }
    }

    struct Fresh(u64);

    impl Load for Fresh {
        const CAPACITY: usize = 3;
        const OLDEST_GIVES_WAY: bool = true;

        fn weight(&self) -> usize {
            1
        }
    }

    fn balanced<T: Load>(lane: &Lane<T>) -> SignalState {
        let state = lane.state();
        assert_eq!(state.offered, state.sent + state.dropped + state.waiting);
        state
    }

    #[test]
    fn cost_2_room_is_bounded_and_reserved() {
        let common = Lane::<Plain<false>>::new(Signal::Traces, Some("e".to_owned()));
        let precious = Lane::<Plain<true>>::new(Signal::Traces, Some("e".to_owned()));
        for i in 0..20 {
            common.offer(Plain(i));
            precious.offer(Plain(i));
        }
        assert_eq!((balanced(&common).waiting, balanced(&common).dropped), (6, 14));
        assert_eq!((balanced(&precious).waiting, balanced(&precious).dropped), (10, 10));
        // What is under way still takes its place.
        assert_eq!(common.take().len(), 2);
        common.offer(Plain(20));
        assert_eq!(balanced(&common).dropped, 15);
        common.sent(0, None);
        common.offer(Plain(21));
        assert_eq!((balanced(&common).sent, balanced(&common).waiting), (2, 5));
        common.abandon();
        common.abandon();
        assert_eq!(balanced(&common).waiting, 0);
    }

    #[test]
    fn the_oldest_measurement_gives_way() {
        let lane = Lane::<Fresh>::new(Signal::Metrics, Some("e".to_owned()));
        for i in 0..5 {
            lane.offer(Fresh(i));
        }
        assert_eq!(balanced(&lane).dropped, 2);
        assert_eq!(lane.take().into_iter().map(|f| f.0).collect::<Vec<_>>(), [2, 3, 4]);
        lane.refused("no".to_owned());
        assert_eq!(balanced(&lane).dropped, 5);
        assert!(lane.is_failing());
    }

    #[test]
    fn without_an_endpoint_nothing_is_counted() {
        let lane = Lane::<Fresh>::new(Signal::Logs, None);
        lane.offer(Fresh(1));
        assert_eq!(lane.state(), SignalState { signal: Signal::Logs, ..SignalState::default() });
    }

    #[test]
    fn an_unsupported_signal_is_dropped_and_says_so() {
        let lane = Lane::<Fresh>::new(Signal::Metrics, Some("e".to_owned()));
        lane.offer(Fresh(1));
        lane.offer(Fresh(2));
        lane.take();
        lane.offer(Fresh(3));
        lane.unsupported("404".to_owned());
        lane.offer(Fresh(4));
        let state = balanced(&lane);
        assert!(state.unsupported);
        assert_eq!((state.dropped, state.waiting), (4, 0));
    }
}
