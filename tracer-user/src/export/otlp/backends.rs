//! Against the backends themselves: the executables `jaeger` and `victoria-metrics` in the folders that
//! `GOTRAIL_JAEGER` and `GOTRAIL_VICTORIA_METRICS` name. Run with `--ignored`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::tests::{cycle, frame, identity, measurement, pause, told};
use super::{CrashLog, Endpoints, Exporter, Item, LeakGroup};
use crate::detect::Change;
use crate::memory::monotonic_ns;

const MS: u64 = 1_000_000;

/// A running backend; ends with the test.
struct Backend(Child);

impl Backend {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn executable(variable: &str, name: &str) -> PathBuf {
    let folder = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names no folder"));
    PathBuf::from(folder).join(name)
}

/// Addresses that were free a moment ago.
fn free<const N: usize>() -> [String; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|l| l.local_addr().unwrap().to_string())
}

fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}

/// Asks until `done` says that the answer is there.
fn ask<T>(address: &str, path: &str, done: impl Fn(&Value) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = None;
    while Instant::now() < deadline {
        last = get(address, path).or(last);
        if let Some(answer) = last.as_deref().and_then(|text| done(&serde_json::from_str(text).ok()?)) {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    panic!("{path}: {last:?}");
}

fn jaeger() -> (Backend, String, String, String) {
    let [http, grpc, query, query_grpc, admin, old_http, old_grpc] = free();
    let mut command = Command::new(executable("GOTRAIL_JAEGER", "jaeger"));
    command.env("SPAN_STORAGE_TYPE", "memory");
    for (flag, address) in [
        ("--collector.otlp.http.host-port", &http),
        ("--collector.otlp.grpc.host-port", &grpc),
        ("--query.http-server.host-port", &query),
        ("--query.grpc-server.host-port", &query_grpc),
        ("--admin.http.host-port", &admin),
        ("--collector.http-server.host-port", &old_http),
        ("--collector.grpc-server.host-port", &old_grpc),
    ] {
        command.arg(flag).arg(address);
    }
    let backend = Backend::start(command);
    ask(&query, "/api/services", |answer| answer.get("data").map(|_| ()));
    (backend, http, grpc, query)
}

fn offer_spans(exporter: &Exporter) {
    let at = monotonic_ns() - 1_000 * MS;
    exporter.offer(cycle(at + 10, at + 32 * MS));
    exporter.offer(pause(2, at, at + MS));
    exporter.offer(pause(1, at + 30 * MS, at + 33 * MS));
    exporter.offer(pause(7, at + 10 * MS, at + 11 * MS));
    for (change, at_ns) in [(Change::New, at), (Change::Resolved, at + 500 * MS)] {
        let mut finding = told("leak:1", change, at_ns);
        finding.group = Some(LeakGroup {
            oldest_ns: at - 5_000 * MS,
            wait_reason: "chan receive".to_owned(),
            samples: (0..10).map(|i| (at - (10 - i) * MS, i)).collect(),
        });
        exporter.offer(Item::Finding(Box::new(finding)));
    }
}

fn check_spans(query: &str) {
    let traces: Vec<Value> = ask(query, "/api/traces?service=shop&limit=100&lookback=1h", |answer| {
        answer.get("data")?.as_array().filter(|traces| traces.len() == 3).cloned()
    });
    let spans = |trace: &Value| -> Vec<Value> { trace["spans"].as_array().cloned().unwrap() };
    let named = |name: &str| {
        traces
            .iter()
            .find(|t| spans(t).iter().any(|s| s["operationName"] == name))
            .cloned()
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let gc = named("go.gc.cycle");
    assert_eq!(spans(&gc).len(), 3);
    let root = spans(&gc).into_iter().find(|s| s["operationName"] == "go.gc.cycle").unwrap();
    for stop in spans(&gc).iter().filter(|s| s["operationName"] == "go.stw") {
        assert_eq!(stop["references"][0]["refType"], "CHILD_OF");
        assert_eq!(stop["references"][0]["spanID"], root["spanID"]);
    }
    let leak = named("go.goroutine.leak");
    assert_eq!(spans(&leak).len(), 4);
    let group = spans(&leak).into_iter().find(|s| s["operationName"] == "go.goroutine.leak").unwrap();
    let age = now_us() - group["startTime"].as_u64().unwrap();
    assert!((6_000_000..66_000_000).contains(&age), "{age}");
    assert!(group["logs"].as_array().unwrap().len() >= 11);
    let finding = spans(&leak).into_iter().find(|s| s["operationName"] == "goroutine-leak").unwrap();
    let tag = |key: &str| {
        finding["tags"].as_array().unwrap().iter().find(|t| t["key"] == key).map(|t| t["value"].clone())
    };
    assert_eq!(tag("code.function.name"), Some("main.handle".into()));
    assert_eq!(tag("gotrail.finding.degree"), Some("confirmed".into()));
    let process = leak["processes"]["p1"]["tags"].as_array().unwrap();
    assert!(process.iter().any(|t| t["key"] == "process.runtime.version" && t["value"] == "go1.25.3"));
}

fn now_us() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64
}

#[test]
#[ignore = "needs the Jaeger executable"]
fn jaeger_shows_the_spans_and_has_no_metrics() {
    let (_backend, http, _, query) = jaeger();
    let endpoints = Endpoints::new(Some(&format!("http://{http}")), None, None, None).unwrap().unwrap();
    let exporter = Exporter::start(endpoints, identity()).unwrap();
    offer_spans(&exporter);
    exporter.offer(Item::Metrics(Box::new(measurement(monotonic_ns()))));
    exporter
        .offer(Item::Crash(Box::new(CrashLog { stack: vec![frame("main.f", 1)], ..CrashLog::default() })));
    let state = exporter.finish(Duration::from_secs(10));
    assert_eq!((state.traces.sent, state.traces.dropped, state.traces.rejected), (6, 0, 0), "{state:?}");
    for other in [&state.metrics, &state.logs] {
        assert!(other.unsupported && other.dropped == 1 && other.retries == 0, "{state:?}");
    }
    check_spans(&query);
}

#[cfg(feature = "grpc")]
#[test]
#[ignore = "needs the Jaeger executable"]
fn jaeger_takes_grpc_too() {
    let (_backend, _, grpc, query) = jaeger();
    let endpoints = Endpoints::new(Some(&format!("grpc://{grpc}")), None, None, None).unwrap().unwrap();
    let exporter = Exporter::start(endpoints, identity()).unwrap();
    offer_spans(&exporter);
    exporter.offer(Item::Metrics(Box::new(measurement(monotonic_ns()))));
    let state = exporter.finish(Duration::from_secs(10));
    assert_eq!((state.traces.sent, state.traces.dropped, state.traces.rejected), (6, 0, 0), "{state:?}");
    assert!(state.metrics.unsupported, "{state:?}");
    check_spans(&query);
}

#[test]
#[ignore = "needs the VictoriaMetrics executable"]
fn victoria_metrics_answers_queries_about_the_metrics() {
    let [address] = free();
    let folder = std::env::temp_dir().join(format!("gotrail-victoria-metrics-{}", std::process::id()));
    let mut command = Command::new(executable("GOTRAIL_VICTORIA_METRICS", "victoria-metrics"));
    command
        .args(["-search.latencyOffset=0s", &format!("-httpListenAddr={address}")])
        .arg(format!("-storageDataPath={}", folder.display()));
    let backend = Backend::start(command);
    ask(&address, "/api/v1/status/tsdb", |_| Some(()));

    let base = format!("http://{address}/opentelemetry");
    let exporter =
        Exporter::start(Endpoints::new(Some(&base), None, None, None).unwrap().unwrap(), identity()).unwrap();
    let at = monotonic_ns();
    exporter.offer(pause(7, at, at + 40 * MS));
    exporter.offer(pause(1, at, at + MS));
    exporter.offer(Item::Metrics(Box::new(measurement(at))));
    let state = exporter.finish(Duration::from_secs(10));
    assert_eq!((state.metrics.sent, state.metrics.dropped, state.metrics.rejected), (1, 0, 0), "{state:?}");
    // It has no traces: whatever it answers, they are counted as lost.
    assert_eq!((state.traces.sent, state.traces.dropped), (0, 2), "{state:?}");

    let _ = get(&address, "/internal/force_flush");
    for (query, expected) in [
        (r#"{"go.goroutine.count"}"#, "42"),
        (r#"{"go.processor.limit"}"#, "4"),
        (r#"{"go.config.gogc"}"#, "150"),
        (r#"{"go.memory.gc.cycles","service.name"="shop"}"#, "17"),
        (r#"{"gotrail.goroutines","gotrail.goroutine.wait_reason"="chan receive"}"#, "40"),
        (r#"{"gotrail.probe.lost"}"#, "10"),
        (r#"{"gotrail.findings","gotrail.finding.id"="goroutine-leak"}"#, "2"),
        (r#"{"gotrail.export.dropped","gotrail.signal"="traces"}"#, "0"),
        (r#"{"gotrail.stw.pause.duration_count","gotrail.stw.reason"="read mem stats"}"#, "1"),
        (r#"{"gotrail.stw.pause.duration_bucket","gotrail.stw.reason"="read mem stats","le"="0.05"}"#, "1"),
        (r#"{"go.memory.gc.pause.duration_sum"}"#, "0.001"),
    ] {
        let encoded: String = query.bytes().map(|b| format!("%{b:02x}")).collect();
        let value = ask(&address, &format!("/api/v1/query?query={encoded}"), |answer| {
            Some(answer["data"]["result"].get(0)?["value"][1].as_str()?.to_owned())
        });
        assert_eq!(value, expected, "{query}");
    }
    drop(backend);
    let _ = std::fs::remove_dir_all(folder);
}
