//! Switches between goroutines (T3), against what the program counts and what the runtime itself traces.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use gotrail_tests::attach::{self, Attach, Report};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, builds, each};
use gotrail_tests::gotrace::{Transition, transitions};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use gotrail_tests::scratch::Scratch;
use serde_json::Value;

/// Each way of observing switches is in one of them.
const VERSIONS: [&str; 4] = ["1.20.14", "1.22.12", "1.24.11", "1.27.3"];
/// As the compiler does it, and by a profile that has it inline the scheduler.
const MODES: [&str; 2] = ["default", "pgo"];
/// The first Go with `iter.Pull`.
const FIRST_WITH_COROUTINES: u32 = 23;
/// How often is tried what a neighbour in the stretch's borders may disturb.
const ATTEMPTS: u32 = 3;

/// Room for all records: what is lost where there is none is a test of its own.
const ROOM: [&str; 2] = ["--ring-kib", "65536"];

/// Runs `switches` while its switches are observed.
fn watch(build: &Build, arguments: &[&str], options: &[&str]) -> (Value, Report) {
    let options = [&["--budget", "100", "--switches", "60s"], options].concat();
    attach::watch(build.start_ready(arguments).unwrap(), &options).unwrap()
}

fn switches(report: &Report) -> &Value {
    let switches = &report.summary().unwrap()["switches"];
    assert!(switches.is_object(), "{:?}", report.lines.last());
    switches
}

/// The runtime's words for the kinds of the fixture; before Go 1.25 a `WaitGroup` is waited for with a semaphore's.
const REASONS: [(&str, &[&str]); 7] = [
    ("receive", &["chan receive"]),
    ("send", &["chan send"]),
    ("select", &["select"]),
    ("cond", &["sync.Cond.Wait"]),
    ("sleep", &["sleep"]),
    ("io", &["IO wait"]),
    ("mutex+group", &["sync.Mutex.Lock", "sync.WaitGroup.Wait", "semacquire"]),
];

/// gotrail counted the parks that the program made, by their reasons and their places, and their wake-ups.
pub(crate) fn check(own: &Value, report: &Report) {
    report.check_nothing_lost().unwrap();
    let summary = switches(report);
    let mut wakes = 0;
    for (kinds, reasons) in REASONS {
        let made: u64 = kinds.split('+').map(|kind| number(own, &format!("/parks/{kind}")).unwrap()).sum();
        let count = |reason: &&str| summary["parks_by_reason"][*reason].as_u64().unwrap_or(0);
        let seen: u64 = reasons.iter().map(count).sum();
        assert_eq!(seen, made, "{kinds}: {own} {summary}");
        if kinds != "io" {
            wakes += made;
        }
    }
    // Those of the network poller are made without `ready`; each is one all the same.
    assert_eq!(number(summary, "/wakeups/ready").unwrap(), wakes, "{own} {summary}");
    let unseen = &summary["wakeups"]["unseen_by_reason"];
    assert_eq!(unseen["IO wait"], own["parks"]["io"], "{summary}");
    assert_eq!(summary["coroutine_switches"], own["coroutine_switches"], "{own} {summary}");
    // All that was observed was measured: each wait has its time, but for those of before and after.
    assert_eq!(number(summary, "/run_latency/count").unwrap(), wakes, "{summary}");
    places(own, summary);
}

/// The waits are told with the lines that they are in.
fn places(own: &Value, summary: &Value) {
    let markers = Markers::of("switches").unwrap();
    for kind in ["receive", "send", "select", "mutex", "cond", "group", "sleep", "io"] {
        let place = markers.place(kind).unwrap();
        let count: u64 = array(summary, "/waits")
            .unwrap()
            .iter()
            .filter(|waits| {
                waits["stack"].as_array().is_some_and(|stack| {
                    stack.iter().any(|frame| {
                        place.is(frame["file"].as_str().unwrap(), frame["line"].as_u64().unwrap())
                    })
                })
            })
            .map(|waits| number(waits, "/count").unwrap())
            .sum();
        // The four sleeps of the marks are elsewhere.
        let made = number(own, &format!("/parks/{kind}")).unwrap() - if kind == "sleep" { 4 } else { 0 };
        assert_eq!(count, made, "waits at {place}: {summary}");
    }
}

