//! Spans: findings and leaked groups, stops of the world, GC cycles.

use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

use super::attributes::{NAME_LIMIT, TEXT_LIMIT, int, place, proto, site, stack, text};
use super::clock::Wall;
use super::cycles::Cycles;
use super::identity::{Identity, scope};
use super::ids::Ids;
use super::item::{LeakGroup, Told};
use super::lane::{Load, TRACES_CAPACITY, TRACES_RESERVED};
use super::stories::{Stories, Turn, change_name};
use super::transport::Request;
use super::worker::Encode;
use crate::detect::{Role, SiteRef, State};
use crate::model::{GcCycle, GcTrigger, Pause, StwReason};

/// Lines of evidence that are sent.
const EVIDENCE: usize = 32;
/// Samples of a group's growth that are sent.
const SAMPLES: usize = 64;

/// What becomes spans.
#[derive(Clone, Debug)]
pub(super) enum Traced {
    Finding(Box<Told>),
    Pause(Pause, Option<SiteRef>),
    Cycle(GcCycle),
}

impl Load for Traced {
    const CAPACITY: usize = TRACES_CAPACITY;
    const RESERVED: usize = TRACES_RESERVED;

    fn weight(&self) -> usize {
        // A finding can be 40 kB with its stack and evidence; servers refuse more than 4 MB over gRPC.
        if self.is_precious() { 16 } else { 1 }
    }

    fn is_precious(&self) -> bool {
        matches!(self, Self::Finding(_))
    }
}

impl Traced {
    /// When it began: stops are matched with cycles in this order.
    fn begin_ns(&self) -> u64 {
        match self {
            Self::Finding(told) => told.at_ns,
            Self::Pause(pause, _) => pause.begin_ns,
            Self::Cycle(cycle) => cycle_times(cycle).0,
        }
    }
}

/// Turns items into spans.
#[derive(Debug)]
pub(super) struct SpanEncoder {
    resource: Resource,
    ids: Ids,
    cycles: Cycles,
    stories: Stories,
}

