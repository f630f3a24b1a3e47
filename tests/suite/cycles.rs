//! Goroutines that wait for each other are named, and nobody else is.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::json::{array, text};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use serde_json::Value;

type Rings = BTreeMap<String, BTreeSet<u64>>;

fn rings(of: &Value) -> Rings {
    let goids = |value: &Value| value.as_array().unwrap().iter().map(|goid| goid.as_u64().unwrap()).collect();
    of.as_object().unwrap().iter().map(|(name, value)| (name.clone(), goids(value))).collect()
}

/// The rings of a dump: goroutines and degree.
fn named(pid: &str, arguments: &[&str]) -> Vec<(BTreeSet<u64>, String)> {
    let all = [&["dump", pid, "--waits", "--format", "json"], arguments].concat();
    let dump = run(&all).unwrap().well().unwrap().json().unwrap();
    let goids = |cycle: &Value| {
        cycle["goids"].as_array().unwrap().iter().map(|goid| goid.as_u64().unwrap()).collect()
    };
    let cycles = array(&dump, "/cycles").unwrap().iter();
    cycles.map(|cycle| (goids(cycle), text(cycle, "/degree").unwrap().to_owned())).collect()
}

#[test]
fn root_truth_1_what_moves_about_in_memory_is_not_proved_to_be_lost() {
    needs!(Need::Fixtures, Need::Root);
    for build in builds("cycles", &VERSIONS, &["stripped"]).unwrap() {
        let mut process = build.start_ready(&["-moving", "40"]).unwrap();
        process.tell("truth").unwrap();
        let truth = process
            .await_output("the truth", |line| {
                serde_json::from_str::<Value>(line).ok().filter(Value::is_object)
            })
            .unwrap();
        let moving = &rings(&truth["traps"])["moving"];
        assert_eq!(moving.len(), 80);
        let lost = rings(&truth["rings"]);
        let mut proved = false;
        for _ in 0..3 {
            let found = named(&process.pid().to_string(), &["--prove", "20s"]);
            for (goids, degree) in &found {
                assert!(degree != "proved" || goids.is_disjoint(moving), "{build}: {goids:?} of {moving:?}");
            }
            proved |= found
                .iter()
                .any(|(goids, degree)| degree == "proved" && lost.values().any(|ring| ring == goids));
        }
        assert!(proved, "{build}: what is lost is not proved any more");
    }
}

#[test]
fn root_truth_1_nothing_is_proved_while_registers_are_not_seen() {
    needs!(Need::Fixtures, Need::Root);
    for build in builds("cycles", &VERSIONS, &["stripped"]).unwrap() {
        let mut command = Command::new(&build.path);
        command.arg("-register").env("GODEBUG", "asyncpreemptoff=1");
        let mut process = Process::start(&build.to_string(), &mut command).unwrap();
        process.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
        let found = named(&process.pid().to_string(), &[]);
        assert!(!found.is_empty(), "{build}");
        assert!(found.iter().all(|(_, degree)| degree != "proved"), "{build}: {found:?}");
    }
}

#[test]
fn root_truth_1_rings_are_named_and_what_only_looks_like_one_is_not() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("cycles", &VERSIONS, &MODES).unwrap(), 1, check);
}

fn check(build: &Build) {
    let mut process = build.start_ready(&[]).unwrap();
    process.tell("truth").unwrap();
    let truth = process
        .await_output("the truth", |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object))
        .unwrap();
    let pid = process.pid().to_string();
    let dump = run(&["dump", &pid, "--waits", "--format", "json"]).unwrap().well().unwrap().json().unwrap();
    let said = run(&["dump", &pid, "--waits"]).unwrap().well().unwrap().output;

    let mut found: BTreeMap<BTreeSet<u64>, &Value> = BTreeMap::new();
    for cycle in array(&dump, "/cycles").unwrap() {
        let goids = cycle["goids"].as_array().unwrap().iter().map(|goid| goid.as_u64().unwrap()).collect();
        assert!(found.insert(goids, cycle).is_none(), "{build}: a ring stands there twice: {dump}");
    }
    let (heap, variables) = (rings(&truth["rings"]), rings(&truth["global"]));
    for (name, goids) in heap.iter().chain(&variables) {
        let cycle =
            found.get(goids).unwrap_or_else(|| panic!("{name} {goids:?} is not named: {}", dump["cycles"]));
        let degree = text(cycle, "/degree").unwrap();
        match name.as_str() {
            // A variable can be reached by whoever comes.
            "variables" => assert_eq!(degree, "confirmed", "{cycle}"),
            // Small locks share a block with whatever else is small.
            "three" => assert_ne!(degree, "suspected", "{cycle}"),
            _ => assert_eq!(degree, "proved", "{name}: {cycle}"),
        }
        let path = array(cycle, "/path").unwrap();
        assert!(
            path.iter().all(|edge| goids.contains(&edge["could_be_ended_by"].as_u64().unwrap())),
            "{cycle}"
        );
        let around = |edge: &Value| edge["goid"] != edge["could_be_ended_by"];
        assert!(goids.len() == 1 || path.iter().all(around), "{cycle}");
        assert!(said.contains(&format!("DEADLOCK ({degree})")), "{said}");
        let behind = array(cycle, "/waiting_behind").unwrap().len();
        assert_eq!(behind, if name == "with others behind" { 3 } else { 0 }, "{name}: {cycle}");
    }
    assert_eq!(found.len(), heap.len() + variables.len(), "{build}: a trap is named: {}", dump["cycles"]);
    for words in ["where before it waits", "a goroutine waits for itself", "which is held, by its code, by"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }

    // Without a look at the heap code must tell, and it may not say more than it does.
    for (goids, degree) in named(&pid, &["--prove", "0"]) {
        let is_one = heap.values().chain(variables.values()).any(|ring| *ring == goids);
        assert!(is_one || degree == "suspected", "{build}: {goids:?} is {degree}: {truth}");
    }

    // The traps were none: they can go on.
    process.tell("free").unwrap();
    process.await_output("`freed`", |line| (line == "freed").then_some(())).unwrap();
    process.tell("quit").unwrap();
    assert!(process.wait().unwrap().success(), "{}", process.words());
}