#[test]
fn root_loss_1_parks_and_wake_ups_are_counted_exactly() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("switches", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let (own, report) = watch(build, &["-rounds", "300", "-iter", "50"], &ROOM);
        check(&own, &report);
    });
}

#[test]
fn root_loss_1_sums_of_the_kernel_have_every_wait_too() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("switches", &["1.20.14", "1.27.3"], &MODES).unwrap(), 2, |build| {
        let (own, report) = watch(build, &["-rounds", "300"], &["--switches-as", "sums"]);
        report.check_nothing_lost().unwrap();
        let summary = switches(&report);
        let all = number(&own, "/woken").unwrap();
        let waits: u64 =
            array(summary, "/waits").unwrap().iter().map(|waits| number(waits, "/count").unwrap()).sum();
        assert!(waits >= all, "{waits} of {all} waits: {summary}");
        places(&own, summary);
        let kernel = |field: &str| number(summary, &format!("/kernel_waits/{field}")).unwrap();
        assert_eq!(kernel("opened"), kernel("closed") + kernel("open"), "waits were evicted: {summary}");
        // Not one record of a switch was sent for it.
        for probe in array(&report.summary().unwrap()["losses"], "/probes").unwrap() {
            let name = text(probe, "/probe").unwrap();
            if ["go_park", "go_ready", "go_run"].contains(&name) {
                assert_eq!(number(probe, "/delivered").unwrap(), 0, "{probe}");
                assert!(number(probe, "/summed").unwrap() > 0, "{probe}");
            }
        }
    });
}

/// What the trace and gotrail say of one goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    parks: u64,
    wakes: u64,
    runs: u64,
}

/// What no probe of T3 sees, as the trace tells it.
#[derive(Clone, Copy, Debug, Default)]
struct Blind {
    /// Came from a system call that had lost its P, and may have got one at once: `exitsyscall` goes on without `gogo`.
    from_syscalls: u64,
    /// Parked before the stretch and woken in it by another way than `ready`.
    parked_before: bool,
}

/// By goroutine, what the trace has of a stretch. Hand-overs of coroutines have no reason there, and are told apart by
/// it where there are `coroutines`; before, the trace has none for its own reader.
fn traced(all: &[Transition], from_ns: u64, to_ns: u64, coroutines: bool) -> BTreeMap<u64, (Counts, Blind)> {
    let mut by: BTreeMap<u64, (Counts, Blind)> = BTreeMap::new();
    let mut handed_over: BTreeMap<u64, bool> = BTreeMap::new();
    // Each second the trace says of all where they are: that is no transition.
    let real = all.iter().filter(|one| one.from != one.to);
    for one in real.filter(|one| one.time_ns >= from_ns && one.time_ns <= to_ns) {
        let first = !by.contains_key(&one.goid);
        let (counts, blind) = by.entry(one.goid).or_default();
        match (one.from.as_str(), one.to.as_str()) {
            ("Running", "Waiting") => {
                let coroutine = handed_over.entry(one.goid).or_default();
                *coroutine = coroutines && one.reason.is_empty();
                counts.parks += u64::from(!*coroutine);
            }
            ("NotExist", "Waiting") => drop(handed_over.insert(one.goid, true)),
            ("Waiting", "Runnable") => {
                counts.wakes += u64::from(handed_over.remove(&one.goid) != Some(true));
                blind.parked_before |= first;
            }
            ("Runnable", "Running") => counts.runs += 1,
            ("Syscall", "Runnable") => blind.from_syscalls += 1,
            _ => {}
        }
    }
    by
}

