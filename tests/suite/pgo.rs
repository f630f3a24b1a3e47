//! Builds that a profile of the scheduler optimised: the compiler inlines what gotrail looks for, and nothing may
//! be lost by it. Held against the runtime's own execution trace of the same run.

use std::process::Command;

use gotrail_tests::attach::{Attach, run};
use gotrail_tests::env::{self, Need};
use gotrail_tests::fixture::{ARCHITECTURE, Build, Cell, VERSIONS, builds, cells, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use gotrail_tests::scratch::Scratch;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::counts;

/// The first Go whose trace has times of the monotonic clock (internal/trace, version 2).
const FIRST_WITH_CLOCK: u32 = 22;

fn profiled() -> Vec<Build> {
    let built: Vec<Build> = cells("matrix")
        .unwrap()
        .into_iter()
        .filter_map(|cell| match cell {
            Cell::Built(build) if build.mode == "pgo" && build.arch == ARCHITECTURE => Some(build),
            _ => None,
        })
        .collect();
    assert!(!built.is_empty(), "no build with a profile");
    built
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

/// Creations and ends of goroutines that the runtime traced from a moment on.
fn traced(trace: &str, from_ns: u64) -> (u64, u64) {
    let go = env::go().unwrap();
    let answer = Command::new(go)
        .args(["tool", "trace", "-d=parsed", trace])
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "")
        .env_remove("GOROOT")
        .output()
        .unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let (mut created, mut ended) = (0, 0);
    for line in String::from_utf8_lossy(&answer.stdout).lines().filter(|l| l.contains(" GoID=")) {
        let time = line.split(" Time=").nth(1).and_then(|rest| rest.split(' ').next());
        if time.unwrap().parse::<u64>().unwrap() < from_ns {
            continue;
        }
        created += u64::from(line.contains(" NotExist->"));
        ended += u64::from(line.contains("->NotExist "));
    }
    (created, ended)
}

#[test]
fn root_loss_1_a_profile_hides_no_creation_and_no_exit() {
    needs!(Need::Fixtures, Need::Root);
    let scratch = Scratch::new("pgo").unwrap();
    let builds: Vec<Build> =
        profiled().into_iter().filter(|build| build.minor().unwrap() >= FIRST_WITH_CLOCK).collect();
    each(&builds, 2, |build| {
        let trace = scratch.path().join(format!("{}.trace", build.go));
        let trace = trace.to_str().unwrap();
        let mut target = build.start_ready(&["-trace", trace]).unwrap();
        let attach = Attach::start(target.pid(), &["--budget", "100"]).unwrap();
        let begun = monotonic_ns();
        target.tell("").unwrap();
        let own: Value = target
            .await_output("its figures", |l| serde_json::from_str(l).ok().filter(Value::is_object))
            .unwrap();
        let report = attach.stop().unwrap();
        target.tell("").unwrap();
        assert!(target.wait().unwrap().success(), "{}", target.words());
        let (created, ended) = traced(trace, begun);
        assert_eq!(created, number(&own, "/created").unwrap(), "the trace itself");
        assert_eq!(report.number("/goroutines/created").unwrap(), created, "{:?}", report.lines.last());
        assert_eq!(report.number("/goroutines/exited").unwrap(), ended, "{:?}", report.lines.last());
        report.check_nothing_lost().unwrap();
    });
}

#[test]
fn what_a_profile_inlined_has_its_substitute_named() {
    needs!(Need::Fixtures);
    let mut inlined = 0;
    for build in profiled() {
        let answer = run(&["inspect", build.path.to_str().unwrap(), "--format", "json"]).unwrap();
        let answer = answer.well().unwrap().json().unwrap();
        // Each thing that is observed of goroutines has its place, whatever was inlined.
        for probe in ["go_create", "go_exit", "go_park", "go_ready", "go_run"] {
            let sites = array(&answer, "/sites").unwrap();
            assert!(sites.iter().any(|site| site["probe"] == probe), "{build}: no {probe}: {answer}");
        }
        let lost: Vec<&Value> =
            array(&answer, "/unavailable").unwrap().iter().filter(|u| u["lost"] == true).collect();
        assert!(lost.is_empty(), "{build}: {lost:?}");
        for substitute in array(&answer, "/substitutes").unwrap() {
            assert!(!text(substitute, "/instead").unwrap().is_empty(), "{substitute}");
            inlined += 1;
        }
    }
    assert!(inlined > 0, "the profile had nothing inlined: it is none of the scheduler");
}

/// What an answer says that events are lost of: probe and why.
fn lost(inspected: &Value) -> Vec<(String, String)> {
    let missing = array(inspected, "/unavailable").unwrap().iter().filter(|missing| missing["lost"] == true);
    let told = |missing: &Value, field| text(missing, field).unwrap().to_owned();
    missing.map(|missing| (told(missing, "/probe"), told(missing, "/why"))).collect()
}

#[test]
fn root_truth_1_a_profile_of_collections_hides_what_is_said_and_no_more() {
    needs!(Need::Fixtures, Need::Root);
    let inspect = |build: &Build| {
        let answer = run(&["inspect", build.path.to_str().unwrap(), "--format", "json"]).unwrap();
        answer.well().unwrap().json().unwrap()
    };
    let builds = builds("gcstw", &VERSIONS, &["pgo"]).unwrap();
    each(&builds, 2, |build| {
        let inspected = inspect(build);
        let lost = lost(&inspected);
        // A call that is none any more is lost where the list of calls says that it was inlined, and nowhere else.
        let hazards = array(&inspected, "/hazards").unwrap().iter();
        let inlined: Vec<&str> = hazards
            .filter(|call| call["call"] == "runtime.GC" && call["inlined"] == true)
            .map(|call| text(call, "/function").unwrap())
            .collect();
        let forced: Vec<&str> =
            lost.iter().filter(|(probe, _)| probe == "forced_gc").map(|(_, why)| why.as_str()).collect();
        assert_eq!(inlined.len(), forced.len(), "{build}: {inlined:?} {forced:?}");
        for function in inlined {
            assert!(forced.iter().any(|why| why.contains(function)), "{build}: {function}: {forced:?}");
        }
        let (own, report) = counts::watch(build, &[]);
        let attached = report.lines_of("attached").next().unwrap();
        let not_seen: Vec<(String, String)> = array(attached, "/not_seen")
            .unwrap()
            .iter()
            .map(|missing| {
                (text(missing, "/probe").unwrap().to_owned(), text(missing, "/why").unwrap().to_owned())
            })
            .collect();
        let observed: Vec<_> = lost
            .iter()
            .filter(|(probe, _)| !matches!(probe.as_str(), "go_park" | "go_ready" | "go_run"))
            .collect();
        assert!(observed.into_iter().eq(&not_seen), "{build}: {lost:?} {not_seen:?}");
        println!("{build}: {lost:?}");
        counts::check_without(&own, &report, |name| lost.iter().any(|(probe, _)| probe.starts_with(name)));
    });
    let inlined =
        builds.iter().filter(|build| lost(&inspect(build)).iter().any(|(probe, _)| probe == "forced_gc"));
    assert!(inlined.count() > 0, "the profile had no collection inlined");
}
