//! `--watch` for people: a line for each look, and what stands out when that changes.

use std::fmt::Write as _;

use gotrail::text::{bytes, duration, printable};

use super::Report;
use crate::cli::json::wall;

/// Lines between two headings.
const PAGE: u32 = 20;

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Lines {
    count: u32,
    remarks: Vec<&'static str>,
}

impl Lines {
    /// Notes what the first look has told in full.
    pub(super) fn told(&mut self, report: &Report<'_>) {
        self.remarks = report.remarks().iter().map(|remark| remark.id).collect();
    }

    pub(super) fn line(&mut self, report: &Report<'_>) -> String {
        let mut out = String::new();
        // A text in memory takes everything.
        if self.count.is_multiple_of(PAGE) {
            let _ = writeln!(
                out,
                "\n{:>12} {:>10} {:>8} {:>7} {:>10} {:>10} {:>10} {:>12} {:>6} {:>9} {:>6} {:>10}",
                "time",
                "goroutines",
                "runnable",
                "idle Ps",
                "heap",
                "goal",
                "RSS",
                "allocated/s",
                "cycles",
                "pauses",
                "GC CPU",
                "late (99%)"
            );
        }
        self.count += 1;
        let (stats, rates) = (&report.stats, report.rates.as_ref());
        let dash = || "-".to_owned();
        let time = wall(stats.taken_ns);
        let clock = time.split_once('T').map_or(time.as_str(), |(_, clock)| clock.trim_end_matches('Z'));
        let allocated = rates
            .and_then(|rates| Some((rates, rates.allocated_bytes?)))
            // A positive number of bytes; a fraction of one does not matter.
            .map_or_else(dash, |(rates, count)| bytes(rates.per_second(count) as u64));
        let share = rates.and_then(|rates| rates.cpu).and_then(|cpu| cpu.gc_share());
        let late = rates
            .and_then(|rates| rates.schedule_latency.as_ref())
            .filter(|latency| latency.count() != 0)
            .and_then(|latency| latency.below(0.99));
        let _ = writeln!(
            out,
            "{clock:>12} {:>10} {:>8} {:>7} {:>10} {:>10} {:>10} {allocated:>12} {:>6} {:>9} {:>6} {:>10}",
            stats.goroutines.user,
            stats.goroutines.runnable,
            stats.scheduler.idle_ps,
            bytes(stats.collector.heap_live),
            stats.collector.goal.filter(|goal| *goal < 1 << 60).map_or_else(dash, bytes),
            report.memory.map_or_else(dash, |memory| bytes(memory.rss)),
            rates.map_or(0, |rates| rates.cycles),
            rates.map_or_else(dash, |rates| duration(rates.pause_ns)),
            share.map_or_else(dash, |share| format!("{:.1}%", share * 100.0)),
            late.map_or_else(dash, duration),
        );
        let remarks = report.remarks();
        for remark in remarks.iter().filter(|remark| !self.remarks.contains(&remark.id)) {
            let _ = writeln!(out, "             {}", printable(&remark.text));
        }
        self.remarks = remarks.iter().map(|remark| remark.id).collect();
        out
    }
}
