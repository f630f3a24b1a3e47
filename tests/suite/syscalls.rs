//! System calls of goroutines, by the kernel's tracepoints, against what the program counts.

use std::thread::sleep;
use std::time::Duration;

use gotrail_tests::attach::{self, Attach, Report};
use gotrail_tests::bpf;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, builds, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use serde_json::Value;

/// Where the instruction is in assembly of package syscall, in that of the runtime, and in the newest.
const VERSIONS: [&str; 3] = ["1.18.10", "1.20.14", "1.27.3"];
/// Rounds of each kind.
const ROUNDS: u64 = 200;
/// What a bucket may be wider than what is in it: a fourth of an octave.
const BUCKET: f64 = 1.19;

/// gotrail counted the calls that the program made, at their places, and how long they took.
pub(crate) fn check(own: &Value, report: &Report) {
    report.check_nothing_lost().unwrap();
    let told = &report.summary().unwrap()["system_calls"];
    let markers = Markers::of("syscalls").unwrap();
    for kind in ["nanosleep", "getpgid", "getppid", "readv"] {
        let made = number(&own["calls"], &format!("/{kind}")).unwrap();
        let took = number(&own["took_ns"], &format!("/{kind}")).unwrap();
        let call = array(told, "/by_call").unwrap().iter().find(|call| call["name"] == kind).unwrap();
        assert_eq!(number(call, "/count").unwrap(), made, "{kind}: {own} {told}");
        let total = number(call, "/total_ns").unwrap();
        assert!(total <= took, "{kind}: {total} ns in all of {took} ns");
        if !kind.starts_with("getp") {
            // Next to all of the time is spent in them.
            assert!(total as f64 > 0.5 * took as f64, "{kind}: {total} ns in all of {took} ns");
            let half = number(call, "/p50_ns").unwrap() as f64;
            let each = took as f64 / made as f64;
            assert!(half > 1e6 && half < 2.0 * BUCKET * each, "{kind}: half within {half} ns");
        }
        let place = markers.place(kind).unwrap();
        let there: u64 = array(told, "/by_place")
            .unwrap()
            .iter()
            .filter(|at| text(at, "/name").unwrap() == kind)
            .filter(|at| {
                array(at, "/stack")
                    .unwrap()
                    .iter()
                    .any(|frame| place.is(text(frame, "/file").unwrap(), number(frame, "/line").unwrap()))
            })
            .map(|at| number(at, "/times/count").unwrap())
            .sum();
        assert_eq!(there, made, "{kind} at {place}: {told}");
    }
}

fn watch(build: &Build, options: &[&str]) -> (Value, Report) {
    let target = build.start_ready(&["-rounds", &ROUNDS.to_string()]).unwrap();
    attach::watch(target, options).unwrap()
}

#[test]
fn root_loss_1_system_calls_of_goroutines_are_counted_exactly() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("syscalls", &VERSIONS, &["default", "stripped"]).unwrap(), 4, |build| {
        let (own, report) = watch(build, &["--syscalls", "60s"]);
        check(&own, &report);
    });
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_loss_1_system_calls_and_switches_can_be_observed_together() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("syscalls", "1.27.3", "default").unwrap();
    let together = ["--syscalls", "60s", "--switches", "60s", "--ring-kib", "65536", "--budget", "100"];
    let (own, report) = watch(&build, &together);
    check(&own, &report);
    let switches = &report.summary().unwrap()["switches"];
    let slept = number(switches, "/parks_by_reason/sleep").unwrap();
    assert!(slept >= ROUNDS, "{switches}");
}

/// They are observed for the time that was asked for, and nothing is left in the kernel then.
#[test]
fn root_cost_1_system_calls_are_no_longer_observed_when_the_time_is_over() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("syscalls", "1.27.3", "stripped").unwrap();
    let mut target = build.start_ready(&["-rounds", "10"]).unwrap();
    let attach = Attach::start(target.pid(), &["--syscalls", "1s"]).unwrap();
    let is_traced = || {
        let names = bpf::ids().unwrap().into_iter().filter_map(|id| bpf::program(id).unwrap());
        names.into_iter().any(|program| program.name.starts_with("syscall_"))
    };
    assert!(is_traced());
    sleep(Duration::from_millis(1500));
    target.tell("").unwrap();
    target.await_output("its figures", |line| line.starts_with('{').then_some(())).unwrap();
    let report = attach.stop().unwrap();
    let told = &report.summary().unwrap()["system_calls"];
    assert_eq!(number(told, "/by_goroutines").unwrap(), 0, "{told}");
    let observed = number(told, "/observed_ns").unwrap() as f64 / 1e9;
    assert!((0.9..1.3).contains(&observed), "{observed} s");
    target.tell("").unwrap();
    target.wait().unwrap();
}
