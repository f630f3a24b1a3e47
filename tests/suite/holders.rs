//! Whoever is killed, and whatever he is doing then: no breakpoint stays behind (SAFE-3).
//!
//! The kernel takes no breakpoint off for a process that is about to be killed, so that a link must not go by close(2).

use std::time::{Duration, Instant};

use gotrail_tests::attach::{Attach, holders_of};
use gotrail_tests::code::{self, Change};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::Build;
use gotrail_tests::json::number;
use gotrail_tests::process::{PATIENCE, Process};
use gotrail_tests::{bpf, needs};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bursts::monotonic_ns;
use crate::cost::await_kind;
use crate::fleet::await_all;

fn target() -> Process {
    Build::find("gcstw", "1.27.3", "stripped").unwrap().start_ready(&[]).unwrap()
}

fn await_untouched(target: &Process, how: &str) {
    let begun = Instant::now();
    loop {
        let left = code::changes(target.pid()).unwrap();
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < bpf::FREED_WITHIN, "{how}: left in the code: {left:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One of a parent's holders; one that was killed is still to be seen for a moment.
fn await_holder(parent: impl Fn() -> Option<u32>, but: Option<u32>) -> u32 {
    let begun = Instant::now();
    loop {
        let holders = parent().map(|parent| holders_of(parent).unwrap()).unwrap_or_default();
        if let Some(holder) = holders.into_iter().find(|pid| Some(*pid) != but) {
            return holder;
        }
        assert!(begun.elapsed() < PATIENCE, "it has no holder");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn await_probes(target: &Process, all: &[Change]) {
    let begun = Instant::now();
    while code::changes(target.pid()).unwrap() != all {
        assert!(begun.elapsed() < PATIENCE, "the probes are not back");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills one that may have gone.
fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => panic!("can't kill {pid:?}: {error}"),
    }
}

/// The gap began before the holder was killed.
fn must_begin_before(gap: &Value, killed_ns: u64) {
    assert!(number(gap, "/from_ns").unwrap() <= killed_ns, "killed at {killed_ns}: {gap}");
    assert!(number(gap, "/to_ns").unwrap() > killed_ns, "killed at {killed_ns}: {gap}");
}

/// Starts it, and waits until what a trap costs is measured, for which there are holders as well.
fn start(pid: u32, arguments: &[&str]) -> Attach {
    let mut attach = Attach::start(pid, &[arguments, &["--events"]].concat()).unwrap();
    await_kind(&mut attach, "calibrated");
    attach
}

#[test]
fn root_safe_3_who_is_killed_while_the_probes_go_leaves_none() {
    needs!(Need::Fixtures, Need::Root);
    let target = target();
    for delay in (0..60).step_by(3).map(Duration::from_millis) {
        for again in [Signal::KILL, Signal::INT] {
            let mut attach = Attach::start(target.pid(), &[]).unwrap();
            assert!(!code::changes(target.pid()).unwrap().is_empty());
            attach.process().signal(Signal::INT).unwrap();
            std::thread::sleep(delay);
            // It may have ended already.
            let _ = attach.process().signal(again);
            attach.process().wait().unwrap();
            await_untouched(&target, &format!("{again:?} {delay:?} after Ctrl-C"));
        }
    }
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_safe_3_all_of_it_killed_at_once_leaves_none() {
    needs!(Need::Fixtures, Need::Root);
    let target = target();
    for delay in [0, 5, 20, 60].map(Duration::from_millis) {
        let mut attach = Attach::start(target.pid(), &["--switches", "bursts"]).unwrap();
        await_kind(&mut attach, "window");
        std::thread::sleep(delay);
        let keeper = attach.keeper().unwrap().expect("it has a keeper");
        let mut all = vec![attach.pid(), keeper];
        for parent in [attach.pid(), keeper] {
            all.extend(holders_of(parent).unwrap());
        }
        // Those of a burst come and go, and the others go with the first.
        all.into_iter().for_each(kill);
        attach.process().wait().unwrap();
        await_untouched(&target, &format!("{delay:?} after a burst"));
    }
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_loss_1_holders_that_are_killed_are_replaced_and_the_gap_told() {
    needs!(Need::Fixtures, Need::Root);
    let target = target();
    let mut attach = start(target.pid(), &[]);
    // The short first lease of what stays on is over.
    std::thread::sleep(Duration::from_millis(500));
    let all = code::changes(target.pid()).unwrap();
    for (of_keeper, tier, why) in [(false, "T1", "holder gone"), (true, "T2", "keeper gone")] {
        for _ in 0..3 {
            let own = attach.pid();
            let parent = || if of_keeper { attach.keeper().unwrap() } else { Some(own) };
            let (holder, killed_ns) = (await_holder(parent, None), monotonic_ns());
            kill(holder);
            let gap = await_kind(&mut attach, "gap");
            println!("{}", gap["message"]);
            assert_eq!((&gap["tier"], &gap["why"]), (&tier.into(), &why.into()), "{gap}");
            must_begin_before(&gap, killed_ns);
            let parent = || if of_keeper { attach.keeper().unwrap() } else { Some(own) };
            await_holder(parent, Some(holder));
            await_probes(&target, &all);
        }
    }
    attach.stop().unwrap().check_nothing_lost().unwrap();
    await_untouched(&target, "at the end");
    bpf::check_no_orphans().unwrap();
}

/// Whatever it was doing when it was killed: what it had put into the code by then goes with what the next one puts there.
#[test]
fn root_safe_3_a_holder_that_is_killed_while_the_probes_come_leaves_none() {
    needs!(Need::Fixtures, Need::Root);
    let target = target();
    let mut killed = 0;
    for delay in (0..20).map(Duration::from_millis) {
        let mut attach = Attach::spawn(target.pid(), &[]).unwrap();
        let (own, begun) = (attach.pid(), Instant::now());
        let mut seen = Vec::new();
        // Two of them; the third may hold what it makes.
        while seen.len() < 2 && begun.elapsed() < Duration::from_secs(1) {
            for holder in holders_of(own).unwrap_or_default() {
                if !seen.contains(&holder) {
                    seen.push(holder);
                    std::thread::sleep(delay / 2);
                    kill(holder);
                    killed += 1;
                }
            }
        }
        attach.await_line("`attached`", |line| line["type"] == "attached").unwrap();
        attach.stop().unwrap();
        await_untouched(&target, &format!("killed {:?} after its start", delay / 2));
    }
    assert!(killed > 20, "{killed}");
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_safe_3_a_keeper_that_is_killed_while_it_is_attached_is_replaced() {
    needs!(Need::Fixtures, Need::Root);
    let target = target();
    for delay in [0, 5, 10, 20, 40, 60, 80, 100].map(Duration::from_millis) {
        let mut attach = Attach::spawn(target.pid(), &[]).unwrap();
        let begun = Instant::now();
        let keeper = loop {
            if let Ok(Some(keeper)) = attach.keeper() {
                break keeper;
            }
            assert!(begun.elapsed() < PATIENCE, "it has no keeper");
        };
        std::thread::sleep(delay);
        kill(keeper);
        attach.await_line("`attached`", |line| line["type"] == "attached").unwrap();
        attach.stop().unwrap();
        await_untouched(&target, &format!("killed {delay:?} after its start"));
    }
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_loss_1_a_holder_that_is_killed_just_before_the_end_is_told() {
    needs!(Need::Fixtures, Need::Root);
    let target = target();
    let attach = start(target.pid(), &[]);
    let own = attach.pid();
    let (holder, killed_ns) = (await_holder(|| Some(own), None), monotonic_ns());
    kill(holder);
    let report = attach.stop().unwrap();
    let gap = report.lines_of("gap").next().expect("the gap is told");
    println!("{}", gap["message"]);
    assert_eq!(gap["why"], "holder gone", "{gap}");
    must_begin_before(gap, killed_ns);
    await_untouched(&target, "at the end");
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_loss_1_the_holder_of_a_fleet_is_replaced_and_all_are_told() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let targets = [target(), target()];
    let mut attach = Attach::start_all(&build.path, &["--events"]).unwrap();
    await_all(&mut attach, &targets);
    std::thread::sleep(Duration::from_secs(1));
    let all = code::changes(targets[0].pid()).unwrap();
    let (own, newest) = (attach.pid(), holders_of(attach.pid()).unwrap());
    assert_eq!(newest.len(), 1, "those of the calibration are gone");
    let killed_ns = monotonic_ns();
    kill(newest[0]);
    await_holder(|| Some(own), Some(newest[0]));
    let mut told = Vec::new();
    while told.len() < targets.len() {
        let gap = await_kind(&mut attach, "gap");
        assert_eq!(gap["why"], "holder gone", "{gap}");
        must_begin_before(&gap, killed_ns);
        told.push(gap["pid"].clone());
    }
    for target in &targets {
        assert!(told.contains(&target.pid().into()), "{told:?}");
        await_probes(target, &all);
    }
    attach.stop().unwrap();
    for target in &targets {
        await_untouched(target, "at the end");
    }
    bpf::check_no_orphans().unwrap();
}
