//! Export in a build without the feature `otlp`: it can only be refused.

use std::time::Duration;

use gotrail::agent::{Step, Summary, Watcher};
use gotrail::detect::{Change, Reported, SiteRef};
use gotrail::model::{GcCycle, Pause};
use serde_json::Value;

use super::args::OtlpArgs;
use super::failure::{Failure, USAGE};

#[derive(Debug)]
pub(crate) struct Export;

impl Export {
    pub(crate) fn prepare(args: &OtlpArgs) -> Result<Self, Failure> {
        let asked = [&args.otlp, &args.otlp_traces, &args.otlp_metrics, &args.otlp_logs];
        if asked.iter().any(|url| url.is_some()) {
            return Err(Failure::new(
                USAGE,
                "this gotrail was built without the feature `otlp`: it can't export; build it with `cargo xtask build`",
            ));
        }
        Ok(Self)
    }

    pub(crate) fn start(self, _: &Watcher, _: Option<&str>) -> Result<Self, Failure> {
        Ok(self)
    }

    pub(crate) fn finding(&mut self, _: &Reported, _: Change) {}

    pub(crate) fn governed(&mut self, _: &Step) {}

    pub(crate) fn pause(&mut self, _: &Pause, _: Option<SiteRef>) {}

    pub(crate) fn cycle(&mut self, _: &GcCycle) {}

    pub(crate) fn tick(&mut self, _: &Watcher) -> Option<String> {
        None
    }

    pub(crate) fn last(&mut self, _: &Watcher, _: &Summary) {}

    pub(crate) fn close(&mut self, _: Duration) {}

    pub(crate) fn failed(&self) -> bool {
        false
    }

    pub(crate) fn state_json(&self) -> Value {
        Value::Null
    }

    pub(crate) fn state_text(&self) -> Option<String> {
        None
    }
}
