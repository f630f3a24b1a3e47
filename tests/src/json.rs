//! Fields of JSON answers, with errors that show the answer.

use anyhow::{Context, Result};
use serde_json::Value;

/// The whole number at a JSON pointer.
///
/// # Errors
/// There is none.
pub fn number(value: &Value, pointer: &str) -> Result<u64> {
    at(value, pointer)?.as_u64().with_context(|| format!("{pointer} is no whole number in {value}"))
}

/// The text at a JSON pointer.
///
/// # Errors
/// There is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    at(value, pointer)?.as_str().with_context(|| format!("{pointer} is no text in {value}"))
}

/// The truth value at a JSON pointer.
///
/// # Errors
/// There is none.
pub fn truth(value: &Value, pointer: &str) -> Result<bool> {
    at(value, pointer)?.as_bool().with_context(|| format!("{pointer} is neither true nor false in {value}"))
}

/// The elements of the array at a JSON pointer.
///
/// # Errors
/// There is none.
pub fn array<'a>(value: &'a Value, pointer: &str) -> Result<&'a [Value]> {
    at(value, pointer)?
        .as_array()
        .map(Vec::as_slice)
        .with_context(|| format!("{pointer} is no array in {value}"))
}

fn at<'a>(value: &'a Value, pointer: &str) -> Result<&'a Value> {
    value.pointer(pointer).with_context(|| format!("no {pointer} in {value}"))
}
