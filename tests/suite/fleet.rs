//! Many processes of one executable: each is counted by itself, exactly, and who starts later is served at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gotrail_tests::attach::{Attach, Report};
use gotrail_tests::code::{self, Change};
use gotrail_tests::core_file::start_ready;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, each};
use gotrail_tests::json::number;
use gotrail_tests::overlay::Overlay;
use gotrail_tests::process::{PATIENCE, Process};
use gotrail_tests::scratch::Scratch;
use gotrail_tests::{bpf, needs};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::counts;

/// How soon after its exec a process must be watched. On a busy machine not each one is.
const SERVED_WITHIN: Duration = Duration::from_millis(100);

fn figures(target: &mut Process) -> Value {
    target
        .await_output("its figures", |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object))
        .unwrap()
}

/// In whatever order they come.
pub(crate) fn await_all(attach: &mut Attach, targets: &[Process]) {
    let mut missing: BTreeSet<u64> = targets.iter().map(|target| u64::from(target.pid())).collect();
    while !missing.is_empty() {
        let line = attach.await_line("`attached`", |line| line["type"] == "attached").unwrap();
        missing.remove(&number(&line, "/pid").unwrap());
    }
}

fn await_watched(attach: &mut Attach, pid: u32) {
    attach
        .await_line(&format!("`attached` of {pid}"), |line| line["type"] == "attached" && line["pid"] == pid)
        .unwrap();
}

fn end(mut target: Process) {
    target.tell("").unwrap();
    assert!(target.wait().unwrap().success(), "{}", target.words());
}

#[test]
fn root_loss_1_each_of_many_processes_is_counted_exactly() {
    needs!(Need::Fixtures, Need::Root);
    let builds = [
        Build::find("gcstw", "1.21.13", "stripped").unwrap(),
        Build::find("gcstw", "1.27.3", "default").unwrap(),
    ];
    each(&builds, 1, |build| {
        let start = |gcs: &str| build.start_ready(&["-interval", "5ms", "-gcs", gcs]).unwrap();
        let mut early = [start("7"), start("11"), start("3")];
        let stranger = Build::find("gcstw", "1.25.5", "stripped").unwrap().start_ready(&[]).unwrap();
        let mut attach = Attach::start_all(&build.path, &[]).unwrap();
        await_all(&mut attach, &early);
        let mut late = [start("5"), start("9")];
        await_all(&mut attach, &late);
        // All at once, into one ring.
        for target in early.iter_mut().chain(&mut late) {
            target.tell("").unwrap();
        }
        let own: Vec<Value> = early.iter_mut().chain(&mut late).map(figures).collect();
        // Some end while they are watched, others are left while they run.
        let [first, second, third] = early;
        let pids = [first.pid(), second.pid(), third.pid(), late[0].pid(), late[1].pid()];
        end(first);
        attach.await_line("its summary", |line| line["type"] == "summary" && line["pid"] == pids[0]).unwrap();
        let report = attach.stop().unwrap();
        for (i, (pid, own)) in pids.into_iter().zip(&own).enumerate() {
            let of = report.of(pid);
            if i < 3 {
                counts::check(own, &of);
            } else {
                // It may have been watched from before it set up its GC, which stops the world.
                of.check_nothing_lost().unwrap();
                for (theirs, ours) in [("/num_gc", "/gc/cycles"), ("/forced", "/gc/forced")] {
                    assert_eq!(number(of.summary().unwrap(), ours).unwrap(), number(own, theirs).unwrap());
                }
            }
        }
        assert_eq!(report.of(pids[0]).exit().unwrap()["code"], 0);
        assert!(report.of(stranger.pid()).lines.is_empty(), "another executable is not watched");
        let last = report.lines.last().unwrap();
        assert_eq!((last["type"].as_str(), last["processes"].as_u64()), (Some("fleet"), Some(5)), "{last}");
        assert_eq!(number(last, "/stray_records").unwrap(), 0, "{last}");
        for pid in &pids[1..] {
            assert_eq!(code::changes(*pid).unwrap(), [], "nothing is left in {pid}");
        }
        bpf::check_no_orphans().unwrap();
        [second, third].into_iter().chain(late).chain([stranger]).for_each(end_or_kill);
    });
}

fn end_or_kill(mut target: Process) {
    // One that was not told to begin yet ends with its input.
    drop(target.tell(""));
    drop(target);
}

