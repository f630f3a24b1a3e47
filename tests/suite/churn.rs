//! Dumps of a process that creates and ends goroutines as fast as it can.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{OLDEST_AND_NEWEST, builds};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use serde_json::Value;

/// Dumps in all.
const DUMPS: usize = 200;
/// More goroutines than it can make in that time.
const ENDLESS: &str = "1000000000";
/// What a goroutine may be doing.
const STATES: [&str; 7] = ["runnable", "running", "syscall", "waiting", "copystack", "preempted", "leaked"];

#[test]
fn root_truth_1_dumps_under_churn_have_no_impossible_goroutine() {
    needs!(Need::Fixtures, Need::Root);
    let builds = builds("spawn", &OLDEST_AND_NEWEST, &["stripped"]).unwrap();
    for build in &builds {
        // Three: the fourth kind of creator starts children without a bound, which would be a test of size.
        let mut target = build.start_ready(&["-count", ENDLESS, "-workers", "3"]).unwrap();
        target.tell("").unwrap();
        let pid = target.pid().to_string();
        let inspected =
            run(&["inspect", build.path.to_str().unwrap(), "--format", "json"]).unwrap().well().unwrap();
        let sched = address(&inspected.json().unwrap()["globals"]["runtime.sched"]);
        let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
        let (mut torn, mut seen) = (0, BTreeSet::new());
        for round in 0..DUMPS / builds.len() {
            match round % 20 {
                0 => drop(run(&["dump", &pid, "--waits"]).unwrap().well().unwrap()),
                1 => drop(run(&["dump", &pid, "--group", "--system"]).unwrap().well().unwrap()),
                2 => drop(run(&["dump", &pid, "--format", "folded"]).unwrap().well().unwrap()),
                _ => {
                    let dump = run(&["dump", &pid, "--format", "json", "--system"]).unwrap();
                    let dump = dump.well().unwrap().json().unwrap();
                    // sched.goidgen is the first field of all versions: ids up to it were handed out.
                    let mut word = [0; 8];
                    memory.read_exact_at(&mut word, sched).unwrap();
                    torn += check(&dump, u64::from_le_bytes(word), &mut seen);
                }
            }
        }
        assert!(target.is_running().unwrap(), "{}", target.words());
        println!("{build}: {} goroutines in {} dumps, {torn} of them torn", seen.len(), DUMPS / builds.len());
        // They were not the same ones again and again.
        assert!(seen.len() > 1000, "{}", seen.len());
    }
}

/// Checks a dump and returns how many changed while they were read.
fn check(dump: &Value, handed_out: u64, seen: &mut BTreeSet<u64>) -> u64 {
    let goroutines = array(dump, "/goroutines").unwrap();
    let mut ids = BTreeSet::new();
    let mut torn = 0;
    for goroutine in goroutines {
        let goid = number(goroutine, "/goid").unwrap();
        assert!(goid != 0 && goid <= handed_out, "{handed_out}: {goroutine}");
        assert!(ids.insert(goid), "twice: {goroutine}");
        let status = text(goroutine, "/status").unwrap();
        assert!(STATES.contains(&status), "{goroutine}");
        let stack = array(goroutine, "/stack").unwrap();
        if goroutine["torn"] == true {
            torn += 1;
            assert!(stack.is_empty() && goroutine["wait"].is_null(), "{goroutine}");
            continue;
        }
        if matches!(status, "waiting" | "runnable") {
            assert!(!stack.is_empty() && goroutine["stack_truncated"] == false, "{goroutine}");
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

fn address(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap())
}
