//! Abuse: executables that are not what they say they are, and processes that go away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::Range;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use gotrail_tests::attach::{Answer, Attach, Report, run, titles};
use gotrail_tests::damage::Executable;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::json::{array, number};
use gotrail_tests::process::Process;
use gotrail_tests::scratch::Scratch;
use gotrail_tests::{bpf, code, needs};
use serde_json::Value;

/// A way to tamper with an executable, and words of the refusal.
struct Tampering {
    name: &'static str,
    apply: fn(&mut Executable) -> Result<()>,
    words: &'static [&'static str],
}

impl fmt::Display for Tampering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// ELF64: where the file says that its section headers are (elf(5)).
const SECTION_HEADERS: usize = 40;

const TAMPERINGS: [Tampering; 11] = [
    // Not tampered with at all: but it waits at its entry point, and its runtime has not begun.
    Tampering { name: "nothing", apply: |_| Ok(()), words: &[] },
    Tampering {
        name: "another magic number of the function table",
        apply: |exe| exe.overwrite(exe.section(".gopclntab")?.start, &[0x42; 4]),
        words: &["go1.27.3", "pclntab"],
    },
    Tampering {
        name: "a function table of noise",
        apply: |exe| exe.noise(behind(&exe.section(".gopclntab")?, 8)),
        words: &["go1.27.3"],
    },
    Tampering {
        name: "a function table of noise behind its header",
        apply: |exe| exe.noise(behind(&exe.section(".gopclntab")?, 72)),
        words: &["go1.27.3"],
    },
    Tampering {
        name: "no build information",
        apply: |exe| exe.overwrite(exe.section(".go.buildinfo")?.start, &[0; 16]),
        words: &["Go"],
    },
    Tampering {
        name: "a version of noise",
        apply: |exe| exe.noise(behind(&exe.section(".go.buildinfo")?, 32)),
        words: &["Go"],
    },
    Tampering {
        name: "section headers beyond the end",
        apply: |exe| exe.overwrite(SECTION_HEADERS, &u64::MAX.to_le_bytes()),
        words: &[],
    },
    Tampering {
        name: "section headers of noise",
        apply: |exe| exe.noise(exe.section_headers()?),
        words: &[],
    },
    Tampering {
        name: "read-only data of noise",
        apply: |exe| exe.noise(exe.section(".rodata")?),
        words: &[],
    },
    Tampering {
        name: "module data of noise",
        apply: |exe| {
            let names = [".data", ".noptrdata", ".go.module"];
            names
                .iter()
                .filter_map(|name| exe.section(name).ok())
                .collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|r| exe.noise(r))
        },
        words: &[],
    },
    Tampering { name: "only its first half", apply: |exe| exe.cut(exe.bytes.len() / 2), words: &[] },
];

fn behind(range: &Range<usize>, skip: usize) -> Range<usize> {
    range.start + skip..range.end
}

/// gotrail itself did not break.
fn must_be_clean(answer: &Answer, told: &str) {
    assert!(!answer.errors.contains("panicked"), "{told}: {answer:?}");
    assert!(answer.code.is_some(), "{told}: killed by a signal: {answer:?}");
}

#[test]
fn root_fail_1_a_tampered_executable_is_refused_and_named() {
    needs!(Need::Fixtures, Need::Root);
    let build = builds("population", &[OLDEST_AND_NEWEST[1]], &["stripped"]).unwrap().remove(0);
    let original = fs::read(&build.path).unwrap();
    let scratch = Scratch::new("tampered").unwrap();
    each(&TAMPERINGS, 2, |tampering| {
        let mut executable = Executable::new(original.clone()).unwrap();
        (tampering.apply)(&mut executable).unwrap();
        executable.make_wait().unwrap();
        let program = scratch.program(&tampering.name.replace(' ', "-"), &executable.bytes).unwrap();
        let mut target = Process::start(tampering.name, &mut Command::new(program)).unwrap();
        let pid = target.pid().to_string();
        for command in [&["attach", &pid, "--for", "1s"][..], &["dump", &pid]] {
            let answer = run(command).unwrap();
            must_be_clean(&answer, tampering.name);
            assert_eq!(answer.code, Some(3), "{tampering}: {command:?}: {answer:?}");
            assert!(answer.errors.starts_with("gotrail: "), "{tampering}: {answer:?}");
            for word in tampering.words {
                assert!(answer.errors.contains(word), "{tampering}: no {word:?} in {answer:?}");
            }
            if command[0] == "attach" {
                println!("{tampering}: {}", answer.errors.trim_end());
            }
        }
        // Those that only look say what they see.
        for command in [&["doctor", &pid][..], &["ps"]] {
            let answer = run(command).unwrap();
            must_be_clean(&answer, tampering.name);
            assert_eq!(answer.code, Some(0), "{tampering}: {command:?}: {answer:?}");
        }
        assert!(target.is_running().unwrap(), "{tampering}: the target did not survive");
    });
}