#[test]
fn root_who_starts_later_is_watched_within_a_tenth_of_a_second() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let mut attach = Attach::start_all(&build.path, &[]).unwrap();
    // The first is there as soon as the probes are; what follows counts.
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            let target = build.start(&[]).unwrap();
            await_watched(&mut attach, target.pid());
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("from before fork until it is watched: {times:?}");
    assert!(times[times.len() / 2] < SERVED_WITHIN, "{times:?}");
    attach.stop().unwrap();
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_ident_1_a_process_that_executes_itself_anew_is_watched_as_another_one() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("storm", "1.27.3", "stripped").unwrap();
    let mut target = build.start_ready(&[]).unwrap();
    let mut attach = Attach::start_all(&build.path, &[]).unwrap();
    let pid = target.pid();
    await_watched(&mut attach, pid);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            target.tell("again").unwrap();
            attach.await_line("the summary of one program", |line| line["type"] == "summary").unwrap();
            await_watched(&mut attach, pid);
            let took = begun.elapsed();
            target.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
            took
        })
        .collect();
    times.sort_unstable();
    println!("from before exec until it is watched: {times:?}");
    assert!(times[times.len() / 2] < SERVED_WITHIN, "{times:?}");
    let report = attach.stop().unwrap();
    let summaries: Vec<&Value> = report.lines_of("summary").collect();
    let exits: Vec<bool> = summaries.iter().map(|line| line["exit"]["exec"] == true).collect();
    assert_eq!(exits, [true, true, true, true, true, false]);
    assert!(summaries.iter().all(|line| line["losses"]["balances"] == true), "{summaries:?}");
    assert_eq!(code::changes(pid).unwrap(), []);
    bpf::check_no_orphans().unwrap();
    target.tell("end").unwrap();
}

#[test]
fn root_cost_2_no_more_processes_are_watched_than_were_asked_for() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let [first, second] = [build.start_ready(&[]).unwrap(), build.start_ready(&[]).unwrap()];
    let mut attach = Attach::start_all(&build.path, &["--most", "1"]).unwrap();
    let watched = attach.await_line("`attached`", |line| line["type"] == "attached").unwrap();
    let refused = attach.await_line("`refused`", |line| line["type"] == "refused").unwrap();
    let mut told = [number(&watched, "/pid").unwrap(), number(&refused, "/pid").unwrap()];
    told.sort_unstable();
    let mut both = [u64::from(first.pid()), u64::from(second.pid())];
    both.sort_unstable();
    assert_eq!(told, both);
    assert!(refused["message"].as_str().unwrap().contains("--most"), "{refused}");
    // When there is room, it is taken in.
    let (goes, stays) = if number(&watched, "/pid").unwrap() == u64::from(first.pid()) {
        (first, second)
    } else {
        (second, first)
    };
    goes.signal(Signal::KILL).unwrap();
    await_watched(&mut attach, stays.pid());
    attach.stop().unwrap();
}

/// Two containers of one image: the kernel puts the probes into both, whatever numbers it gives their files.
#[test]
fn root_the_same_file_in_another_container_is_the_same_executable() {
    needs!(Need::Fixtures, Need::Root, Need::Overlay);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let scratch = Scratch::new("fleet").unwrap();
    let lower = scratch.path().join("image");
    std::fs::create_dir(&lower).unwrap();
    let program = scratch.program("image/program", &std::fs::read(&build.path).unwrap()).unwrap();
    let views = ["one", "two"].map(|name| Overlay::mount(&scratch, &lower, name).unwrap());
    let start = |folder: &Path| {
        let path = folder.join(program.file_name().unwrap());
        start_ready(&path, "a program in a container", &[], &scratch).unwrap()
    };
    let mut targets = [start(views[0].path()), start(views[1].path())];
    // Of the same size, but with an inode of its own.
    let copy = scratch.program("copy", &std::fs::read(&build.path).unwrap()).unwrap();
    let stranger = start_ready(&copy, "a copy", &[], &scratch).unwrap();
    let mut attach = Attach::start_all(&views[0].path().join("program"), &[]).unwrap();
    await_all(&mut attach, &targets);
    for target in &mut targets {
        target.tell("").unwrap();
    }
    let own = targets.each_mut().map(figures);
    let report = attach.stop().unwrap();
    for (target, own) in targets.iter().zip(&own) {
        counts::check(own, &report.of(target.pid()));
        assert_eq!(code::changes(target.pid()).unwrap(), []);
    }
    assert!(report.of(stranger.pid()).lines.is_empty());
    targets.into_iter().chain([stranger]).for_each(end_or_kill);
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_safe_3_kill_9_leaves_nothing_in_any_of_them() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let targets = [build.start_ready(&[]).unwrap(), build.start_ready(&[]).unwrap()];
    let mut attach = Attach::start_all(&build.path, &[]).unwrap();
    await_all(&mut attach, &targets);
    for target in &targets {
        assert!(!code::changes(target.pid()).unwrap().is_empty());
    }
    attach.process().signal(Signal::KILL).unwrap();
    attach.process().wait().unwrap();
    let begun = Instant::now();
    while targets.iter().any(|target| !code::changes(target.pid()).unwrap().is_empty()) {
        assert!(begun.elapsed() < bpf::FREED_WITHIN, "something is left");
        std::thread::sleep(Duration::from_millis(1));
    }
    bpf::check_no_orphans().unwrap();
}

