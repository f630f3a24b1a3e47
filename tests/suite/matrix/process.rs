//! What gotrail sees of a running process, against what the process says of itself.

use std::collections::BTreeMap;

use gotrail_tests::attach::{Report, run, watch};
use gotrail_tests::fixture::Build;
use gotrail_tests::json::{array, number, text, truth};
use gotrail_tests::support::Verdict;
use gotrail_tests::traceback::{Goroutine, parse};
use serde_json::Value;

/// All checks of one build.
pub(super) fn check(build: &Build) -> Verdict {
    let inspected = match super::inspect(build) {
        Ok(answer) => answer,
        Err(words) => return Verdict::Refused(words),
    };
    let target = build.start_ready(&[]).unwrap();
    let pid = target.pid();
    let pid_text = pid.to_string();
    let dump = run(&["dump", &pid_text, "--format", "json"]).unwrap();
    if let Some(words) = super::refusal(&dump) {
        return Verdict::Refused(words);
    }
    let dump = dump.well().unwrap().json().unwrap();
    let traceback = parse(&run(&["dump", &pid_text]).unwrap().well().unwrap().output).unwrap();
    let (own, report) = watch(target, &["--budget", "100"]).unwrap();

    compare(&dump, &traceback, &own, &report);
    // Last, so that all else is known to be right: what the plan says not to see makes it a lesser thing.
    let unseen: Vec<&str> = array(&inspected, "/unavailable")
        .unwrap()
        .iter()
        .filter(|missing| missing["lost"] == true)
        .map(|missing| text(missing, "/why").unwrap())
        .collect();
    if unseen.is_empty() { Verdict::Works } else { Verdict::Refused(unseen.join("; ")) }
}

/// Holds what gotrail says of the program, at rest and at work, against the program's own truth.
pub(crate) fn compare(dump: &Value, traceback: &BTreeMap<u64, Goroutine>, own: &Value, report: &Report) {
    population(dump, own);
    frames(traceback, own);
    report.check_nothing_lost().unwrap();
    lifetimes(own, report);
    stops(own, report);
}

/// The goroutines by number.
fn by_id(of: &Value) -> BTreeMap<u64, &Value> {
    let goroutines = array(of, "/goroutines").unwrap();
    let by_id: BTreeMap<u64, &Value> =
        goroutines.iter().map(|one| (number(one, "/goid").unwrap(), one)).collect();
    assert_eq!(by_id.len(), goroutines.len(), "a goroutine stands there twice");
    by_id
}

/// The same goroutines, each with the same reason to wait and the same creator.
fn population(dump: &Value, own: &Value) {
    assert_eq!((number(dump, "/torn").unwrap(), number(dump, "/unread").unwrap()), (0, 0));
    let (ours, theirs) = (by_id(dump), by_id(own));
    assert!(ours.keys().eq(theirs.keys()), "ours {:?}, theirs {:?}", ours.keys(), theirs.keys());
    for (goid, theirs) in theirs.iter().filter(|(_, one)| one["self"] == false) {
        let ours = ours[goid];
        let reason = ours["wait_reason"].as_str().unwrap_or(ours["status"].as_str().unwrap());
        assert_eq!(reason, text(theirs, "/reason").unwrap(), "goroutine {goid}: {ours}");
        assert_eq!(ours["locked_to_thread"], theirs["locked_to_thread"], "goroutine {goid}: {ours}");
        let by = &ours["created_by"];
        assert_eq!(by["function"], theirs["created_by"], "goroutine {goid}: {ours}");
        let place = format!("{}:{}", by["file"].as_str().unwrap_or_default(), by["line"]);
        assert_eq!(place, text(theirs, "/created_at").unwrap(), "goroutine {goid}: {ours}");
    }
    // And the kinds are as many as were made.
    for (kind, group) in own["population"].as_object().unwrap() {
        let members = ours.values().filter(|one| {
            one["created_by"]["function"] == group["created_by"]
                && array(one, "/stack").unwrap().iter().any(|frame| frame["function"] == group["function"])
        });
        assert_eq!(members.count() as u64, number(group, "/count").unwrap(), "{kind}: {group}");
    }
}

/// The same stacks, where people read them: without the frames that the runtime leaves out as well.
fn frames(ours: &BTreeMap<u64, Goroutine>, own: &Value) {
    for (goid, theirs) in by_id(own).into_iter().filter(|(_, one)| one["self"] == false) {
        let calls = ours[&goid].calls.iter().map(|call| {
            let place = call.place.split(" +0x").next().unwrap_or_default();
            (call.function.as_str(), place)
        });
        let all = |field| array(theirs, field).unwrap().iter().filter_map(Value::as_str);
        let (calls, expected) = (Vec::from_iter(calls), Vec::from_iter(all("/functions").zip(all("/lines"))));
        assert_eq!(calls, expected, "goroutine {goid}");
    }
}

fn lifetimes(own: &Value, report: &Report) {
    let summary = report.summary().unwrap();
    assert!(truth(summary, "/goroutines/lifetimes_observed").unwrap(), "{summary}");
    for (ours, theirs) in [("/goroutines/created", "/created"), ("/goroutines/exited", "/exited")] {
        assert_eq!(number(summary, ours).unwrap(), number(own, theirs).unwrap(), "{ours}: {summary}");
    }
    if let Some(runtime) = own["runtime_created"].as_u64() {
        assert_eq!(number(summary, "/goroutines/created").unwrap(), runtime, "the runtime's own count");
    }
}

fn stops(own: &Value, report: &Report) {
    let summary = report.summary().unwrap();
    for ours in ["/gc/cycles", "/gc/started", "/gc/forced"] {
        assert_eq!(number(summary, ours).unwrap(), number(own, "/num_gc").unwrap(), "{ours}: {summary}");
    }
    assert_eq!(number(summary, "/stw/unpaired").unwrap(), 0, "{summary}");
    let ours = counts(&summary["stw"]["by_reason"], |sum| sum["count"].as_u64().unwrap());
    let theirs = counts(&own["stw_by_reason"], |count| count.as_u64().unwrap());
    assert_eq!(ours, theirs);
}

/// By reason, without those that did not occur.
fn counts(object: &Value, count: impl Fn(&Value) -> u64) -> BTreeMap<String, u64> {
    let counts = object.as_object().unwrap().iter().map(|(reason, value)| (reason.clone(), count(value)));
    counts.filter(|(_, count)| *count != 0).collect()
}
