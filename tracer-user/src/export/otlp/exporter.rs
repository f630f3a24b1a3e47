//! The front door: offer, look, finish.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::Instant;

use super::endpoints::Endpoints;
use super::error::ExportError;
use super::histogram::PauseHistograms;
use super::identity::Identity;
use super::item::Item;
use super::lane::Lane;
use super::logs::{LogEncoder, Logged};
use super::metrics::{Measured, MetricEncoder};
use super::spans::{SpanEncoder, Traced};
use super::state::{ExportState, Signal};
use super::transport::{Transport, shown_endpoint};
use super::worker::Worker;
use crate::memory::monotonic_ns;

/// How much longer than asked [`Exporter::finish`] waits for the worker to say that it is done.
const GRACE: Duration = Duration::from_millis(100);

/// The queues of the three signals.
#[derive(Debug)]
pub(super) struct Lanes {
    pub(super) traces: Lane<Traced>,
    pub(super) metrics: Lane<Measured>,
    pub(super) logs: Lane<Logged>,
}

impl Lanes {
    fn state(&self) -> ExportState {
        ExportState { traces: self.traces.state(), metrics: self.metrics.state(), logs: self.logs.state() }
    }

    fn close(&self) {
        self.traces.close();
        self.metrics.close();
        self.logs.close();
    }

    pub(super) fn abandon(&self) {
        self.traces.abandon();
        self.metrics.abandon();
        self.logs.abandon();
    }
}

/// Exports what is known of one process.
#[derive(Debug)]
pub struct Exporter {
    lanes: Arc<Lanes>,
    pauses: Mutex<PauseHistograms>,
    since_ns: u64,
    closing: watch::Sender<Option<Instant>>,
    done: Mutex<Receiver<()>>,
}

impl Exporter {
    /// Starts the worker. No backend is asked for anything yet: one that is dead now may live later, and shows
    /// in [`Self::state`].
    ///
    /// # Errors
    /// [`ExportError`], if the endpoints or the environment make no sense, or the worker can't be started.
    pub fn start(endpoints: Endpoints, identity: Identity) -> Result<Self, ExportError> {
        let Endpoints { traces, metrics, logs } = endpoints;
        let transport = |signal, endpoint: &Option<String>| {
            endpoint.as_deref().map(|endpoint| Transport::new(signal, endpoint)).transpose()
        };
        let transports = [
            transport(Signal::Traces, &traces)?,
            transport(Signal::Metrics, &metrics)?,
            transport(Signal::Logs, &logs)?,
        ];
        let shown = |endpoint: Option<String>| endpoint.map(|endpoint| shown_endpoint(&endpoint));
        let lanes = Arc::new(Lanes {
            traces: Lane::new(Signal::Traces, shown(traces)),
            metrics: Lane::new(Signal::Metrics, shown(metrics)),
            logs: Lane::new(Signal::Logs, shown(logs)),
        });
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(3)
            .build()
            .map_err(|source| ExportError::Worker { source })?;
        let (closing, watching) = watch::channel(None);
        let (done_sender, done) = channel();
        let worker = Worker {
            runtime,
            lanes: Arc::clone(&lanes),
            closing: watching,
            transports,
            metrics: MetricEncoder::new(&identity),
            logs: LogEncoder::new(&identity),
            spans: SpanEncoder::new(identity),
        };
        thread::Builder::new()
            .name("gotrail-otlp".to_owned())
            .spawn(move || worker.run(&done_sender))
            .map_err(|source| ExportError::Worker { source })?;
        let pauses = Mutex::default();
        Ok(Self { lanes, pauses, since_ns: monotonic_ns(), closing, done: Mutex::new(done) })
    }

    /// Takes an item. Never blocks; an item that finds no room is counted as dropped by its signal.
    pub fn offer(&self, item: Item) {
        match item {
            Item::Finding(told) => self.lanes.traces.offer(Traced::Finding(told)),
            Item::Pause { pause, caller } => {
                self.pauses.lock().unwrap_or_else(PoisonError::into_inner).record(&pause);
                self.lanes.traces.offer(Traced::Pause(pause, caller));
            }
            Item::Cycle(cycle) => self.lanes.traces.offer(Traced::Cycle(cycle)),
            Item::Crash(crash) => self.lanes.logs.offer(Logged::Crash(crash)),
            Item::End(end) => self.lanes.logs.offer(Logged::End(end)),
            Item::Metrics(metrics) => {
                let pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let own = self.state().active().map(|s| (s.signal.name(), s.dropped, s.sent)).collect();
                self.lanes.metrics.offer(Measured { metrics, pauses, pauses_since_ns: self.since_ns, own });
            }
        }
    }

    /// How export is doing.
    #[must_use]
    pub fn state(&self) -> ExportState {
        self.lanes.state()
    }

    /// Sends what waits, for at most `within`; what is not sent by then is counted as dropped. A backend that
    /// was failing already gets one more request and no more patience.
    #[must_use]
    pub fn finish(self, within: Duration) -> ExportState {
        self.lanes.close();
        self.closing.send_replace(Some(Instant::now() + within));
        // Whether it is done or not: what still waits is lost now.
        let _ = self.done.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(within + GRACE);
        self.lanes.abandon();
        self.lanes.state()
    }
}

#[cfg(test)]
impl Exporter {
    /// Tells when the worker has let go of everything.
    pub(super) fn weak(&self) -> std::sync::Weak<Lanes> {
        Arc::downgrade(&self.lanes)
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.lanes.close();
        self.closing.send_if_modified(|until| {
            let open = until.is_none();
            until.get_or_insert_with(Instant::now);
            open
        });
    }
}
