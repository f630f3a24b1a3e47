//! Core files: a dump of one is the dump of the process while it lived, and a crash is told as the process told it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gotrail_tests::attach::{Answer, run};
use gotrail_tests::core_file::{by_gcore, of_kernel, start, start_ready};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, Cell, MODES, OLDEST_AND_NEWEST, VERSIONS, builds, cells, each};
use gotrail_tests::json::{array, number, text, truth};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::scratch::Scratch;
use gotrail_tests::traceback::parse;
use rustix::process::Signal;
use serde_json::Value;

use crate::dump::differences;

/// Answers of one process, live and from its core file.
struct Pair {
    live: Vec<Answer>,
    core: Vec<Answer>,
}

fn dump(what: &str, arguments: &[&str]) -> Answer {
    run(&[&["dump", what][..], arguments].concat()).unwrap().well().unwrap()
}

/// Asks a quiet process, lets the kernel write its core, and asks that.
fn both(build: &Build, forms: &[&[&str]]) -> Pair {
    let folder = Scratch::new("core").unwrap();
    let mut target = start(build, &[], &folder).unwrap();
    let live = forms.iter().map(|form| dump(&target.pid().to_string(), form)).collect();
    target.signal(Signal::ABORT).unwrap();
    target.wait().unwrap();
    let core = of_kernel(&folder).unwrap();
    let core = forms.iter().map(|form| dump(core.to_str().unwrap(), form)).collect();
    Pair { live, core }
}

/// The goroutines of a text, without the signal before them.
fn tracebacks(answer: &Answer) -> &str {
    let begin = answer.output.find("\n\ngoroutine ").map_or(0, |at| at + 2);
    &answer.output[begin..]
}

/// What of a goroutine can't change while it is parked, and is no time. What a descriptor is, the kernel knows of the
/// living alone.
fn lasting(goroutine: &Value) -> Value {
    let mut lasting = goroutine.clone();
    for time in ["wait_since_ns", "wait_for_ns", "wait_for_at_least_ns"] {
        lasting[time] = Value::Null;
    }
    if !lasting["wait"].is_null() {
        for gone in ["until", "remaining_ns", "file"] {
            lasting["wait"][gone] = Value::Null;
        }
    }
    lasting
}

fn by_id(answer: &Answer) -> BTreeMap<u64, Value> {
    let json = answer.json().unwrap();
    let goroutines = array(&json, "/goroutines").unwrap();
    goroutines.iter().map(|g| (number(g, "/goid").unwrap(), lasting(g))).collect()
}

fn parked(goroutines: &BTreeMap<u64, Value>) -> Vec<&Value> {
    goroutines.values().filter(|g| g["status"] == "waiting" || g["status"] == "syscall").collect()
}

#[test]
fn root_truth_1_a_core_is_dumped_as_the_process_was() {
    needs!(Need::Fixtures, Need::Root, Need::Cores);
    let mut all = builds("population", &VERSIONS, &MODES).unwrap();
    all.extend(builds("waits", &VERSIONS, &["stripped"]).unwrap());
    each(&all, 2, |build| {
        let Pair { live, core } =
            both(build, &[&[], &["--format", "json"], &["--format", "folded"], &["--waits"], &["--group"]]);
        let differences =
            differences(&parse(tracebacks(&live[0])).unwrap(), &parse(tracebacks(&core[0])).unwrap());
        assert!(differences.is_empty(), "{differences:#?}");
        let (then, now) = (by_id(&live[1]), by_id(&core[1]));
        assert!(parked(&then).len() > 10, "{then:#?}");
        assert_eq!(parked(&then), parked(&now));
        assert_eq!(live[2].output, core[2].output, "folded");
        for json in [live[1].json().unwrap(), core[1].json().unwrap()] {
            assert_eq!((number(&json, "/unread_bytes").unwrap(), number(&json, "/torn").unwrap()), (0, 0));
        }
        let json = core[1].json().unwrap();
        assert_eq!(text(&json, "/core/crash/signal").unwrap(), "SIGABRT");
        assert_eq!(number(&json, "/core/missing_bytes").unwrap(), 0);
        // Nobody waits a minute in a test, so the groups and what is waited on are told in the same words.
        let waits = |answer: &Answer| answer.output.lines().filter(|l| !l.contains("sleep")).count();
        assert_eq!(waits(&live[3]), waits(&core[3]), "{}\n{}", live[3].output, core[3].output);
        assert_eq!(live[4].output.lines().count(), core[4].output.lines().count());
    });
}

