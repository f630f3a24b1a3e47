//! Metrics: the Go runtime's under their semantic-convention names, gotrail's own as `gotrail.*`.
//!
//! Only what is known is sent: no metric stands for a figure that was not read.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::attributes::{NAME_LIMIT, int, text};
use super::clock::Wall;
use super::histogram::PauseHistograms;
use super::identity::{Identity, scope};
use super::item::{Cost, Metrics, Population};
use super::lane::{Load, METRICS_CAPACITY};
use super::points::{Kind, Number, Span, counter, gauge, histogram, labelled, up_down, whole};
use super::transport::Request;
use super::worker::Encode;
use crate::memory::Figures;

/// Series of goroutines that are remembered to be set to zero; the runtime has some 40 wait reasons.
const SERIES: usize = 2048;

/// Metrics as offered, with what the exporter itself knew at that moment.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) metrics: Box<Metrics>,
    pub(super) pauses: PauseHistograms,
    /// When those began to be counted, monotonic ns.
    pub(super) pauses_since_ns: u64,
    /// Items dropped and sent by each signal that is exported.
    pub(super) own: Vec<(&'static str, u64, u64)>,
}

impl Load for Measured {
    const CAPACITY: usize = METRICS_CAPACITY;
    /// Each one says again all that the ones before it said.
    const OLDEST_GIVES_WAY: bool = true;

    fn weight(&self) -> usize {
        32
    }
}

/// Turns measurements into metrics.
#[derive(Debug)]
pub(super) struct MetricEncoder {
    resource: Resource,
    process_start_ns: u64,
    /// Wall times of starts already told: they must not move with the clock, or counters seem to be reset.
    starts: Vec<(u64, u64)>,
    populations: BTreeSet<(&'static str, String, bool)>,
    findings: BTreeSet<&'static str>,
}

impl MetricEncoder {
    pub(super) fn new(identity: &Identity) -> Self {
        Self {
            resource: identity.resource(),
            process_start_ns: identity.start_unix_secs.saturating_mul(1_000_000_000),
            starts: Vec::new(),
            populations: BTreeSet::new(),
            findings: BTreeSet::new(),
        }
    }

    fn start(&mut self, since_ns: u64, wall: Wall) -> u64 {
        if let Some((_, start)) = self.starts.iter().find(|(since, _)| *since == since_ns) {
            return *start;
        }
        let start = wall.unix_ns(since_ns);
        // Two in practice: the attach and the start of export.
        if self.starts.len() < 16 {
            self.starts.push((since_ns, start));
        }
        start
    }

