//! What arrives: names, values, ids, times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::super::{
    Account, Cost, CrashLog, EndLog, Exporter, Item, LeakGroup, Lifetimes, Metrics, Population, TierShare,
};
use super::server::{Server, ok};
use super::{cycle, endpoints, frame, identity, pause, told};
use crate::detect::{Change, Role, SiteRef};
use crate::memory::{Figures, monotonic_ns};
use crate::model::PauseSum;
use crate::target::{Exit, Sender, Sent};

const MS: u64 = 1_000_000;

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    attributes.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()
}

fn words<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match attribute(attributes, key) {
        Some(Value::StringValue(words)) => words,
        other => panic!("{key}: {other:?}"),
    }
}

fn number(attributes: &[KeyValue], key: &str) -> i64 {
    match attribute(attributes, key) {
        Some(Value::IntValue(n)) => *n,
        other => panic!("{key}: {other:?}"),
    }
}

/// Offers, finishes, and returns what arrived.
fn export(items: Vec<Item>) -> Server {
    let server = Server::start(ok);
    let exporter = Exporter::start(endpoints(&server.base), identity()).unwrap();
    let count = items.len() as u64;
    for item in items {
        exporter.offer(item);
    }
    let state = exporter.finish(Duration::from_secs(10));
    let sent: u64 = state.active().map(|s| s.sent).sum();
    assert_eq!((sent, state.dropped(), state.is_degraded()), (count, 0, false), "{state:?}");
    server
}

fn spans(server: &Server) -> Vec<Span> {
    let received = server.received("/v1/traces");
    let mut spans = Vec::new();
    for request in &received {
        let content_type = request.headers.iter().find(|(name, _)| name == "content-type").unwrap();
        assert_eq!(content_type.1, "application/x-protobuf");
        let message = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap();
        for resource in message.resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            assert_eq!(words(&attributes, "service.name"), "shop");
            assert_eq!(number(&attributes, "process.pid"), 4242);
            assert_eq!(words(&attributes, "process.executable.name"), "shop");
            assert_eq!(words(&attributes, "process.runtime.name"), "go");
            assert_eq!(words(&attributes, "process.runtime.version"), "go1.25.3");
            assert_eq!(words(&attributes, "k8s.pod.uid").len(), 36);
            assert_eq!(attribute(&attributes, "container.id"), None);
            spans.extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
    }
    spans
}

#[test]
fn time_1_a_stop_of_the_world_is_a_span_in_wall_time() {
    let begin = monotonic_ns() - 50 * MS;
    let before = SystemTime::now() - Duration::from_millis(50);
    let spans = spans(&export(vec![pause(7, begin, begin + 20 * MS)]));
    let [span] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((span.name.as_str(), span.kind), ("go.stw", 1));
    let expected = before.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    assert!(
        span.start_time_unix_nano.abs_diff(expected) < 30 * MS,
        "{} {expected}",
        span.start_time_unix_nano
    );
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 20 * MS);
    assert_eq!(words(&span.attributes, "gotrail.stw.reason"), "read mem stats");
    assert_eq!(number(&span.attributes, "gotrail.stw.stopping_ns"), 10 * MS as i64);
    assert_eq!(number(&span.attributes, "gotrail.goroutine.id"), 7);
    assert_eq!(words(&span.attributes, "code.function.name"), "main.stats");
    assert_eq!(number(&span.attributes, "code.line.number"), 30);
    assert!(span.parent_span_id.is_empty());
}

#[test]
fn a_cycle_and_its_stops_share_a_trace() {
    let at = monotonic_ns();
    let (sweep, mark) = (pause(2, at, at + MS), pause(1, at + 30 * MS, at + 33 * MS));
    // Out of order, as they come from two queues of the model.
    let spans =
        spans(&export(vec![cycle(at + 10, at + 32 * MS), mark, sweep, pause(7, at + 10 * MS, at + 11 * MS)]));
    let whole = spans.iter().find(|s| s.name == "go.gc.cycle").unwrap();
    let (children, others): (Vec<&Span>, Vec<&Span>) =
        spans.iter().filter(|s| s.name == "go.stw").partition(|s| s.trace_id == whole.trace_id);
    assert_eq!((children.len(), others.len()), (2, 1));
    assert!(children.iter().all(|s| s.parent_span_id == whole.span_id));
    assert_eq!(words(&whole.attributes, "gotrail.gc.trigger"), "forced");
    assert_eq!(number(&whole.attributes, "gotrail.gc.heap_marked"), 1 << 19);
    assert_eq!(whole.trace_id.len(), 16);
    assert_eq!(whole.events[0].name, "gotrail.gc.mark_end");
}

