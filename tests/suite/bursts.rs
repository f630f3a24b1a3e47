//! Switches are observed in bursts that the budget pays for, whatever the target does meanwhile.

use std::thread::sleep;
use std::time::{Duration, Instant};

use gotrail_tests::attach::Attach;
use gotrail_tests::code::{self, Change};
use gotrail_tests::env::Need;
use gotrail_tests::json::number;
use gotrail_tests::process::PATIENCE;
use gotrail_tests::{bpf, needs};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::cost::{REACTION, await_kind, await_window, float, signal, start, tell, worst};

pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

#[test]
fn root_cost_1_switches_come_in_bursts_that_the_budget_pays_for() {
    // Some millions of switches a second: in bursts at all only with more than usual.
    const PERCENT: f64 = 10.0;
    needs!(Need::Fixtures, Need::Root);
    let mut target = start();
    tell(&mut target, "switch");
    let options = ["--switches", "bursts", "--budget", &PERCENT.to_string(), "--ring-kib", "65536"];
    let mut attach = Attach::start(target.pid(), &options).unwrap();
    await_kind(&mut attach, "window");
    sleep(Duration::from_secs(10));
    let report = attach.stop().unwrap();
    tell(&mut target, "end");
    report.check_balance().unwrap();
    let (excess, share) = worst(&report, PERCENT / 100.0);
    println!("worst ten seconds: {:.1} ms beyond what may be lost, {:.2} %", excess / 1e6, share * 100.0);
    assert!(excess < REACTION, "{:.1} ms beyond what may be lost", excess / 1e6);

    let summary = report.summary().unwrap();
    let windows: Vec<&Value> = report.lines_of("window").collect();
    assert!(windows.len() > 5, "{} bursts", windows.len());
    assert!(windows.iter().all(|window| window["tier"] == "T3"), "{windows:?}");
    // Each hit fell into a burst that was told, and each burst is a stretch with two ends.
    let switches = &summary["switches"];
    let counts = [("go_park", "parks"), ("go_ready", "ready"), ("go_run", "runs")];
    let told: u64 = windows
        .iter()
        .flat_map(|window| counts.map(|(probe, _)| window["hits"][probe].as_u64().unwrap_or(0)))
        .sum();
    let counted: u64 =
        counts.iter().map(|(_, name)| number(switches, &format!("/hits/{name}")).unwrap()).sum();
    assert!(counted > 1000, "{switches}");
    assert_eq!(told, counted, "{switches}");
    let stretches = switches["stretches"].as_array().unwrap();
    assert_eq!(stretches.len(), windows.len(), "{switches}");
    for pair in stretches.windows(2) {
        assert!(number(&pair[0], "/end_ns").unwrap() <= number(&pair[1], "/begin_ns").unwrap(), "{switches}");
    }
    let parks = &switches["sampled"]["parks"];
    assert!(float(parks, "low") < float(parks, "high"), "{switches}");
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_cost_1_a_burst_that_meets_a_storm_is_over_at_once() {
    needs!(Need::Fixtures, Need::Root, Need::RealTime);
    println!("traps while probes came and went: {:?}", meets("switch"));
}

/// Which ends the observation of creations at the same moment.
#[test]
fn root_cost_1_a_burst_that_meets_a_storm_of_creations_is_over_at_once() {
    needs!(Need::Fixtures, Need::Root, Need::RealTime);
    println!("traps while probes came and went: {:?}", meets("spawn"));
}

/// How many traps there were while the probes came and went, each time that a burst met such a storm.
fn meets(storm: &str) -> Vec<u64> {
    const MEETINGS: usize = 3;
    // Traps while the probes went, of about a million a second. Where the kernel waits for a grace period first, 5 000 to 18 000.
    const MOST: u64 = 1500;
    let mut outside = Vec::new();
    for _ in 0..6 * MEETINGS {
        let mut target = start();
        let mut attach = Attach::start(target.pid(), &["--switches", "bursts"]).unwrap();
        await_kind(&mut attach, "window");
        // Bursts of a program that does nothing take more than half of the time.
        sleep(Duration::from_millis(1200));
        let told_ns = monotonic_ns();
        tell(&mut target, storm);
        // It is over before another burst can begin.
        sleep(Duration::from_millis(40));
        tell(&mut target, "silence");
        sleep(Duration::from_millis(100));
        let report = attach.stop().unwrap();
        tell(&mut target, "end");
        let met = report.lines_of("window").any(|window| {
            number(window, "/begin_ns").unwrap() < told_ns
                && number(window, "/hits/go_run").unwrap_or(0) > 100
        });
        if met {
            outside.push(number(report.summary().unwrap(), "/switches/traps_outside").unwrap());
        }
        if outside.len() == MEETINGS {
            break;
        }
    }
    outside.sort_unstable();
    assert_eq!(outside.len(), MEETINGS, "a storm hardly ever met a burst");
    assert!(outside[MEETINGS / 2] < MOST, "{outside:?}");
    outside
}

/// What the kernel takes tens of milliseconds for in the keeper's other threads must not keep the probes on.
#[test]
fn root_safe_3_a_keeper_that_is_killed_in_a_burst_takes_the_probes_along_at_once() {
    const TIMES: usize = 5;
    // The kernel's wait for a grace period is longer.
    const MOST: Duration = Duration::from_millis(5);
    needs!(Need::Fixtures, Need::Root, Need::RealTime);
    let mut target = start();
    let mut attach = Attach::start(target.pid(), &["--switches", "bursts"]).unwrap();
    await_kind(&mut attach, "window");
    let begun = Instant::now();
    let mut usual = code::changes(target.pid()).unwrap();
    let in_bursts: Vec<Change> = loop {
        let now = code::changes(target.pid()).unwrap();
        let more: Vec<Change> = now.iter().filter(|change| !usual.contains(change)).copied().collect();
        if more.len() == 3 {
            break more;
        }
        // The first look may have fallen into a burst.
        usual = now;
        assert!(begun.elapsed() < PATIENCE, "no burst");
    };
    let mut times = Vec::new();
    while times.len() < TIMES {
        await_window(&target, &in_bursts, false);
        await_window(&target, &in_bursts, true);
        sleep(Duration::from_millis(60));
        let keeper = attach.keeper().unwrap().expect("it has a keeper");
        if code::is_undone(target.pid(), &in_bursts).unwrap() {
            continue;
        }
        let killed = Instant::now();
        signal(keeper, Signal::KILL);
        await_window(&target, &in_bursts, false);
        times.push(killed.elapsed());
        await_kind(&mut attach, "gap");
    }
    attach.stop().unwrap();
    tell(&mut target, "end");
    times.sort_unstable();
    println!("the probes of a burst were gone {times:?} after kill -9 of the keeper");
    assert!(times[TIMES / 2] < MOST, "{times:?}");
    bpf::check_no_orphans().unwrap();
}