impl SpanEncoder {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            resource: identity.resource(),
            ids: Ids::new(identity),
            cycles: Cycles::default(),
            stories: Stories::default(),
        }
    }

    fn span(&mut self, item: Traced, wall: Wall, out: &mut Vec<Span>) {
        match item {
            Traced::Finding(told) => self.finding(&told, wall, out),
            Traced::Pause(pause, caller) => out.push(self.pause(&pause, caller.as_ref(), wall)),
            Traced::Cycle(cycle) => out.push(self.cycle(&cycle, wall)),
        }
    }

    fn pause(&mut self, pause: &Pause, caller: Option<&SiteRef>, wall: Wall) -> Span {
        let mut attributes = vec![
            KeyValue::new("gotrail.stw.reason", pause.reason.map_or("unknown", StwReason::name)),
            KeyValue::new("gotrail.stw.total_ns", int(pause.total_ns())),
        ];
        attributes.extend(pause.stopping_ns().map(|ns| KeyValue::new("gotrail.stw.stopping_ns", int(ns))));
        attributes.extend(pause.goid.map(goroutine));
        if let Some(caller) = caller {
            attributes.extend(place(&caller.function, &caller.file, caller.line));
        }
        let (trace, parent) = match self.cycles.pause(pause, &mut self.ids) {
            Some(place) => (place.trace, Some(place.span)),
            None => (self.ids.trace("stw", &pause.begin_ns.to_string()), None),
        };
        let times = (pause.begin_ns, pause.end_ns);
        Span {
            parent_span_id: parent_bytes(parent),
            ..new("go.stw", trace, self.ids.span(), times, attributes, wall)
        }
    }

    fn cycle(&mut self, cycle: &GcCycle, wall: Wall) -> Span {
        let times = cycle_times(cycle);
        let mut attributes =
            vec![KeyValue::new("gotrail.gc.trigger", cycle.trigger.map_or("unknown", GcTrigger::name))];
        let numbers = [
            ("gotrail.gc.heap_start", cycle.heap_start),
            ("gotrail.gc.heap_marked", cycle.heap_marked),
            ("gotrail.gc.gomaxprocs", cycle.procs.map(u64::from)),
            ("gotrail.gc.mark_ns", cycle.start_ns.and_then(|start| cycle.mark_end_ns?.checked_sub(start))),
        ];
        attributes.extend(numbers.into_iter().filter_map(|(key, n)| Some(KeyValue::new(key, int(n?)))));
        if cycle.start_ns.is_none() {
            attributes.push(KeyValue::new("gotrail.gc.seen_from_middle", true));
        }
        let place = self.cycles.cycle(cycle, &mut self.ids);
        let events = cycle.mark_end_ns.map(|at| event(at, "gotrail.gc.mark_end", Vec::new(), wall));
        Span {
            events: events.into_iter().collect(),
            ..new("go.gc.cycle", place.trace, place.span, times, attributes, wall)
        }
    }

    fn finding(&mut self, told: &Told, wall: Wall, out: &mut Vec<Span>) {
        let (reported, finding) = (&told.reported, &told.reported.finding);
        let trace = self.ids.trace("finding", &finding.key);
        let story = self.stories.tell(told);
        let end = reported.last_seen_ns.max(reported.first_seen_ns);
        let mut attributes = facts(told);
        attributes.push(KeyValue::new("gotrail.finding.change", change_name(told.change)));
        attributes.push(KeyValue::new("gotrail.finding.advice", finding.advice));
        attributes.push(KeyValue::new("gotrail.finding.disproof", finding.disproof));
        if !finding.goids.is_empty() {
            let goids: Vec<i64> = finding.goids.iter().take(32).map(|goid| int(*goid)).collect();
            attributes
                .push(KeyValue::new("gotrail.finding.goids", opentelemetry::Value::Array(goids.into())));
        }
        if !finding.stack.is_empty() {
            attributes.push(KeyValue::new("code.stacktrace", stack(&finding.stack)));
        }
        let parent = told.group.as_ref().map(|group| self.leak(told, group, trace, &story, wall, out));
        let mut events = turns(&story, wall);
        events.extend(finding.evidence.iter().take(EVIDENCE).map(|line| {
            let attribute = KeyValue::new("gotrail.evidence", text(line, TEXT_LIMIT / 4));
            event(told.at_ns, "gotrail.evidence", vec![attribute], wall)
        }));
        let span = new(finding.id, trace, self.ids.span(), (reported.first_seen_ns, end), attributes, wall);
        out.push(Span {
            parent_span_id: parent_bytes(parent),
            events,
            dropped_events_count: finding.evidence.len().saturating_sub(EVIDENCE) as u32,
            status: Some(status(told)),
            ..span
        });
    }

    /// The leaked goroutines themselves: from the oldest to the last look. The finding is part of their life.
    fn leak(
        &mut self,
        told: &Told,
        group: &LeakGroup,
        trace: TraceId,
        story: &[Turn],
        wall: Wall,
        out: &mut Vec<Span>,
    ) -> SpanId {
        let reported = &told.reported;
        let mut attributes = facts(told);
        attributes.push(KeyValue::new("gotrail.wait_reason", text(&group.wait_reason, NAME_LIMIT)));
        let mut events = turns(story, wall);
        let skipped = group.samples.len().saturating_sub(SAMPLES);
        events.extend(group.samples.iter().skip(skipped).map(|(at, count)| {
            let attribute = KeyValue::new("gotrail.goroutine.count", int(*count));
            event(*at, "gotrail.goroutine.sample", vec![attribute], wall)
        }));
        events.sort_by_key(|e| e.time_unix_nano);
        let begin = if group.oldest_ns == 0 {
            reported.first_seen_ns
        } else {
            group.oldest_ns.min(reported.first_seen_ns)
        };
        let span = self.ids.span();
        out.push(Span {
            events,
            dropped_events_count: skipped as u32,
            status: Some(status(told)),
            ..new(
                "go.goroutine.leak",
                trace,
                span,
                (begin, reported.last_seen_ns.max(begin)),
                attributes,
                wall,
            )
        });
        span
    }
}