#[test]
fn root_ident_1_a_process_that_becomes_another_program_is_another_target() {
    needs!(Need::Fixtures, Need::Root);
    let [old, new] = OLDEST_AND_NEWEST;
    // The layouts differ as much as can be: what is read of the new program as if it were the old is nonsense.
    each(&[[old, new], [new, old]].map(|[from, to]| Pair(from, to)), 2, |Pair(from, to)| {
        let first = builds("crash", &[from], &["default"]).unwrap().remove(0);
        let second = builds("population", &[to], &["stripped"]).unwrap().remove(0);
        let scratch = Scratch::new("exec").unwrap();
        let next = scratch.program("next", &fs::read(&second.path).unwrap()).unwrap();
        let mut executable = Executable::new(fs::read(&first.path).unwrap()).unwrap();
        executable.make_execute("main.dieExit3", &next).unwrap();
        let program = scratch.program("first", &executable.bytes).unwrap();
        let mut target = Process::start("crash", Command::new(program).args(["-kind", "exit3"])).unwrap();
        target.await_output("`ready`", |line| line.starts_with("ready ").then_some(())).unwrap();
        let attach = Attach::start(target.pid(), &[]).unwrap();
        target.tell("").unwrap();
        // This is the other program.
        target.await_output("`ready`", |line| (line == "ready").then_some(())).unwrap();
        // The process that was attached to has ended, whatever has its pid now: so has the watch, by itself.
        let report = attach.finish().unwrap();
        must_be_clean(&report.answer, "a process that became another program");
        report.check_balance().unwrap();
        assert_eq!(titles(&report.findings().unwrap()), Vec::<String>::new());
        let told = format!("{} {}", report.answer.output, report.answer.errors);
        assert!(told.contains("another"), "nothing is said of another program: {told}");
        // The other one was left alone.
        assert_eq!(code::changes(target.pid()).unwrap(), Vec::new());
        target.tell("quit").unwrap();
        assert!(target.wait().unwrap().success(), "{}", target.words());
    });
    bpf::check_no_orphans().unwrap();
}

/// Versions of two programs.
struct Pair(&'static str, &'static str);

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and then {}", self.0, self.1)
    }
}

/// How many processes are attached to while they end.
const ROUNDS: u32 = 50;
/// By how much later each of them ends than the one before: all stages of an attach are met.
const STEP: Duration = Duration::from_millis(4);

/// What an attach to a process that went away left: one of the allowed codes, and clean words.
fn must_end_cleanly(report: &Report, allowed: &[i32]) -> i32 {
    let answer = &report.answer;
    must_be_clean(answer, "a process that ends at attach");
    let code = answer.code.unwrap();
    assert!(allowed.contains(&code), "{answer:?}");
    if code == 0 {
        report.exit().unwrap();
        report.check_balance().unwrap();
    } else {
        let clean = answer.errors.lines().count() == 1 && answer.errors.starts_with("gotrail: ");
        assert!(clean && answer.output.is_empty(), "{answer:?}");
    }
    code
}

#[test]
fn root_ident_1_a_process_that_ends_at_attach_is_told_cleanly() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("crash", &OLDEST_AND_NEWEST, &["stripped"]).unwrap(), 2, |build| {
        let mut codes = BTreeMap::<i32, u32>::new();
        for round in 0..ROUNDS {
            let mut target = build.start_ready(&["-kind", "exit3"]).unwrap();
            let mut attach = Attach::spawn(target.pid(), &[]).unwrap();
            if round + 1 == ROUNDS {
                attach
                    .process()
                    .await_errors("`attached`", |line| line.starts_with("attached").then_some(()))
                    .unwrap();
            } else {
                // The time is what is varied here; nothing is awaited.
                sleep(STEP * round);
            }
            target.tell("").unwrap();
            // Reaped at once in every other round: then not even a zombie is left to be found.
            if round % 2 == 0 {
                target.wait().unwrap();
            }
            let code = must_end_cleanly(&attach.finish().unwrap(), &[0, 5]);
            *codes.entry(code).or_default() += 1;
        }
        println!("{build}: rounds by exit code of gotrail: {codes:?}");
        assert!(codes.contains_key(&5) && codes.contains_key(&0), "not all stages were met: {codes:?}");
    });
    bpf::check_no_orphans().unwrap();
}

