//! Which functions of the runtime the compiler inlined into which others: read from the inline trees, which
//! stripping leaves in place.

use std::collections::HashMap;

use super::image::Image;
use super::symbols::{Function, Symbols};

/// Inlined function to the functions that it was inlined into.
#[derive(Debug, Default)]
pub(super) struct Inlining<'a>(HashMap<&'a str, Vec<(Function, &'a str)>>);

impl<'a> Inlining<'a> {
    /// Where a function was inlined.
    pub(super) fn hosts_of(&self, name: &str) -> Vec<(Function, &'a str)> {
        self.0.get(name).cloned().unwrap_or_default()
    }
}

/// Looks through the runtime's functions and those of runtime/debug's callers.
pub(super) fn inlining<'a>(image: &'a Image, symbols: &Symbols) -> Inlining<'a> {
    let mut found = Inlining::default();
    symbols.for_each_name(image, |function, name, _| {
        if !name.starts_with("runtime.") {
            return;
        }
        for callee in symbols.inlined_into(image, function) {
            // A function that calls itself can't be seen twice.
            if callee != name && callee.starts_with("runtime.") {
                found.0.entry(callee).or_default().push((function, name));
            }
        }
    });
    found
}
