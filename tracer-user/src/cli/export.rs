//! Export as the attach command uses it: nothing at all unless an endpoint was given.

use std::time::Duration;

use gotrail::agent::{Summary, Watcher};
use gotrail::detect::{Change, Reported};
use gotrail::model::{GcCycle, Pause};
use serde_json::Value;

use super::args::OtlpArgs;
use super::failure::Failure;

pub(crate) struct Export;

impl Export {
    pub(crate) fn prepare(_: &OtlpArgs) -> Result<Self, Failure> {
        Ok(Self)
    }
    pub(crate) fn start(self, _: &Watcher, _: Option<&str>) -> Result<Self, Failure> {
        Ok(self)
    }
    pub(crate) fn finding(&mut self, _: &Reported, _: Change) {}
    pub(crate) fn pause(&mut self, _: &Pause) {}
    pub(crate) fn cycle(&mut self, _: &GcCycle) {}
    pub(crate) fn metrics(&mut self, _: &Watcher) {}
    pub(crate) fn close(&mut self, _: &Watcher, _: &Summary, _: Duration) {}
    pub(crate) fn state_json(&self) -> Value {
        Value::Null
    }
    pub(crate) fn state_text(&self) -> Option<String> {
        None
    }
}
