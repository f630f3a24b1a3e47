//! The forms of `gotrail dump` that other tools read, and what groups and filters goroutines.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gotrail_tests::attach::{Answer, run};
use gotrail_tests::env::{Need, gotrail, is_everything_required};
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::gotool;
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::scratch::Scratch;
use gotrail_tests::traceback::parse;
use serde_json::Value;

/// 18 groups of three, and main.
const GOROUTINES: u64 = 55;

fn newest(mode: &str) -> Build {
    builds("population", &[VERSIONS[3]], &[mode]).unwrap().remove(0)
}

fn dump(target: &Process, arguments: &[&str]) -> Answer {
    let pid = target.pid().to_string();
    let all: Vec<&str> = ["dump", &pid].iter().chain(arguments).copied().collect();
    run(&all).unwrap().well().unwrap()
}

fn json(target: &Process, arguments: &[&str]) -> Value {
    dump(target, &[&["--format", "json"], arguments].concat()).json().unwrap()
}

fn quit(mut target: Process) {
    target.tell("quit").unwrap();
    assert!(target.wait().unwrap().success(), "{}", target.words());
}

#[test]
fn root_truth_1_folded_stacks_sum_to_the_goroutines() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("population", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let target = build.start_ready(&[]).unwrap();
        let folded = dump(&target, &["--format", "folded"]).output;
        quit(target);
        let mut sum = 0;
        for line in folded.lines() {
            let (stack, count) = line.rsplit_once(' ').unwrap();
            assert!(stack.split(';').all(|frame| !frame.is_empty()), "{line:?}");
            sum += count.parse::<u64>().unwrap();
        }
        assert_eq!(sum, GOROUTINES, "{folded}");
        // Three of a group share a line; its root is the outermost frame.
        let line = folded.lines().find(|line| line.contains("main.mutexLeaf;")).unwrap();
        assert!(line.starts_with("runtime.goexit;") && line.ends_with(" 3"), "{line}");
        assert!(line.contains("main.mutexEntry;main.mutexMiddle;main.mutexLeaf;"), "{line}");
    });
}

#[test]
fn root_truth_1_without_stacks_all_else_is_the_same() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("population", &VERSIONS, &["stripped"]).unwrap(), 2, |build| {
        let target = build.start_ready(&[]).unwrap();
        let (whole, bare) = (json(&target, &[]), json(&target, &["--no-stacks"]));
        let (text, bare_text) = (dump(&target, &[]).output, dump(&target, &["--no-stacks"]).output);
        let grouped = json(&target, &["--no-stacks", "--group"]);
        quit(target);
        let without_stacks = |dump: &Value| -> Vec<Value> {
            let mut goroutines = array(dump, "/goroutines").unwrap().to_vec();
            for goroutine in &mut goroutines {
                // Main has a line to read between two dumps; what remains of a sleep, and an age, go on.
                for name in ["stack", "stack_truncated", "wait", "wait_for_ns", "wait_for_at_least_ns"] {
                    goroutine.as_object_mut().unwrap().remove(name);
                }
            }
            goroutines
        };
        assert!(array(&bare, "/goroutines").unwrap().iter().all(|g| g.get("stack").is_none()), "{bare}");
        assert_eq!(without_stacks(&whole), without_stacks(&bare));
        // Heads and creators are left of the text, in the same order.
        let kept = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|l| l.starts_with("goroutine ") || l.starts_with("created by "));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(kept(&text), kept(&bare_text));
        assert!(!bare_text.contains("(...)") && !bare_text.contains("stack unavailable"), "{bare_text}");
        // Groups are those of state and reason then.
        let groups = array(&grouped, "/groups").unwrap();
        let sum: u64 = groups.iter().map(|group| number(group, "/count").unwrap()).sum();
        assert_eq!(sum, GOROUTINES);
        let reasons: std::collections::BTreeSet<String> =
            groups.iter().map(|g| format!("{} {}", g["status"], g["wait_reason"])).collect();
        assert_eq!(reasons.len(), groups.len(), "{grouped}");
    });
}

#[test]
fn root_stacks_that_are_asked_for_and_left_out_are_refused() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest("stripped").start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    for more in [&["--filter", "func=main"][..], &["--format", "folded"], &["--waits"]] {
        let answer = run(&[&["dump", &pid, "--no-stacks"], more].concat()).unwrap();
        assert_eq!(answer.code, Some(2), "{more:?}: {}", answer.errors);
        assert!(answer.errors.contains("--no-stacks"), "{}", answer.errors);
    }
    quit(target);
}

