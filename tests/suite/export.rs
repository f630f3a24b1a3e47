//! Export over OTLP to a real Jaeger and a real VictoriaMetrics, and to backends that are dead or silent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use gotrail_tests::attach::{Attach, BACKEND_FAILED, Report};
use gotrail_tests::backend::{Jaeger, Silent, VictoriaMetrics, until};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::http::{escape, free_addresses, get, get_json};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use gotrail_tests::shop::{Load, Shop};
use rustix::process::Signal;
use serde_json::Value;

/// What sending the last data may take, and some time for all else that ends.
const ENDED_WITHIN: Duration = Duration::from_millis(3500);

fn newest(name: &str) -> Build {
    builds(name, &OLDEST_AND_NEWEST[1..], &["stripped"]).unwrap().remove(0)
}

/// A span, as Jaeger's query API gives it.
#[derive(Debug)]
struct Span<'a>(&'a Value);

impl Span<'_> {
    fn name(&self) -> &str {
        self.0["operationName"].as_str().unwrap()
    }

    fn tag(&self, key: &str) -> &Value {
        let tags = array(self.0, "/tags").unwrap();
        tags.iter().find(|tag| tag["key"] == key).map_or(&Value::Null, |tag| &tag["value"])
    }

    fn parent(&self) -> Option<&str> {
        array(self.0, "/references").unwrap().first().and_then(|reference| reference["spanID"].as_str())
    }
}

/// All traces of a service.
fn traces(jaeger: SocketAddr, service: &str) -> Result<Vec<Value>> {
    let answer =
        get_json(jaeger, &format!("/api/traces?service={}&lookback=1h&limit=5000", escape(service)))?;
    Ok(answer["data"].as_array().cloned().unwrap_or_default())
}

fn spans(traces: &[Value]) -> Vec<Span<'_>> {
    traces.iter().flat_map(|trace| array(trace, "/spans").unwrap()).map(Span).collect()
}

/// The newest samples of a metric: their labels and values.
fn samples(victoria: SocketAddr, name: &str) -> Result<Vec<(Value, f64)>> {
    let query = escape(&format!("{{__name__={name:?}}}"));
    let answer = get_json(victoria, &format!("/api/v1/query?nocache=1&query={query}"))?;
    let samples = array(&answer, "/data/result")?.iter();
    samples.map(|sample| Ok((sample["metric"].clone(), text(sample, "/value/1")?.parse()?))).collect()
}

/// The newest values of a metric, by one of its labels ("" without it).
fn metric(victoria: SocketAddr, name: &str, label: &str) -> Result<BTreeMap<String, f64>> {
    let mut values = BTreeMap::new();
    for (labels, value) in samples(victoria, name)? {
        let key = labels[label].as_str().unwrap_or_default().to_owned();
        ensure!(values.insert(key, value).is_none(), "{name} has more than one series for {labels}");
    }
    Ok(values)
}

/// Watches the sick shop with both backends; it panics in the end.
fn exported(jaeger: &Jaeger, victoria: &VictoriaMetrics) -> Report {
    let mut shop = Shop::start(&newest("shop"), &["-panic-after", "22s"]).unwrap();
    let (spans, metrics) = (
        format!("http://{}/v1/traces", jaeger.otlp),
        format!("http://{}/opentelemetry/v1/metrics", victoria.address),
    );
    let options = ["--service-name", "sick shop", "--otlp-traces", &spans, "--otlp-metrics", &metrics];
    let attach = Attach::start(shop.process.pid(), &options).unwrap();
    let _load = Load::start(shop.address, 30).unwrap();
    shop.process.wait().unwrap();
    let report = attach.finish().unwrap();
    let export = &report.summary().unwrap()["export"];
    assert_eq!(report.answer.code, Some(0), "{:?}", report.answer.errors);
    for signal in ["traces", "metrics"] {
        let state = &export[signal];
        assert_eq!(number(state, "/offered").unwrap(), number(state, "/sent").unwrap(), "{state}");
        for zero in ["/dropped", "/rejected", "/waiting"] {
            assert_eq!(number(state, zero).unwrap(), 0, "{zero}: {state}");
        }
    }
    assert_eq!(export["logs"]["endpoint"], Value::Null, "{export}");
    report
}

