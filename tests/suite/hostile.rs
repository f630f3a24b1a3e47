//! Targets whose memory lies: gotrail reads it all the same, and must neither break nor eat the machine.

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use gotrail_tests::attach::{Answer, Attach, bound, run_as};
use gotrail_tests::env::{Need, gotrail};
use gotrail_tests::fixture::{Build, OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::process::tail;
use gotrail_tests::scribble::{Junk, Scribble};
use gotrail_tests::{bpf, needs};
use rustix::process::Signal;

/// Address space that gotrail may have. Far more than it needs, far less than a length read from noise.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Longest that a command may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program, and how its memory lies.
struct Case {
    build: Build,
    scribble: Scribble,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.build, self.scribble)
    }
}

/// Ways to lie, from a few words to every other one.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for build in builds("population", &OLDEST_AND_NEWEST, &["stripped"]).unwrap() {
        for junk in [Junk::Noise, Junk::Ones, Junk::Small, Junk::Moved] {
            for one_in in [2, 20, 200] {
                let seed = 0x5eed_0000 + cases.len() as u64;
                cases.push(Case { build: build.clone(), scribble: Scribble { junk, one_in, seed } });
            }
        }
    }
    cases
}

/// gotrail did not break, and did not take for ever.
fn must_hold(told: &str, answer: &Answer, begun: Instant) {
    let errors = tail(&answer.errors);
    assert!(!errors.contains("panicked"), "{told}: {errors}");
    assert!(matches!(answer.code, Some(0 | 3)), "{told}: {:?} {errors}", answer.code);
    assert!(begun.elapsed() < PATIENCE, "{told}: it took {:?}", begun.elapsed());
}

#[test]
fn root_fail_1_memory_that_lies_from_the_start_breaks_nothing() {
    needs!(Need::Fixtures, Need::Root);
    each(&cases(), 2, |case| {
        let target = case.build.start_ready(&[]).unwrap();
        // It must not run with what is done to it.
        target.signal(Signal::STOP).unwrap();
        case.scribble.apply(target.pid()).unwrap();
        let pid = target.pid().to_string();
        for arguments in
            [&["dump", &pid, "--format", "json"][..], &["attach", &pid, "--for", "1s"], &["doctor", &pid]]
        {
            let begun = Instant::now();
            let mut command = Command::new(gotrail().unwrap());
            let answer = run_as(bound(command.args(arguments), ADDRESS_SPACE)).unwrap();
            must_hold(&format!("{case}: {arguments:?}"), &answer, begun);
        }
    });
}

#[test]
fn root_fail_1_memory_that_begins_to_lie_while_watched_breaks_nothing() {
    needs!(Need::Fixtures, Need::Root);
    each(&cases(), 3, |case| {
        let target = case.build.start_ready(&[]).unwrap();
        let begun = Instant::now();
        let options = ["--for", "2s", "--snapshot-every", "200ms"];
        let mut attach = Attach::start_bounded(target.pid(), &options, ADDRESS_SPACE).unwrap();
        target.signal(Signal::STOP).unwrap();
        case.scribble.apply(target.pid()).unwrap();
        let status = attach.process().wait().unwrap();
        let (output, errors) = (attach.process().output(), attach.process().errors());
        must_hold(&case.to_string(), &Answer { code: status.code(), output, errors }, begun);
        let report = attach.finish().unwrap();
        report.check_balance().unwrap();
    });
    bpf::check_no_orphans().unwrap();
}