/// Each way of building: position-independent, with C code, with profiles.
#[test]
fn root_truth_1_a_core_of_each_kind_of_executable_is_dumped_as_the_process_was() {
    needs!(Need::Fixtures, Need::Root, Need::Cores);
    let here = |cell: Cell| match cell {
        Cell::Built(build) if build.arch == gotrail_tests::fixture::ARCHITECTURE => Some(build),
        _ => None,
    };
    let ends = ["1.18.10", "1.27.3"];
    let programs = |build: &Build| ends.contains(&build.go.as_str()) && !is_library(build);
    let builds: Vec<Build> = cells("matrix").unwrap().into_iter().filter_map(here).filter(programs).collect();
    assert!(builds.len() > 8, "{builds:?}");
    each(&builds, 2, |build| {
        let Pair { live, core } = both(build, &[&["--format", "json", "--system"]]);
        let (then, now) = (by_id(&live[0]), by_id(&core[0]));
        assert!(parked(&then).len() > 10, "{then:#?}");
        for goroutine in parked(&then) {
            let id = number(goroutine, "/goid").unwrap();
            // The runtime's own may be about to do something.
            if goroutine["system"] == false {
                assert_eq!(Some(goroutine), now.get(&id), "{build}");
            }
        }
    });
}

fn is_library(build: &Build) -> bool {
    matches!(build.mode.as_str(), "c-shared" | "plugin" | "c-archive")
}

/// The places of a traceback that a crashing process prints, by goroutine, in its order; and whether all are there.
struct Own {
    id: u64,
    state: String,
    places: Vec<String>,
    elided: bool,
}

fn own_tracebacks(errors: &str) -> Vec<Own> {
    let mut all: Vec<Own> = Vec::new();
    let mut within = false;
    let mut created = false;
    for line in errors.lines() {
        if let Some(rest) = line.strip_prefix("goroutine ")
            && let Some((id, state)) = rest.split_once(' ')
            && let Ok(id) = id.parse()
        {
            let state = state.rsplit_once('[').unwrap().1.split([']', ',']).next().unwrap().to_owned();
            all.push(Own { id, state, places: Vec::new(), elided: false });
            (within, created) = (true, false);
        } else if line.is_empty() || line.starts_with("runtime stack:") {
            within = false;
        } else if within && line.starts_with("\tgoroutine running on other thread") {
            // Of two that die at once the first tells so of the second, which tells its own calls afterwards.
            all.pop();
            within = false;
        } else if let (true, Some(own)) = (within, all.last_mut()) {
            own.elided |= line.starts_with("...");
            created |= line.starts_with("created by ");
            if let Some(place) = line.strip_prefix('\t').filter(|_| !created && !own.elided) {
                own.places.push(place.split(' ').next().unwrap().to_owned());
            }
        }
    }
    all
}

fn places(goroutine: &Value) -> Vec<String> {
    let frames = array(goroutine, "/stack").unwrap();
    frames.iter().map(|f| format!("{}:{}", text(f, "/file").unwrap(), number(f, "/line").unwrap())).collect()
}

/// One death of one build.
struct Case<'a> {
    build: &'a Build,
    kind: &'static str,
}

impl std::fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -kind {}", self.build, self.kind)
    }
}