/// Where the trace and gotrail differ, but for what can't be seen.
#[expect(clippy::print_stdout, reason = "what no probe sees is counted for who reads the result")]
fn differences(all: &[Transition], summary: &Value, coroutines: bool) -> Vec<String> {
    let stretch = &summary["stretches"][0];
    let (from, to) = (number(stretch, "/begin_ns").unwrap(), number(stretch, "/end_ns").unwrap());
    let traced = traced(all, from, to, coroutines);
    let mut differences = Vec::new();
    let (mut from_syscalls, mut before) = (0, 0);
    let ours: BTreeMap<u64, &Value> =
        array(summary, "/by_goroutine").unwrap().iter().map(|g| (number(g, "/goid").unwrap(), g)).collect();
    for (goid, (theirs, blind)) in &traced {
        let count = |field: &str| ours.get(goid).map_or(0, |g| number(g, field).unwrap());
        let unwoken = theirs.wakes.wrapping_sub(count("/woken") + count("/unseen_wakes"));
        let unrun = theirs.runs.wrapping_sub(count("/runs"));
        if count("/parks") != theirs.parks
            || unwoken > u64::from(blind.parked_before)
            || unrun > blind.from_syscalls
        {
            differences.push(format!("goroutine {goid}: {theirs:?} {blind:?}, {:?}", ours.get(goid)));
        }
        before += unwoken;
        from_syscalls += unrun;
    }
    for (goid, g) in ours.iter().filter(|(goid, _)| !traced.contains_key(goid)) {
        differences.push(format!("goroutine {goid} is not in the trace: {g}"));
    }
    let sum = |of: fn(&Counts) -> u64| traced.values().map(|(counts, _)| of(counts)).sum::<u64>();
    println!(
        "{} parks, {} wake-ups, {} runs in the trace; not seen by gotrail: {from_syscalls} runs behind a system call that lost its P and got one at once, {before} wake-ups of who had parked before, by another way than ready",
        sum(|c| c.parks),
        sum(|c| c.wakes),
        sum(|c| c.runs),
    );
    differences
}

/// Parks of a trace by reason, in the trace's own few words.
fn parks_by_reason(all: &[Transition], summary: &Value) -> BTreeMap<&'static str, u64> {
    let stretch = &summary["stretches"][0];
    let (from, to) = (number(stretch, "/begin_ns").unwrap(), number(stretch, "/end_ns").unwrap());
    let mut counts = BTreeMap::new();
    let parks = all.iter().filter(|t| t.from == "Running" && t.to == "Waiting");
    for one in parks.filter(|t| t.time_ns >= from && t.time_ns <= to) {
        if let Some((class, _)) = CLASSES.iter().find(|(class, _)| *class == one.reason) {
            *counts.entry(*class).or_default() += 1;
        }
    }
    counts
}

/// The trace's words, and the wait reasons that are behind them (runtime/traceruntime.go, `traceBlockReason`).
const CLASSES: [(&str, &[&str]); 7] = [
    ("chan receive", &["chan receive"]),
    ("chan send", &["chan send"]),
    ("select", &["select"]),
    (
        "sync",
        &["sync.Mutex.Lock", "sync.RWMutex.Lock", "sync.RWMutex.RLock", "sync.WaitGroup.Wait", "semacquire"],
    ),
    ("sync.(*Cond).Wait", &["sync.Cond.Wait"]),
    ("sleep", &["sleep"]),
    ("network", &["IO wait"]),
];

