//! `gotrail profile`, held against the runtime's own execution trace of the same time, and in the forms that other
//! tools read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use gotrail_tests::attach::{Answer, run};
use gotrail_tests::env::{self, Need};
use gotrail_tests::fixture::{Build, OLDEST_AND_NEWEST, VERSIONS, builds};
use gotrail_tests::gotool;
use gotrail_tests::json::{array, number, text, truth};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::scratch::Scratch;
use gotrail_tests::trace::{Activity, Times, times};
use rustix::process::Signal;
use serde_json::Value;

/// What a share may be off by, where it is above this one.
const TOLERANCE: f64 = 0.02;
const LARGE: f64 = 0.05;
/// The first Go whose trace has times of the monotonic clock (internal/trace, version 2).
const FIRST_WITH_CLOCK: u32 = 22;

fn profile(target: &Process, arguments: &[&str]) -> Answer {
    let pid = target.pid().to_string();
    let all: Vec<&str> = ["profile", &pid].iter().chain(arguments).copied().collect();
    run(&all).unwrap().well().unwrap()
}

fn newest() -> Build {
    builds("wall", &[VERSIONS[3]], &["default"]).unwrap().remove(0)
}

fn quit(mut target: Process) {
    target.tell("quit").unwrap();
    assert!(target.wait().unwrap().success(), "{}", target.words());
}