#[test]
fn a_finding_is_told_in_one_trace_with_its_evidence() {
    let at = monotonic_ns();
    let mut first = told("leak:1", Change::New, at);
    let group = LeakGroup {
        oldest_ns: at - 60_000 * MS,
        wait_reason: "chan receive".to_owned(),
        samples: (0..100).map(|i| (at - (100 - i) * MS, i)).collect(),
    };
    first.group = Some(group.clone());
    let mut last = told("leak:1", Change::Resolved, at + 5 * MS);
    last.group = Some(group);
    let spans = spans(&export(vec![
        Item::Finding(Box::new(first)),
        Item::Finding(Box::new(last)),
        Item::Finding(Box::new(told("leak:2", Change::New, at))),
    ]));
    assert_eq!(spans.len(), 5);
    let named = |name: &str| spans.iter().filter(|s| s.name == name).collect::<Vec<_>>();
    let (findings, leaks) = (named("goroutine-leak"), named("go.goroutine.leak"));
    assert_eq!((findings.len(), leaks.len()), (3, 2));
    let of = |key: &str| {
        findings
            .iter()
            .filter(|s| words(&s.attributes, "gotrail.finding.key") == key)
            .copied()
            .collect::<Vec<_>>()
    };
    let (one, two) = (of("leak:1"), of("leak:2"));
    assert!(one.iter().chain(&leaks).all(|s| s.trace_id == one[0].trace_id));
    assert_ne!(one[0].trace_id, two[0].trace_id);
    let mut ids: Vec<&[u8]> = spans.iter().map(|s| s.span_id.as_slice()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);

    let span = one[0];
    assert_eq!(span.status.as_ref().unwrap().code, 2);
    assert_eq!(words(&span.attributes, "gotrail.finding.id"), "goroutine-leak");
    assert_eq!(words(&span.attributes, "gotrail.finding.degree"), "confirmed");
    assert_eq!(words(&span.attributes, "gotrail.finding.state"), "active");
    assert_eq!(number(&span.attributes, "gotrail.finding.count"), 7);
    assert_eq!(words(&span.attributes, "code.function.name"), "main.handle");
    assert_eq!(words(&span.attributes, "gotrail.site.created"), "main.serve (/src/shop/main.go:10)");
    assert!(words(&span.attributes, "code.stacktrace").contains("main.handle\n\t/src/shop/main.go:20"));
    assert!(words(&span.attributes, "gotrail.finding.title").contains("\\u{1b}[2J"), "SEC-1");
    let evidence: Vec<&str> = span
        .events
        .iter()
        .filter(|e| e.name == "gotrail.evidence")
        .map(|e| words(&e.attributes, "gotrail.evidence"))
        .collect();
    assert_eq!(evidence, ["7 goroutines parked", "5 more in 20 s"]);

    // The group lives from its oldest goroutine on, and carries what happened to it so far.
    let leak = leaks[1];
    assert_eq!(leak.status.as_ref().unwrap().code, 1);
    let life = leak.end_time_unix_nano - leak.start_time_unix_nano;
    assert_eq!(life, 60_000 * MS + 5 * MS + 1_000);
    assert_eq!(words(&leak.attributes, "gotrail.wait_reason"), "chan receive");
    let turns: Vec<&str> =
        leak.events.iter().map(|e| e.name.as_str()).filter(|n| n.starts_with("gotrail.finding.")).collect();
    assert_eq!(turns, ["gotrail.finding.new", "gotrail.finding.resolved"]);
    assert_eq!(leak.events.iter().filter(|e| e.name == "gotrail.goroutine.sample").count(), 64);
    assert_eq!(leak.dropped_events_count, 36);
    assert!(leak.events.is_sorted_by_key(|e| e.time_unix_nano));
    assert!(leaks.iter().any(|l| l.span_id == span.parent_span_id));
}

