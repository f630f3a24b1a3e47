//! `gotrail stats` against `runtime/metrics` and `runtime/debug` of the same process.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use gotrail::memory::stats::{Agreement, METRICS, Metric, Scale};
use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, Cell, cells, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use serde_json::Value;

/// Settings of programs, which read them at other offsets than the runtime reads its figures.
const SETTINGS: &str = "/godebug/";
/// The share of the metrics that has to stand still between the process's own two readings.
const STILL: f64 = 0.8;

/// Those that grow and shrink: a stack that is freed and used again between two readings is in neither of them.
const TO_AND_FRO: &str = "/memory/classes/";
/// How often such a one may be between readings: what is wrong is wrong each time.
const TRIES: usize = 3;

/// Every version of Go that is supported, stripped and not.
fn builds() -> Vec<Build> {
    let built = |cell| match cell {
        Cell::Built(build) => Some(build),
        Cell::NotByGo { .. } => None,
    };
    let builds: Vec<Build> = cells("figures").unwrap().into_iter().filter_map(built).collect();
    assert!(!builds.is_empty(), "no fixture `figures`: see `cargo xtask fixtures`");
    builds
}

fn plain() -> Vec<Build> {
    builds().into_iter().filter(|build| build.mode == "default").collect()
}

fn stats(pid: u32, arguments: &[&str]) -> Vec<Value> {
    let pid = pid.to_string();
    let arguments = [&["stats", &pid, "--format", "json"], arguments].concat();
    let answer = run(&arguments).unwrap().well().unwrap();
    answer.output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn one(pid: u32) -> Value {
    stats(pid, &[]).into_iter().next().unwrap()
}

fn order(target: &mut Process, command: &str, answer: &str) {
    target.tell(command).unwrap();
    target.await_output(answer, |line| (line == answer).then_some(())).unwrap();
}

fn truth(target: &mut Process) -> Value {
    target.tell("tell").unwrap();
    target.await_output("the truth", |line| serde_json::from_str(line).ok().filter(Value::is_object)).unwrap()
}

fn quit(mut target: Process) {
    target.tell("quit").unwrap();
    assert!(target.wait().unwrap().success(), "{}", target.words());
}

/// What gotrail says between two readings of the process's own.
struct Between {
    ours: Value,
    truth: Value,
}

fn between(target: &mut Process) -> Between {
    order(target, "read", "read");
    let ours = one(target.pid());
    order(target, "again", "read");
    Between { ours, truth: truth(target) }
}

/// A bucket's bounds, in our unit; `None` is without end.
type Bounds = (Option<u64>, Option<u64>);
/// What is in those buckets that are not empty.
type Buckets = BTreeMap<Bounds, u64>;

/// A bound of theirs, which must be a whole number of our units exactly.
fn bound(theirs: &Value, scale: Scale) -> Option<u64> {
    let theirs = theirs.as_f64()?;
    let unit = if scale == Scale::Nanoseconds { 1e9 } else { 1.0 };
    let ours = (theirs * unit).round();
    assert!(ours / unit == theirs, "the bound {theirs} is none of ours");
    Some(ours as u64)
}

fn their_buckets(metric: &Metric, value: &Value) -> Buckets {
    let bounds: Vec<Option<u64>> =
        array(value, "/bounds").unwrap().iter().map(|value| bound(value, metric.scale)).collect();
    let counts = array(value, "/counts").unwrap().iter().map(|count| count.as_u64().unwrap());
    assert_eq!(bounds.len(), counts.len() + 1, "{}", metric.name);
    bounds.windows(2).map(|pair| (pair[0], pair[1])).zip(counts).filter(|(_, count)| *count != 0).collect()
}

fn our_buckets(metric: &Metric, value: &Value) -> Buckets {
    let unit = if metric.scale == Scale::Nanoseconds { "ns" } else { "bytes" };
    let buckets = array(value, "/buckets").unwrap();
    let sum: u64 = buckets.iter().map(|bucket| number(bucket, "/count").unwrap()).sum();
    assert_eq!(sum, number(value, "/count").unwrap(), "{}", metric.name);
    let bound = |bucket: &Value, name: &str| bucket[format!("{name}_{unit}")].as_u64();
    buckets
        .iter()
        .map(|bucket| ((bound(bucket, "from"), bound(bucket, "to")), number(bucket, "/count").unwrap()))
        .collect()
}

fn their_number(metric: &Metric, value: &Value) -> u64 {
    match (value["integer"].as_u64(), metric.scale) {
        (Some(integer), Scale::Same) => integer,
        (None, Scale::Nanoseconds) => (value["float"].as_f64().unwrap() * 1e9).round() as u64,
        _ => panic!("{} is {value}", metric.name),
    }
}

fn our_number(metric: &Metric, value: &Value) -> u64 {
    // Negative ones are unsigned there: GOGC=off.
    let number = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    number.unwrap_or_else(|| panic!("{}: {} is {value}", metric.name, metric.path))
}

/// Reads again while memory came and went between the process's own two readings.
fn agreeing(build: &Build, target: &mut Process) -> (Between, Agreed) {
    let mut went = Vec::new();
    for _ in 0..TRIES {
        let read = between(target);
        match compare(build, &read) {
            Ok(agreed) => return (read, agreed),
            Err(differs) => went.push(differs),
        }
    }
    panic!("{build}: in none of {TRIES} readings: {went:#?}")
}

/// How many metrics there were, and how many stood still.
struct Agreed {
    all: usize,
    still: usize,
}

/// Compares all metrics of a version. `Err` has those that go to and fro and are not between their two values.
fn compare(build: &Build, read: &Between) -> Result<Agreed, Vec<String>> {
    let minor = u16::try_from(build.minor().unwrap()).unwrap();
    let (first, second) = (&read.truth["first"], &read.truth["second"]);
    let (mut all, mut still) = (0, 0);
    let mut differs = Vec::new();
    let mut told = BTreeSet::new();
    for metric in METRICS.iter().filter(|metric| metric.is_of(minor)) {
        let name = metric.name;
        let (before, after) = (&first[name], &second[name]);
        assert!(before.is_object(), "{build} has no {name}, but the table says so");
        let ours = read.ours.pointer(metric.path).unwrap_or(&Value::Null);
        told.insert(name);
        if metric.agreement == Agreement::Moment {
            our_number(metric, ours);
            continue;
        }
        all += 1;
        if before["counts"].is_array() {
            let (before, after) = (their_buckets(metric, before), their_buckets(metric, after));
            let ours = our_buckets(metric, ours);
            let every: BTreeSet<Bounds> =
                [&before, &ours, &after].iter().flat_map(|buckets| buckets.keys()).copied().collect();
            for key in every {
                let [before, ours, after] =
                    [&before, &ours, &after].map(|buckets| buckets.get(&key).copied().unwrap_or(0));
                assert!(
                    before <= ours && ours <= after,
                    "{build}: {name} {key:?}: {before} before, {ours} by us, {after} after"
                );
            }
            still += usize::from(before == after);
        } else {
            let [before, after] = [before, after].map(|value| their_number(metric, value));
            let ours = our_number(metric, ours);
            let (low, high) = (before.min(after), before.max(after));
            if !(low..=high).contains(&ours) {
                let difference = format!("{build}: {name}: {before} before, {ours} by us, {after} after");
                assert!(name.starts_with(TO_AND_FRO), "{difference}");
                differs.push(difference);
            }
            still += usize::from(before == after);
        }
    }
    let unknown: Vec<&String> = first
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| !name.starts_with(SETTINGS) && !told.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{build} has metrics that the table lacks: {unknown:?}");
    assert_eq!(read.ours["unknown"], Value::Array(Vec::new()), "{build}");
    balance(build, &read.ours);
    if differs.is_empty() { Ok(Agreed { all, still }) } else { Err(differs) }
}

/// The parts of memory are the whole, also where some were in motion.
fn balance(build: &Build, ours: &Value) {
    let memory = &ours["memory"];
    let part = |name: &str| memory[name].as_u64().unwrap();
    let parts = ["objects_bytes", "unused_bytes", "free_bytes", "stacks_bytes", "runtime_bytes"].map(part);
    assert_eq!(parts.iter().sum::<u64>(), part("ready_bytes"), "{build}: {memory}");
    assert_eq!(part("ready_bytes") + part("released_bytes"), part("total_bytes"), "{build}");
}

/// What `runtime/metrics` does not tell.
fn rest(build: &Build, read: &Between) {
    let (ours, truth) = (&read.ours, &read.truth);
    let list = |pointer: &str| -> Vec<i64> {
        array(truth, pointer).unwrap().iter().map(|value| value.as_i64().unwrap()).collect()
    };
    let pauses = array(ours, "/gc/pauses").unwrap();
    let field =
        |name: &str| -> Vec<i64> { pauses.iter().map(|pause| pause[name].as_i64().unwrap()).collect() };
    assert_eq!(field("ns"), list("/pauses_ns"), "{build}");
    assert_eq!(field("ended_unix_ns"), list("/pause_ends_unix_ns"), "{build}");

    let processors = array(ours, "/scheduler/processors").unwrap();
    let sum = |name: &str| processors.iter().map(|p| p[name].as_u64().unwrap()).sum::<u64>();
    let held = sum("timers") - sum("timers_stopped");
    let expected = number(truth, "/timers").unwrap();
    // The scavenger has one of its own.
    assert!((expected..=expected + 1).contains(&held), "{build}: {held} timers instead of {expected}");
    assert_eq!(processors.len() as u64, number(truth, "/gomaxprocs").unwrap(), "{build}");
    assert_eq!(ours["goroutines"]["user"], truth["goroutines"], "{build}");
    let by_status: u64 =
        ours["goroutines"]["by_status"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(by_status, number(ours, "/goroutines/all").unwrap(), "{build}");
    assert!(number(ours, "/threads/created").unwrap() >= 2, "{build}");

    assert!(number(ours, "/memory/process/rss_bytes").unwrap() > 1 << 20, "{build}");
    let (trigger, goal) =
        (number(ours, "/gc/trigger_bytes").unwrap(), number(ours, "/gc/goal_bytes").unwrap());
    assert!(
        number(ours, "/gc/heap_marked_bytes").unwrap() < trigger && trigger <= goal,
        "{build}: {}",
        ours["gc"]
    );
}

#[test]
fn root_stats_are_those_of_runtime_metrics() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds(), 2, |build| {
        let mut target = build.start_ready(&[]).unwrap();
        for round in 0..2 {
            let (read, Agreed { all, still }) = agreeing(build, &mut target);
            assert_eq!(text(&read.ours, "/schema").unwrap(), "gotrail.stats/1");
            assert_eq!(text(&read.ours, "/go_version").unwrap(), format!("go{}", build.go));
            assert!(
                still as f64 >= all as f64 * STILL,
                "{build}: only {still} of {all} metrics stood still: that proves little"
            );
            rest(build, &read);
            if round == 0 {
                order(&mut target, "work", "worked");
            }
        }
        quit(target);
    });
}

