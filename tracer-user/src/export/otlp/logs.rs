//! Log records: how the process died, and how it ended.

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::attributes::{NAME_LIMIT, TEXT_LIMIT, place, proto, site, stack, text};
use super::clock::Wall;
use super::identity::{Identity, scope};
use super::item::{CrashLog, EndLog};
use super::lane::{LOGS_CAPACITY, Load};
use super::spans::goroutine;
use super::transport::Request;
use super::worker::Encode;
use crate::memory::monotonic_ns;
use crate::target::{Exit, Sender, signal_name};

/// What becomes a log record.
#[derive(Debug)]
pub(super) enum Logged {
    Crash(Box<CrashLog>),
    End(Box<EndLog>),
}

impl Load for Logged {
    const CAPACITY: usize = LOGS_CAPACITY;

    fn weight(&self) -> usize {
        16
    }
}

/// Turns crashes and ends into log records.
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
    type Item = Logged;

    fn encode(&mut self, items: Vec<Logged>, wall: Wall) -> Request {
        let record = |item: &Logged| match item {
            Logged::Crash(log) => crash(log, wall),
            Logged::End(log) => end(log, wall),
        };
        let log_records = items.iter().map(record).collect();
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
        let resource = Some(self.resource.clone());
        Request::Logs(ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }],
        })
    }
}

fn end(end: &EndLog, wall: Wall) -> LogRecord {
    let message = text(&end.text, TEXT_LIMIT);
    let mut attributes = Vec::new();
    match end.exit {
        Exit::Code(code) => attributes.push(KeyValue::new("process.exit.code", i64::from(code))),
        Exit::Signal(signal) => attributes.push(KeyValue::new("gotrail.exit.signal", signal_name(signal))),
        Exit::Exec | Exit::Unknown => {}
    }
    let mut severity = match end.exit {
        Exit::Code(0) | Exit::Exec => (SeverityNumber::Info, "INFO"),
        Exit::Code(_) | Exit::Signal(_) => (SeverityNumber::Error, "ERROR"),
        Exit::Unknown => (SeverityNumber::Warn, "WARN"),
    };
    if let Some(sent) = &end.upon {
        attributes.push(KeyValue::new("gotrail.exit.upon", signal_name(sent.signal)));
        let by = match &sent.by {
            Sender::Process { pid, name } => {
                attributes.push(KeyValue::new("gotrail.exit.sender.pid", i64::from(*pid)));
                attributes.push(KeyValue::new("gotrail.exit.sender.name", text(name, NAME_LIMIT)));
                "process"
            }
            Sender::Itself => "itself",
            Sender::Fault => "fault",
            Sender::Kernel { out_of_memory } => {
                attributes.push(KeyValue::new("gotrail.exit.out_of_memory", *out_of_memory));
                if *out_of_memory {
                    severity = (SeverityNumber::Fatal, "FATAL");
                }
                "kernel"
            }
        };
        attributes.push(KeyValue::new("gotrail.exit.sent_by", by));
    }
    LogRecord {
        time_unix_nano: wall.unix_ns(end.at_ns),
        observed_time_unix_nano: wall.unix_ns(monotonic_ns()),
        severity_number: severity.0.into(),
        severity_text: severity.1.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(message)) }),
        attributes: proto(attributes),
        event_name: "gotrail.exit".to_owned(),
        ..LogRecord::default()
    }
}

fn crash(crash: &CrashLog, wall: Wall) -> LogRecord {
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
