//! A deadlock that the runtime does not notice.

use gotrail_tests::attach::Attach;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::json::number;
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;

#[test]
fn root_truth_1_a_deadlock_that_the_runtime_does_not_see_is_named() {
    needs!(Need::Fixtures, Need::Root);
    let markers = Markers::of("deadlock").unwrap();
    each(&builds("deadlock", &OLDEST_AND_NEWEST, &["stripped"]).unwrap(), 2, |build| {
        let mut target = build.start_ready(&[]).unwrap();
        let mut attach = Attach::start(target.pid(), &[]).unwrap();
        attach.await_line("the finding", |line| line["id"] == "deadlock").unwrap();
        let report = attach.stop().unwrap();
        let finding = report.finding("deadlock").unwrap();
        assert_eq!(finding.degree().unwrap(), "confirmed", "{}", finding.0);
        // Both that hold a lock and want the other, and main, which waits for them.
        assert_eq!(number(&finding.0, "/count").unwrap(), 3, "{}", finding.0);
        finding.must_name("blocked", markers.place("deadlock-second-lock").unwrap()).unwrap();
        assert!(target.is_running().unwrap(), "{}", target.words());
    });
}