/// Jaeger has the spans of every finding, stop and cycle that the summary counts.
fn check_jaeger(jaeger: SocketAddr, report: &Report) -> Result<()> {
    let markers = Markers::of("shop")?;
    let services = get_json(jaeger, "/api/services")?;
    ensure!(array(&services, "/data")?.contains(&Value::from("sick shop")), "{services}");
    let traces = traces(jaeger, "sick shop")?;
    let spans = spans(&traces);
    let names: BTreeSet<&str> = spans.iter().map(Span::name).collect();
    let count = |name: &str| spans.iter().filter(|span| span.name() == name).count() as u64;

    ensure!(count("go.gc.cycle") == report.number("/gc/cycles")?, "{} cycles", count("go.gc.cycle"));
    let stops = report.summary()?["stw"]["by_reason"].as_object().into_iter().flatten();
    let stops: u64 = stops.map(|(_, sum)| number(sum, "/count")).sum::<Result<u64>>()?;
    ensure!(stops > 0 && count("go.stw") == stops, "{} spans of {stops} stops", count("go.stw"));
    for finding in report.findings()? {
        let id = text(&finding.0, "/id")?;
        ensure!(names.contains(id), "no span of {id} among {names:?}");
        let told = report.lines_of("finding").filter(|line| line["id"] == id).count() as u64;
        ensure!(count(id) == told, "{} spans of {id}, which was told {told} times", count(id));
    }
    ensure!(count("go.goroutine.leak") > 0, "no span of the leaked goroutines among {names:?}");

    let cycles: BTreeSet<&str> =
        spans.iter().filter(|s| s.name() == "go.gc.cycle").filter_map(|s| s.0["spanID"].as_str()).collect();
    for stop in spans.iter().filter(|span| span.name() == "go.stw") {
        // Jaeger has microseconds, cut off from nanoseconds at both ends.
        let (told, took) =
            (number(stop.tag("gotrail.stw.total_ns"), "")? / 1000, number(stop.0, "/duration")?);
        ensure!(told.abs_diff(took) <= 1, "a stop of {told} us lasts {took} us in Jaeger: {stop:?}");
        if stop.tag("gotrail.stw.reason").as_str().is_some_and(|reason| reason.starts_with("GC ")) {
            ensure!(stop.parent().is_some_and(|parent| cycles.contains(parent)), "without a cycle: {stop:?}");
        }
    }
    for (id, site) in [("panic", "panic-error"), ("goroutine-leak", "leak-wait"), ("forced-gc", "forced-gc")]
    {
        for span in spans.iter().filter(|span| span.name() == id) {
            let (file, line) = (span.tag("code.file.path"), span.tag("code.line.number"));
            let place = markers.place(site)?;
            ensure!(
                place.is(file.as_str().unwrap_or_default(), line.as_u64().unwrap_or_default()),
                "{id} is at {file}:{line}, not at {place}"
            );
        }
    }
    Ok(())
}

/// VictoriaMetrics has the figures of the summary.
fn check_victoria(victoria: SocketAddr, report: &Report) -> Result<()> {
    // What came last may still be in memory that queries don't look at.
    get(victoria, "/internal/force_flush")?;
    let one = |name: &str| -> Result<f64> {
        let values = metric(victoria, name, "")?;
        values.get("").copied().ok_or_else(|| anyhow::anyhow!("no {name}"))
    };
    for (name, pointer) in [
        ("gotrail.probe.hits", "/losses/hits"),
        ("gotrail.probe.delivered", "/losses/delivered"),
        ("gotrail.probe.lost", "/losses/lost"),
        ("gotrail.goroutine.created", "/goroutines/created"),
        ("gotrail.goroutine.exited", "/goroutines/exited"),
    ] {
        let (exported, told) = (one(name)?, report.number(pointer)? as f64);
        ensure!((exported - told).abs() < 0.5, "{name} is {exported}, the summary says {told}");
    }
    ensure!((one("go.processor.limit")? - 1.0).abs() < 0.5, "the shop sets GOMAXPROCS to 1");
    ensure!(one("go.goroutine.count")? > 20.0, "the shop leaks goroutines: {}", one("go.goroutine.count")?);
    // The runtime's own count, as of the last snapshot.
    let (exported, told) = (one("go.memory.gc.cycles")?, report.number("/last_figures/gc_cycles")? as f64);
    ensure!((exported - told).abs() < 0.5, "{exported} GC cycles, the summary says {told}");
    ensure!(one("gotrail.heap.live")? > 1e5, "{}", one("gotrail.heap.live")?);
    // By state and reason, and together.
    let goroutines = samples(victoria, "gotrail.goroutines")?;
    let program = goroutines.iter().filter(|(labels, _)| labels["gotrail.goroutine.system"] == "false");
    let sum: f64 = program.clone().map(|(_, count)| count).sum();
    ensure!(
        (sum - one("go.goroutine.count")?).abs() < 0.5,
        "{sum} goroutines by reason, not as many together"
    );
    let leaked =
        program.clone().find(|(labels, _)| labels["gotrail.goroutine.wait_reason"] == "chan receive");
    ensure!(
        leaked.is_some_and(|(_, count)| *count > 20.0),
        "the workers that the shop leaks: {goroutines:?}"
    );

    let by_reason = report.summary()?["stw"]["by_reason"].as_object().cloned().unwrap_or_default();
    let stops = metric(victoria, "gotrail.stw.count", "gotrail.stw.reason")?;
    ensure!(stops.len() == by_reason.len(), "{stops:?} {by_reason:?}");
    for (reason, sum) in &by_reason {
        let (exported, told) = (stops.get(reason).copied().unwrap_or(-1.0), number(sum, "/count")? as f64);
        ensure!((exported - told).abs() < 0.5, "{exported} stops for {reason}, the summary says {told}");
    }
    let gc: f64 = stops.iter().filter(|(reason, _)| reason.starts_with("GC ")).map(|(_, count)| count).sum();
    let histogram = one("go.memory.gc.pause.duration_count")?;
    ensure!((histogram - gc).abs() < 0.5, "{histogram} pauses in the histogram, {gc} by reason");
    let findings = metric(victoria, "gotrail.findings", "gotrail.finding.id")?;
    ensure!(findings.contains_key("goroutine-leak") && findings.contains_key("panic"), "{findings:?}");
    Ok(())
}