#[test]
fn root_truth_1_switches_are_those_of_the_runtimes_own_trace() {
    needs!(Need::Fixtures, Need::Root);
    let scratch = Scratch::new("switches").unwrap();
    each(&builds("switches", &VERSIONS, &MODES).unwrap(), 2, |build| {
        let trace = scratch.path().join(format!("{}-{}.trace", build.go, build.mode));
        let trace = trace.to_str().unwrap();
        let mut last = Vec::new();
        // On two Ps, so that what happens is left to chance. Who parks or runs right at the begin or the end of the
        // stretch may be on the one side for the trace and on the other for us: then once more.
        for _ in 0..ATTEMPTS {
            let arguments = ["-procs", "2", "-rounds", "300", "-iter", "50", "-grow", "20", "-trace", trace];
            let (_, report) = watch(build, &arguments, &ROOM);
            report.check_nothing_lost().unwrap();
            let (summary, all) = (switches(&report), transitions(trace).unwrap());
            println!("{build}:");
            last = differences(&all, summary, build.minor().unwrap() >= FIRST_WITH_COROUTINES);
            for (class, theirs) in parks_by_reason(&all, summary) {
                let (_, reasons) = CLASSES.iter().find(|(name, _)| *name == class).unwrap();
                let ours: u64 = reasons
                    .iter()
                    .map(|reason| summary["parks_by_reason"][*reason].as_u64().unwrap_or(0))
                    .sum();
                if ours != theirs {
                    last.push(format!("{class}: {theirs} parks in the trace, {ours} by gotrail"));
                }
            }
            if last.is_empty() {
                // Grown stacks and recovered panics were told apart from runs.
                let losses = &report.summary().unwrap()["losses"];
                assert!(number(losses, "/skipped").unwrap() >= 40, "{losses}");
                return;
            }
        }
        panic!("{build}: {last:#?}");
    });
}

#[test]
fn root_loss_1_a_storm_in_a_tiny_ring_is_accounted_for_to_the_event() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("switches", &["1.20.14", "1.27.3"], &["default"]).unwrap(), 1, |build| {
        let (own, report) = watch(build, &["-storm", "2s", "-procs", "2"], &["--ring-kib", "4"]);
        report.check_balance().unwrap();
        let (summary, losses) = (switches(&report), &report.summary().unwrap()["losses"]);
        // Each value that was handed over had a goroutine wait for it: by the hits, whatever was lost.
        let (made, parks) = (number(&own, "/switches").unwrap(), number(summary, "/hits/parks").unwrap());
        println!("{build}: {made} switches, {parks} parks, {}", losses["lost"]);
        assert!(parks >= made / 2, "{parks} parks for {made} switches");
        assert!(number(losses, "/lost_ring").unwrap() > 0, "the ring was large enough: {losses}");
        // The stream itself shows what is missing, but for what is before the first record and behind the last.
        let missing = number(summary, "/unmeasured/records_lost").unwrap();
        let lost = number(losses, "/lost_ring").unwrap();
        assert!(missing > 0 && missing <= lost, "{missing} {lost}");
        // Rare events keep their own ring, and come through.
        for probe in array(losses, "/probes").unwrap() {
            if ["go_create", "go_exit"].contains(&text(probe, "/probe").unwrap()) {
                assert_eq!(number(probe, "/lost").unwrap(), 0, "{probe}");
            }
        }
    });
}

#[test]
fn root_loss_1_the_time_that_was_asked_for_is_a_stretch_with_two_ends() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("switches", &["1.27.3"], &["default"]).unwrap(), 1, |build| {
        let mut target = build.start_ready(&["-storm", "4s"]).unwrap();
        let mut attach = Attach::start(target.pid(), &["--budget", "100", "--switches", "2s"]).unwrap();
        target.tell("").unwrap();
        attach.await_line("`switches_ended`", |line| line["type"] == "switches_ended").unwrap();
        // It goes on without us.
        sleep(Duration::from_millis(500));
        let report = attach.stop().unwrap();
        target.tell("").unwrap();
        assert!(target.wait().unwrap().success(), "{}", target.words());
        report.check_balance().unwrap();
        let summary = switches(&report);
        assert_eq!(array(summary, "/stretches").unwrap().len(), 1, "{summary}");
        let observed = number(summary, "/observed_ns").unwrap();
        // The programs know when it ends.
        assert!(observed.abs_diff(2_000_000_000) < 1_000_000, "{observed} ns observed");
        assert!(number(summary, "/hits/parks").unwrap() > 0, "{summary}");
        // Who was parked at the end is told to be cut off, and has no wait.
        assert!(number(summary, "/unmeasured/waits_cut_off").unwrap() <= 8, "{summary}");
    });
}
