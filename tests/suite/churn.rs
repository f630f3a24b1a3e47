//! Dumps of a process that creates and ends goroutines as fast as it can: far more than a hundred thousand a second.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, VERSIONS, builds};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use serde_json::Value;

/// Dumps in all.
const DUMPS: usize = 200;
/// How each version is built; both ways with the oldest and the newest.
const MODES: [&[&str]; 4] = [&["default", "stripped"], &["stripped"], &["default"], &["default", "stripped"]];
/// More goroutines than it can make in that time.
const ENDLESS: &str = "1000000000";
/// What a goroutine may be doing.
const STATES: [&str; 7] = ["runnable", "running", "syscall", "waiting", "copystack", "preempted", "leaked"];

#[test]
fn root_truth_1_dumps_under_churn_have_no_impossible_goroutine() {
    needs!(Need::Fixtures, Need::Root);
    let builds: Vec<Build> = VERSIONS
        .iter()
        .zip(MODES)
        .flat_map(|(version, modes)| builds("spawn", &[version], modes).unwrap())
        .collect();
    for build in &builds {
        // Three: the fourth kind of creator starts children without a bound, which would be a test of size.
        let mut target = build.start_ready(&["-count", ENDLESS, "-workers", "3"]).unwrap();
        target.tell("").unwrap();
        let pid = target.pid().to_string();
        let inspected =
            run(&["inspect", build.path.to_str().unwrap(), "--format", "json"]).unwrap().well().unwrap();
        let sched = address(&inspected.json().unwrap()["globals"]["runtime.sched"]);
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        // sched.goidgen is the first field of all versions: ids up to it were handed out.
        let handed_out = || {
            let mut word = [0; 8];
            memory.read_exact_at(&mut word, sched).unwrap();
            u64::from_le_bytes(word)
        };
        let (begun, first) = (Instant::now(), handed_out());
        let (mut torn, mut seen) = (0, BTreeSet::new());
        for round in 0..DUMPS.div_ceil(builds.len()) {
            match round % 10 {
                0 => drop(run(&["dump", &pid, "--waits"]).unwrap().well().unwrap()),
                1 => drop(run(&["dump", &pid, "--group", "--system"]).unwrap().well().unwrap()),
                2 => drop(run(&["dump", &pid, "--format", "folded"]).unwrap().well().unwrap()),
                form => {
                    let mut arguments = vec!["dump", &pid, "--format", "json", "--system"];
                    if form == 3 {
                        arguments.push("--no-stacks");
                    }
                    let dump = run(&arguments).unwrap().well().unwrap().json().unwrap();
                    torn += check(&dump, form != 3, handed_out(), &mut seen);
                }
            }
        }
        let created = (handed_out() - first) as f64 / begun.elapsed().as_secs_f64();
        assert!(target.is_running().unwrap(), "{}", target.words());
        println!(
            "{build}: {} goroutines seen, {torn} of them torn; {created:.0} were created a second",
            seen.len()
        );
        // They were not the same ones again and again.
        assert!(seen.len() > 1000, "{}", seen.len());
    }
}

/// Checks a dump and returns how many changed while they were read.
fn check(dump: &Value, stacks: bool, handed_out: u64, seen: &mut BTreeSet<u64>) -> u64 {
    let goroutines = array(dump, "/goroutines").unwrap();
    let mut ids = BTreeSet::new();
    let mut torn = 0;
    for goroutine in goroutines {
        let goid = number(goroutine, "/goid").unwrap();
        assert!(goid != 0 && goid <= handed_out, "{handed_out}: {goroutine}");
        assert!(ids.insert(goid), "twice: {goroutine}");
        let status = text(goroutine, "/status").unwrap();
        assert!(STATES.contains(&status), "{goroutine}");
        let start = text(goroutine, "/start_function").unwrap();
        assert!(is_start(start), "{goroutine}");
        torn += u64::from(goroutine["torn"] == true);
        if stacks {
            check_stack(goroutine, status, start);
        } else {
            assert!(goroutine["stack"].is_null(), "{goroutine}");
        }
        // What waits on a channel waits on one of this program's.
        for case in goroutine["wait"]["cases"].as_array().into_iter().flatten() {
            assert!(case["element_type"].is_string(), "{goroutine}");
            assert!(case["length"].as_u64() <= case["capacity"].as_u64(), "{goroutine}");
        }
    }
    assert_eq!(number(dump, "/torn").unwrap(), torn, "torn ones are counted");
    seen.extend(ids);
    torn
}

/// What the program, or the runtime, starts goroutines in; what the compiler puts around a call with arguments has
/// the name of the function that has the `go` statement.
fn is_start(function: &str) -> bool {
    let own = ["main.create", "main.read", "main.write", "main.scan", "main.newCrew", "main.(*crew).creator"];
    own.iter().any(|start| function.starts_with(start)) || function.starts_with("runtime.")
}

/// A stack is there where it can be, and goes back to where the goroutine started.
fn check_stack(goroutine: &Value, status: &str, start: &str) {
    let stack = array(goroutine, "/stack").unwrap();
    if goroutine["torn"] == true {
        assert!(stack.is_empty() && goroutine["wait"].is_null(), "{goroutine}");
        return;
    }
    if matches!(status, "waiting" | "runnable") {
        assert!(!stack.is_empty() && goroutine["stack_truncated"] == false, "{goroutine}");
    }
    let Some((outermost, inner)) = stack.split_last() else { return };
    if goroutine["stack_truncated"] == false {
        assert_eq!(outermost["function"], "runtime.goexit", "{goroutine}");
        let first = inner.last().unwrap()["function"].as_str().unwrap();
        // One that has returned may be preempted on its way out (goexit1, runtime/proc.go, checks its stack).
        assert!(first == start || first == "runtime.goexit1", "{goroutine}");
    }
}

fn address(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap())
}