#[test]
fn root_truth_1_groups_have_all_goroutines_once_the_largest_first() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("population", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let target = build.start_ready(&["-n", "4"]).unwrap();
        let grouped = json(&target, &["--group"]);
        let said = dump(&target, &["--group"]).output;
        quit(target);
        let groups = array(&grouped, "/groups").unwrap();
        let counts: Vec<u64> = groups.iter().map(|group| number(group, "/count").unwrap()).collect();
        assert_eq!(counts.iter().sum::<u64>(), 18 * 4 + 1, "{counts:?}");
        assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
        // Each kind of wait is one group: its members share stack and state.
        assert_eq!(counts, [&[4; 18][..], &[1]].concat());
        let labelled = groups
            .iter()
            .find(|group| {
                array(group, "/stack").unwrap().iter().any(|frame| frame["function"] == "main.labelledLeaf")
            })
            .unwrap();
        let labels = serde_json::json!([{ "labels": { "shard": "7", "tenant": "acme" }, "count": 4 }]);
        assert_eq!(labelled["labels"], labels);
        assert!(said.contains("labels: shard=7, tenant=acme (4)"), "{said}");
        let heads = said.lines().filter(|line| line.contains("goroutine") && line.contains(" ["));
        assert_eq!(heads.count(), 19, "{said}");
    });
}

#[test]
fn root_filters_leave_what_they_say() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest("stripped").start_ready(&[]).unwrap();
    let left = |filter: &[&str]| {
        let filters: Vec<&str> = filter.iter().flat_map(|one| ["--filter", one]).collect();
        let found = json(&target, &filters);
        let text = dump(&target, &filters).output;
        let count = array(&found, "/goroutines").unwrap().len();
        let in_text = if text.is_empty() { 0 } else { parse(&text).unwrap().len() };
        assert_eq!(count, in_text, "{filter:?}");
        count
    };
    assert_eq!(left(&["reason=sync.Mutex.Lock"]), 3);
    assert_eq!(left(&["state=select"]), 3);
    assert_eq!(left(&["state=select", "state=sleep"]), 6);
    // The plain receives, the labelled ones, those that range, and those of a nil channel.
    assert_eq!(left(&["reason=chan receive"]), 12);
    assert_eq!(left(&["reason=chan receive,func=main.labelled"]), 3);
    assert_eq!(left(&["func=^main.*Leaf$"]), 54);
    // The connections, the pipes, and main, which waits for a line.
    assert_eq!(left(&["func=internal/poll.(*FD).Read"]), 7);
    assert_eq!(left(&["label=tenant:acme"]), 3);
    assert_eq!(left(&["label=tenant:other"]), 0);
    assert_eq!(left(&["goid=1"]), 1);
    assert_eq!(left(&["age>=1h"]), 0);
    let pid = target.pid().to_string();
    let refused = run(&["dump", &pid, "--filter", "colour=red"]).unwrap();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.errors.contains("reason="), "{refused:?}");
    quit(target);
}

#[test]
fn root_pprof_opens_the_profile() {
    needs!(Need::Fixtures, Need::Root, Need::Go);
    let scratch = Scratch::new("pprof").unwrap();
    for build in builds("population", &VERSIONS, &MODES).unwrap() {
        let target = build.start_ready(&[]).unwrap();
        let file = scratch.path().join("goroutines.pb");
        let status = Command::new(gotrail().unwrap())
            .args(["dump", &target.pid().to_string(), "--format", "pprof"])
            .stdout(fs::File::create(&file).unwrap())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{build}: {status}");
        quit(target);
        let raw = gotool::run(scratch.path(), &["tool", "pprof", "-raw", file.to_str().unwrap()]).unwrap();
        check_raw(&raw, &build);
        // And sums by function, with those that were inlined.
        let top = gotool::run(
            scratch.path(),
            &["tool", "pprof", "-top", "-cum", "-nodecount=1000", file.to_str().unwrap()],
        )
        .unwrap();
        assert!(top.contains(&format!("{GOROUTINES} total")), "{build}: {top}");
        let middle = top.lines().find(|line| line.contains("main.mutexMiddle")).unwrap();
        assert_eq!(middle.split_whitespace().nth(3), Some("3"), "{build}: {middle}");
    }
}