#[test]
fn root_truth_1_a_core_of_a_crash_is_dumped_as_the_process_told_it() {
    needs!(Need::Fixtures, Need::Root, Need::Cores);
    const KINDS: [&str; 8] =
        ["string", "nilptr", "nested", "repanic", "unsafe-segv", "mapwrites", "deadlock", "stackoverflow"];
    let builds = builds("crash", &OLDEST_AND_NEWEST, &["stripped"]).unwrap();
    let cases: Vec<Case<'_>> =
        builds.iter().flat_map(|build| KINDS.map(|kind| Case { build, kind })).collect();
    each(&cases, 2, |case| {
        let folder = Scratch::new("crash").unwrap();
        let mut target = start(case.build, &["-kind", case.kind], &folder).unwrap();
        target.tell("").unwrap();
        target.wait().unwrap();
        let core = of_kernel(&folder).unwrap();
        let core = core.to_str().unwrap();
        let json = dump(core, &["--format", "json", "--system"]).json().unwrap();
        check_crash(case, &target.errors(), &json);
        // The one that died comes first, and the signal before it.
        let human = dump(core, &[]).output;
        assert!(human.starts_with("SIGABRT\nPC=0x"), "{human}");
        if let Some(id) = json["core"]["crash"]["goid"].as_u64() {
            let first = human.lines().find(|line| line.starts_with("goroutine ")).unwrap();
            assert!(first.starts_with(&format!("goroutine {id} [running")), "{human}");
        }
    });
}

fn check_crash(case: &Case<'_>, errors: &str, json: &Value) {
    let own = own_tracebacks(errors);
    assert!(own.len() > 4, "{errors}");
    let goroutines = array(json, "/goroutines").unwrap();
    let ours = |id: u64| goroutines.iter().find(|g| g["goid"] == id).unwrap();
    assert!(truth(json, "/core/crash/go_thread").unwrap());
    let died = json["core"]["crash"]["goid"].as_u64();
    let stack = places(&json["core"]["crash"]);
    if case.kind == "deadlock" {
        // The runtime finds that on no goroutine.
        assert_eq!(died, None);
        let functions = array(json, "/core/crash/stack").unwrap();
        assert!(functions.iter().any(|f| f["function"] == "runtime.checkdead"), "{functions:?}");
    } else {
        // Both that write the map may notice, and tell of it.
        let dead = own.iter().find(|own| Some(own.id) == died && own.state == "running").unwrap();
        assert!(case.kind == "mapwrites" || dead.id == own[0].id, "{errors}");
        let all = places(ours(dead.id));
        assert_eq!(all, stack, "the thread's stack is the goroutine's");
        let is_end = if dead.elided {
            // The stack's middle is left out there, and its outer end here.
            all.windows(dead.places.len()).any(|part| part == dead.places)
        } else {
            all.ends_with(&dead.places)
        };
        assert!(is_end && dead.places.len() > 3, "theirs {:#?}, ours {all:#?}", dead.places);
    }
    for theirs in &own {
        // Those that could run went on while the process told of itself.
        if !matches!(theirs.state.as_str(), "running" | "runnable" | "syscall") {
            let all = places(ours(theirs.id));
            assert_eq!(all, theirs.places, "{case}: goroutine {}", theirs.id);
        }
    }
}

/// gcore stops a process where it is, so that goroutines that run are in the midst of it.
#[test]
fn root_truth_1_goroutines_that_ran_have_their_stack_in_a_core() {
    needs!(Need::Fixtures, Need::Root, Need::Gcore);
    each(&builds("population", &OLDEST_AND_NEWEST, &["stripped"]).unwrap(), 1, |build| {
        let folder = Scratch::new("gcore").unwrap();
        let mut target = start(build, &["-busy", "3"], &folder).unwrap();
        let core = by_gcore(&target, &folder).unwrap();
        let json = dump(core.to_str().unwrap(), &["--format", "json"]).json().unwrap();
        target.tell("quit").unwrap();
        assert!(target.wait().unwrap().success(), "{}", target.words());
        assert!(json["core"]["crash"].is_null(), "{}", json["core"]);
        let running: Vec<&Value> =
            array(&json, "/goroutines").unwrap().iter().filter(|g| g["status"] == "running").collect();
        assert!(!running.is_empty(), "{json}");
        for goroutine in running {
            let functions: Vec<&str> = array(goroutine, "/stack")
                .unwrap()
                .iter()
                .map(|frame| text(frame, "/function").unwrap())
                .collect();
            let busy = ["main.busyLeaf", "main.busyMiddle", "main.busyEntry", "runtime.goexit"];
            assert!(functions.ends_with(&busy), "{functions:?}");
            assert_eq!(goroutine["stack_truncated"], false, "{goroutine}");
        }
    });
}

