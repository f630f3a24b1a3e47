//! Reasons to wait that few programs have, against the process's own dumps.

use std::collections::BTreeMap;
use std::process::Command;

use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::json::{array, number};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::traceback::parse;
use rustix::process::Signal;
use serde_json::Value;

use crate::dump::{differences, own_stacks};

/// From this minor version on a channel knows its timer.
const KNOWS_ITS_TIMER: u32 = 23;

fn all_builds() -> Vec<Build> {
    builds("reasons", &VERSIONS, &MODES).unwrap()
}

fn start(build: &Build) -> Process {
    let mut command = Command::new(&build.path);
    command.env("GODEBUG", "tracebackancestors=5").env("GOTRACEBACK", "system");
    let mut process = Process::start(&build.to_string(), &mut command).unwrap();
    process.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
    process
}

fn dump(process: &Process, arguments: &[&str]) -> String {
    let pid = process.pid().to_string();
    let all: Vec<&str> = ["dump", &pid].iter().chain(arguments).copied().collect();
    run(&all).unwrap().well().unwrap().output
}

fn quit(mut process: Process) {
    process.tell("quit").unwrap();
    assert!(process.wait().unwrap().success(), "{}", process.words());
}

#[test]
fn root_truth_1_dump_is_the_processes_own_also_with_ancestors_and_in_bubbles() {
    needs!(Need::Fixtures, Need::Root);
    each(&all_builds(), 2, |build| {
        let mut process = start(build);
        let own = own_stacks(&mut process, "dump");
        let ours = parse(&dump(&process, &[])).unwrap();
        let json: Value = serde_json::from_str(&dump(&process, &["--format", "json"])).unwrap();
        quit(process);
        let found = differences(&own, &ours);
        assert!(found.is_empty(), "{found:#?}");
        let state = |wanted: &str| own.values().any(|g| g.state.starts_with(wanted));
        assert!(state("semacquire") && state("trace reader (blocked)") && state("IO wait"), "{own:#?}");
        assert_eq!(state("coroutine"), build.minor().unwrap() >= 23);
        assert_eq!(state("synctest.Wait"), build.minor().unwrap() >= 25);
        // The last generation has four before it, main the last of them.
        let last = own.values().find(|g| g.state == "select (no cases)").unwrap();
        let heads = last.ancestors.iter().filter(|line| line.starts_with("[originating from goroutine "));
        assert_eq!(heads.count(), 4, "{last:#?}");
        let generations =
            array(&json, "/goroutines").unwrap().iter().filter_map(|g| g["ancestors"].as_array());
        assert!(generations.map(Vec::len).max() >= Some(4));
    });
}

#[test]
fn root_truth_1_the_runtimes_own_goroutines_are_what_it_says() {
    needs!(Need::Fixtures, Need::Root);
    each(&all_builds(), 2, |build| {
        let mut process = start(build);
        // Twice, as workers of the collector may just be coming.
        let looks = [dump(&process, &["--system"]), dump(&process, &["--system"])];
        process.signal(Signal::QUIT).unwrap();
        process.wait().unwrap();
        // The main goroutine waits for a line; the signal wakes nobody else.
        let own = states(&process.errors());
        let ours = looks.map(|look| states(&look));
        assert!(ours.contains(&own), "ours {ours:#?}, theirs {own:#?}");
        for state in ["force gc (idle)", "GC sweep wait", "GC scavenge wait", "finalizer wait"] {
            assert!(own.values().any(|found| found == state), "no {state:?} in {own:#?}");
        }
    });
}

/// `goroutine 3 gp=0xc000002000 m=nil [GC sweep wait]:`, by id.
fn states(text: &str) -> BTreeMap<u64, String> {
    let state = |line: &str| {
        let (id, state) = line.strip_prefix("goroutine ")?.split_once(" [")?;
        let id = id.split(' ').next()?.parse().ok()?;
        (id != 0).then(|| (id, state.trim_end_matches("]:").to_owned()))
    };
    text.lines().filter_map(state).collect()
}

#[test]
fn root_truth_1_descriptors_and_timers_are_what_the_program_opened() {
    needs!(Need::Fixtures, Need::Root);
    each(&all_builds(), 2, |build| {
        let mut process = start(build);
        process.tell("truth").unwrap();
        let truth = process
            .await_output("the truth", |line| {
                serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
            })
            .unwrap();
        let json: Value = serde_json::from_str(&dump(&process, &["--format", "json"])).unwrap();
        let text = dump(&process, &["--waits"]);
        quit(process);
        for (function, theirs) in truth.as_object().unwrap() {
            let of = |g: &&Value| {
                array(g, "/stack").unwrap().iter().any(|frame| frame["function"] == function.as_str())
            };
            let goroutine = array(&json, "/goroutines").unwrap().iter().find(of).unwrap();
            check(build, theirs, &goroutine["wait"], &text);
        }
    });
}

fn check(build: &Build, theirs: &Value, ours: &Value, text: &str) {
    let left = |value: &Value| number(value, "/remaining_ns").unwrap() as f64 / 1e9;
    let is_near = |value: &Value| {
        let (within, left) = (theirs["within"].as_f64().unwrap(), left(value));
        assert!(within - 60.0 <= left && left <= within, "{theirs} {ours}");
    };
    if theirs["fd"].is_number() {
        assert_eq!(
            (&ours["kind"], &ours["fd"], &ours["mode"]),
            (&"io".into(), &theirs["fd"], &theirs["mode"])
        );
        for field in ["kind", "local", "remote"] {
            assert_eq!(ours["file"][field], theirs.get(field).cloned().unwrap_or_default(), "{ours}");
        }
        let line = format!(
            "{} of fd {}, {}",
            theirs["mode"].as_str().unwrap(),
            theirs["fd"],
            theirs["kind"].as_str().unwrap()
        );
        assert!(text.contains(&line), "no {line:?} in {text}");
        if theirs["within"].is_number() {
            is_near(ours);
        } else {
            assert!(ours["deadline"].is_null(), "{ours}");
        }
    } else if ours["kind"] == "sleep" {
        is_near(ours);
    } else if build.minor().unwrap() >= KNOWS_ITS_TIMER {
        let timer = &ours["cases"][0]["timer"];
        is_near(timer);
        let every = timer["period_ns"].as_f64().map(|ns| ns / 1e9);
        assert_eq!(every, theirs["every"].as_f64(), "{ours}");
        assert!(text.contains("its timer fires in 1h") || text.contains("its timer fires in 2h"), "{text}");
    }
}