#[test]
fn a_crash_is_a_log_record() {
    let at = monotonic_ns();
    let server = export(vec![Item::Crash(Box::new(CrashLog {
        at_ns: at,
        goid: Some(9),
        fatal: true,
        text: "boom\nwith a line".to_owned(),
        exception_type: Some("main.Failure".to_owned()),
        stack: vec![frame("runtime.gopanic", 1), frame("main.handle", 20)],
        created_by: Some(SiteRef::new(Role::Created, &frame("main.serve", 10))),
    }))]);
    let received = server.received("/v1/logs");
    let message = ExportLogsServiceRequest::decode(received[0].body.as_slice()).unwrap();
    let record = &message.resource_logs[0].scope_logs[0].log_records[0];
    assert_eq!((record.severity_number, record.severity_text.as_str()), (21, "FATAL"));
    let body = record.body.as_ref().and_then(|b| b.value.clone());
    assert_eq!(body, Some(Value::StringValue("boom\\nwith a line".to_owned())));
    assert_eq!(words(&record.attributes, "exception.type"), "main.Failure");
    assert_eq!(words(&record.attributes, "code.function.name"), "main.handle");
    assert!(words(&record.attributes, "exception.stacktrace").starts_with("runtime.gopanic\n\t"));
    assert_eq!(number(&record.attributes, "gotrail.goroutine.id"), 9);
    assert_eq!(words(&record.attributes, "gotrail.site.created"), "main.serve (/src/shop/main.go:10)");
    assert!(record.observed_time_unix_nano >= record.time_unix_nano);
}

#[test]
fn an_end_is_a_log_record_with_who_was_behind_it() {
    let at_ns = monotonic_ns();
    let by = Sender::Process { pid: 812, name: "kube\u{1b}let".to_owned() };
    let end = |exit, upon| {
        Item::End(Box::new(EndLog { at_ns, exit, upon, text: "the process ended: so".to_owned() }))
    };
    let sent = |signal, by| Some(Sent { signal, at_ns, by });
    let server = export(vec![
        end(Exit::Code(0), sent(libc::SIGTERM, by)),
        end(Exit::Signal(libc::SIGKILL), sent(libc::SIGKILL, Sender::Kernel { out_of_memory: true })),
        end(Exit::Code(2), None),
    ]);
    let received = server.received("/v1/logs");
    let message = ExportLogsServiceRequest::decode(received[0].body.as_slice()).unwrap();
    let [stopped, killed, failed] = &message.resource_logs[0].scope_logs[0].log_records[..] else {
        panic!("{message:?}");
    };
    assert!([stopped, killed, failed].iter().all(|record| record.event_name == "gotrail.exit"));
    assert_eq!(
        (stopped.severity_text.as_str(), number(&stopped.attributes, "process.exit.code")),
        ("INFO", 0)
    );
    assert_eq!(words(&stopped.attributes, "gotrail.exit.upon"), "SIGTERM");
    assert_eq!(number(&stopped.attributes, "gotrail.exit.sender.pid"), 812);
    assert_eq!(words(&stopped.attributes, "gotrail.exit.sender.name"), "kube\\u{1b}let");
    assert_eq!(killed.severity_text, "FATAL");
    assert_eq!(words(&killed.attributes, "gotrail.exit.signal"), "SIGKILL");
    assert_eq!(words(&killed.attributes, "gotrail.exit.sent_by"), "kernel");
    assert_eq!(failed.severity_text, "ERROR");
}