/// Another pace: the goal is the limit's, or there is none.
#[test]
fn root_stats_follow_the_settings_of_the_collector() {
    needs!(Need::Fixtures, Need::Root);
    each(&plain(), 2, |build| {
        for (gogc, limit) in [("400", "9MiB"), ("off", "12MiB"), ("50", "off")] {
            let name = format!("{build} GOGC={gogc} GOMEMLIMIT={limit}");
            let mut target =
                Process::start(&name, Command::new(&build.path).env("GOGC", gogc).env("GOMEMLIMIT", limit))
                    .unwrap();
            target.await_output("`ready`", |line| (line == "ready").then_some(())).unwrap();
            let (read, _) = agreeing(build, &mut target);
            let minor = build.minor().unwrap();
            if minor >= 19 {
                assert_eq!(read.ours["gc"]["goal_by_memory_limit"], limit != "off", "{name}");
            }
            let percent = read.ours["gc"]["gogc_percent"].as_i64().unwrap();
            assert_eq!(percent, gogc.parse().unwrap_or(-1), "{name}");
            quit(target);
        }
    });
}

#[test]
fn root_stats_watches_until_the_process_ends() {
    needs!(Need::Fixtures, Need::Root);
    each(&plain(), 2, |build| {
        let mut target = build.start_ready(&[]).unwrap();
        order(&mut target, "churn", "churning");
        let looks = stats(target.pid(), &["--watch", "100ms", "--for", "1s"]);
        assert!(looks.len() > 3, "{build}: {} looks", looks.len());
        assert!(looks[0].get("interval").is_none(), "{build}");
        let mut cycles = number(&looks[0], "/gc/cycles").unwrap();
        for look in &looks[1..] {
            let interval = &look["interval"];
            assert!(number(interval, "/interval_ns").unwrap() > 10_000_000, "{build}: {interval}");
            cycles += number(interval, "/gc_cycles").unwrap();
            assert_eq!(number(look, "/gc/cycles").unwrap(), cycles, "{build}");
            plausible(build, look);
        }
        // In one of them it may have waited for the collector all the time.
        let rates = looks[1..].iter().map(|look| look["interval"]["allocated_bytes_per_s"].as_f64().unwrap());
        assert!(rates.sum::<f64>() > 0.0, "{build}: {}", looks.last().unwrap());

        let pid = target.pid().to_string();
        let mut watcher = Process::start(
            "gotrail",
            Command::new(gotrail_tests::env::gotrail().unwrap())
                .args(["stats", &pid, "--watch", "50ms", "--format", "json"]),
        )
        .unwrap();
        watcher.await_output("a look", |line| line.contains("interval").then_some(())).unwrap();
        drop(target);
        assert!(watcher.wait().unwrap().success(), "{build}: {}", watcher.words());
        let output = watcher.output();
        let end: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
        assert_eq!(text(&end, "/exit/signal").unwrap(), "SIGKILL", "{build}");
    });
}