fn refused(arguments: &[&str], code: i32, words: &str) {
    let answer = run(&[&["dump"], arguments].concat()).unwrap();
    assert_eq!(answer.code, Some(code), "{arguments:?}: {answer:?}");
    assert!(answer.errors.contains(words) && answer.output.is_empty(), "{arguments:?}: {answer:?}");
}

/// A core of a program that runs from a folder of its own.
fn crashed(build: &Build, folder: &Scratch, program: &Path) -> String {
    let mut target: Process = start_ready(program, &build.to_string(), &[], folder).unwrap();
    target.signal(Signal::ABORT).unwrap();
    target.wait().unwrap();
    of_kernel(folder).unwrap().to_str().unwrap().to_owned()
}

#[test]
fn root_fail_1_a_core_without_its_executable_is_refused_and_says_what_to_give() {
    needs!(Need::Fixtures, Need::Root, Need::Cores);
    let both = builds("population", &["1.27.3"], &MODES).unwrap();
    let (build, other) = (&both[1], &both[0]);
    let folder = Scratch::new("core").unwrap();
    let program = folder.program("program", &fs::read(&build.path).unwrap()).unwrap();
    let core = crashed(build, &folder, &program);
    let whole = dump(&core, &[]).output;
    let moved = folder.path().join("moved");
    fs::rename(&program, &moved).unwrap();
    refused(&[&core], 2, "--binary FILE");
    let given = dump(&core, &["--binary", moved.to_str().unwrap()]).output;
    assert_eq!(given, whole);
    // Another program is where it was, or is given.
    folder.program("program", &fs::read(&other.path).unwrap()).unwrap();
    refused(&[&core], 2, "its build ID is");
    refused(&[&core, "--binary", other.path.to_str().unwrap()], 2, "is not the executable of the core file");
    refused(&[&core, "--binary", "/bin/true"], 2, "is not the executable of the core file");
    refused(&[&core, "--binary", "/nowhere"], 2, "tried to read /nowhere");
}

#[test]
fn root_fail_1_what_is_no_core_is_refused() {
    needs!(Need::Fixtures, Need::Root);
    let build = &builds("population", &["1.27.3"], &["stripped"]).unwrap()[0];
    refused(&["/nowhere/core"], 2, "no such file");
    refused(&["/proc/version"], 3, "is no core file");
    refused(&["/tmp"], 3, "no regular file");
    refused(&[build.path.to_str().unwrap()], 3, "`gotrail inspect` reads");
    let mut target = build.start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    refused(&[&pid, "--binary", build.path.to_str().unwrap()], 2, "--binary is for a core file");
    target.tell("quit").unwrap();
    target.wait().unwrap();
}

#[test]
fn root_fail_1_a_core_that_was_cut_anywhere_is_dumped_or_refused_in_words() {
    needs!(Need::Fixtures, Need::Root, Need::Cores);
    const CUTS: u64 = 40;
    let build = &builds("population", &["1.27.3"], &["stripped"]).unwrap()[0];
    let folder = Scratch::new("core").unwrap();
    let core = crashed(build, &folder, &build.path);
    let size = fs::metadata(&core).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(&core).unwrap();
    let (mut told, mut refused) = (0, 0);
    let within = (0..6).map(|step| 1 << (step * 3));
    for len in (1..CUTS).rev().map(|cut| size / CUTS * cut).chain(within.rev()) {
        file.set_len(len).unwrap();
        let answer = run(&["dump", &core]).unwrap();
        assert!(!answer.errors.contains("panicked"), "{len}: {answer:?}");
        match answer.code {
            Some(0) => {
                assert!(answer.errors.contains("is cut short"), "{len}: {answer:?}");
                told += 1;
            }
            Some(3) => {
                let words = ["cut short", "damaged", "no core file"];
                assert!(words.iter().any(|word| answer.errors.contains(word)), "{len}: {answer:?}");
                refused += 1;
            }
            // The list of files is gone, and with it the executable's name.
            Some(2) => assert!(answer.errors.contains("--binary FILE"), "{len}: {answer:?}"),
            _ => panic!("{len}: {answer:?}"),
        }
    }
    assert!(told > 0 && refused > 3, "{told} {refused}");
}
