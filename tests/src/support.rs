//! What the tests of the matrix found out about each cell, for the table of what is supported.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::fixture::Build;

/// How gotrail gets along with a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is as it should be.
    Works,
    /// gotrail says that it can't, and why.
    Refused(String),
    /// Go does not make it, or it does not run here.
    NotByGo(String),
    /// A check failed.
    Fails,
}

impl Verdict {
    fn json(&self) -> (&'static str, &str) {
        match self {
            Self::Works => ("works", ""),
            Self::Refused(words) => ("refused", words),
            Self::NotByGo(words) => ("n/a", words),
            Self::Fails => ("fails", ""),
        }
    }
}

/// The verdicts of one check, written into the file that `GOTRAIL_MATRIX` names when this goes away, also
/// where a check has failed.
#[derive(Debug)]
pub struct Verdicts {
    check: &'static str,
    found: Mutex<BTreeMap<(String, String, String), Verdict>>,
}

impl Verdicts {
    /// Of a check by this name.
    #[must_use]
    pub const fn of(check: &'static str) -> Self {
        Self { check, found: Mutex::new(BTreeMap::new()) }
    }

    /// Notes that of a cell, instead of what was noted before.
    pub fn note(&self, build: &Build, verdict: Verdict) {
        let cell = (build.go.clone(), build.arch.clone(), build.mode.clone());
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(cell, verdict);
    }
}

impl Drop for Verdicts {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("GOTRAIL_MATRIX").map(PathBuf::from) else { return };
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        all.retain(|entry| entry["check"] != self.check);
        let found = self.found.get_mut().unwrap_or_else(PoisonError::into_inner);
        for ((go, arch, mode), verdict) in found {
            let (verdict, words) = verdict.json();
            let check = self.check;
            all.push(json!({
                "check": check, "go": go, "arch": arch, "mode": mode, "verdict": verdict, "words": words,
            }));
        }
        let written = fs::write(&path, format!("{:#}\n", Value::Array(all)));
        // A test that fails already must not abort for this as well.
        assert!(written.is_ok() || std::thread::panicking(), "can't write {}: {written:?}", path.display());
    }
}
