//! Creations and ends of goroutines, against the program's own count.

use gotrail_tests::attach::{self, Attach, Report};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, OLDEST_AND_NEWEST, VERSIONS, builds, each};
use gotrail_tests::json::{number, truth};
use gotrail_tests::needs;
use serde_json::Value;

/// Runs `spawn` to its end while it is watched, with a budget that is never used up.
fn watch(build: &Build, arguments: &[&str]) -> (Value, Report) {
    attach::watch(build.start_ready(arguments).unwrap(), &["--budget", "100"]).unwrap()
}

/// gotrail counted what the program did, no more and no less.
pub(crate) fn check(own: &Value, report: &Report) {
    assert_eq!(report.lines_of("demoted").count(), 0, "{}", report.answer.errors);
    let expected = |field: &str| number(own, field).unwrap() + number(own, "/coroutines").unwrap();
    let seen = |field: &str| report.number(field).unwrap();
    assert_eq!(seen("/goroutines/created"), expected("/created"), "created: {own} {:?}", report.lines.last());
    assert_eq!(seen("/goroutines/exited"), expected("/exited"), "exited: {own} {:?}", report.lines.last());
    if let Some(runtime) = own["runtime_created"].as_i64().filter(|count| *count >= 0) {
        assert_eq!(i64::try_from(seen("/goroutines/created")), Ok(runtime), "the runtime's own count: {own}");
    }
    report.check_nothing_lost().unwrap();
}

#[test]
fn root_loss_1_goroutines_are_counted_exactly() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("spawn", &VERSIONS, &MODES).unwrap(), 4, |build| {
        let (own, report) = watch(build, &["-count", "5000", "-rate", "4000"]);
        assert_eq!(number(&own, "/created").unwrap(), 5000, "the fixture itself: {own}");
        check(&own, &report);
    });
}

#[test]
fn root_loss_1_a_build_for_a_debugger_hides_no_goroutine() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("spawn", &OLDEST_AND_NEWEST, &["noinline"]).unwrap(), 2, |build| {
        let coroutines: &[&str] = if build.minor().unwrap() < 23 { &[] } else { &["-iter", "300"] };
        let (own, report) = watch(build, &[&["-count", "5000", "-rate", "4000"][..], coroutines].concat());
        assert_eq!(number(&own, "/created").unwrap(), 5000, "the fixture itself: {own}");
        assert!(truth(report.summary().unwrap(), "/goroutines/lifetimes_observed").unwrap());
        check(&own, &report);
    });
}

#[test]
fn root_loss_1_coroutines_are_counted_too() {
    needs!(Need::Fixtures, Need::Root);
    // iter.Pull came with Go 1.23.
    each(&builds("spawn", &VERSIONS[1..], &MODES).unwrap(), 3, |build| {
        let (own, report) = watch(build, &["-count", "200", "-rate", "2000", "-iter", "300"]);
        assert_eq!(number(&own, "/coroutines").unwrap(), 300, "the fixture itself: {own}");
        check(&own, &report);
    });
}

#[test]
fn root_cost_1_lifetimes_are_given_up_before_the_budget_is_gone() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("spawn", &["1.21.13", "1.27.3"], &["stripped"]).unwrap(), 1, |build| {
        // Far more than can be made in the time: it is ended as soon as the line has come.
        let mut target = build.start_ready(&["-count", "1000000000"]).unwrap();
        let mut attach = Attach::start(target.pid(), &[]).unwrap();
        target.tell("").unwrap();
        let line = attach.await_line("a `demoted` line", |line| line["type"] == "demoted").unwrap();
        println!("{build}: {}", line["message"]);
        assert!(target.is_running().unwrap());
        let report = attach.stop().unwrap();
        report.check_balance().unwrap();
        let summary = report.summary().unwrap();
        assert!(!truth(summary, "/goroutines/lifetimes_observed").unwrap(), "{summary}");
        assert!(report.answer.errors.contains("no longer observed"), "{}", report.answer.errors);
    });
}