pub(in super::super) fn measurement(at_ns: u64) -> Metrics {
    let row = |state, reason: &str, system, count| Population {
        state,
        wait_reason: reason.to_owned(),
        system,
        count,
    };
    Metrics {
        at_ns,
        since_ns: at_ns - 10_000 * MS,
        figures: Some(Figures {
            gomaxprocs: 4,
            idle_ps: 1,
            global_run_queue: 2,
            gc_percent: 150,
            memory_limit: Some(i64::MAX),
            heap_live: 1 << 20,
            heap_marked: 1 << 19,
            gc_cycles: 17,
            forced_gc_cycles: 3,
            pause_total_ns: 1_500 * MS,
            last_gc_ns: 0,
        }),
        population: vec![
            row("waiting", "chan receive", false, 40),
            row("running", "", false, 2),
            row("waiting", "GC worker (idle)", true, 4),
        ],
        lifetimes: Some(Lifetimes { created: 100, exited: 58 }),
        account: Some(Account { hits: 1000, delivered: 990, lost: 10, gaps: 3 }),
        cost: Some(Cost {
            predicted_ns: 15 * MS,
            target_cpu_ns: 1_000 * MS,
            budget: 0.018,
            steps: vec![("to windows", 1), ("window", 7)],
            tiers: vec![TierShare { tier: "T2", mode: "windows", observed_ns: 350 * MS }],
            created_per_second: Some([5_000.0, 4_000.0, 6_000.0]),
        }),
        snapshot_took_ns: Some(2 * MS),
        findings: vec![("goroutine-leak", 2)],
        pauses: vec![("read mem stats", PauseSum { count: 5, total_ns: 250 * MS, longest_ns: 100 * MS })],
    }
}

fn metrics(server: &Server, number: usize) -> Vec<Metric> {
    let received = server.received("/v1/metrics");
    let message = ExportMetricsServiceRequest::decode(received[0].body.as_slice()).unwrap();
    message.resource_metrics[0].scope_metrics[number].metrics.clone()
}

fn points(metrics: &[Metric], name: &str, unit: &str) -> Vec<NumberDataPoint> {
    let metric = metrics.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(metric.unit, unit, "{name}");
    match metric.data.clone().unwrap() {
        Data::Gauge(gauge) => gauge.data_points,
        Data::Sum(sum) => {
            assert_eq!(sum.aggregation_temporality, 2, "{name}");
            assert!(sum.data_points.iter().all(|p| p.start_time_unix_nano > 0), "{name}");
            sum.data_points
        }
        other => panic!("{name}: {other:?}"),
    }
}

fn value(metrics: &[Metric], name: &str, unit: &str) -> f64 {
    match points(metrics, name, unit).as_slice() {
        [point] => as_number(point),
        other => panic!("{name}: {other:?}"),
    }
}

fn as_number(point: &NumberDataPoint) -> f64 {
    match point.value.unwrap() {
        number_data_point::Value::AsInt(n) => n as f64,
        number_data_point::Value::AsDouble(n) => n,
    }
}

#[test]
fn metrics_have_their_conventional_names_units_and_kinds() {
    let at = monotonic_ns();
    let server = export(vec![Item::Metrics(Box::new(measurement(at)))]);
    let all = metrics(&server, 0);
    for (name, unit, expected) in [
        ("go.goroutine.count", "{goroutine}", 42.0),
        ("go.processor.limit", "{thread}", 4.0),
        ("go.config.gogc", "%", 150.0),
        ("go.memory.gc.cycles", "{gc_cycle}", 17.0),
        ("gotrail.gc.forced", "{gc_cycle}", 3.0),
        ("gotrail.gc.pause.time", "s", 1.5),
        ("gotrail.heap.live", "By", 1048576.0),
        ("gotrail.goroutine.created", "{goroutine}", 100.0),
        ("gotrail.goroutine.exited", "{goroutine}", 58.0),
        ("gotrail.probe.hits", "{hit}", 1000.0),
        ("gotrail.probe.delivered", "{event}", 990.0),
        ("gotrail.probe.lost", "{event}", 10.0),
        ("gotrail.stw.count", "{pause}", 5.0),
        ("gotrail.stw.time", "s", 0.25),
        ("gotrail.findings", "{finding}", 2.0),
        ("gotrail.snapshot.duration", "s", 0.002),
        ("gotrail.probe.cost", "s", 0.015),
        ("gotrail.target.cpu.time", "s", 1.0),
        ("gotrail.probe.budget", "1", 0.018),
        ("gotrail.tier.observed.time", "s", 0.35),
    ] {
        assert_eq!(value(&all, name, unit), expected, "{name}");
    }
    let labels = |name: &str, unit: &str, key: &str| -> Vec<(String, f64)> {
        let points = points(&all, name, unit);
        points.iter().map(|point| (words(&point.attributes, key).to_owned(), as_number(point))).collect()
    };
    let named = |name: &str, number: f64| (name.to_owned(), number);
    assert_eq!(
        labels("gotrail.tier.mode", "1", "gotrail.tier.mode"),
        [named("steady", 0.0), named("windows", 1.0), named("off", 0.0)]
    );
    assert_eq!(
        labels("gotrail.governor.steps", "{step}", "gotrail.governor.step"),
        [named("to windows", 1.0), named("window", 7.0)]
    );
    assert_eq!(
        labels("gotrail.goroutine.created.rate", "{goroutine}/s", "gotrail.estimate"),
        [named("mean", 5_000.0), named("low", 4_000.0), named("high", 6_000.0)]
    );
    assert!(!all.iter().any(|m| m.name == "go.memory.limit"), "there is no limit");
    let monotonic = |name: &str| match all.iter().find(|m| m.name == name).unwrap().data.as_ref().unwrap() {
        Data::Sum(sum) => sum.is_monotonic,
        other => panic!("{other:?}"),
    };
    assert!(monotonic("go.memory.gc.cycles") && !monotonic("go.goroutine.count"));
    let start = |name, unit| points(&all, name, unit)[0].start_time_unix_nano;
    assert_eq!(start("go.memory.gc.cycles", "{gc_cycle}"), 1_700_000_000_000_000_000);
    let attached = points(&all, "gotrail.probe.hits", "{hit}")[0].clone();
    assert_eq!(attached.time_unix_nano - attached.start_time_unix_nano, 10_000 * MS);
    assert_eq!(points(&all, "gotrail.export.dropped", "{item}").len(), 3);
}