    fn metrics(&mut self, measured: &Measured, wall: Wall) -> Vec<Metric> {
        let metrics = &measured.metrics;
        let end = wall.unix_ns(metrics.at_ns);
        let watched = Span { start: self.start(metrics.since_ns, wall).min(end), end };
        let exported = Span { start: self.start(measured.pauses_since_ns, wall).min(end), end };
        let mut out = Vec::new();
        if let Some(figures) = &metrics.figures {
            out.extend(runtime(figures, Span { start: self.process_start_ns.min(end), end }));
        }
        out.extend(self.goroutines(&metrics.population, watched));
        if let Some(lifetimes) = metrics.lifetimes {
            out.extend(counter(CREATED, watched, vec![whole(lifetimes.created)]));
            out.extend(counter(EXITED, watched, vec![whole(lifetimes.exited)]));
        }
        out.extend(stops(measured, watched, exported));
        if let Some(account) = metrics.account {
            out.extend(counter(HITS, watched, vec![whole(account.hits)]));
            out.extend(counter(DELIVERED, watched, vec![whole(account.delivered)]));
            out.extend(counter(LOST, watched, vec![whole(account.lost)]));
            out.extend(counter(GAPS, watched, vec![whole(account.gaps)]));
        }
        if let Some(cost) = &metrics.cost {
            out.extend(costs(cost, watched));
        }
        if let Some(ns) = metrics.snapshot_took_ns {
            out.extend(gauge(SNAPSHOT, end, vec![(Vec::new(), Value::AsDouble(ns as f64 / 1e9))]));
        }
        self.findings.extend(metrics.findings.iter().map(|(id, _)| *id));
        let active = |id: &str| metrics.findings.iter().filter(|(i, _)| *i == id).map(|(_, n)| *n).sum();
        let findings =
            self.findings.iter().map(|id| labelled("gotrail.finding.id", id, active(id))).collect();
        out.extend(gauge(FINDINGS, end, findings));
        let own = |pick: fn(&(&'static str, u64, u64)) -> u64| {
            measured.own.iter().map(|signal| labelled("gotrail.signal", signal.0, pick(signal))).collect()
        };
        out.extend(counter(DROPPED, exported, own(|s| s.1)));
        out.extend(counter(SENT, exported, own(|s| s.2)));
        out
    }

    fn goroutines(&mut self, population: &[Population], span: Span) -> Vec<Metric> {
        if population.is_empty() {
            return Vec::new();
        }
        let number = |state: &'static str, reason: &str, system: bool, count: u64| -> Number {
            let mut attributes = vec![
                KeyValue::new("gotrail.goroutine.state", state),
                KeyValue::new("gotrail.goroutine.system", system),
            ];
            if !reason.is_empty() {
                attributes.push(KeyValue::new("gotrail.goroutine.wait_reason", text(reason, NAME_LIMIT)));
            }
            (attributes, Value::AsInt(int(count)))
        };
        let mut now: BTreeMap<(&'static str, String, bool), u64> = BTreeMap::new();
        for row in population {
            *now.entry((row.state, row.wait_reason.clone(), row.system)).or_default() += row.count;
        }
        let mut numbers: Vec<Number> =
            now.iter().map(|((state, reason, system), n)| number(state, reason, *system, *n)).collect();
        // Who is gone is told once as zero: a series that just ends keeps its last value for minutes.
        let gone = self.populations.iter().filter(|key| !now.contains_key(*key));
        numbers.extend(gone.map(|(state, reason, system)| number(state, reason, *system, 0)));
        self.populations = now.into_keys().take(SERIES).collect();
        let user: u64 = population.iter().filter(|row| !row.system).map(|row| row.count).sum();
        [up_down(GOROUTINES, span, vec![whole(user)]), gauge(POPULATION, span.end, numbers)]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn runtime(figures: &Figures, span: Span) -> Vec<Metric> {
    // Without a limit, and with GC off, the conventions leave the metric out or have no value for it.
    let limit = figures.memory_limit.filter(|limit| (0..i64::MAX).contains(limit));
    let gogc = Some(figures.gc_percent).filter(|percent| *percent >= 0);
    let seconds = Value::AsDouble(figures.pause_total_ns as f64 / 1e9);
    [
        up_down(LIMIT, span, limit.map(|limit| (Vec::new(), Value::AsInt(limit))).into_iter().collect()),
        up_down(
            GOGC,
            span,
            gogc.map(|percent| (Vec::new(), Value::AsDouble(f64::from(percent)))).into_iter().collect(),
        ),
        up_down(PROCS, span, vec![whole(u64::from(figures.gomaxprocs))]),
        counter(GC_CYCLES, span, vec![whole(u64::from(figures.gc_cycles))]),
        counter(GC_FORCED, span, vec![whole(u64::from(figures.forced_gc_cycles))]),
        counter(GC_PAUSED, span, vec![(Vec::new(), seconds)]),
        gauge(HEAP_LIVE, span.end, vec![whole(figures.heap_live)]),
        gauge(HEAP_MARKED, span.end, vec![whole(figures.heap_marked)]),
        gauge(IDLE_PS, span.end, vec![whole(u64::from(figures.idle_ps))]),
        gauge(RUN_QUEUE, span.end, vec![whole(figures.global_run_queue)]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn costs(cost: &Cost, span: Span) -> Vec<Metric> {
    let seconds = |ns: u64| Value::AsDouble(ns as f64 / 1e9);
    let tier = |name: &'static str| KeyValue::new("gotrail.tier", name);
    // One of the ways has 1, the others 0: a series that just ends keeps its last value for minutes.
    let modes = cost.tiers.iter().flat_map(|of| {
        ["steady", "windows", "off"].map(|mode| {
            let attributes = vec![tier(of.tier), KeyValue::new("gotrail.tier.mode", mode)];
            (attributes, Value::AsInt(i64::from(of.mode == mode)))
        })
    });
    let bounds = ["mean", "low", "high"].into_iter().zip(cost.created_per_second.into_iter().flatten());
    [
        counter(COST, span, vec![(Vec::new(), seconds(cost.predicted_ns))]),
        counter(TARGET_CPU, span, vec![(Vec::new(), seconds(cost.target_cpu_ns))]),
        gauge(BUDGET, span.end, vec![(Vec::new(), Value::AsDouble(cost.budget))]),
        counter(
            STEPS,
            span,
            cost.steps.iter().map(|(step, n)| labelled("gotrail.governor.step", step, *n)).collect(),
        ),
        gauge(TIER_MODE, span.end, modes.collect()),
        counter(
            OBSERVED,
            span,
            cost.tiers.iter().map(|of| (vec![tier(of.tier)], seconds(of.observed_ns))).collect(),
        ),
        gauge(
            CREATED_RATE,
            span.end,
            bounds
                .map(|(bound, rate)| (vec![KeyValue::new("gotrail.estimate", bound)], Value::AsDouble(rate)))
                .collect(),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn stops(measured: &Measured, watched: Span, exported: Span) -> Vec<Metric> {
    let sums = &measured.metrics.pauses;
    let reason = |reason: &'static str| vec![KeyValue::new("gotrail.stw.reason", reason)];
    let by_reason = measured.pauses.by_reason.iter().map(|(words, histogram)| (reason(words), histogram));
    let gc = (measured.pauses.gc.count != 0).then_some((Vec::new(), &measured.pauses.gc));
    [
        counter(
            STOPS,
            watched,
            sums.iter().map(|(words, sum)| labelled("gotrail.stw.reason", words, sum.count)).collect(),
        ),
        counter(
            STOPPED,
            watched,
            sums.iter()
                .map(|(words, sum)| (reason(words), Value::AsDouble(sum.total_ns as f64 / 1e9)))
                .collect(),
        ),
        histogram(PAUSES, exported, by_reason),
        histogram(GC_PAUSES, exported, gc.into_iter()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Encode for MetricEncoder {
    type Item = Measured;

    fn encode(&mut self, items: Vec<Measured>, wall: Wall) -> Request {
        let scope_metrics = items
            .iter()
            .map(|measured| ScopeMetrics {
                scope: Some(scope()),
                metrics: self.metrics(measured, wall),
                ..ScopeMetrics::default()
            })
            .collect();
        let resource = Some(self.resource.clone());
        Request::Metrics(ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
        })
    }
}

// Semantic conventions for the Go runtime (opentelemetry.io/docs/specs/semconv/runtime/go-metrics).
const GOROUTINES: Kind = ("go.goroutine.count", "{goroutine}", "Count of live goroutines.");
const LIMIT: Kind =
    ("go.memory.limit", "By", "Go runtime memory limit configured by the user, if a limit exists.");
const GOGC: Kind =
    ("go.config.gogc", "%", "Heap size target percentage configured by the user, otherwise 100.");
const PROCS: Kind = (
    "go.processor.limit",
    "{thread}",
    "The number of OS threads that can execute user-level Go code simultaneously.",
);
const GC_CYCLES: Kind = ("go.memory.gc.cycles", "{gc_cycle}", "Number of completed GC cycles.");
const GC_PAUSES: Kind = (
    "go.memory.gc.pause.duration",
    "s",
    "Stop-the-world pauses of the GC, from the decision to stop until the restart.",
);

// What the conventions have no name for.
const POPULATION: Kind = ("gotrail.goroutines", "{goroutine}", "Goroutines by state and wait reason.");
const CREATED: Kind = ("gotrail.goroutine.created", "{goroutine}", "Goroutines created since attach.");
const EXITED: Kind = ("gotrail.goroutine.exited", "{goroutine}", "Goroutines that ended since attach.");
const GC_FORCED: Kind = ("gotrail.gc.forced", "{gc_cycle}", "GC cycles forced by the program.");
const GC_PAUSED: Kind =
    ("gotrail.gc.pause.time", "s", "Time in GC pauses since the process started, by the runtime's count.");
const HEAP_LIVE: Kind =
    ("gotrail.heap.live", "By", "Live heap: marked by the last cycle, plus allocated since.");
const HEAP_MARKED: Kind = ("gotrail.heap.marked", "By", "Heap marked by the last GC cycle.");
const IDLE_PS: Kind = ("gotrail.processor.idle", "{processor}", "Idle Ps.");
const RUN_QUEUE: Kind = ("gotrail.run_queue.global", "{goroutine}", "Goroutines in the global run queue.");
const STOPS: Kind = ("gotrail.stw.count", "{pause}", "Stops of the world since attach.");
const STOPPED: Kind = ("gotrail.stw.time", "s", "Time that the world was stopped since attach.");
const PAUSES: Kind =
    ("gotrail.stw.pause.duration", "s", "Stops of the world, from the request to the restart.");
const HITS: Kind = ("gotrail.probe.hits", "{hit}", "Executions of probes past the process filter.");
const DELIVERED: Kind = ("gotrail.probe.delivered", "{event}", "Events delivered by probes.");
const LOST: Kind = ("gotrail.probe.lost", "{event}", "Probe hits without an event.");
const GAPS: Kind = ("gotrail.probe.gaps", "{event}", "Events missing from the stream's numbering.");
const COST: Kind = (
    "gotrail.probe.cost",
    "s",
    "CPU time that probes cost the process since attach, predicted by their hits.",
);
const TARGET_CPU: Kind = ("gotrail.target.cpu.time", "s", "CPU time that the process used since attach.");
const BUDGET: Kind = ("gotrail.probe.budget", "1", "Share of the process's CPU time that probes may cost.");
const STEPS: Kind =
    ("gotrail.governor.steps", "{step}", "Decisions of the governor of the probes' cost since attach.");
const TIER_MODE: Kind =
    ("gotrail.tier.mode", "1", "1 for the way in which a tier of probes is observed now, 0 for the others.");
const OBSERVED: Kind =
    ("gotrail.tier.observed.time", "s", "Time for which a tier of probes was on, up to when it last went.");
const CREATED_RATE: Kind = (
    "gotrail.goroutine.created.rate",
    "{goroutine}/s",
    "Goroutines created a second, estimated from sampling windows, with its 95 % confidence interval.",
);
const SNAPSHOT: Kind =
    ("gotrail.snapshot.duration", "s", "How long the last look at the process's memory took.");
const FINDINGS: Kind = ("gotrail.findings", "{finding}", "Active findings.");
const DROPPED: Kind = ("gotrail.export.dropped", "{item}", "Items that export lost.");
const SENT: Kind = ("gotrail.export.sent", "{item}", "Items that export delivered.");
