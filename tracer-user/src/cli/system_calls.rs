//! What `gotrail attach --syscalls` says of the system calls of goroutines.

use std::cmp::Reverse;

use gotrail::agent::{Summary, Watcher};
use gotrail::detect::system_call_frame;
use gotrail::model::{Distribution, SystemCallSite, SystemCalls};
use gotrail::text::{duration, printable};
use serde_json::{Value, json};
use syscalls::Sysno;
use tracer_ebpf::TIER_SYSCALLS;

use super::json;
use super::switches::times;

/// Places in the summary for people, and in JSON.
const PLACES: (usize, usize) = (10, 100);

/// What there is to say.
pub(super) struct Told<'a> {
    watcher: &'a Watcher,
    summary: &'a Summary,
    calls: &'a SystemCalls,
}

impl<'a> Told<'a> {
    pub(super) fn new(watcher: &'a Watcher, summary: &'a Summary) -> Self {
        Self { watcher, summary, calls: &watcher.process().system_calls }
    }

    /// Places by the sum of the time spent there, the longest first.
    fn places(&self) -> Vec<(&SystemCallSite, &Distribution)> {
        let mut places: Vec<_> = self.calls.sites.iter().collect();
        places.sort_by_key(|(site, times)| (Reverse(times.total_ns), **site));
        places
    }

    fn observed_ns(&self) -> u64 {
        let tiers = &self.summary.cost.tiers;
        tiers.iter().find(|state| state.tier == TIER_SYSCALLS).map_or(0, |state| state.observed_ns)
    }

    /// Those of the runtime and of C code, which are made on stacks of no goroutine.
    fn others(&self) -> u64 {
        let probes = &self.summary.accounting.probes;
        probes
            .iter()
            .find(|(probe, _)| probe.name() == "go_syscall")
            .map_or(0, |(_, account)| account.skipped)
    }

    /// The place in the program where a call is.
    fn place(&self, site: &SystemCallSite) -> Option<String> {
        let (pcs, _) = self.watcher.process().switches.stacks.get(&site.stack)?;
        let frames = self.watcher.frames(pcs);
        let (place, by) = system_call_frame(&frames)?;
        let mut text = format!("{} at {}:{}", printable(&place.function), printable(&place.file), place.line);
        if let Some(by) = by {
            text.push_str(&format!(", {}", printable(&by.function)));
        }
        Some(text)
    }

    /// For people.
    pub(super) fn print(&self) {
        let all = self.calls.all();
        outln!(
            "  system calls observed for {}: {} by goroutines, {} in them in all; {} by the runtime itself or C code",
            duration(self.observed_ns()),
            all.count,
            duration(all.total_ns),
            self.others()
        );
        let places = self.places();
        if !places.is_empty() {
            outln!("    by the sum of the time (most {}):", PLACES.0);
        }
        for (site, times) in places.iter().take(PLACES.0) {
            outln!(
                "      {:>9} in {:>7} calls, half within {:>9}, all within {:>9}  {:<16} {}",
                duration(times.total_ns),
                times.count,
                duration(times.quantile_ns(0.5).unwrap_or(0)),
                duration(times.longest_ns().unwrap_or(0)),
                name(site.number),
                self.place(site).unwrap_or_else(|| "(no place in the program)".to_owned())
            );
        }
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let mut by_name: Vec<(u16, Distribution)> = self.calls.by_number().into_iter().collect();
        by_name.sort_by_key(|(number, times)| (Reverse(times.total_ns), *number));
        json!({
            "observed_ns": self.observed_ns(),
            "by_goroutines": self.calls.all().count,
            "by_others": self.others(),
            "by_call": by_name.iter().map(|(number, distribution)| {
                let mut told = times(distribution);
                if let Some(object) = told.as_object_mut() {
                    object.insert("name".to_owned(), json!(name(*number)));
                    object.insert("number".to_owned(), json!(number));
                }
                told
            }).collect::<Vec<_>>(),
            "places": self.calls.sites.len(),
            "by_place": self.places().into_iter().take(PLACES.1).map(|(site, distribution)| {
                let stack = self.watcher.process().switches.stacks.get(&site.stack);
                json!({
                    "name": name(site.number),
                    "number": site.number,
                    "times": times(distribution),
                    "stack_truncated": stack.is_some_and(|(_, truncated)| *truncated),
                    "stack": stack.map(|(pcs, _)| {
                        self.watcher.frames(pcs).iter().map(json::frame).collect::<Vec<_>>()
                    }),
                })
            }).collect::<Vec<_>>(),
        })
    }
}

/// The name of a system call on this architecture, which is the process's too.
fn name(number: u16) -> String {
    Sysno::new(usize::from(number)).map_or_else(|| format!("number {number}"), |call| call.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_their_names() {
        let write = if cfg!(target_arch = "aarch64") { 64 } else { 1 };
        assert_eq!(name(write), "write");
        assert_eq!(name(9999), "number 9999");
    }
}