#[test]
fn pauses_become_histograms() {
    let at = monotonic_ns();
    let items = vec![
        pause(7, at, at + MS),
        pause(7, at, at + 40 * MS),
        pause(1, at, at + 20_000),
        Item::Metrics(Box::new(measurement(at))),
    ];
    let all = metrics(&export(items), 0);
    let histogram = |name: &str| match all.iter().find(|m| m.name == name).unwrap().data.clone().unwrap() {
        Data::Histogram(histogram) => histogram,
        other => panic!("{other:?}"),
    };
    let stops = histogram("gotrail.stw.pause.duration");
    assert_eq!((stops.aggregation_temporality, stops.data_points.len()), (2, 2));
    let stats = stops
        .data_points
        .iter()
        .find(|p| words(&p.attributes, "gotrail.stw.reason") == "read mem stats")
        .unwrap();
    assert_eq!((stats.count, stats.sum, stats.max), (2, Some(0.041), Some(0.04)));
    assert_eq!(stats.bucket_counts.len(), stats.explicit_bounds.len() + 1);
    assert_eq!(stats.bucket_counts.iter().sum::<u64>(), 2);
    let gc = histogram("go.memory.gc.pause.duration");
    assert_eq!((gc.data_points[0].count, gc.data_points[0].sum), (1, Some(20e-6)));
}

#[test]
fn who_is_gone_is_told_as_zero_and_starts_do_not_move() {
    let at = monotonic_ns();
    let first = measurement(at);
    let mut second = Metrics { at_ns: at + 1000 * MS, findings: Vec::new(), ..first.clone() };
    second.population.remove(0);
    let server = export(vec![Item::Metrics(Box::new(first)), Item::Metrics(Box::new(second))]);
    let (one, two) = (metrics(&server, 0), metrics(&server, 1));
    let count = |all: &[Metric], reason: &str| {
        points(all, "gotrail.goroutines", "{goroutine}")
            .iter()
            .find(|p| {
                attribute(&p.attributes, "gotrail.goroutine.wait_reason")
                    == Some(&Value::StringValue(reason.to_owned()))
            })
            .map(as_number)
    };
    assert_eq!((count(&one, "chan receive"), count(&two, "chan receive")), (Some(40.0), Some(0.0)));
    assert_eq!(value(&two, "gotrail.findings", "{finding}"), 0.0);
    let start = |all: &[Metric]| points(all, "gotrail.probe.hits", "{hit}")[0].start_time_unix_nano;
    assert_eq!(start(&one), start(&two));
}