/// The text of `pprof -raw`: samples with their labels, locations with their lines.
fn check_raw(raw: &str, build: &Build) {
    assert!(raw.contains("goroutine/count"), "{build}: {raw}");
    let (samples, rest) = raw.split_once("Locations\n").unwrap();
    let values = samples.lines().filter_map(|line| {
        let (count, stack) = line.trim_start().split_once(": ")?;
        stack.starts_with(|c: char| c.is_ascii_digit()).then(|| count.parse::<u64>().ok())?
    });
    assert_eq!(values.sum::<u64>(), GOROUTINES, "{build}: {raw}");
    assert!(samples.contains("wait_reason:[chan receive]"), "{build}: {raw}");
    assert!(samples.contains("tenant:[acme]") && samples.contains("shard:[7]"), "{build}: {raw}");
    let (locations, mappings) = rest.split_once("Mappings\n").unwrap();
    assert!(locations.contains("main.selectTwoLeaf"), "{build}: {raw}");
    assert!(
        mappings.contains(build.path.to_str().unwrap()) && mappings.contains("[FN]"),
        "{build}: {mappings}"
    );
}

/// What parses the tracebacks of Go for a living; `None` where it can't be had here, which is said.
#[expect(clippy::print_stdout, reason = "who reads the result must see what it does not cover")]
pub(crate) fn panicparse(folder: &Path) -> Option<PathBuf> {
    const PARSER: &str = "github.com/maruel/panicparse/v2/cmd/pp@v2.5.0";
    match gotool::install(folder, PARSER) {
        Ok(parser) => Some(parser),
        Err(error) if is_everything_required() => panic!("{error:#}"),
        Err(error) => {
            println!("left out: {PARSER}: {error:#}");
            None
        }
    }
}

/// The parser reads the text without a complaint, and finds all goroutines in it.
pub(crate) fn panicparse_reads(parser: &Path, folder: &Path, text: &str) {
    let file = folder.join("dump.txt");
    fs::write(&file, text).unwrap();
    let output = Command::new(parser)
        .args(["-no-color", "-force-color=false"])
        .stdin(fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{errors}\n{text}");
    // What it does not understand it passes on as it is.
    assert!(!said.contains("goroutine "), "{said}");
    let heads = said.lines().filter(|line| !line.starts_with(' '));
    let sum: u64 =
        heads.filter_map(|line| line.split_once(": ").and_then(|(count, _)| count.parse::<u64>().ok())).sum();
    assert_eq!(sum, text.matches("goroutine ").count() as u64 - in_goroutine(text), "{said}");
}

#[test]
fn root_truth_1_a_parser_of_tracebacks_reads_the_dump() {
    needs!(Need::Fixtures, Need::Root, Need::Go);
    let scratch = Scratch::new("panicparse").unwrap();
    let Some(parser) = panicparse(scratch.path()) else { return };
    for build in builds("population", &VERSIONS, &MODES).unwrap() {
        // Two are busy: they run, and have no stack.
        let target = build.start_ready(&["-busy", "2"]).unwrap();
        for system in [&[][..], &["--system"]] {
            panicparse_reads(&parser, scratch.path(), &dump(&target, system).output);
        }
        quit(target);
    }
}

/// How often the text names a creator, or says that one runs.
fn in_goroutine(text: &str) -> u64 {
    (text.matches(" in goroutine ").count() + text.matches("\tgoroutine running").count()) as u64
}

#[test]
fn root_combinations_that_make_no_sense_are_refused() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest("default").start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    for arguments in
        [&["--waits", "--group"][..], &["--waits", "--format", "pprof"], &["--group", "--format", "folded"]]
    {
        let answer = run(&[&["dump", &pid][..], arguments].concat()).unwrap();
        assert_eq!((answer.code, answer.output.as_str()), (Some(2), ""), "{arguments:?}: {answer:?}");
    }
    let both = json(&target, &["--waits", "--group"]);
    assert!(both["groups"].is_array() && both["targets"].is_array() && both["goroutines"].is_null());
    assert_eq!(text(&both, "/schema").unwrap(), "gotrail.dump/1");
    quit(target);
}
