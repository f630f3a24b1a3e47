//! Building blocks of metrics.

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram as ProtoHistogram, HistogramDataPoint, Metric, NumberDataPoint,
    Sum,
};

use super::attributes::{int, proto};
use super::histogram::{BOUNDS, Histogram};

/// A name, a unit (UCUM) and a description.
pub(super) type Kind = (&'static str, &'static str, &'static str);

/// One number with its attributes.
pub(super) type Number = (Vec<KeyValue>, Value);

/// Start and end of what is counted, wall time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A whole number.
pub(super) fn whole(value: u64) -> Number {
    (Vec::new(), Value::AsInt(int(value)))
}

/// A whole number with one attribute.
pub(super) fn labelled(key: &'static str, label: &'static str, value: u64) -> Number {
    (vec![KeyValue::new(key, label)], Value::AsInt(int(value)))
}

/// What only goes up: a monotonic sum.
pub(super) fn counter(kind: Kind, span: Span, numbers: Vec<Number>) -> Option<Metric> {
    sum(kind, span, numbers, true)
}

/// What adds up over attributes but goes up and down (an UpDownCounter): a non-monotonic sum.
pub(super) fn up_down(kind: Kind, span: Span, numbers: Vec<Number>) -> Option<Metric> {
    sum(kind, span, numbers, false)
}

fn sum(kind: Kind, span: Span, numbers: Vec<Number>, is_monotonic: bool) -> Option<Metric> {
    let data_points = points(numbers, span);
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    metric(
        kind,
        !data_points.is_empty(),
        Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic }),
    )
}

/// A value at one moment.
pub(super) fn gauge(kind: Kind, end: u64, numbers: Vec<Number>) -> Option<Metric> {
    let data_points = points(numbers, Span { start: 0, end });
    metric(kind, !data_points.is_empty(), Data::Gauge(Gauge { data_points }))
}

/// Durations in seconds.
pub(super) fn histogram<'a>(
    kind: Kind,
    span: Span,
    series: impl Iterator<Item = (Vec<KeyValue>, &'a Histogram)>,
) -> Option<Metric> {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let data_points: Vec<HistogramDataPoint> = series
        .map(|(attributes, histogram)| HistogramDataPoint {
            attributes: proto(attributes),
            start_time_unix_nano: span.start,
            time_unix_nano: span.end,
            count: histogram.count,
            sum: Some(seconds(histogram.sum_ns)),
            bucket_counts: histogram.buckets.to_vec(),
            explicit_bounds: BOUNDS.to_vec(),
            min: histogram.min_ns.map(seconds),
            max: histogram.max_ns.map(seconds),
            ..HistogramDataPoint::default()
        })
        .collect();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let any = !data_points.is_empty();
    metric(kind, any, Data::Histogram(ProtoHistogram { data_points, aggregation_temporality }))
}

fn metric((name, unit, description): Kind, any: bool, data: Data) -> Option<Metric> {
    any.then(|| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        description: description.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn points(numbers: Vec<Number>, span: Span) -> Vec<NumberDataPoint> {
    numbers
        .into_iter()
        .map(|(attributes, value)| NumberDataPoint {
            attributes: proto(attributes),
            start_time_unix_nano: span.start,
            time_unix_nano: span.end,
            value: Some(value),
            ..NumberDataPoint::default()
        })
        .collect()
}
