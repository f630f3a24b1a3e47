//! What gotrail can't do it says: what was tried, on what, why it failed, and what to do. And what it says of
//! processes and of this host.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread::available_parallelism;

use gotrail_tests::attach::{Answer, run, run_as};
use gotrail_tests::damage::Executable;
use gotrail_tests::env::{Need, gotrail};
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use gotrail_tests::scratch::Scratch;
use serde_json::Value;

/// A user without any rights.
const NOBODY: u32 = 65534;

/// Runs a command as that user.
fn as_nobody(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only these three system calls are made, which are safe there; without them
    // the program would keep root's groups and rights.
    unsafe {
        command.pre_exec(|| {
            if libc::setgroups(0, std::ptr::null()) != 0
                || libc::setgid(NOBODY) != 0
                || libc::setuid(NOBODY) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// A refusal: this code, one line on standard error with these words, nothing on standard output.
fn must_refuse(answer: &Answer, code: i32, words: &[&str]) {
    assert_eq!(answer.code, Some(code), "{answer:?}");
    assert_eq!(answer.output, "", "a refusal has no answer: {answer:?}");
    let message = answer.errors.trim_end();
    assert!(message.starts_with("gotrail: ") && !message.contains('\n'), "{answer:?}");
    for word in words {
        assert!(message.contains(word), "no {word:?} in {message:?}");
    }
}

/// Every command that takes a process refuses alike.
fn must_all_refuse(pid: u32, code: i32, words: &[&str]) {
    for command in ["attach", "dump"] {
        must_refuse(&run(&[command, &pid.to_string()]).unwrap(), code, words);
    }
}

fn newest(name: &str, mode: &str) -> Build {
    builds(name, &[VERSIONS[3]], &[mode]).unwrap().remove(0)
}

#[test]
fn usage_errors_end_with_2_and_say_how_it_is_used() {
    needs!(Need::Fixtures);
    let wrong: [(&[&str], &str); 11] = [
        (&[], "Usage"),
        (&["attach"], "<PID|--exe"),
        (&["attach", "no-number"], "no-number"),
        (&["attach", "1", "--for", "soon"], "1m30s"),
        (&["attach", "1", "--for", "0"], "'--for <TIME>': give a time above 0, for example 30s"),
        (&["attach", "1", "--switches", "0"], "give a time above 0"),
        (&["attach", "1", "--syscalls", "0s"], "give a time above 0"),
        (&["profile", "1", "--for", "0s"], "give a time above 0"),
        (&["stats", "1", "--watch", "0s"], "give a time above 0"),
        (&["attach", "1", "--no-such-option"], "--no-such-option"),
        (&["no-such-command"], "no-such-command"),
    ];
    for (arguments, word) in wrong {
        let answer = run(arguments).unwrap();
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert_eq!(answer.output, "", "{arguments:?}");
        assert!(
            answer.errors.contains("Usage") || answer.errors.contains("--help"),
            "{arguments:?}: {answer:?}"
        );
        assert!(answer.errors.contains(word), "{arguments:?}: no {word:?} in {answer:?}");
    }
}

#[test]
fn a_process_that_is_not_there_is_5() {
    needs!(Need::Fixtures);
    // One that has been reaped, and one beyond what the kernel gives out (PID_MAX_LIMIT).
    let mut gone = Process::start("true", &mut Command::new("true")).unwrap();
    gone.wait().unwrap();
    for pid in [gone.pid(), 4_194_305, u32::MAX] {
        must_all_refuse(pid, 5, &[&pid.to_string(), "no such process", "gotrail ps"]);
    }
}

#[test]
fn a_process_that_is_no_go_program_is_3() {
    needs!(Need::Fixtures);
    let sleeper = Process::start("sleep", Command::new("sleep").arg("600")).unwrap();
    must_all_refuse(sleeper.pid(), 3, &["not a Go program"]);
    // doctor answers all the same: that is what it is asked for.
    let answer = run(&["doctor", &sleeper.pid().to_string(), "--format", "json"]).unwrap().well().unwrap();
    let checks = answer.json().unwrap();
    let understood =
        array(&checks, "/process").unwrap().iter().find(|check| check["name"] == "Go program").unwrap();
    assert_eq!(understood["ok"], false, "{checks}");
    assert!(text(understood, "/detail").unwrap().contains("not a Go program"), "{checks}");
}

#[test]
fn root_a_kernel_thread_is_3() {
    needs!(Need::Fixtures, Need::Root, Need::KernelThread);
    must_all_refuse(2, 3, &["process 2", "kernel thread", "not a Go program"]);
}

#[test]
fn root_what_is_not_permitted_is_4_and_names_what_is_needed() {
    needs!(Need::Fixtures, Need::Root);
    let scratch = Scratch::new("nobody").unwrap();
    // Where the one under test is, nobody may have no way in.
    let ours = scratch.program("gotrail", &fs::read(gotrail().unwrap()).unwrap()).unwrap();
    let build = newest("population", "stripped");
    let program = scratch.program("population", &fs::read(&build.path).unwrap()).unwrap();

    // Root's process can't even be looked at.
    let roots = build.start_ready(&[]).unwrap();
    for command in ["attach", "dump"] {
        let answer =
            run_as(as_nobody(Command::new(&ours).args([command, &roots.pid().to_string()]))).unwrap();
        must_refuse(&answer, 4, &[&roots.pid().to_string(), "permi", "root", "CAP_SYS_PTRACE"]);
    }
    // One's own can, but no eBPF program can be loaded.
    let mut own = Process::start("population of nobody", as_nobody(&mut Command::new(&program))).unwrap();
    own.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
    let answer = run_as(as_nobody(Command::new(&ours).args(["attach", &own.pid().to_string()]))).unwrap();
    must_refuse(&answer, 4, &["permi", "root", "CAP_"]);
    // ps and doctor tell what can be told.
    let answer = run_as(as_nobody(Command::new(&ours).args(["doctor", &roots.pid().to_string()]))).unwrap();
    assert_eq!(answer.code, Some(4), "{answer:?}");
    assert!(
        ["this host", "CAP_BPF", "within reach", "would help: root"]
            .iter()
            .all(|w| answer.output.contains(w)),
        "{answer:?}"
    );
    let answer =
        run_as(as_nobody(Command::new(&ours).args(["ps", "--format", "json"]))).unwrap().well().unwrap();
    assert!(number(&answer.json().unwrap(), "/not_permitted").unwrap() > 0, "{answer:?}");
    let answer =
        run_as(as_nobody(Command::new(&ours).args(["doctor", "--format", "json"]))).unwrap().well().unwrap();
    let host = answer.json().unwrap();
    let of = |name: &str| array(&host, "/host").unwrap().iter().find(|check| check["name"] == name).cloned();
    for capability in ["CAP_SYS_PTRACE", "CAP_PERFMON", "CAP_BPF"] {
        assert_eq!(of(capability).unwrap()["ok"], false, "{host}");
    }
    assert_eq!(of("probes").unwrap()["ok"], false, "{host}");
}

#[test]
fn root_an_answer_that_can_not_be_written_whole_is_6_and_one_that_nobody_reads_is_0() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest("population", "stripped").start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    let inspect = ["inspect", &pid];
    let stats = ["stats", &pid];
    let dump = ["dump", &pid];
    let json = ["dump", &pid, "--format", "json"];
    let profile = ["profile", &pid, "--for", "1s"];
    for arguments in [&inspect[..], &stats, &dump, &json, &profile, &["ps"], &["doctor"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(gotrail().unwrap()).args(arguments).stdout(full).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{arguments:?}: {words}");
        assert!(
            words.contains("tried to write") && words.contains("No space left"),
            "{arguments:?}: {words}"
        );
        // Its talk is the lesser evil.
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(gotrail().unwrap()).args(arguments).stderr(full).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = Command::new(gotrail().unwrap()).args(arguments).stdout(writer).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {words}");
    }
}

#[test]
fn root_states_that_there_are_not_are_refused_with_those_that_there_are() {
    needs!(Need::Fixtures, Need::Root);
    let target = newest("population", "stripped").start_ready(&[]).unwrap();
    let pid = target.pid().to_string();
    for arguments in [
        &["dump", &pid, "--filter", "state=chan"][..],
        &["profile", &pid, "--state", "nosuch", "--for", "1s"],
    ] {
        must_refuse(&run(arguments).unwrap(), 2, &["there ", "syscall", "chan receive", "waiting"]);
    }
    for state in ["chan receive", "waiting", "syscall"] {
        let answer = run(&["dump", &pid, "--filter", &format!("state={state}")]).unwrap().well().unwrap();
        assert!(answer.output.starts_with("goroutine "), "{state}: {answer:?}");
    }
}

#[test]
fn root_fail_1_a_go_that_is_too_old_is_3_and_named() {
    needs!(Need::Fixtures, Need::Root);
    let build = builds("crash", &[VERSIONS[0]], &["default"]).unwrap().remove(0);
    let mut executable = Executable::new(fs::read(&build.path).unwrap()).unwrap();
    assert!(executable.replace(b"go1.21.13", b"go1.17.13") > 0, "{build} does not name its version");
    let scratch = Scratch::new("old").unwrap();
    let program = scratch.program("crash", &executable.bytes).unwrap();
    let mut old = Process::start("crash 1.17.13", Command::new(program).args(["-kind", "exit3"])).unwrap();
    old.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
    must_all_refuse(old.pid(), 3, &["go1.17.13", "1.18", "newer Go"]);
    let ps = run(&["ps", "--format", "json"]).unwrap().well().unwrap().json().unwrap();
    let row = row_of(&ps, old.pid());
    assert_eq!(
        (&row["traceable"], &row["go_version"]),
        (&Value::from(false), &Value::from("go1.17.13")),
        "{row}"
    );
    assert!(text(&row, "/why_not").unwrap().contains("1.18"), "{row}");
}

/// The row of a process in the answer of ps.
fn row_of(ps: &Value, pid: u32) -> Value {
    let row = array(ps, "/processes").unwrap().iter().find(|row| row["pid"] == pid);
    row.unwrap_or_else(|| panic!("no process {pid} in {ps}")).clone()
}

#[test]
fn root_ps_and_doctor_know_every_fixture() {
    needs!(Need::Fixtures, Need::Root);
    let builds = builds("population", &VERSIONS, &MODES).unwrap();
    let mut targets: Vec<Process> = builds.iter().map(|build| build.start_ready(&[]).unwrap()).collect();
    let answer = run(&["ps", "--format", "json"]).unwrap().well().unwrap();
    let ps = answer.json().unwrap();
    assert_eq!(text(&ps, "/schema").unwrap(), "gotrail.ps/1");
    let text_of_ps = run(&["ps"]).unwrap().well().unwrap().output;
    for (build, target) in builds.iter().zip(&mut targets) {
        let row = row_of(&ps, target.pid());
        assert_eq!(row["command"], "population", "{row}");
        assert_eq!(text(&row, "/go_version").unwrap(), format!("go{}", build.go), "{row}");
        assert_eq!(row["traceable"], true, "{row}");
        assert_eq!(text(&row, "/executable").unwrap(), build.path.to_str().unwrap());
        // What the fixture has made, and main; the runtime's own are not counted.
        assert_eq!(number(&row, "/goroutines").unwrap(), made(target) + 1, "{build}: {row}");
        let cpus = available_parallelism().unwrap().get() as u64;
        assert_eq!(number(&row, "/gomaxprocs").unwrap(), cpus, "{row}");
        let line =
            text_of_ps.lines().find(|line| line.split_whitespace().next() == Some(&target.pid().to_string()));
        let line = line.unwrap_or_else(|| panic!("no {} in {text_of_ps}", target.pid()));
        assert!(line.contains(&format!("go{}", build.go)) && line.ends_with("yes"), "{line}");
    }
    each(
        &builds.iter().zip(&targets).map(|(b, t)| Doctored(b, t.pid())).collect::<Vec<_>>(),
        2,
        |Doctored(_, pid)| {
            let answer = run(&["doctor", &pid.to_string(), "--format", "json"]).unwrap().well().unwrap();
            let doctor = answer.json().unwrap();
            assert_eq!(text(&doctor, "/schema").unwrap(), "gotrail.doctor/1");
            for wanted in
                ["T0 memory", "T1 rare probes", "T2 lifetimes", "inspect", "ps", "dump", "stats", "attach"]
            {
                let ability = array(&doctor, "/abilities").unwrap().iter().find(|a| a["name"] == wanted);
                let ability = ability.unwrap_or_else(|| panic!("no {wanted} in {doctor}"));
                assert_eq!(ability["ok"], true, "{ability}");
                assert!(!text(ability, "/why").unwrap().is_empty(), "{ability}");
            }
            let missing: Vec<_> = array(&doctor, "/process")
                .unwrap()
                .iter()
                .filter(|check| check["ok"] == false && check["name"] != "toolchain")
                .collect();
            assert!(missing.is_empty(), "{missing:?}");
            for check in array(&doctor, "/host").unwrap().iter().filter(|check| check["name"] == "probes") {
                assert_eq!(check["ok"], true, "{check}");
            }
        },
    );
}

/// One build and its process.
struct Doctored<'a>(&'a Build, u32);

impl fmt::Display for Doctored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many goroutines a population has made, by its own word.
fn made(target: &mut Process) -> u64 {
    target.tell("truth").unwrap();
    let truth: Value = target
        .await_output("the truth", |line| serde_json::from_str(line).ok().filter(Value::is_array))
        .unwrap();
    truth.as_array().unwrap().iter().map(|group| number(group, "/count").unwrap()).sum()
}
