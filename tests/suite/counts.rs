//! GC cycles and stops of the world, against the runtime's own count.

use std::collections::BTreeMap;
use std::time::Duration;

use gotrail_tests::attach::{self, Attach, Report};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::json::number;
use gotrail_tests::needs;
use rustix::process::Signal;
use serde_json::Value;

/// How often a measurement on a noisy machine is tried.
const ATTEMPTS: u32 = 3;

/// Stops for the GC in a run: two for each of its 20 cycles.
const GC_STOPS: u64 = 40;
/// What the runtime may take to start the world again.
const RESTART_NS: u64 = 150_000;

/// Runs `gcstw` while it is watched; returns its own figures and what gotrail says.
pub(crate) fn watch(build: &Build, options: &[&str]) -> (Value, Report) {
    attach::watch(build.start_ready(&["-interval", "25ms"]).unwrap(), options).unwrap()
}

/// Counts by reason, without those that are zero.
pub(crate) fn by_reason(object: &Value, count: impl Fn(&Value) -> u64) -> BTreeMap<String, u64> {
    let counts = object.as_object().unwrap().iter().map(|(reason, value)| (reason.clone(), count(value)));
    counts.filter(|(_, count)| *count != 0).collect()
}

/// gotrail counted the cycles and the stops that the program made, by their reasons, no more and no less.
pub(crate) fn check(own: &Value, report: &Report) {
    check_without(own, report, |_| false);
}

/// The same where some probes, by how their names begin, have no place: what they would tell is missing, and nothing else.
pub(crate) fn check_without(own: &Value, report: &Report, is_missing: impl Fn(&str) -> bool) {
    let summary = report.summary().unwrap();
    let (cycles, forced) = (number(own, "/num_gc").unwrap(), number(own, "/forced").unwrap());
    let (start, end) = (!is_missing("gc_start"), !is_missing("gc_sweep"));
    for (name, is_seen, theirs) in [
        ("/gc/cycles", end, cycles),
        ("/gc/started", start, cycles),
        ("/gc/forced", start && end, forced),
        ("/gc/unexplained", !start && end, cycles),
    ] {
        let expected = if is_seen { theirs } else { 0 };
        assert_eq!(number(summary, name).unwrap(), expected, "{name}: {own} {summary}");
    }
    let theirs = by_reason(&own["by_reason"], |count| count.as_u64().unwrap());
    let ours = by_reason(&summary["stw"]["by_reason"], |sum| sum["count"].as_u64().unwrap());
    if is_missing("stw_") {
        let all = |counts: &BTreeMap<String, u64>| counts.values().sum::<u64>();
        assert!(all(&ours) < all(&theirs), "all stops were seen: {own} {summary}");
    } else {
        assert_eq!(ours, theirs, "{own} {summary}");
        assert_eq!(report.number("/stw/unpaired").unwrap(), 0, "{summary}");
    }
    report.check_nothing_lost().unwrap();
}

#[test]
fn root_loss_1_gc_cycles_and_stops_are_counted_exactly() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("gcstw", &VERSIONS, &MODES).unwrap(), 4, |build| {
        let (own, report) = watch(build, &[]);
        check(&own, &report);
    });
}

/// Ours and the runtime's sum of all GC pauses, in nanoseconds.
fn gc_pauses(build: &Build) -> (u64, u64) {
    let (own, report) = watch(build, &["--events"]);
    let sum = |reason: &str| report.number(&format!("/stw/by_reason/{reason}/total_ns")).unwrap();
    let ours = sum("GC sweep termination") + sum("GC mark termination");
    // Each was also told by itself, and they add up to the same.
    let told: u64 = report
        .lines_of("stw")
        .filter(|line| line["reason"].as_str().is_some_and(|reason| reason.starts_with("GC ")))
        .map(|line| number(line, "/total_ns").unwrap())
        .sum();
    assert_eq!(told, ours, "{}", report.answer.output);
    assert_eq!(report.lines_of("gc").count() as u64, report.number("/gc/cycles").unwrap());
    (ours, number(&own, "/pause_total_ns").unwrap())
}

#[test]
fn root_truth_1_gc_pauses_last_as_long_as_the_runtime_says() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("gcstw", &VERSIONS, &["stripped"]).unwrap(), 2, |build| {
        // A pause of ours ends when the runtime begins to start the world; its own pause ends when all have been
        // woken, some tens of microseconds later. On a busy machine the thread may be descheduled just there, which
        // is no error of ours: then once more.
        let close = (0..ATTEMPTS).any(|_| {
            let (ours, theirs) = gc_pauses(build);
            println!("{build}: {ours} ns in GC pauses by gotrail, {theirs} ns by the runtime");
            ours.abs_diff(theirs) <= theirs / 20 + GC_STOPS * RESTART_NS
        });
        assert!(close, "{build}: more than 5 % and {RESTART_NS} ns a pause apart, {ATTEMPTS} times");
    });
}

/// Before Go 1.23 a pause is put together from its two ends, a cycle is in all versions: of two that lost one end each, none
/// is made.
#[test]
fn root_loss_1_no_pause_and_no_cycle_lies_across_lost_events() {
    const STOPPED: Duration = Duration::from_millis(300);
    needs!(Need::Fixtures, Need::Root);
    let without_end =
        ["-interval", "0s", "-gcs", "100000000", "-reads", "0", "-garbage", "1024", "-ballast", "1024"];
    for go in ["1.21.13", "1.27.3"] {
        let build = Build::find("gcstw", go, "stripped").unwrap();
        let mut target = build.start_ready(&without_end).unwrap();
        let options = ["--events", "--ring-kib", "256", "--budget", "100"];
        let mut attach = Attach::start(target.pid(), &options).unwrap();
        target.tell("").unwrap();
        for _ in 0..10 {
            std::thread::sleep(STOPPED);
            attach.process().signal(Signal::STOP).unwrap();
            std::thread::sleep(STOPPED);
            attach.process().signal(Signal::CONT).unwrap();
        }
        let report = attach.stop().unwrap();
        target.signal(Signal::KILL).unwrap();
        report.check_balance().unwrap();
        let lost = report.number("/rare_events_lost").unwrap();
        let longest = |kind: &str, field: &str| {
            report.lines_of(kind).filter_map(|line| line[field].as_u64()).max().unwrap_or_default()
        };
        let (pause, cycle) = (longest("stw", "total_ns"), longest("gc", "duration_ns"));
        println!("{build}: {lost} events lost, longest pause {pause} ns, longest cycle {cycle} ns");
        assert!(lost > 1000, "{:?}", report.summary());
        assert!(pause > 0 && cycle > 0, "some are between what was lost: {:?}", report.summary());
        for length in [pause, cycle] {
            assert!(u128::from(length) < STOPPED.as_nanos() * 3 / 4, "{:?}", report.summary());
        }
    }
}
