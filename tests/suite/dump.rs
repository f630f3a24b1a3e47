//! `gotrail dump` against the process's own `debug=2`.

use std::collections::{BTreeMap, BTreeSet};

use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::traceback::{Goroutine, parse};
use serde_json::Value;

/// The goroutine that writes the process's own dump: it runs then, and waits for a line when we look.
const DUMPER: u64 = 1;

fn start(build: &Build) -> Process {
    build.start_ready(&[]).unwrap()
}

fn own_dump(target: &mut Process) -> BTreeMap<u64, Goroutine> {
    own_stacks(target, "dump")
}

/// What a program says of its goroutines when it is told so.
pub(crate) fn own_stacks(target: &mut Process, command: &str) -> BTreeMap<u64, Goroutine> {
    target.tell(command).unwrap();
    target.await_output("`BEGIN`", |line| (line == "BEGIN").then_some(())).unwrap();
    let mut text = String::new();
    target
        .await_output("`END`", |line| {
            text.push_str(line);
            text.push('\n');
            (line == "END").then_some(())
        })
        .unwrap();
    parse(text.strip_suffix("END\n").unwrap()).unwrap()
}

fn truth(target: &mut Process) -> Value {
    target.tell("truth").unwrap();
    target.await_output("the truth", |line| serde_json::from_str(line).ok().filter(Value::is_array)).unwrap()
}

fn quit(mut target: Process) {
    target.tell("quit").unwrap();
    assert!(target.wait().unwrap().success(), "{}", target.words());
}

/// What differs, by class.
pub(crate) fn differences(
    own: &BTreeMap<u64, Goroutine>,
    ours: &BTreeMap<u64, Goroutine>,
) -> BTreeMap<&'static str, Vec<String>> {
    let mut classes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut note = |class, what: String| classes.entry(class).or_default().push(what);
    let ids: BTreeSet<u64> = own.keys().chain(ours.keys()).copied().filter(|id| *id != DUMPER).collect();
    for id in ids {
        let (Some(a), Some(b)) = (own.get(&id), ours.get(&id)) else {
            let (class, goroutine) =
                own.get(&id).map_or(("not in theirs", ours.get(&id)), |g| ("not in ours", Some(g)));
            note(class, format!("goroutine {id}: {goroutine:?}"));
            continue;
        };
        if a.state != b.state {
            note("state", format!("goroutine {id}: theirs {:?}, ours {:?}", a.state, b.state));
        }
        if a.calls != b.calls {
            note("calls", format!("goroutine {id}: theirs {:?}, ours {:?}", a.calls, b.calls));
        }
        if a.ancestors != b.ancestors {
            note("ancestors", format!("goroutine {id}: theirs {:#?}, ours {:#?}", a.ancestors, b.ancestors));
        }
        if a.created != b.created {
            note("creator", format!("goroutine {id}: theirs {:?}, ours {:?}", a.created, b.created));
        }
    }
    classes
}

#[test]
fn root_truth_1_dump_is_the_processes_own_dump() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("population", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let mut target = start(build);
        let pid = target.pid().to_string();
        let own = own_dump(&mut target);
        let ours = parse(&run(&["dump", &pid]).unwrap().well().unwrap().output).unwrap();
        quit(target);
        // 18 groups of three, and main.
        assert_eq!(own.len(), 55, "{:?}", own.keys());
        let differences = differences(&own, &ours);
        assert!(differences.is_empty(), "{differences:#?}");
        let dumper = &ours[&DUMPER];
        assert!(dumper.calls.iter().any(|call| call.function == "main.main"), "{dumper:?}");
        assert_eq!(dumper.created, None);
    });
}

#[test]
fn root_truth_1_dump_as_json_agrees_with_the_truth() {
    needs!(Need::Fixtures, Need::Root);
    let markers = Markers::of("population").unwrap();
    each(&builds("population", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let mut target = start(build);
        let pid = target.pid().to_string();
        let own = own_dump(&mut target);
        let truth = truth(&mut target);
        let json = run(&["dump", &pid, "--format", "json"]).unwrap().well().unwrap().json().unwrap();
        quit(target);
        assert_eq!(number(&json, "/pid").unwrap().to_string(), pid);
        assert_eq!(text(&json, "/go_version").unwrap(), format!("go{}", build.go));
        check_json(&own, &truth, &json, &markers);
    });
}

/// The dump as JSON is the process's own, and has what the program says that it made.
pub(crate) fn check_json(own: &BTreeMap<u64, Goroutine>, truth: &Value, json: &Value, markers: &Markers) {
    assert_eq!(text(json, "/schema").unwrap(), "gotrail.dump/1");
    assert_eq!((number(json, "/torn").unwrap(), number(json, "/unread").unwrap()), (0, 0), "{json}");
    let goroutines = array(json, "/goroutines").unwrap();
    let by_id: BTreeMap<u64, &Value> = goroutines.iter().map(|g| (number(g, "/goid").unwrap(), g)).collect();
    assert_eq!(by_id.len(), goroutines.len(), "a goroutine stands there twice");
    assert!(by_id.keys().eq(own.keys()), "theirs {:?}, ours {:?}", own.keys(), by_id.keys());

    for (id, theirs) in own.iter().filter(|(id, _)| **id != DUMPER) {
        let ours = by_id[id];
        let state = ours["wait_reason"].as_str().unwrap_or(ours["status"].as_str().unwrap());
        assert_eq!(theirs.state.split(", ").next(), Some(state), "{ours}");
        assert_eq!(theirs.state.contains("locked to thread"), ours["locked_to_thread"] == true, "{ours}");
        let created = theirs.created.as_ref().unwrap();
        let line = format!(
            "{}:{}",
            text(ours, "/created_by/file").unwrap(),
            number(ours, "/created_by/line").unwrap()
        );
        assert!(created.place.starts_with(&format!("{line} ")), "{created:?} {ours}");
        assert!(
            created.function.starts_with(text(ours, "/created_by/function").unwrap()),
            "{created:?} {ours}"
        );
    }
    for group in truth.as_array().unwrap() {
        check_group(group, &by_id, markers);
    }
}

/// Each group of the fixture: as many goroutines as it made, in the function, on the line and in the state that
/// it made them for, created on the line that made them.
fn check_group(group: &Value, by_id: &BTreeMap<u64, &Value>, markers: &Markers) {
    let (name, entry, leaf) = (
        text(group, "/name").unwrap(),
        text(group, "/entry_function").unwrap(),
        text(group, "/leaf_function").unwrap(),
    );
    let wait = markers.place(&format!("wait-{name}")).unwrap();
    let create = markers.place(&format!("create-{name}")).unwrap();
    let members = by_id.values().filter(|goroutine| {
        let stack = array(goroutine, "/stack").unwrap();
        let on = |function: &str| stack.iter().position(|frame| frame["function"] == function);
        let at = |frame: &Value| wait.is(frame["file"].as_str().unwrap(), frame["line"].as_u64().unwrap());
        let by = &goroutine["created_by"];
        // The wait may be in a closure of the leaf.
        on(entry).is_some()
            && stack.iter().any(|f| f["function"].as_str().unwrap().starts_with(leaf) && at(f))
            && create.is(by["file"].as_str().unwrap_or_default(), by["line"].as_u64().unwrap_or_default())
            && (goroutine["wait_reason"] == group["state"] || goroutine["status"] == group["state"])
    });
    assert_eq!(members.count() as u64, number(group, "/count").unwrap(), "{group}: {by_id:#?}");
}
