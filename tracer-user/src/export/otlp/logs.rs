//! Log records: how the process died.

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::attributes::{NAME_LIMIT, TEXT_LIMIT, place, proto, site, stack, text};
use super::clock::Wall;
use super::identity::{Identity, scope};
use super::item::CrashLog;
use super::lane::{LOGS_CAPACITY, Load};
use super::spans::goroutine;
use super::transport::Request;
use super::worker::Encode;
use crate::memory::monotonic_ns;

impl Load for Box<CrashLog> {
    const CAPACITY: usize = LOGS_CAPACITY;

    fn weight(&self) -> usize {
        16
    }
}

/// Turns crashes into log records.
#[derive(Debug)]
pub(super) struct LogEncoder {
    resource: Resource,
}

impl LogEncoder {
    pub(super) fn new(identity: &Identity) -> Self {
        Self { resource: identity.resource() }
    }
}

impl Encode for LogEncoder {
    type Item = Box<CrashLog>;

    fn encode(&mut self, items: Vec<Box<CrashLog>>, wall: Wall) -> Request {
        let log_records = items.iter().map(|crash| record(crash, wall)).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
        let resource = Some(self.resource.clone());
        Request::Logs(ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }],
        })
    }
}

fn record(crash: &CrashLog, wall: Wall) -> LogRecord {
    let message = text(&crash.text, TEXT_LIMIT);
    let mut attributes = vec![KeyValue::new("exception.message", message.clone())];
    if let Some(kind) = &crash.exception_type {
        attributes.push(KeyValue::new("exception.type", text(kind, NAME_LIMIT)));
    }
    if !crash.stack.is_empty() {
        attributes.push(KeyValue::new("exception.stacktrace", stack(&crash.stack)));
    }
    // The frame that somebody wrote, not the runtime's crash machinery.
    let main = crash.stack.iter().find(|f| !f.wrapper && !f.function.starts_with("runtime."));
    if let Some(frame) = main {
        attributes.extend(place(&frame.function, &frame.file, frame.line));
    }
    attributes.extend(crash.goid.map(goroutine));
    attributes.extend(crash.created_by.as_ref().map(site));
    let severity = if crash.fatal { SeverityNumber::Fatal } else { SeverityNumber::Error };
    LogRecord {
        time_unix_nano: wall.unix_ns(crash.at_ns),
        observed_time_unix_nano: wall.unix_ns(monotonic_ns()),
        severity_number: severity.into(),
        severity_text: if crash.fatal { "FATAL" } else { "ERROR" }.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(message)) }),
        attributes: proto(attributes),
        event_name: "gotrail.crash".to_owned(),
        ..LogRecord::default()
    }
}
