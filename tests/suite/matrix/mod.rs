//! Every Go version and every way of building: what gotrail reads from the file is held against an oracle
//! that shares no code with it, and what it sees of the process against the process's own truth.
//!
//! A refusal in words is no failure here: it is noted, and `cargo xtask test` compares what was noted with
//! the table of what is supported in README.md.

mod file;
pub(crate) mod process;

use gotrail_tests::attach::{Answer, run};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{ARCHITECTURE, Build, Cell, cells, each};
use gotrail_tests::needs;
use gotrail_tests::support::{Verdict, Verdicts};
use serde_json::Value;

/// Exit code for what gotrail does not support.
const REFUSED: i32 = 3;

/// Runs a check on each cell that was built, and notes what came of all of them.
#[expect(clippy::print_stdout, reason = "who reads the result must see what was refused")]
fn check_all(
    name: &'static str,
    at_once: usize,
    on: impl Fn(&Build) -> bool,
    check: impl Fn(&Build) -> Verdict + Sync,
) {
    let verdicts = Verdicts::of(name);
    let mut builds = Vec::new();
    for cell in cells("matrix").unwrap() {
        match cell {
            Cell::NotByGo { build, words } => verdicts.note(&build, Verdict::NotByGo(words)),
            Cell::Built(build) if on(&build) => builds.push(build),
            Cell::Built(_) => {}
        }
    }
    assert!(!builds.is_empty(), "the matrix was not built at all");
    each(&builds, at_once, |build| {
        verdicts.note(build, Verdict::Fails);
        let verdict = check(build);
        if verdict != Verdict::Works {
            println!("{build}: {verdict:?}");
        }
        verdicts.note(build, verdict);
    });
}

/// What `inspect` says of a build, or why it refuses it, as a whole or in what it needs of the runtime.
fn inspect(build: &Build) -> Result<Value, String> {
    let answer = run(&["inspect", build.path.to_str().unwrap(), "--format", "json"]).unwrap();
    if let Some(words) = refusal(&answer) {
        return Err(words);
    }
    let answer = answer.well().unwrap().json().unwrap();
    answer["refused"].as_str().map(str::to_owned).map_or(Ok(answer.clone()), Err)
}

/// The words of a refusal.
fn refusal(answer: &Answer) -> Option<String> {
    (answer.code == Some(REFUSED))
        .then(|| answer.errors.trim().strip_prefix("gotrail: ").unwrap_or(&answer.errors).to_owned())
}

#[test]
fn fail_1_every_build_is_read_as_the_oracle_reads_it() {
    needs!(Need::Fixtures, Need::Oracle);
    check_all("file", 2, |_| true, file::check);
}

#[test]
fn root_loss_1_every_build_is_seen_as_it_sees_itself() {
    needs!(Need::Fixtures, Need::Root);
    check_all("process", 2, |build| build.arch == ARCHITECTURE, process::check);
}