fn line_of<'a>(report: &'a Report, kind: &'a str, pid: u32) -> impl Iterator<Item = &'a Value> {
    report.lines_of(kind).filter(move |line| line["pid"] == pid)
}

/// A deployment by `cp` onto the file: who starts from it afterwards must not meet the probes of what it was before.
#[test]
fn root_safe_2_a_file_that_is_overwritten_in_place_has_no_probes_left() {
    needs!(Need::Fixtures, Need::Root);
    let [old, new] = ["1.27.3", "1.25.5"].map(|go| Build::find("gcstw", go, "stripped").unwrap());
    for runs_before in [true, false] {
        let scratch = Scratch::new("fleet").unwrap();
        let program = scratch.program("program", &std::fs::read(&old.path).unwrap()).unwrap();
        let start =
            || start_ready(&program, "the program", &["-gcs", "3", "-interval", "5ms"], &scratch).unwrap();
        let before = runs_before.then(start);
        let mut attach = Attach::start_all(&program, &[]).unwrap();
        if let Some(before) = before {
            await_watched(&mut attach, before.pid());
            assert!(std::fs::OpenOptions::new().write(true).open(&program).is_err(), "it runs");
            before.signal(Signal::KILL).unwrap();
        }
        // Waits for the processes to be gone, and for gotrail to make way.
        let begun = Instant::now();
        while let Err(error) = std::fs::write(&program, std::fs::read(&new.path).unwrap()) {
            assert!(begun.elapsed() < PATIENCE, "{error}");
        }
        let mut after = start();
        assert_eq!(code::changes(after.pid()).unwrap(), []);
        after.tell("").unwrap();
        figures(&mut after);
        end(after);
        let report = attach.finish().unwrap();
        report.answer.clone().well().unwrap();
        assert!(report.answer.errors.contains("is about to be overwritten"), "{}", report.answer.errors);
        assert_eq!(report.lines.last().unwrap()["overwritten"], true);
        bpf::check_no_orphans().unwrap();
    }
}

/// Whether the probes in a process were gone and there again, until gotrail has ended.
fn came_back(pid: u32, on: &[Change], ended: &AtomicBool) -> bool {
    let mut gone = false;
    while !ended.load(Ordering::Acquire) {
        let now = code::is_undone(pid, on).unwrap();
        if gone && !now {
            return true;
        }
        gone = now;
    }
    false
}