#[test]
fn root_what_the_summary_says_is_in_jaeger_and_victoriametrics() {
    needs!(Need::Fixtures, Need::Root, Need::Backend("jaeger"), Need::Backend("victoria-metrics"));
    let (jaeger, victoria) = (Jaeger::start().unwrap(), VictoriaMetrics::start().unwrap());
    let report = exported(&jaeger, &victoria);
    report.check_nothing_lost().unwrap();
    until(|| check_jaeger(jaeger.query, &report)).unwrap();
    until(|| check_victoria(victoria.address, &report)).unwrap();
}

#[test]
fn root_sec_1_no_text_keeps_the_text_of_a_panic_out_of_spans_too() {
    needs!(Need::Fixtures, Need::Root, Need::Backend("jaeger"));
    let jaeger = Jaeger::start().unwrap();
    let endpoint = format!("http://{}/v1/traces", jaeger.otlp);
    let secret = "order 1042: io: read/write on closed pipe";
    for (service, options) in [("with text", &[][..]), ("without text", &["--no-text"])] {
        let mut target = newest("crash").start_ready(&["-kind", "custom"]).unwrap();
        let options = [&["--otlp-traces", &endpoint, "--service-name", service], options].concat();
        let attach = Attach::start(target.pid(), &options).unwrap();
        target.tell("").unwrap();
        target.wait().unwrap();
        assert!(target.errors().contains(secret), "{}", target.words());
        attach.finish().unwrap().finding("panic").unwrap();
        let traces = until(|| {
            let traces = traces(jaeger.query, service)?;
            ensure!(
                spans(&traces).iter().any(|span| span.name() == "panic"),
                "no span of the panic: {traces:?}"
            );
            Ok(traces)
        })
        .unwrap();
        let told = Value::from(traces).to_string().contains(secret);
        assert_eq!(told, service == "with text", "{service}");
    }
}

/// A backend that does not work.
struct Broken {
    name: &'static str,
    address: SocketAddr,
    build: Build,
    _silent: Option<Silent>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {}", self.name, self.build)
    }
}

#[test]
fn root_a_backend_that_does_not_work_changes_nothing_but_is_told() {
    needs!(Need::Fixtures, Need::Root);
    let mut cases = Vec::new();
    for build in builds("gcstw", &OLDEST_AND_NEWEST, &["stripped"]).unwrap() {
        let [closed] = free_addresses().unwrap();
        let silent = Silent::start().unwrap();
        cases.push(Broken { name: "a closed port", address: closed, build: build.clone(), _silent: None });
        let address = silent.address;
        cases.push(Broken { name: "a backend that never answers", address, build, _silent: Some(silent) });
    }
    each(&cases, 2, |case| {
        let mut target = case.build.start_ready(&["-interval", "25ms"]).unwrap();
        let endpoint = format!("http://{}", case.address);
        let mut attach = Attach::start(target.pid(), &["--otlp", &endpoint]).unwrap();
        target.tell("").unwrap();
        let own = target
            .await_output("its figures", |line| {
                serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
            })
            .unwrap();
        let begun = Instant::now();
        attach.process().signal(Signal::INT).unwrap();
        let report = attach.finish().unwrap();
        let took = begun.elapsed();
        println!("{case}: ended {took:?} after Ctrl-C");
        assert!(took < ENDED_WITHIN, "{case}: {took:?}");
        target.tell("").unwrap();
        assert!(target.wait().unwrap().success());

        report.check_nothing_lost().unwrap();
        assert_eq!(report.number("/gc/cycles").unwrap(), number(&own, "/num_gc").unwrap());
        let stops = report.summary().unwrap()["stw"]["by_reason"].as_object().unwrap();
        let stops: u64 = stops.values().map(|sum| number(sum, "/count").unwrap()).sum();
        assert_eq!(stops, number(&own, "/stw_gc").unwrap() + number(&own, "/stw_other").unwrap(), "{own}");

        // All of it is known to be lost, and why.
        assert_eq!(report.answer.code, Some(BACKEND_FAILED), "{:?}", report.answer.errors);
        for signal in ["traces", "metrics"] {
            let state = &report.summary().unwrap()["export"][signal];
            assert!(text(state, "/endpoint").unwrap().starts_with(&endpoint), "{state}");
            assert!(number(state, "/offered").unwrap() > 0, "{state}");
            assert_eq!(number(state, "/dropped").unwrap(), number(state, "/offered").unwrap(), "{state}");
            assert_eq!(number(state, "/sent").unwrap(), 0, "{state}");
            assert_eq!(number(state, "/waiting").unwrap(), 0, "{state}");
        }
    });
}