/// In a process that does all it can, nothing is read that can't be.
fn plausible(build: &Build, look: &Value) {
    let hold = |holds: bool, what: &Value| assert!(holds, "{build}: {what} in {look}");
    let processors = array(look, "/scheduler/processors").unwrap();
    hold(!processors.is_empty(), &look["scheduler"]);
    for (index, p) in processors.iter().enumerate() {
        hold(p["id"] == index && p["state"] != "???" && p["run_queue"].as_u64().unwrap() <= 257, p);
    }
    let at = |pointer: &str| number(look, pointer).unwrap();
    hold(look["gc"]["phase"] != "???" && at("/gc/cycles_forced") <= at("/gc/cycles"), &look["gc"]);
    let few = at("/memory/ready_bytes") < 1 << 32 && at("/memory/objects_bytes") < 1 << 32;
    hold(few && at("/memory/frees") <= at("/memory/allocs"), &look["memory"]);
    hold(at("/goroutines/all") < 1000, &look["goroutines"]);
    hold(look["unknown"] == Value::Array(Vec::new()), &look["unknown"]);
}

#[test]
fn root_stats_for_people_are_in_groups() {
    needs!(Need::Fixtures, Need::Root);
    let build = plain().pop().unwrap();
    let target = build.start_ready(&[]).unwrap();
    let answer = run(&["stats", &target.pid().to_string()]).unwrap().well().unwrap();
    for group in ["stands out", "scheduler", "goroutines", "threads", "GC", "memory", "queues"] {
        assert!(answer.output.lines().any(|line| line.starts_with(group)), "{group}:\n{}", answer.output);
    }
    assert!(!answer.output.contains("not known"), "{}", answer.output);
    assert!(answer.output.lines().all(|line| line.chars().count() <= 120), "{}", answer.output);
    quit(target);
}

#[test]
fn stats_wants_to_know_what_to_watch() {
    needs!(Need::Fixtures);
    let answer = run(&["stats", "1", "--for", "5s"]).unwrap();
    assert_eq!((answer.code, answer.output.as_str()), (Some(2), ""));
    assert!(answer.errors.contains("--watch"), "{}", answer.errors);
    let answer = run(&["stats", "1", "--watch", "1ms"]).unwrap();
    assert_eq!(answer.code, Some(2), "{}", answer.errors);
}