/// What one process overdoes is taken off for all, who are told; and who is behind holds nobody up.
#[test]
fn root_loss_1_all_are_told_when_probes_are_taken_off_for_one() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let quick =
        ["-interval", "1ms", "-gcs", "1000000", "-reads", "0", "-garbage", "1024", "-ballast", "1024"];
    let mut busy = build.start_ready(&quick).unwrap();
    let mut quiet = build.start_ready(&["-interval", "300ms", "-gcs", "1000"]).unwrap();
    let mut short = build.start_ready(&["-interval", "1ms", "-gcs", "3"]).unwrap();
    let mut attach = Attach::start_all(&build.path, &[]).unwrap();
    let pids = [busy.pid(), quiet.pid(), short.pid()];
    quiet.tell("").unwrap();
    busy.tell("").unwrap();
    short.tell("").unwrap();
    figures(&mut short);
    end(short);
    // In whatever order they come.
    let (mut ended, mut gap) = (false, None);
    attach
        .await_line("the summary of one that ended, and the gap of another", |line| {
            ended |= line["type"] == "summary" && line["pid"] == pids[2];
            if gap.is_none() && line["type"] == "gap" && line["pid"] == pids[1] {
                gap = Some(line.clone());
            }
            ended && gap.is_some()
        })
        .unwrap();
    let gap = gap.unwrap();
    assert_eq!((&gap["why"], &gap["for_process"]), (&json!("relinked"), &json!(pids[0])), "{gap}");
    let off = gap["off"].as_array().unwrap();
    assert!(!off.is_empty(), "{gap}");
    let length = number(&gap, "/length_ns").unwrap();
    assert!(length > 0, "{gap}");
    println!("none of the probes was on for {:.1} ms", length as f64 / 1e6);
    assert!(gap["message"].as_str().unwrap().contains(&pids[0].to_string()), "{gap}");
    let on = code::changes(pids[1]).unwrap();
    attach.process().signal(Signal::INT).unwrap();
    let ended = AtomicBool::new(false);
    let (report, came_back) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| came_back(pids[1], &on, &ended));
        let report = attach.finish();
        ended.store(true, Ordering::Release);
        (report.unwrap(), watch.join().unwrap())
    });
    assert!(!came_back, "probes that were gone came back while gotrail ended");
    assert_eq!(line_of(&report, "gap", pids[0]).count(), line_of(&report, "gap", pids[1]).count());
    for pid in pids {
        report.of(pid).check_balance().unwrap();
        assert_eq!(code::changes(pid).unwrap_or_default(), []);
    }
    for target in [busy, quiet] {
        target.signal(Signal::KILL).unwrap();
    }
    bpf::check_no_orphans().unwrap();
}

/// One that produces more than can be taken in loses events of its own, counted; the others lose none, and end.
#[test]
fn root_loss_1_who_overflows_loses_its_own() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("gcstw", "1.27.3", "stripped").unwrap();
    let flood = ["-interval", "0s", "-gcs", "100000000", "-reads", "0", "-garbage", "0", "-ballast", "0"];
    let mut busy = build.start_ready(&flood).unwrap();
    let mut short = build.start_ready(&["-interval", "20ms", "-gcs", "20"]).unwrap();
    let mut attach = Attach::start_all(&build.path, &["--budget", "100"]).unwrap();
    let pids = [busy.pid(), short.pid()];
    busy.tell("").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    // As if something took gotrail's time: the ring and the queue fill.
    attach.process().signal(Signal::STOP).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    attach.process().signal(Signal::CONT).unwrap();
    short.tell("").unwrap();
    let own = figures(&mut short);
    end(short);
    attach.await_line("its summary", |line| line["type"] == "summary" && line["pid"] == pids[1]).unwrap();
    let report = attach.stop().unwrap();
    let of = report.of(pids[1]);
    of.check_balance().unwrap();
    let counted = number(of.summary().unwrap(), "/gc/cycles").unwrap()
        + number(of.summary().unwrap(), "/losses/lost").unwrap();
    assert!(counted >= number(&own, "/num_gc").unwrap(), "{own} {:?}", of.summary());
    report.of(pids[0]).check_balance().unwrap();
    busy.signal(Signal::KILL).unwrap();
    bpf::check_no_orphans().unwrap();
}

/// Without randomised addresses the stack is where it was before.
#[test]
fn root_ident_1_an_exec_that_moves_nothing_is_seen_too() {
    needs!(Need::Fixtures, Need::Root);
    let build = Build::find("storm", "1.27.3", "stripped").unwrap();
    let mut command = Command::new("setarch");
    command.arg("-R").arg(&build.path);
    let mut target = Process::start("storm without ASLR", &mut command).unwrap();
    target.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
    let mut attach = Attach::start_all(&build.path, &[]).unwrap();
    let pid = target.pid();
    await_watched(&mut attach, pid);
    for _ in 0..3 {
        target.tell("again").unwrap();
        target.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
        attach.await_line("the summary of one program", |line| line["type"] == "summary").unwrap();
        await_watched(&mut attach, pid);
    }
    let report = attach.stop().unwrap();
    let exits: Vec<bool> = report.lines_of("summary").map(|line| line["exit"]["exec"] == true).collect();
    assert_eq!(exits, [true, true, true, false]);
    target.tell("end").unwrap();
    bpf::check_no_orphans().unwrap();
}
