//! Summing what test runners print.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::AddAssign;

/// How many tests did what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Reads one runner's lines as they come.
///
/// A test of ours that can't run on this machine prints `SKIPPED <its name>: <why>` and returns; the runner
/// calls that passed, so it is moved from passed to skipped. The name counts once however often it is printed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped_by_name: BTreeSet<String>,
}

impl Counter {
    /// Takes note of one line of output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(summary) = line.trim_start().strip_prefix("test result: ") {
            self.summary(summary);
        } else if let Some(name) = skipped_test(line) {
            self.skipped_by_name.insert(name.to_owned());
        }
    }

    /// The sum, given whether the runner itself ended well. A runner that broke without naming a failed test
    /// (it did not compile, or was killed) counts as one failure: it must not look like success.
    pub(crate) fn finish(&self, runner_succeeded: bool) -> Tally {
        let skipped_by_name = self.skipped_by_name.len() as u64;
        let broken = u64::from(!runner_succeeded && self.failed == 0);
        Tally {
            passed: self.passed.saturating_sub(skipped_by_name),
            failed: self.failed + broken,
            skipped: self.ignored + skipped_by_name,
        }
    }

    fn summary(&mut self, summary: &str) {
        // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s"
        for part in summary.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(count)), Some(what)) = (words.next().map(str::parse::<u64>), words.next()) else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

/// The test's name in a line `SKIPPED <name>: <why>`, which may follow the runner's own `test <name> ... `.
fn skipped_test(line: &str) -> Option<&str> {
    let own = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
        Some((_, own)) => own,
        None => line,
    };
    let (name, why) = own.trim_start().strip_prefix("SKIPPED ")?.split_once(": ")?;
    (!name.is_empty() && !name.contains(' ') && !why.trim().is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(lines: &[&str], runner_succeeded: bool) -> Tally {
        let mut counter = Counter::default();
        lines.iter().for_each(|line| counter.line(line));
        counter.finish(runner_succeeded)
    }

    #[test]
    fn sums_the_summaries_of_several_binaries() {
        let tally = count(
            &[
                "running 4 tests",
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s",
                "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.50s",
            ],
            false,
        );
        assert_eq!(tally, Tally { passed: 5, failed: 5, skipped: 1 });
    }

    #[test]
    fn a_skipped_test_is_not_a_passed_one_and_counts_once() {
        let tally = count(
            &[
                "test root_a ... SKIPPED root_a: needs root",
                "ok",
                "SKIPPED root_b: no BTF",
                "  SKIPPED root_b: no BTF, said again",
                "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
            ],
            true,
        );
        assert_eq!(tally, Tally { passed: 1, failed: 0, skipped: 2 });
    }

    #[test]
    fn a_runner_that_broke_is_a_failure_but_a_failed_test_is_not_counted_twice() {
        assert_eq!(count(&["error: could not compile"], false), Tally { passed: 0, failed: 1, skipped: 0 });
        let one_failed = "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(count(&[one_failed], false), Tally { passed: 0, failed: 1, skipped: 0 });
        assert_eq!(count(&[], true), Tally::default());
    }

    #[test]
    fn other_lines_count_for_nothing() {
        let tally = count(
            &["nothing was SKIPPED here: really", "SKIPPED", "SKIPPED two words: why", "3 passed"],
            true,
        );
        assert_eq!(tally, Tally::default());
    }
}
