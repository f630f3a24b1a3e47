//! `gotrail inspect`: what an executable says without being run. Needs no root.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use gotrail_tests::attach::run;
use gotrail_tests::damage::Executable;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{MODES, OLDEST_AND_NEWEST, VERSIONS, builds, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use gotrail_tests::scratch::Scratch;
use serde_json::Value;

fn inspect(target: &str) -> Value {
    run(&["inspect", target, "--format", "json"]).unwrap().well().unwrap().json().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn who_tunes_the_runtime_is_found_in_the_machine_code() {
    needs!(Need::Fixtures);
    let markers = Markers::of("shop").unwrap();
    each(&builds("shop", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let answer = inspect(path(&build.path));
        assert_eq!(text(&answer, "/schema").unwrap(), "gotrail.inspect/1");
        assert_eq!(text(&answer, "/go_version").unwrap(), format!("go{}", build.go));
        assert_eq!(answer["stripped"], build.mode == "stripped", "{answer}");
        // What changes something: GOMAXPROCS(0) only asks.
        let calls: Vec<&Value> = array(&answer, "/hazards")
            .unwrap()
            .iter()
            .filter(|call| call["standard_library"] == false)
            .filter(|call| !(call["call"] == "runtime.GOMAXPROCS" && call["argument"] == 0))
            .collect();
        let expected = [
            ("debug.SetGCPercent", Value::from(-1), "gc-percent"),
            ("runtime.GC", Value::Null, "forced-gc"),
            ("runtime.GOMAXPROCS", Value::from(1), "gomaxprocs"),
        ];
        assert_eq!(calls.len(), expected.len(), "{calls:?}");
        for (name, argument, site) in expected {
            let call = calls
                .iter()
                .find(|call| call["call"] == name)
                .unwrap_or_else(|| panic!("no {name}: {calls:?}"));
            assert_eq!(call["argument"], argument, "{call}");
            let place = markers.place(site).unwrap();
            assert!(
                place.is(text(call, "/file").unwrap(), number(call, "/line").unwrap()),
                "{call} is not at {place}"
            );
        }
    });
}

#[test]
fn a_stripped_program_has_the_probes_of_its_unstripped_twin() {
    needs!(Need::Fixtures);
    for version in builds("shop", &VERSIONS, &["stripped"]).unwrap() {
        let sites = |mode| -> BTreeSet<(String, String, String)> {
            let build = builds("shop", &[&version.go], &[mode]).unwrap().remove(0);
            let answer = inspect(path(&build.path));
            let field = |site: &Value, name: &str| site[name].as_str().unwrap().to_owned();
            array(&answer, "/sites")
                .unwrap()
                .iter()
                .map(|site| (field(site, "probe"), field(site, "function"), field(site, "cost")))
                .collect()
        };
        let stripped = sites("stripped");
        assert_eq!(stripped, sites("default"), "{version}");
        assert!(stripped.len() > 12, "{version}: {stripped:?}");
    }
}

#[test]
fn a_process_is_its_executable() {
    needs!(Need::Fixtures);
    let build = builds("population", &OLDEST_AND_NEWEST, &["stripped"]).unwrap().remove(0);
    let target = build.start_ready(&[]).unwrap();
    let (mut by_pid, mut by_path) = (inspect(&target.pid().to_string()), inspect(path(&build.path)));
    for answer in [&mut by_pid, &mut by_path] {
        answer["target"].take();
    }
    assert_eq!(by_pid, by_path);
}

/// A file that is not what it was.
struct Damaged {
    name: String,
    bytes: Vec<u8>,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[test]
fn fail_1_no_file_breaks_it() {
    needs!(Need::Fixtures);
    let scratch = Scratch::new("inspect").unwrap();
    let mut cases = Vec::new();
    for build in builds("crash", &OLDEST_AND_NEWEST, &["default"]).unwrap() {
        let whole = fs::read(&build.path).unwrap();
        for part in [0, 1, 4, 16, 63, 64, 65, 4096].into_iter().chain((1..16).map(|i| whole.len() / 16 * i)) {
            cases.push(Damaged {
                name: format!("{build}, its first {part} bytes"),
                bytes: whole[..part].to_vec(),
            });
        }
        // A stretch of noise, wandering through the file; its headers are at the begin.
        for (i, length) in (0..16).flat_map(|i| [(i, 64), (i, 65_536)]) {
            let mut executable = Executable::new(whole.clone()).unwrap();
            let begin = if i == 0 { 8 } else { whole.len() / 16 * i };
            executable.noise(begin..begin + length).unwrap();
            cases.push(Damaged {
                name: format!("{build}, noise of {length} at {begin}"),
                bytes: executable.bytes,
            });
        }
    }
    each(&cases, 2, |case| {
        let file = scratch.program(&case.name.replace([' ', ','], "-"), &case.bytes).unwrap();
        let answer = run(&["inspect", path(&file)]).unwrap();
        fs::remove_file(&file).unwrap();
        assert!(!answer.errors.contains("panicked"), "{case}: {}", answer.errors);
        match answer.code {
            Some(0) => assert!(answer.output.contains("what gotrail can do"), "{case}: {answer:?}"),
            Some(3) => assert!(
                answer.output.is_empty() && answer.errors.starts_with("gotrail: "),
                "{case}: {answer:?}"
            ),
            _ => panic!("{case}: {answer:?}"),
        }
    });
}

#[test]
fn a_file_that_can_not_be_read_is_6_and_one_that_is_no_program_is_3() {
    needs!(Need::Fixtures);
    let scratch = Scratch::new("inspect").unwrap();
    let text = scratch.program("text", b"#!/bin/sh\nexit 0\n").unwrap();
    for (target, code, words) in [
        ("/nowhere/at/all", 6, &["/nowhere/at/all", "No such file", "give a pid"][..]),
        (path(scratch.path()), 6, &["directory"]),
        (path(&text), 3, &["ELF", path(&text)]),
        ("/bin/sh", 3, &["/bin/sh: ", "not a Go program"]),
    ] {
        let answer = run(&["inspect", target]).unwrap();
        assert_eq!((answer.code, answer.output.as_str()), (Some(code), ""), "{target}: {answer:?}");
        assert!(words.iter().all(|word| answer.errors.contains(word)), "{target}: {answer:?}");
    }
}

/// Programs whose build information was changed to name another release, and what is made of them.
#[test]
fn fail_1_an_unmeasured_release_is_proven_by_its_code_or_refused() {
    needs!(Need::Fixtures);
    let scratch = Scratch::new("unmeasured").unwrap();
    for (go, mode, claimed, proven) in [
        // A patch release that came after the table, and a distributor's rebuild.
        ("1.27.3", "stripped", "1.27.9", true),
        ("1.27.3", "stripped", "1.27-a", true),
        // The code of another minor.
        ("1.25.5", "stripped", "1.27.9", false),
        // A minor that nobody has measured.
        ("1.27.3", "stripped", "1.28.3", false),
        // Its own DWARF is enough.
        ("1.27.3", "default", "1.28.3", true),
    ] {
        let build = builds("spawn", &[go], &[mode]).unwrap().remove(0);
        let mut executable = Executable::new(fs::read(&build.path).unwrap()).unwrap();
        let length = go.len();
        let claim = format!("go{claimed:<length$}");
        assert!(executable.replace(format!("go{go}").as_bytes(), claim.as_bytes()) > 0, "{build}");
        let file = scratch.program(&format!("as-{claimed}-{mode}-{go}"), &executable.bytes).unwrap();
        let answer = inspect(path(&file));
        let memory = &array(&answer, "/abilities").unwrap()[0];
        assert_eq!(memory["name"], "T0 memory", "{answer}");
        assert_eq!(memory["ok"], proven, "{go} as {claimed}: {memory}");
        if proven {
            assert_eq!(answer["refused"], Value::Null, "{answer}");
            assert!(!array(&answer, "/sites").unwrap().is_empty(), "{answer}");
        } else {
            let why = text(&answer, "/refused").unwrap();
            assert!(why.contains(claimed), "{why}");
            assert!(array(&answer, "/sites").unwrap().is_empty(), "{answer}");
            assert!(text(memory, "/would_help").unwrap().contains("DWARF"), "{memory}");
            // What does not need the layout is told all the same.
            assert!(!array(&answer, "/hazards").unwrap().is_empty(), "{answer}");
        }
    }
}
