//! For other tools: folded stacks (flame graphs) and pprof.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotrail::binary::Frame;
use gotrail::export::pprof::Goroutines;
use gotrail::memory::Symbolizer;
use gotrail::text::printable;

use super::super::mapping;
use super::Dump;

/// `outermost;...;innermost count`, a line for each stack.
pub(super) fn folded(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for g in &dump.shown {
        let mut names = Vec::new();
        for pc in &g.stack.pcs {
            for frame in symbolizer.frames(dump.runtime.binary(), *pc).iter().filter(|f| !f.wrapper) {
                // A semicolon separates, and no Go name has one.
                names.push(printable(&frame.function).replace(';', ":"));
            }
        }
        if g.stack.truncated {
            names.push("[more frames]".to_owned());
        }
        if names.is_empty() {
            // Without a stack: it runs, or changed meanwhile.
            names.push(format!("[{}]", printable(dump.state(g))));
        }
        names.reverse();
        *counts.entry(names.join(";")).or_default() += 1;
    }
    counts.into_iter().map(|(stack, count)| format!("{stack} {count}\n")).collect()
}

/// A profile as of `runtime/pprof`'s "goroutine", with state, wait reason and labels of each.
pub(super) fn pprof(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> Vec<u8> {
    let (binary, bias) = (dump.runtime.binary(), dump.runtime.bias());
    let file = dump.subject.executable();
    let file = file.to_string_lossy();
    let mapping = mapping::of(dump.runtime, &file);
    let taken = mapping::unix_ns(dump.runtime, dump.snapshot.taken_ns);
    let mut goroutines = Goroutines::new(taken, &mapping);
    for g in &dump.shown {
        let frames: Vec<(u64, Arc<[Frame]>)> = g
            .stack
            .pcs
            .iter()
            // As runtime/pprof does it: within the call, so that a tool that looks itself finds its line.
            .map(|pc| {
                let address = pc.address.wrapping_add(bias).wrapping_sub(u64::from(!pc.exact));
                (address, symbolizer.frames(binary, *pc))
            })
            .collect();
        // Labels are what a program was given from elsewhere, and pprof prints them as they are.
        let found: Vec<(String, String)> = match dump.details.labels.get(&g.goid) {
            Some(Some(labels)) => labels.pairs.iter().map(|(k, v)| (printable(k), printable(v))).collect(),
            _ => Vec::new(),
        };
        let reason = g.status.is_parked().then(|| ("wait_reason", dump.runtime.wait_reason(g.wait_reason)));
        let own = std::iter::once(("state", g.status.name())).chain(reason);
        let labels = found.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        goroutines.add(frames.iter().map(|(address, frames)| (*address, frames.as_ref())), own.chain(labels));
    }
    goroutines.encode()
}
