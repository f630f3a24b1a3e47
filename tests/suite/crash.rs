//! Deaths of all kinds: named as the process itself names them, with the line that did it.

use std::fmt;
use std::process::Command;

use gotrail_tests::attach::{Answer, Attach, Report, titles};
use gotrail_tests::env::{Need, gotrail};
use gotrail_tests::fixture::{Build, OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::markers::{Markers, Place};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use serde_json::json;

/// Kinds that end in a panic or a fatal error: the finding, and the marker of the line that died. No line died of
/// a deadlock: the runtime finds that on no goroutine. A stack overflows at the head of the function, not where
/// the marker is, so there the process's own word must do.
const DEADLY: [(&str, &str, Option<&str>); 17] = [
    ("string", "panic", Some("crash-string")),
    ("error", "panic", Some("crash-error")),
    ("wrapped", "panic", Some("crash-wrapped")),
    ("custom", "panic", Some("crash-custom")),
    ("int", "panic", Some("crash-int")),
    ("index", "panic", Some("crash-index")),
    ("nilptr", "panic", Some("crash-nilptr")),
    ("nilmap", "panic", Some("crash-nilmap")),
    ("divide", "panic", Some("crash-divide")),
    ("unsafe-low", "panic", Some("crash-unsafe-low")),
    ("repanic", "panic", Some("crash-repanic-again")),
    ("nested", "panic", Some("crash-nested-defer")),
    ("unsafe-segv", "memory-fault", Some("crash-unsafe-segv")),
    ("mapwrites", "fatal-error", Some("crash-mapwrites")),
    ("unlock", "fatal-error", Some("crash-unlock")),
    ("deadlock", "fatal-error", None),
    ("stackoverflow", "fatal-error", None),
];

/// One death of one build.
struct Case<'a> {
    build: &'a Build,
    kind: &'static str,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -kind {}", self.build, self.kind)
    }
}

/// Lets it die while it is watched.
fn watch(build: &Build, kind: &str, arguments: &[&str]) -> (Process, Report) {
    let mut target = build.start_ready(&["-kind", kind]).unwrap();
    let attach = Attach::start(target.pid(), arguments).unwrap();
    target.tell("").unwrap();
    target.wait().unwrap();
    let report = attach.finish().unwrap();
    report.check_nothing_lost().unwrap();
    (target, report)
}

/// What the process printed behind `panic: ` or `fatal error: `, without the runtime's remarks.
fn own_text(errors: &str) -> String {
    let text = errors
        .lines()
        .find_map(|line| line.strip_prefix("panic: ").or_else(|| line.strip_prefix("fatal error: ")))
        .unwrap_or_else(|| panic!("no panic and no fatal error: {errors}"));
    text.strip_suffix(" [recovered]")
        .or_else(|| text.strip_suffix(" [recovered, repanicked]"))
        .unwrap_or(text)
        .to_owned()
}

/// Functions below the code that somebody wrote: what dies there dies of its caller.
const MACHINERY: [&str; 5] = ["runtime.", "panic(", "sync.", "internal/sync.", "internal/runtime/"];

/// Where the process itself says that it died and that the goroutine was created: the traceback of the goroutine
/// that was running, which comes first. Nothing for a deadlock.
fn own_places(errors: &str) -> Option<(Place, Place)> {
    let mut lines = errors.lines();
    lines.find(|line| line.starts_with("goroutine ") && line.ends_with("[running]:"))?;
    // Of a deep stack the middle is left out, with a line that says so.
    let block: Vec<&str> =
        lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("...")).collect();
    let mut calls = block.chunks_exact(2).map(|pair| (pair[0], place(pair[1])));
    let died = calls.find(|(call, _)| !MACHINERY.iter().any(|start| call.starts_with(start)))?.1;
    let created = calls.find(|(call, _)| call.starts_with("created by "))?.1;
    Some((died, created))
}

/// The place in `\t/somewhere/crash/main.go:74 +0x1b fp=...`.
fn place(line: &str) -> Place {
    let path = line.trim_start().split(' ').next().unwrap();
    let (path, number) = path.rsplit_once(':').unwrap_or_else(|| panic!("no place: {line:?}"));
    let folder = path.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    Place { file: path[folder..].to_owned(), line: number.parse().unwrap() }
}

fn crashes(versions: &[&str]) -> Vec<Build> {
    builds("crash", versions, &["stripped"]).unwrap()
}

#[test]
fn root_truth_1_each_death_is_named_as_the_process_names_it() {
    needs!(Need::Fixtures, Need::Root);
    let markers = Markers::of("crash").unwrap();
    let builds = crashes(&OLDEST_AND_NEWEST);
    let cases: Vec<Case<'_>> =
        builds.iter().flat_map(|build| DEADLY.map(|(kind, ..)| Case { build, kind })).collect();
    each(&cases, 3, |case| {
        let (target, report) = watch(case.build, case.kind, &[]);
        assert_eq!(report.exit().unwrap(), &json!({ "code": 2 }), "{case}: {}", target.words());
        check(case.kind, &target.errors(), &report, &markers);
    });
}