impl Encode for SpanEncoder {
    type Item = Traced;

    fn encode(&mut self, mut items: Vec<Traced>, wall: Wall) -> Request {
        items.sort_by_key(Traced::begin_ns);
        let mut spans = Vec::with_capacity(items.len());
        for item in items {
            self.span(item, wall, &mut spans);
        }
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        Request::Traces(ExportTraceServiceRequest { resource_spans })
    }
}

/// What a finding and its group have in common.
fn facts(told: &Told) -> Vec<KeyValue> {
    let finding = &told.reported.finding;
    let mut attributes = vec![
        KeyValue::new("gotrail.finding.id", finding.id),
        KeyValue::new("gotrail.finding.key", text(&finding.key, NAME_LIMIT)),
        KeyValue::new("gotrail.finding.title", text(&finding.title, TEXT_LIMIT)),
        KeyValue::new("gotrail.finding.degree", finding.degree.name()),
        KeyValue::new("gotrail.finding.state", told.reported.state.name()),
        KeyValue::new("gotrail.finding.count", int(finding.count)),
    ];
    // The place to look at first is where it hangs or died or is called, not where the goroutine was created.
    let main = finding.sites.iter().find(|s| s.role != Role::Created).or(finding.sites.first());
    if let Some(main) = main {
        attributes.extend(place(&main.function, &main.file, main.line));
    }
    attributes.extend(finding.sites.iter().take(8).map(site));
    attributes
}

fn status(told: &Told) -> Status {
    match told.reported.state {
        State::Active => {
            Status { message: text(&told.reported.finding.title, TEXT_LIMIT), code: StatusCode::Error.into() }
        }
        State::Resolved => Status { message: String::new(), code: StatusCode::Ok.into() },
    }
}

fn turns(story: &[Turn], wall: Wall) -> Vec<Event> {
    story
        .iter()
        .map(|turn| {
            let attributes = vec![
                KeyValue::new("gotrail.finding.degree", turn.degree),
                KeyValue::new("gotrail.finding.state", turn.state),
                KeyValue::new("gotrail.finding.count", int(turn.count)),
            ];
            event(turn.at_ns, &format!("gotrail.finding.{}", turn.change), attributes, wall)
        })
        .collect()
}

/// The first and the last known time of a cycle.
fn cycle_times(cycle: &GcCycle) -> (u64, u64) {
    let end = cycle.end_ns.or(cycle.mark_end_ns).or(cycle.start_ns).unwrap_or(0);
    (cycle.start_ns.or(cycle.mark_end_ns).unwrap_or(end), end)
}

pub(super) fn goroutine(goid: u64) -> KeyValue {
    KeyValue::new("gotrail.goroutine.id", int(goid))
}

fn parent_bytes(parent: Option<SpanId>) -> Vec<u8> {
    parent.map(|span| span.to_bytes().to_vec()).unwrap_or_default()
}

fn event(at_ns: u64, name: &str, attributes: Vec<KeyValue>, wall: Wall) -> Event {
    let attributes = proto(attributes);
    Event { time_unix_nano: wall.unix_ns(at_ns), name: name.to_owned(), attributes, ..Event::default() }
}

fn new(
    name: &str,
    trace: TraceId,
    span: SpanId,
    (begin_ns, end_ns): (u64, u64),
    attributes: Vec<KeyValue>,
    wall: Wall,
) -> Span {
    Span {
        trace_id: trace.to_bytes().to_vec(),
        span_id: span.to_bytes().to_vec(),
        name: name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: wall.unix_ns(begin_ns),
        end_time_unix_nano: wall.unix_ns(end_ns.max(begin_ns)),
        attributes: proto(attributes),
        ..Span::default()
    }
}
