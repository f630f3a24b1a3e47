//! The thread that encodes, sends and retries: one task for each signal, none of which waits for another.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::clock::Wall;
use super::exporter::Lanes;
use super::lane::{Lane, Load};
use super::logs::LogEncoder;
use super::metrics::MetricEncoder;
use super::spans::SpanEncoder;
use super::transport::{Refusal, Request, Transport};

/// Turns a batch into a request.
pub(super) trait Encode {
    /// What it is made of.
    type Item: Load;

    fn encode(&mut self, items: Vec<Self::Item>, wall: Wall) -> Request;
}

/// Everything that the worker owns.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) runtime: Runtime,
    pub(super) lanes: Arc<Lanes>,
    /// By when all must be done, once it is known.
    pub(super) closing: watch::Receiver<Option<Instant>>,
    /// For traces, metrics, logs.
    pub(super) transports: [Option<Transport>; 3],
    pub(super) spans: SpanEncoder,
    pub(super) metrics: MetricEncoder,
    pub(super) logs: LogEncoder,
}

impl Worker {
    /// Runs until it is told to end, then says so.
    pub(super) fn run(self, done: &Sender<()>) {
        let Self { runtime, lanes, closing, transports, spans, metrics, logs } = self;
        let [to_traces, to_metrics, to_logs] = transports;
        runtime.block_on(async {
            let mut end = closing.clone();
            let work = async {
                tokio::join!(
                    run(&lanes.traces, to_traces, spans, closing.clone()),
                    run(&lanes.metrics, to_metrics, metrics, closing.clone()),
                    run(&lanes.logs, to_logs, logs, closing),
                )
            };
            tokio::select! {
                _ = work => {}
                () = deadline(&mut end) => {}
            }
        });
        // A name lookup may still run, and must not hold us up.
        runtime.shutdown_background();
        lanes.abandon();
        // Nobody listens any more if the exporter was dropped.
        let _ = done.send(());
    }
}

/// Returns when time is up.
async fn deadline(closing: &mut watch::Receiver<Option<Instant>>) {
    let until = closing.wait_for(Option::is_some).await.ok().and_then(|until| *until);
    if let Some(until) = until {
        sleep_until(until).await;
    }
}

async fn run<E: Encode>(
    lane: &Lane<E::Item>,
    transport: Option<Transport>,
    mut encoder: E,
    closing: watch::Receiver<Option<Instant>>,
) {
    let Some(transport) = transport else { return };
    let mut delivery = Delivery { transport, closing, backoff: Backoff::default() };
    while let Some(items) = lane.next().await {
        let request = encoder.encode(items, Wall::now());
        delivery.deliver(lane, &request).await;
    }
}

/// The way to a backend, with patience.
#[derive(Debug)]
struct Delivery {
    transport: Transport,
    closing: watch::Receiver<Option<Instant>>,
    backoff: Backoff,
}

impl Delivery {
    async fn deliver<T: Load>(&mut self, lane: &Lane<T>, request: &Request) {
        let body = request.encoded();
        loop {
            let was_failing = lane.is_failing();
            match self.transport.send(request, &body).await {
                Ok(accepted) => {
                    self.backoff.reset();
                    return lane.sent(accepted.rejected, accepted.complaint);
                }
                // Who ends the watch does not wait for a backend that was dead before.
                Err(Refusal::Later { why, .. }) if was_failing && self.is_closing() => {
                    return lane.refused(why);
                }
                Err(Refusal::Later { why, asked }) => {
                    lane.failed(why);
                    let wait = self.backoff.next(asked);
                    self.wait(wait).await;
                    lane.retried();
                }
                Err(Refusal::Never { why }) => return lane.refused(why),
                Err(Refusal::Unsupported { why }) => return lane.unsupported(why),
            }
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.borrow().is_some()
    }

    /// Waits; the end of the watch cuts it short.
    async fn wait(&mut self, wait: std::time::Duration) {
        if self.is_closing() {
            return sleep(wait).await;
        }
        tokio::select! {
            () = sleep(wait) => {}
            _ = self.closing.wait_for(Option::is_some) => {}
        }
    }
}