/// The one finding is what the process itself says of its death on its standard error.
pub(crate) fn check(kind: &str, errors: &str, report: &Report, markers: &Markers) {
    let (_, id, died_at) = DEADLY.iter().find(|(known, ..)| *known == kind).unwrap();
    let findings = report.findings().unwrap();
    assert_eq!(findings.len(), 1, "{kind}: {:?}", titles(&findings));
    let finding = report.finding(id).unwrap();
    assert_eq!(finding.degree().unwrap(), "proved", "{kind}");
    // A panic in a deferred call is printed behind the one that it came in: ours is the one that killed.
    let expected = if kind == "nested" { "boom in defer".to_owned() } else { own_text(errors) };
    assert_eq!(finding.crash_text().unwrap(), expected, "{kind}: {errors}");
    if kind != "deadlock" {
        let (died, created) = own_places(errors).unwrap();
        if let Some(marker) = died_at {
            assert_eq!(&died, markers.place(marker).unwrap(), "the process itself: {errors}");
        }
        finding.must_name("died", &died).unwrap();
        if kind == "mapwrites" {
            // Both goroutines that write the map may notice it first; each has a creator of its own, and the
            // process prints but one of them.
            let worker = markers.place("crash-create").unwrap();
            let writer = markers.place("crash-mapwrites-create").unwrap();
            assert!(
                [worker, writer].iter().any(|place| finding.must_name("created", place).is_ok()),
                "{kind}: created neither at {worker} nor at {writer}"
            );
        } else {
            finding.must_name("created", &created).unwrap();
        }
    }
    // It was told as it happened, once, and with the summary.
    assert_eq!(report.lines_of("finding").count(), 1, "{kind}");
}

#[test]
fn root_truth_1_a_recovered_panic_is_no_finding_but_counted() {
    needs!(Need::Fixtures, Need::Root);
    each(&crashes(&OLDEST_AND_NEWEST), 2, |build| {
        let (target, report) = watch(build, "recovered", &[]);
        assert_eq!(target.output().matches("recovered: boom recovered").count(), 5, "{}", target.words());
        assert_eq!(report.exit().unwrap(), &json!({ "code": 0 }));
        assert_eq!(titles(&report.findings().unwrap()), Vec::<String>::new());
        assert_eq!(report.number("/panics/begun").unwrap(), 5);
        assert_eq!(report.number("/panics/recovered").unwrap(), 5);
    });
}

#[test]
fn root_ends_without_a_crash_are_told_and_are_no_finding() {
    needs!(Need::Fixtures, Need::Root);
    each(&crashes(&OLDEST_AND_NEWEST), 2, |build| {
        for (kind, exit) in
            [("exit3", json!({ "code": 3 })), ("sigkill-self", json!({ "signal": "SIGKILL" }))]
        {
            let (_, report) = watch(build, kind, &[]);
            assert_eq!(report.exit().unwrap(), &exit, "{build} -kind {kind}");
            assert_eq!(titles(&report.findings().unwrap()), Vec::<String>::new(), "{build} -kind {kind}");
        }
    });
}

#[test]
fn root_sec_1_no_text_keeps_the_text_of_a_panic_in_the_process() {
    needs!(Need::Fixtures, Need::Root);
    let builds = crashes(&OLDEST_AND_NEWEST);
    let cases: Vec<Case<'_>> = builds
        .iter()
        .flat_map(|build| {
            ["string", "error", "wrapped", "custom", "repanic", "int"].map(|kind| Case { build, kind })
        })
        .collect();
    each(&cases, 3, |case| {
        let (target, report) = watch(case.build, case.kind, &["--no-text"]);
        // The finding is there all the same, and says what it does not know.
        let finding = report.finding("panic").unwrap();
        assert_eq!(finding.crash_text().unwrap(), "(text not captured)", "{case}: {}", target.words());
        must_not_tell(case, &own_text(&target.errors()), &report.answer);

        let (target, answer) = watch_for_people(case);
        assert!(answer.output.contains("panic: (text not captured)"), "{case}: {}", answer.output);
        must_not_tell(case, &own_text(&target.errors()), &answer);
    });
}

fn must_not_tell(case: &Case<'_>, text: &str, answer: &Answer) {
    // A number alone may be there by chance.
    let text = if case.kind == "int" { format!("panic: {text}") } else { text.to_owned() };
    for (stream, said) in [("output", &answer.output), ("error", &answer.errors)] {
        assert!(!said.contains(&text), "{case}: {text:?} is on the standard {stream}: {said}");
    }
}

/// Likewise, with output for people.
fn watch_for_people(case: &Case<'_>) -> (Process, Answer) {
    let mut target = case.build.start_ready(&["-kind", case.kind]).unwrap();
    let mut command = Command::new(gotrail().unwrap());
    command.args(["attach", &target.pid().to_string(), "--no-text"]);
    let mut process = Process::start("gotrail attach", &mut command).unwrap();
    process.await_errors("`attached`", |line| line.starts_with("attached").then_some(())).unwrap();
    target.tell("").unwrap();
    target.wait().unwrap();
    let status = process.wait().unwrap();
    assert!(status.success(), "{}", process.words());
    (target, Answer { code: status.code(), output: process.output(), errors: process.errors() })
}
