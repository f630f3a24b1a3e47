//! Which functions of the runtime the compiler inlined into which others: read from the inline trees, which
//! stripping leaves in place.

use std::collections::HashMap;

use super::code::Code;
use super::image::Image;
use super::symbols::{Function, Steps, Symbols};

/// Steps through all inline trees of the runtime together; a real one takes some hundred thousand.
const MAX_STEPS: u64 = 1 << 23;
/// Places of inlining that are remembered; a real runtime has some ten thousand.
const MAX_PLACES: usize = 1 << 18;
/// Calls outside of the runtime that are looked at; a program has a few.
const MAX_CALLS: usize = 1024;

/// Inlined function to the functions that it was inlined into.
#[derive(Debug, Default)]
pub(super) struct Inlining<'a> {
    hosts: HashMap<&'a str, Vec<(Function, &'a str)>>,
    /// Not all was looked at: it is no program of a real compiler.
    pub(super) incomplete: bool,
}

impl<'a> Inlining<'a> {
    /// Where a function was inlined.
    pub(super) fn hosts_of(&self, name: &str) -> Vec<(Function, &'a str)> {
        self.hosts.get(name).cloned().unwrap_or_default()
    }
}

/// Looks through the runtime's functions and those of runtime/debug's callers.
pub(super) fn inlining<'a>(image: &'a Image, symbols: &Symbols) -> Inlining<'a> {
    let mut found = Inlining::default();
    let (steps, mut places) = (Steps::new(MAX_STEPS), 0);
    symbols.for_each_name(image, |function, name, _| {
        if !name.starts_with("runtime.") {
            return;
        }
        for callee in symbols.inlined_into_within(image, function, &steps) {
            // A function that calls itself can't be seen twice.
            if callee != name && callee.starts_with("runtime.") && places < MAX_PLACES {
                places += 1;
                found.hosts.entry(callee).or_default().push((function, name));
            }
        }
    });
    found.incomplete = steps.is_over() || places == MAX_PLACES;
    found
}

/// The functions that are not the runtime's own into which one of the runtime's was inlined: found by the calls that
/// its body makes, as the inline trees of a whole program are too many.
pub(super) fn hosts_outside<'a, const N: usize>(
    image: &'a Image,
    symbols: &Symbols,
    name: &str,
    body: [&str; N],
) -> Vec<&'a str> {
    let body: Vec<u64> = symbols.find(image, body).into_iter().flatten().map(|callee| callee.entry).collect();
    let (mut hosts, mut left) = (Vec::new(), MAX_CALLS);
    symbols.for_each_name(image, |function, host, _| {
        if host.starts_with("runtime.") || left == 0 {
            return;
        }
        let Some(code) = Code::of(image, function).filter(|code| code.may_call(&body)) else { return };
        let inlined = code.calls(&body).iter().take(left).any(|call| {
            left = left.saturating_sub(1);
            let frames = symbols.frames(image, call.address, true);
            frames.iter().any(|frame| frame.inlined && frame.function == name)
        });
        if inlined {
            hosts.push(host);
        }
    });
    hosts
}
