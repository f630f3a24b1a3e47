//! What a hit of a probe costs on this host, as gotrail measures it on a child of its own.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::spread::Spread;
use crate::command;

/// In nanoseconds; each probe was on an instruction in a loop, in pairs with the loop alone.
#[derive(Default)]
pub(super) struct Prices {
    /// A program that does nothing, on an instruction that the kernel emulates.
    pub(super) empty: Spread,
    /// gotrail's own, with a record sent, at the same place.
    pub(super) record: Spread,
    /// The same with a stack.
    pub(super) stack: Spread,
    /// A program that does nothing, on the first instruction of nearly every Go function, which is single-stepped.
    pub(super) entry: Spread,
}

impl Prices {
    /// Asks as often as told.
    pub(super) fn measure(gotrail: &Path, rounds: u32) -> Result<Self> {
        let mut prices = Self::default();
        for _ in 0..rounds {
            let mut command = Command::new(gotrail);
            command.args(["doctor", "--format", "json"]);
            let text = command::capture(&mut command, "ask gotrail what a probe costs here")?;
            let said: Value = serde_json::from_str(&text).context("gotrail's JSON is none")?;
            let calibration = &said["calibration"];
            for (spread, name) in [
                (&mut prices.empty, "trap_ns"),
                (&mut prices.record, "record_ns"),
                (&mut prices.stack, "stack_ns"),
                (&mut prices.entry, "stepped_ns"),
            ] {
                let value = calibration[name].as_f64();
                spread.add(value.with_context(|| format!("gotrail doctor gave no {name}: {calibration}"))?);
            }
        }
        Ok(prices)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "empty_ns": self.empty.json(),
            "record_ns": self.record.json(),
            "stack_ns": self.stack.json(),
            "entry_ns": self.entry.json(),
        })
    }
}
