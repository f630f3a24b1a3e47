//! However gotrail or its target end, nothing is left (SAFE-3).

use std::collections::BTreeSet;
use std::process::Command;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use gotrail_tests::attach::{Attach, run_as};
use gotrail_tests::backend::{Silent, until};
use gotrail_tests::bpf::FREED_WITHIN;
use gotrail_tests::env::{Need, gotrail};
use gotrail_tests::fixture::{Build, OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::http::Client;
use gotrail_tests::memory_limit::MemoryLimit;
use gotrail_tests::process::PATIENCE;
use gotrail_tests::shop::Shop;
use gotrail_tests::{bpf, code, needs};
use rustix::process::Signal;
use serde_json::json;

/// What the promise says: probes are gone this long after Ctrl-C.
const GONE_WITHIN: Duration = Duration::from_millis(100);
/// How long gotrail may take from Ctrl-C to its end: the summary, and 2 s for what export still has.
const ENDED_WITHIN: Duration = Duration::from_millis(2500);
/// How often that is tried on a machine that others may be using.
const ATTEMPTS: u32 = 3;
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(2);

fn shops() -> Vec<Build> {
    builds("shop", &OLDEST_AND_NEWEST, &["stripped"]).unwrap()
}

fn healthy(build: &Build) -> Shop {
    Shop::start(build, &["-faults=false"]).unwrap()
}

/// The shop answers.
fn must_serve(shop: &mut Shop) {
    let answer = Client::connect(shop.address).and_then(|mut client| client.request("GET", "/products", ""));
    let answer = answer.unwrap_or_else(|error| panic!("{error:#}\n{}", shop.process.words()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(shop.process.is_running().unwrap(), "{}", shop.process.words());
}

/// The programs of a gotrail that is attached: it must have some, named as they are.
fn programs(attach: &Attach) -> BTreeSet<u32> {
    let ids = attach.programs().unwrap();
    let names: Vec<String> = ids.iter().filter_map(|id| bpf::program(*id).unwrap()).map(|p| p.name).collect();
    for tier in ["t1_", "t2_"] {
        assert!(names.iter().any(|name| name.starts_with(tier)), "no program {tier}* among {names:?}");
    }
    ids
}

fn none_left(ids: &BTreeSet<u32>) -> bool {
    bpf::ids().unwrap().is_disjoint(ids)
}

/// Waits until none of these programs is left in the kernel; returns how long that took.
fn wait_until_none_left(ids: &BTreeSet<u32>, since: Instant, patience: Duration) -> Duration {
    while !none_left(ids) {
        let left: Vec<u32> = bpf::ids().unwrap().intersection(ids).copied().collect();
        assert!(
            since.elapsed() < patience,
            "the eBPF programs {left:?} are still there after {:?}",
            since.elapsed()
        );
        sleep(LOOK);
    }
    since.elapsed()
}

/// The target's code is its file's again, byte for byte, and no program is left behind.
fn must_be_untouched(shop: &mut Shop) {
    assert_eq!(code::changes(shop.process.pid()).unwrap(), Vec::new(), "something is left in the code");
    bpf::check_no_orphans().unwrap();
    must_serve(shop);
}

#[test]
fn root_safe_3_probes_are_seen_while_attached_and_not_before_or_after() {
    needs!(Need::Fixtures, Need::Root);
    each(&shops(), 1, |build| {
        let mut shop = healthy(build);
        let pid = shop.process.pid();
        must_be_untouched(&mut shop);
        let before = bpf::ids().unwrap();
        let attach = Attach::start(pid, &[]).unwrap();
        let ids = programs(&attach);
        assert!(ids.is_disjoint(&before), "programs older than gotrail: {ids:?}");
        // Each probe is a breakpoint in the code; were it not for this, `must_be_untouched` would prove nothing.
        let changed = code::changes(pid).unwrap().len();
        must_serve(&mut shop);
        let report = attach.stop().unwrap();
        let attached = report.lines_of("attached").next().unwrap();
        assert_eq!(attached["probes"], json!(changed), "{attached}");
        wait_until_none_left(&ids, Instant::now(), FREED_WITHIN);
        must_be_untouched(&mut shop);
    });
}

#[test]
fn root_safe_3_kill_9_leaves_no_probe() {
    needs!(Need::Fixtures, Need::Root);
    each(&shops(), 2, |build| {
        let mut shop = healthy(build);
        let mut attach = Attach::start(shop.process.pid(), &[]).unwrap();
        let ids = programs(&attach);
        let killed = Instant::now();
        attach.process().signal(Signal::KILL).unwrap();
        let took = wait_until_none_left(&ids, killed, FREED_WITHIN);
        println!("{build}: probes gone {took:?} after kill -9");
        must_be_untouched(&mut shop);
    });
}

#[test]
fn root_safe_3_probes_are_gone_within_100_ms_of_ctrl_c() {
    needs!(Need::Fixtures, Need::Root);
    each(&shops(), 1, |build| {
        let mut times = Vec::new();
        for _ in 0..ATTEMPTS {
            let mut shop = healthy(build);
            let mut attach = Attach::start(shop.process.pid(), &[]).unwrap();
            let ids = programs(&attach);
            let probes = code::changes(shop.process.pid()).unwrap();
            assert!(!probes.is_empty());
            let begun = Instant::now();
            attach.process().signal(Signal::INT).unwrap();
            let (mut undone, mut freed) = (None, None);
            while undone.is_none() || freed.is_none() {
                if undone.is_none() && code::is_undone(shop.process.pid(), &probes).unwrap() {
                    undone = Some(begun.elapsed());
                }
                if freed.is_none() && none_left(&ids) {
                    freed = Some(begun.elapsed());
                }
                assert!(begun.elapsed() < PATIENCE, "still there: {undone:?} {freed:?}");
                sleep(LOOK);
            }
            let report = attach.finish_within(PATIENCE).unwrap();
            report.summary().unwrap();
            let (undone, freed, ended) = (undone.unwrap(), freed.unwrap(), begun.elapsed());
            must_be_untouched(&mut shop);
            println!(
                "{build}: after Ctrl-C, probes gone {undone:?}, programs freed {freed:?}, gotrail ended {ended:?}"
            );
            if undone < GONE_WITHIN && freed < GONE_WITHIN && ended < ENDED_WITHIN {
                return;
            }
            times.push((undone, freed, ended));
        }
        panic!("never gone within {GONE_WITHIN:?} and ended within {ENDED_WITHIN:?}: {times:?}");
    });
}

/// SIGHUP too, but not where whoever runs the tests has it ignored.
#[test]
fn root_safe_3_other_signals_end_it_in_order_too() {
    needs!(Need::Fixtures, Need::Root);
    for signal in [Signal::TERM, Signal::QUIT] {
        let target = Build::find("storm", "1.27.3", "stripped").unwrap().start_ready(&[]).unwrap();
        let mut attach = Attach::start(target.pid(), &[]).unwrap();
        attach.process().signal(signal).unwrap();
        attach.finish().unwrap().check_balance().unwrap();
        assert_eq!(code::changes(target.pid()).unwrap(), []);
    }
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_safe_3_a_second_ctrl_c_ends_it_at_once() {
    needs!(Need::Fixtures, Need::Root);
    each(&shops(), 2, |build| {
        let mut shop = healthy(build);
        // It would wait 2 s for this backend, which never answers.
        let silent = Silent::start().unwrap();
        let endpoint = format!("http://{}", silent.address);
        let mut attach = Attach::start(shop.process.pid(), &["--otlp", &endpoint]).unwrap();
        let probes = code::changes(shop.process.pid()).unwrap();
        until(|| {
            anyhow::ensure!(silent.connections() > 0, "nothing was exported");
            Ok(())
        })
        .unwrap();
        attach.process().signal(Signal::INT).unwrap();
        while !code::is_undone(shop.process.pid(), &probes).unwrap() {
            sleep(LOOK);
        }
        assert!(attach.process().is_running().unwrap(), "the first Ctrl-C does not wait for the backend");
        let second = Instant::now();
        attach.process().signal(Signal::INT).unwrap();
        let status = attach.process().wait().unwrap();
        let took = second.elapsed();
        println!("{build}: ended {took:?} after the second Ctrl-C");
        assert!(took < Duration::from_millis(500), "the second Ctrl-C took {took:?}");
        assert_eq!(status.code(), Some(130), "{}", attach.process().words());
        must_be_untouched(&mut shop);
    });
}

#[test]
fn root_a_target_that_ends_while_watched_is_a_result() {
    needs!(Need::Fixtures, Need::Root);
    each(&shops(), 2, |build| {
        for (signal, exit) in
            [(Signal::TERM, json!({ "code": 0 })), (Signal::KILL, json!({ "signal": "SIGKILL" }))]
        {
            let mut shop = healthy(build);
            let mut attach = Attach::start(shop.process.pid(), &[]).unwrap();
            let ids = programs(&attach);
            must_serve(&mut shop);
            shop.process.signal(signal).unwrap();
            shop.process.wait().unwrap();
            attach.await_line("the `exit` line", |line| line["type"] == "exit").unwrap();
            let report = attach.finish().unwrap();
            assert_eq!(report.exit().unwrap(), &exit, "{build} {signal:?}");
            report.check_nothing_lost().unwrap();
            wait_until_none_left(&ids, Instant::now(), FREED_WITHIN);
        }
    });
    bpf::check_no_orphans().unwrap();
}

/// Who sent the signal that a process ended upon, and whether it was the kernel for want of memory.
#[test]
fn root_truth_1_who_ended_a_process_is_named() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("population", "1.27.3", "stripped").unwrap();
    let us = json!({ "pid": std::process::id(), "name": own_name() });
    let cases = [
        (Signal::KILL, "SIGKILL", json!({ "signal": "SIGKILL" })),
        // Go's runtime sends itself what it does not handle: that is not who ended it.
        (Signal::TERM, "SIGTERM", json!({ "signal": "SIGTERM" })),
        (Signal::QUIT, "SIGQUIT", json!({ "code": 2 })),
    ];
    for (signal, name, exit) in cases {
        let mut target = build.start_ready(&["-n", "10"]).unwrap();
        let attach = Attach::start(target.pid(), &[]).unwrap();
        target.signal(signal).unwrap();
        target.wait().unwrap();
        let report = attach.finish().unwrap();
        assert_eq!(report.exit().unwrap(), &exit, "{name}");
        let told = report.lines_of("exit").next().unwrap();
        assert_eq!((&told["upon"]["signal"], &told["upon"]["by"]), (&json!(name), &us), "{told}");
        assert_eq!(report.summary().unwrap()["upon"], told["upon"]);
    }
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_truth_1_a_kill_for_want_of_memory_is_told_as_one() {
    needs!(Need::Fixtures, Need::Root, Need::MemoryLimit);
    let build = Build::find("storm", "1.27.3", "stripped").unwrap();
    let limit = MemoryLimit::of(64 << 20).unwrap();
    let mut target = build.start_ready(&[]).unwrap();
    limit.put(target.pid()).unwrap();
    let mut attach = Attach::start(target.pid(), &[]).unwrap();
    target.tell("hoard").unwrap();
    target.wait().unwrap();
    attach.await_line("the `exit` line", |line| line["type"] == "exit").unwrap();
    let report = attach.finish().unwrap();
    let told = report.lines_of("exit").next().unwrap();
    assert_eq!(told["upon"]["by"], json!({ "kernel": true, "out_of_memory": true }), "{told}");
}

fn own_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim().to_owned()
}

/// A process that is killed while its goroutines are read: whatever was read by then, the end is told as one.
#[test]
fn root_a_process_that_ends_while_it_is_dumped_gives_a_clear_end() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("population", "1.27.3", "stripped").unwrap();
    let mut ended = 0;
    for delay in [0, 20, 40, 80, 120, 160, 240, 320] {
        let mut target = build.start_ready(&["-n", "1000"]).unwrap();
        let mut command = Command::new(gotrail().unwrap());
        command.args(["dump", &target.pid().to_string(), "--format", "json"]);
        let answer = scope(|scope| {
            let asked = scope.spawn(|| run_as(&mut command).unwrap());
            sleep(Duration::from_millis(delay));
            target.signal(Signal::KILL).unwrap();
            asked.join().unwrap()
        });
        target.wait().unwrap();
        match answer.code {
            Some(0) => drop(answer.json().unwrap()),
            Some(5) => {
                let words = ["ended while its memory was read", "there is no such process"];
                assert!(words.iter().any(|text| answer.errors.contains(text)), "{answer:?}");
                ended += 1;
            }
            _ => panic!("after {delay} ms: {answer:?}"),
        }
    }
    assert!(ended > 0, "it was never killed in time");
}