fn real(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

/// What a profile says, by activity.
fn measured(profile: &Value) -> Times {
    let mut times = Times::new();
    for stack in array(profile, "/stacks").unwrap() {
        let mut frames: Vec<(String, u64)> = array(stack, "/stack")
            .unwrap()
            .iter()
            .map(|frame| (text(frame, "/function").unwrap().to_owned(), number(frame, "/line").unwrap()))
            .collect();
        if let Some(start) = stack["start_function"].as_str() {
            frames.push((start.to_owned(), 0));
        }
        if let Some(activity) = Activity::of(text(stack, "/state").unwrap(), &frames) {
            *times.entry(activity).or_default() += real(stack, "/time_ns");
        }
    }
    times
}

fn by_state(times: &Times) -> BTreeMap<&str, f64> {
    let mut states = BTreeMap::new();
    for (activity, ns) in times {
        *states.entry(activity.state.as_str()).or_default() += ns;
    }
    states
}

/// Compares the shares of those that are above a share in either; returns how many these are.
fn compare<K: Ord + std::fmt::Debug>(
    build: &Build,
    ours: &BTreeMap<K, f64>,
    truth: &BTreeMap<K, f64>,
    above: f64,
) -> usize {
    let sum = |times: &BTreeMap<K, f64>| times.values().sum::<f64>();
    let (all_ours, all_truth) = (sum(ours), sum(truth));
    let mut compared = 0;
    let mut wrong = Vec::new();
    for key in ours.keys().chain(truth.keys().filter(|key| !ours.contains_key(*key))) {
        let share = |times: &BTreeMap<K, f64>, all: f64| times.get(key).copied().unwrap_or(0.0) / all;
        let (our, true_share) = (share(ours, all_ours), share(truth, all_truth));
        if our.max(true_share) > above {
            compared += 1;
            if (our - true_share).abs() > TOLERANCE {
                wrong.push(format!("{key:?}: {our:.4}, by the trace {true_share:.4}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{build}: {}", wrong.join("\n"));
    compared
}

fn against_the_trace(build: &Build, scratch: &Scratch) {
    let trace = scratch.path().join("wall.trace");
    let trace = trace.to_str().unwrap();
    let mut target = build.start_ready(&["-trace", trace]).unwrap();
    target.tell("begin").unwrap();
    let began: u64 =
        target.await_output("`began`", |line| line.strip_prefix("began ")?.parse().ok()).unwrap();
    let profile = profile(&target, &["--for", "10s", "--format", "json"]).json().unwrap();
    target.tell("end").unwrap();
    target.await_output("`ended`", |line| (line == "ended").then_some(())).unwrap();
    quit(target);

    assert_eq!(text(&profile, "/schema").unwrap(), "gotrail.profile/1");
    let from = number(&profile, "/started_monotonic_ns").unwrap();
    let from = if build.minor().unwrap() < FIRST_WITH_CLOCK { from - began } else { from };
    let traced = times(trace, from, from + number(&profile, "/duration_ns").unwrap()).unwrap();
    let mut ours = measured(&profile);
    // Main reads its input all the time, in the same system call from before the trace to behind it.
    let told = |activity: &Activity| activity.place.iter().all(|frame| !frame.contains("main.main"));
    ours.retain(|activity, _| told(activity));
    let traced: Times = traced.into_iter().filter(|(activity, _)| told(activity)).collect();
    let compared = compare(build, &ours, &traced, LARGE);
    assert!(compared >= 6, "{build}: {compared} stacks above 5 %: {traced:?}");
    // Each of the states, however small: on a busy machine some are.
    assert_eq!(compare(build, &by_state(&ours), &by_state(&traced), 0.0), 4, "{build}: {traced:?}");

    check(&build.to_string(), &profile);
}

/// What holds of each profile of the fixture, whatever the machine: nothing is lost, and what is on the CPUs has its
/// goroutine and a stack that leads from where that began.
pub(crate) fn check(name: &str, profile: &Value) {
    assert_eq!(profile["on_cpu"]["sampled"], true, "{name}: {}", profile["on_cpu"]);
    let losses = &profile["losses"];
    assert!(truth(losses, "/balances").unwrap(), "{name}: {losses}");
    let zero = ["/lost", "/gaps", "/undecodable", "/self_check_failures"]
        .map(|field| number(losses, field).unwrap());
    assert_eq!(zero, [0; 4], "{name}: {losses}");
    assert_eq!(number(losses, "/received").unwrap(), number(profile, "/on_cpu/samples").unwrap(), "{name}");
    assert!(number(profile, "/on_cpu/running_ns").unwrap() > 0, "{name}: {}", profile["on_cpu"]);
    let running: Vec<&Value> =
        array(profile, "/stacks").unwrap().iter().filter(|stack| stack["state"] == "running").collect();
    let names = |stack: &Value| -> Vec<String> {
        let frames = array(stack, "/stack").unwrap().iter();
        frames.map(|frame| text(frame, "/function").unwrap().to_owned()).collect()
    };
    let burns = ["main.burnAlways", "main.burnHalf", "main.burnBriefly"];
    let whole: f64 = running.iter().map(|stack| real(stack, "/time_ns")).sum();
    let known: f64 = running
        .iter()
        .filter(|stack| {
            let names = names(stack);
            names.last().is_some_and(|name| name == "runtime.goexit")
                && names.iter().any(|name| burns.contains(&name.as_str()))
        })
        .map(|stack| real(stack, "/time_ns"))
        .sum();
    assert!(known > whole * 0.9, "{name}: {known} of {whole}: {running:?}");
    let is_whole = |stack: &Value| {
        let names = names(stack);
        names.len() == 4 && names[0] == "main.mix" && names[1] == "main.spin"
    };
    assert!(running.iter().any(|stack| is_whole(stack)), "{name}: {running:?}");
}

#[test]
fn root_truth_1_shares_are_those_of_the_runtimes_own_trace() {
    needs!(Need::Fixtures, Need::Root, Need::Go);
    let scratch = Scratch::new("profile").unwrap();
    let mut all = builds("wall", &VERSIONS, &["default"]).unwrap();
    all.extend(builds("wall", &OLDEST_AND_NEWEST, &["stripped"]).unwrap());
    // One at a time: they are about who gets the CPUs.
    for build in &all {
        against_the_trace(build, &scratch);
    }
}

/// Ticks a second in /proc (include/asm-generic/param.h).
const USER_HZ: f64 = 100.0;

/// CPU time of a process so far, by the kernel.
fn cpu_seconds(target: &Process) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", target.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / USER_HZ
}

#[test]
fn root_truth_1_time_on_the_cpus_is_what_the_kernel_charges() {
    needs!(Need::Fixtures, Need::Root);
    for build in builds("wall", &OLDEST_AND_NEWEST, &["default"]).unwrap() {
        let target = build.start_ready(&[]).unwrap();
        let before = cpu_seconds(&target);
        let profile = profile(&target, &["--for", "6s", "--format", "json"]).json().unwrap();
        let charged = cpu_seconds(&target) - before;
        let samples = number(&profile, "/on_cpu/samples").unwrap();
        let sampled = samples as f64 / real(&profile, "/on_cpu/hertz");
        quit(target);
        // The kernel's figure has the time before and behind the samples too.
        let window = real(&profile, "/duration_ns") / 1e9;
        assert!(
            sampled > 0.1 && sampled < charged * 1.15 + 0.1,
            "{build}: {sampled} s sampled, {charged} s charged"
        );
        assert!(sampled > charged * 0.6, "{build}: {sampled} s sampled in {window} s, {charged} s charged");
        check(&build.to_string(), &profile);
    }
}

#[test]
fn root_the_forms_of_a_profile_agree_and_pprof_opens_one() {
    needs!(Need::Fixtures, Need::Root, Need::Go);
    let scratch = Scratch::new("profile-forms").unwrap();
    for build in builds("wall", &VERSIONS, &["stripped"]).unwrap() {
        let target = build.start_ready(&[]).unwrap();
        let file = scratch.path().join("wall.pb");
        let path = file.to_str().unwrap();
        // It was there before, and everyone could read it.
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let answer = profile(&target, &["--for", "2s", "--format", "pprof", "--output", path]);
        assert_eq!(answer.output, "", "{build}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let folded = profile(&target, &["--for", "1s", "--format", "folded"]).output;
        let hidden = profile(&target, &["--for", "1s", "--format", "json", "--no-labels"]).json().unwrap();
        let shown = profile(&target, &["--for", "1s", "--format", "json"]).json().unwrap();
        quit(target);

        let top =
            gotool::run(scratch.path(), &["tool", "pprof", "-top", "-cum", "-nodecount=1000", path]).unwrap();
        assert!(top.contains("Type: wall") && top.contains("main.contend"), "{build}: {top}");
        let raw = gotool::run(scratch.path(), &["tool", "pprof", "-raw", path]).unwrap();
        assert!(raw.contains("wall/nanoseconds") && raw.contains("samples/count"), "{build}: {raw}");
        for label in ["state:[running]", "wait_reason:[sync.Mutex.Lock]", "tenant:[acme]"] {
            assert!(
                raw.contains(label) || label.contains("sync") && build.minor().unwrap() < 20,
                "{build}: {label}"
            );
        }
        let running = ["tool", "pprof", "-top", "-sample_index=running", path];
        let running = gotool::run(scratch.path(), &running).unwrap();
        assert!(running.contains("main.mix") && !running.contains("main.contend"), "{build}: {running}");

        let mut sum = 0.0;
        for line in folded.lines() {
            let (stack, us) = line.rsplit_once(' ').unwrap();
            assert!(
                ["running;", "runnable;", "syscall;", "waiting;"].iter().any(|s| stack.starts_with(s)),
                "{line}"
            );
            sum += us.parse::<f64>().unwrap();
        }
        // 18 goroutines for a second, or longer where the machine is busy.
        assert!((16e6..90e6).contains(&sum), "{build}: {sum}\n{folded}");
        assert!(folded.contains("waiting;sleep;runtime.goexit;"), "{build}: {folded}");
        let labels = |profile: &Value| {
            array(profile, "/stacks").unwrap().iter().any(|s| s["labels"][0]["labels"]["tenant"] == "acme")
        };
        assert!(labels(&shown) && !labels(&hidden), "{build}: {shown}");
    }
}

#[test]
fn root_a_flame_graph_is_drawn() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest().start_ready(&[]).unwrap();
    let svg = profile(&target, &["--for", "1s", "--format", "svg"]).output;
    quit(target);
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for part in ["main.contend", "sync.Mutex.Lock", "runnable", "Wall-clock time of the goroutines"] {
        assert!(svg.contains(part), "no {part} in {svg}");
    }
    // What colours a name is not shown.
    assert!(!svg.contains("_[w]") && !svg.contains("_[j]"), "{svg}");
}

#[test]
fn root_cost_1_the_rate_follows_the_budget() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest().start_ready(&["-extra", "20000"]).unwrap();
    let with = |cpu: &[&str]| {
        profile(&target, &[&["--for", "5s", "--format", "json"], cpu].concat()).json().unwrap()
    };
    let (little, much) = (with(&["--cpu", "1"]), with(&["--cpu", "20"]));
    let fixed = with(&["--rate", "2"]);
    quit(target);
    let rate = |profile: &Value| real(profile, "/looks_per_second");
    assert!(rate(&much) > 2.0 * rate(&little), "{} and {}", rate(&much), rate(&little));
    assert!((1.2..3.0).contains(&rate(&fixed)), "{}", rate(&fixed));
    for profile in [&little, &much, &fixed] {
        assert!((20_000.0..20_100.0).contains(&real(profile, "/goroutines_mean")), "{profile}");
        // What is parked is known exactly; what is told of it says so.
        let parked = &array(profile, "/stacks").unwrap()[0];
        assert_eq!(parked["wait_reason"], "select (no cases)");
        assert!(real(parked, "/share_error") < 0.002, "{parked}");
        // Their stacks are unwound once, not at each look.
        assert!(
            number(profile, "/counts/unwound").unwrap() < 20_000 + 60 * number(profile, "/looks").unwrap()
        );
    }
}

#[test]
fn root_a_process_that_ends_ends_the_profile_with_what_there_is() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest().start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    let mut command = Command::new(env::gotrail().unwrap());
    let mut gotrail = Process::start(
        "gotrail profile",
        command.args(["profile", &pid, "--for", "60s", "--format", "json"]),
    )
    .unwrap();
    gotrail.await_errors("`profiling`", |line| line.starts_with("profiling").then_some(())).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    target.signal(Signal::KILL).unwrap();
    assert!(gotrail.wait().unwrap().success(), "{}", gotrail.words());
    let answer: Value = serde_json::from_str(&gotrail.output()).unwrap();
    assert_eq!(answer["exit"]["signal"], "SIGKILL", "{answer}");
    assert!(
        real(&answer, "/duration_ns") > 0.5e9 && !array(&answer, "/stacks").unwrap().is_empty(),
        "{answer}"
    );
    drop(target);
}

#[test]
fn root_ctrl_c_ends_a_profile_early_and_some_states_can_be_chosen() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest().start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    let mut command = Command::new(env::gotrail().unwrap());
    let arguments =
        ["profile", &pid, "--for", "60s", "--format", "json", "--state", "Mutex", "--state", "syscall"];
    let mut gotrail = Process::start("gotrail profile", command.args(arguments)).unwrap();
    gotrail.await_errors("`profiling`", |line| line.starts_with("profiling").then_some(())).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    gotrail.signal(Signal::INT).unwrap();
    assert!(gotrail.wait().unwrap().success(), "{}", gotrail.words());
    let answer: Value = serde_json::from_str(&gotrail.output()).unwrap();
    let states: Vec<(&Value, &Value)> =
        array(&answer, "/states").unwrap().iter().map(|s| (&s["state"], &s["wait_reason"])).collect();
    assert_eq!(states.len(), 2, "{states:?}");
    assert!(states.iter().any(|(_, reason)| *reason == "sync.Mutex.Lock"), "{states:?}");
    assert!(truth(&answer, "/on_cpu/sampled").unwrap(), "{answer}");
    assert!(answer["exit"].is_null(), "{answer}");
    quit(target);
}

#[test]
fn root_goroutines_that_come_and_go_are_counted_and_have_their_time() {
    needs!(Need::Fixtures, Need::Root);
    // Nearly all of a run's time goes to goroutines that live for less than the distance of two looks.
    let target = newest().start_ready(&["-churn", "50"]).unwrap();
    let profile = profile(&target, &["--for", "5s", "--format", "json"]).json().unwrap();
    quit(target);
    let counts = &profile["counts"];
    let (new, ended) = (number(counts, "/new").unwrap(), number(counts, "/ended").unwrap());
    assert!(new > 1000 && ended > 1000 && new.abs_diff(ended) < 200, "{counts}");
    let brief: f64 = array(&profile, "/stacks")
        .unwrap()
        .iter()
        .filter(|stack| stack.to_string().contains("main.brief"))
        .map(|stack| real(stack, "/goroutines_mean"))
        .sum();
    // Fifty at a time, but for the moment in which one follows the other.
    assert!((45.0..55.0).contains(&brief), "{brief}: {profile}");
}