#[test]
fn root_ident_1_a_process_that_becomes_another_program_at_attach_is_told_cleanly() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("crash", &OLDEST_AND_NEWEST, &["stripped"]).unwrap(), 2, |build| {
        let mut codes = BTreeMap::<i32, u32>::new();
        for round in 0..ROUNDS / 2 {
            // First a shell, which is no Go program, then a Go program under the same pid.
            let mut shell = Command::new("sh");
            shell.args(["-c", "read line && exec \"$0\" -kind exit3"]).arg(&build.path);
            let mut target = Process::start("a shell and then crash", &mut shell).unwrap();
            let mut attach = Attach::spawn(target.pid(), &[]).unwrap();
            sleep(STEP * round / 8);
            target.tell("").unwrap();
            // An error means that it has ended already, having seen the shell.
            drop(
                attach
                    .process()
                    .await_errors("`attached`", |line| line.starts_with("attached").then_some(())),
            );
            target.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
            target.tell("").unwrap();
            target.wait().unwrap();
            let code = must_end_cleanly(&attach.finish().unwrap(), &[0, 3, 5]);
            *codes.entry(code).or_default() += 1;
        }
        println!("{build}: rounds by exit code of gotrail: {codes:?}");
    });
    bpf::check_no_orphans().unwrap();
}

/// A wrong table comes to the same as a right one that is used for the wrong release: a stripped program that
/// claims to be of another is read by that one's offsets.
#[test]
fn root_fail_1_the_offsets_of_another_release_give_no_wrong_goid() {
    needs!(Need::Fixtures, Need::Root);
    let scratch = Scratch::new("claims").unwrap();
    let mut refused = 0;
    for (go, claimed) in [
        ("1.18.10", "1.23.10"),
        ("1.20.14", "1.24.11"),
        ("1.21.13", "1.23.12"),
        ("1.22.12", "1.23.12"),
        ("1.23.12", "1.22.12"),
        ("1.24.11", "1.25.11"),
        ("1.25.5", "1.23.5"),
        ("1.26.6", "1.24.6"),
        ("1.27.3", "1.24.3"),
        ("1.27.3", "1.18.3"),
    ] {
        let build = builds("matrix", &[go], &["stripped"]).unwrap().remove(0);
        let mut executable = Executable::new(fs::read(&build.path).unwrap()).unwrap();
        let (from, to) = (format!("go{go}"), format!("go{claimed}"));
        assert!(executable.replace(from.as_bytes(), to.as_bytes()) > 0, "{build} does not name its version");
        let file = scratch.program(&format!("{go}-as-{claimed}"), &executable.bytes).unwrap();
        let mut target = Process::start(&format!("{go} as {claimed}"), &mut Command::new(&file)).unwrap();
        target.await_output("`ready`", |line| line.starts_with("ready").then_some(())).unwrap();
        let answer = run(&["dump", &target.pid().to_string(), "--format", "json"]).unwrap();
        target.tell("").unwrap();
        let own: Value = target
            .await_output("its truth", |line| serde_json::from_str(line).ok().filter(Value::is_object))
            .unwrap();
        let ids = |of: &Value| -> BTreeSet<u64> {
            array(of, "/goroutines").unwrap().iter().map(|g| number(g, "/goid").unwrap()).collect()
        };
        match answer.code {
            Some(3) => {
                refused += 1;
                assert_eq!(answer.output, "", "{go} as {claimed}");
                println!("{go} as {claimed}: {}", answer.errors.trim());
            }
            Some(0) => {
                let dump = answer.json().unwrap();
                assert_eq!(ids(&dump), ids(&own), "{go} as {claimed}: {dump}");
                println!("{go} as {claimed}: right all the same");
            }
            _ => panic!("{go} as {claimed}: {answer:?}"),
        }
    }
    assert!(refused >= 5, "only {refused} were refused");
}
