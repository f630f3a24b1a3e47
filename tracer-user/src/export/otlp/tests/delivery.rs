//! Backends that are dead, slow, overloaded, or not made for a signal.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;

use super::super::{
    Endpoints, ExportState, Exporter, Item, METRICS_CAPACITY, Metrics, TRACES_CAPACITY, TRACES_RESERVED,
};
use super::server::{Server, ok};
use super::{endpoints, identity, pause, told};
use crate::detect::Change;

fn start(base: &str) -> Exporter {
    Exporter::start(endpoints(base), identity()).unwrap()
}

fn balanced(state: &ExportState) {
    for signal in state.active() {
        assert_eq!(signal.offered, signal.sent + signal.dropped + signal.waiting, "{signal:?}");
    }
}

fn wait_until(exporter: &Exporter, what: &str, done: impl Fn(&ExportState) -> bool) -> ExportState {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let state = exporter.state();
        balanced(&state);
        if done(&state) {
            return state;
        }
        assert!(Instant::now() < deadline, "{what}: {state:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A URL where nobody listens.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_dead_backend_costs_nothing_and_every_loss_is_counted() {
    const OFFERED: u64 = 100_000;
    let exporter = start(&dead());
    let begun = Instant::now();
    for i in 0..OFFERED {
        exporter.offer(pause(7, i, i + 1));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let room = (TRACES_CAPACITY - TRACES_RESERVED) as u64;
    let state = wait_until(&exporter, "a failure", |s| s.traces.failing_since_ns.is_some());
    assert_eq!((state.traces.dropped, state.traces.waiting), (OFFERED - room, room));
    // Findings still find room.
    for i in 0..TRACES_RESERVED as u64 + 3 {
        exporter.offer(Item::Finding(Box::new(told(&format!("k{i}"), Change::New, i))));
    }
    assert_eq!(exporter.state().traces.dropped, OFFERED - room + 3);
    // Measurements keep the newest.
    for i in 0..1000 {
        exporter.offer(Item::Metrics(Box::new(Metrics { at_ns: i, ..Metrics::default() })));
    }
    assert_eq!(exporter.state().metrics.dropped, 1000 - METRICS_CAPACITY as u64);
    let error = exporter.state().traces.last_error.unwrap();
    assert!(error.contains("/v1/traces") && error.contains("refused"), "{error}");

    // It was dead before: finish does not wait for it.
    let begun = Instant::now();
    let last = exporter.finish(Duration::from_secs(10));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    balanced(&last);
    assert_eq!((last.traces.sent, last.traces.waiting), (0, 0));
    assert_eq!(last.traces.dropped, OFFERED + TRACES_RESERVED as u64 + 3);
    assert_eq!((last.metrics.dropped, last.is_degraded()), (1000, true));
    assert_eq!((last.logs.offered, last.logs.dropped, last.logs.last_error), (0, 0, None));
}

#[test]
fn a_slow_backend_never_blocks() {
    // The kernel accepts for it; nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let exporter = start(&format!("http://{}", listener.local_addr().unwrap()));
    exporter.offer(pause(7, 1, 2));
    std::thread::sleep(Duration::from_millis(700));
    let begun = Instant::now();
    for i in 0..10_000 {
        exporter.offer(pause(7, i, i + 1));
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let state = exporter.finish(Duration::from_millis(300));
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    balanced(&state);
    assert_eq!((state.traces.sent, state.traces.dropped), (0, 10_001));
}

#[test]
fn an_overloaded_backend_is_asked_again_and_gets_everything_once() {
    let server = Server::start(|path, number| match (path, number) {
        ("/v1/traces", 0) => {
            ("503 Service Unavailable\r\nretry-after: 1".to_owned(), b"busy\x1b[2J".to_vec())
        }
        _ => ok(path, number),
    });
    let exporter = start(&server.base);
    exporter.offer(pause(7, 1, 2));
    let failing = wait_until(&exporter, "a failure", |s| s.traces.failing_since_ns.is_some());
    let error = failing.traces.last_error.unwrap();
    assert!(error.contains("503") && error.contains("busy\\u{1b}[2J"), "{error}");
    let state = wait_until(&exporter, "delivery", |s| s.traces.sent == 1);
    assert_eq!((state.traces.retries, state.traces.batches, state.traces.dropped), (1, 1, 0));
    assert_eq!(state.traces.failing_since_ns, None);
    let received = server.wait_for("/v1/traces", 2);
    assert_eq!(received.len(), 2);
    assert_eq!(received[0].body, received[1].body);
    let waited = received[1].at - received[0].at;
    assert!(waited >= Duration::from_millis(950), "Retry-After was not honoured: {waited:?}");
    drop(exporter);
}

#[test]
fn one_dead_signal_does_not_hold_up_the_others() {
    let server = Server::start(ok);
    let metrics = format!("{}/v1/metrics", dead());
    let endpoints = Endpoints::new(Some(&server.base), None, Some(&metrics), None).unwrap().unwrap();
    let exporter = Exporter::start(endpoints, identity()).unwrap();
    exporter.offer(Item::Metrics(Box::default()));
    wait_until(&exporter, "a failure", |s| s.metrics.failing_since_ns.is_some());
    exporter.offer(pause(7, 1, 2));
    let begun = Instant::now();
    let state = wait_until(&exporter, "delivery", |s| s.traces.sent == 1);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(state.metrics.sent, 0);
}

#[test]
fn a_signal_that_the_backend_does_not_have_is_left_alone() {
    let server = Server::start(|path, number| match path {
        "/v1/metrics" => ("404 Not Found".to_owned(), b"404 page not found\n".to_vec()),
        _ => ok(path, number),
    });
    let exporter = start(&server.base);
    exporter.offer(Item::Metrics(Box::default()));
    wait_until(&exporter, "404", |s| s.metrics.unsupported);
    exporter.offer(Item::Metrics(Box::default()));
    exporter.offer(pause(7, 1, 2));
    let state = exporter.finish(Duration::from_secs(10));
    balanced(&state);
    assert_eq!((state.metrics.dropped, state.metrics.retries), (2, 0));
    assert_eq!(server.received("/v1/metrics").len(), 1);
    assert_eq!(state.traces.sent, 1);
    assert!(state.metrics.last_error.unwrap().contains("404"));
}

#[test]
fn what_a_backend_will_never_take_is_dropped_at_once() {
    let server = Server::start(|_, _| ("400 Bad Request".to_owned(), b"no".to_vec()));
    let exporter = start(&server.base);
    exporter.offer(pause(7, 1, 2));
    let state = wait_until(&exporter, "refusal", |s| s.traces.dropped == 1);
    assert_eq!((state.traces.retries, state.traces.unsupported), (0, false));
    assert_eq!(server.received("/v1/traces").len(), 1);
    let _ = exporter.finish(Duration::from_secs(1));
}

#[test]
fn a_partial_success_is_visible() {
    let server = Server::start(|_, _| {
        let partial_success =
            Some(ExportTracePartialSuccess { rejected_spans: 1, error_message: "too old".to_owned() });
        ("200 OK".to_owned(), ExportTraceServiceResponse { partial_success }.encode_to_vec())
    });
    let exporter = start(&server.base);
    exporter.offer(pause(7, 1, 2));
    let state = exporter.finish(Duration::from_secs(10));
    assert_eq!((state.traces.sent, state.traces.rejected, state.is_degraded()), (1, 1, true));
    assert!(state.traces.last_error.unwrap().contains("too old"));
}

#[test]
fn a_large_backlog_goes_out_in_batches() {
    let server = Server::start(ok);
    let exporter = start(&server.base);
    for i in 0..1500 {
        exporter.offer(pause(7, i, i + 1));
    }
    let state = exporter.finish(Duration::from_secs(10));
    assert_eq!((state.traces.sent, state.traces.dropped), (1500, 0));
    assert_eq!(state.traces.batches, server.received("/v1/traces").len() as u64);
    assert!((3..=6).contains(&state.traces.batches), "{}", state.traces.batches);
}

#[test]
fn dropping_the_exporter_ends_its_thread() {
    let server = Server::start(ok);
    let lanes = {
        let exporter = start(&server.base);
        exporter.weak()
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while lanes.strong_count() != 0 {
        assert!(Instant::now() < deadline, "the worker still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}
