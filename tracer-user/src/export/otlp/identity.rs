//! Who is observed, as resource attributes.

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::attributes::{NAME_LIMIT, proto, text};

/// Who is observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `service.name`.
    pub service_name: String,
    /// `process.pid`, in our PID namespace.
    pub pid: u32,
    /// `process.command`: the first word of the command line.
    pub command: String,
    /// `process.executable.path`.
    pub executable: String,
    /// `process.runtime.version`: `go1.25.3`.
    pub go_version: String,
    /// `host.name`.
    pub host_name: String,
    /// `container.id`.
    pub container_id: Option<String>,
    /// `k8s.pod.uid`.
    pub pod_uid: Option<String>,
    /// When the process started, seconds since the epoch.
    pub start_unix_secs: u64,
}

impl Identity {
    /// Tells this process from every other, past ones included.
    pub(super) fn instance(&self) -> String {
        format!("{}:{}:{}", self.host_name, self.pid, self.start_unix_secs)
    }

    pub(super) fn resource(&self) -> Resource {
        let name = |value: &str| text(value, NAME_LIMIT);
        let mut attributes = vec![
            KeyValue::new("service.name", name(&self.service_name)),
            KeyValue::new("service.instance.id", name(&self.instance())),
            KeyValue::new("process.pid", i64::from(self.pid)),
            KeyValue::new("process.runtime.name", "go"),
            KeyValue::new("telemetry.sdk.name", "gotrail"),
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ];
        let file_name = self.executable.rsplit('/').next().unwrap_or_default();
        let optional = [
            ("process.command", Some(self.command.as_str())),
            ("process.executable.path", Some(self.executable.as_str())),
            ("process.executable.name", Some(file_name)),
            ("process.runtime.version", Some(self.go_version.as_str())),
            ("host.name", Some(self.host_name.as_str())),
            ("container.id", self.container_id.as_deref()),
            ("k8s.pod.uid", self.pod_uid.as_deref()),
        ];
        attributes.extend(
            optional
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.filter(|v| !v.is_empty())?)))
                .map(|(key, value)| KeyValue::new(key, name(value))),
        );
        Resource { attributes: proto(attributes), ..Resource::default() }
    }
}

/// Who measured.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "gotrail".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
