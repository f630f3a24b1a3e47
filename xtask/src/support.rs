//! `support`: the table of what is supported, in README.md, as the tests of the matrix found it.
//!
//! A cell that the last run did not have stays what the table says of it, so that a run of some cells
//! corrects those and no others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cells::Mode;
use crate::workspace::Workspace;

/// Around the table.
const BEGIN: &str = "<!-- support: written by `cargo xtask support` -->";
const END: &str = "<!-- support: end -->";
/// What stands in a cell.
const WORKS: &str = "✓";
const UNKNOWN: &str = "-";

/// `support` has no options.
#[derive(Args)]
pub(crate) struct Arguments {}

/// A minor version of Go, an architecture and a mode.
type Key = (u32, String, String);
/// What is said of each: works, or `mark: words`.
type Table = BTreeMap<Key, String>;

/// Runs the verb.
pub(crate) fn run(_arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let found = found(&results(workspace)?)?;
    if found.is_empty() {
        bail!("the tests have left no results: run `cargo xtask test --full` before");
    }
    if let Some((key, words)) = found.iter().find(|(_, words)| words.starts_with("fails")) {
        bail!("{}: {words}; a failed test is nothing to be written down as supported or not", told(key));
    }
    let (path, text) = readme(workspace)?;
    let (before, table, after) = parts(&text)?;
    let mut all = parse(table);
    let possible = columns().len() * minors(&found).count();
    all.extend(found.clone());
    fs::write(&path, format!("{before}{BEGIN}\n{}{END}{after}", render(&all)))
        .with_context(|| format!("can't write {}", path.display()))?;
    println!("{} of {possible} cells come from the last run", found.len());
    Ok(ExitCode::SUCCESS)
}

/// The file for the results, emptied for a new run.
pub(crate) fn fresh(workspace: &Workspace) -> Result<PathBuf> {
    let path = results(workspace)?;
    fs::write(&path, "[]\n").with_context(|| format!("can't write {}", path.display()))?;
    Ok(path)
}

/// Where the table in README.md is not what the last run has found, in words.
pub(crate) fn differences(workspace: &Workspace) -> Result<Vec<String>> {
    let (_, text) = readme(workspace)?;
    let (_, table, _) = parts(&text)?;
    Ok(compare(&parse(table), &found(&results(workspace)?)?))
}

fn compare(table: &Table, found: &Table) -> Vec<String> {
    let differing = |(key, found): (&Key, &String)| {
        let there = table.get(key).map_or("nothing", String::as_str);
        (there != found).then(|| {
            format!(
                "{}: README.md says {there:?}, the tests found {found:?}; if that is right, run \
                 `cargo xtask support`",
                told(key)
            )
        })
    };
    found.iter().filter_map(differing).collect()
}

fn results(workspace: &Workspace) -> Result<PathBuf> {
    Ok(workspace.generated()?.join("matrix.json"))
}

fn readme(workspace: &Workspace) -> Result<(PathBuf, String)> {
    let path = workspace.root.join("README.md");
    let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    Ok((path, text))
}

fn told((minor, arch, mode): &Key) -> String {
    format!("Go 1.{minor} {arch} {mode}")
}

/// What is before the markers, between and behind them.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let split = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (table, after) = rest.split_once(END)?;
        Some((before, table, after))
    });
    split.with_context(|| format!("README.md lacks the lines {BEGIN} and {END}"))
}

/// The columns: architecture and mode.
fn columns() -> Vec<(&'static str, &'static str)> {
    let modes = |modes: &[Mode]| {
        modes.iter().filter(|mode| mode.is_of_matrix()).map(|mode| mode.name()).collect::<Vec<_>>()
    };
    let amd64 = modes(Mode::value_variants()).into_iter().map(|mode| ("amd64", mode));
    let arm64 = modes(&[Mode::Default, Mode::Stripped, Mode::Pie]).into_iter().map(|mode| ("arm64", mode));
    amd64.chain(arm64).collect()
}

fn minors(table: &Table) -> impl Iterator<Item = u32> {
    let mut minors: Vec<u32> = table.keys().map(|(minor, _, _)| *minor).collect();
    minors.dedup();
    minors.into_iter()
}

/// The verdicts of a run by cell, the worst of all versions of a minor and of both checks.
fn found(path: &PathBuf) -> Result<Table> {
    let told = || format!("can't read the results of the tests in {}", path.display());
    let text = if path.is_file() { fs::read_to_string(path).with_context(told)? } else { "[]".to_owned() };
    let entries: Vec<Value> = serde_json::from_str(&text).with_context(told)?;
    let mut table = Table::new();
    for entry in &entries {
        let field =
            |name: &str| entry[name].as_str().with_context(|| format!("{}: no {name} in {entry}", told()));
        let minor = field("go")?.split('.').nth(1).and_then(|minor| minor.parse().ok());
        let key = (minor.with_context(told)?, field("arch")?.to_owned(), field("mode")?.to_owned());
        let words = match (field("verdict")?, field("words")?) {
            ("works", _) => WORKS.to_owned(),
            (verdict, words) => cell(&format!("{verdict}: {words}")),
        };
        let worst = table.entry(key).or_insert_with(|| words.clone());
        if rank(&words) > rank(worst) {
            *worst = words;
        }
    }
    Ok(table)
}

fn rank(words: &str) -> usize {
    let order = [WORKS, "n/a", "refused", "fails"];
    order.iter().position(|start| words.starts_with(start)).unwrap_or(order.len())
}

/// Text that does not break a table.
fn cell(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    one_line.trim_end_matches([':', ' ']).to_owned()
}

/// The table and its notes, a number for each text.
fn render(table: &Table) -> String {
    let mut notes: Vec<&str> = Vec::new();
    let mut text = String::from("\n| Go |");
    for (arch, mode) in columns() {
        // An architecture is named where it begins.
        let _ = write!(text, " {arch} {mode} |");
    }
    text.push_str("\n|---|");
    text.push_str(&":-:|".repeat(columns().len()));
    for minor in minors(table) {
        let _ = write!(text, "\n| 1.{minor} |");
        for (arch, mode) in columns() {
            let words = table.get(&(minor, arch.to_owned(), mode.to_owned())).map_or(UNKNOWN, String::as_str);
            let Some((mark, note)) = words.split_once(": ") else {
                let _ = write!(text, " {words} |");
                continue;
            };
            let number = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
                notes.push(note);
                notes.len() - 1
            });
            let _ = write!(text, " {mark} ({}) |", number + 1);
        }
    }
    text.push_str("\n\n");
    for (index, note) in notes.iter().enumerate() {
        // A list item each; the texts are a program's own and stay on one line.
        let _ = writeln!(text, "{}. {note}", index + 1);
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    text
}

/// The reverse of [`render`]. What is not there is not known.
fn parse(text: &str) -> Table {
    let notes: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(". ")).collect();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| 1.")?.strip_suffix('|'));
    let mut table = Table::new();
    for row in rows {
        let mut cells = row.split('|').map(str::trim);
        let Some(minor) = cells.next().and_then(|minor| minor.parse::<u32>().ok()) else { continue };
        for ((arch, mode), said) in columns().into_iter().zip(cells).filter(|(_, said)| *said != UNKNOWN) {
            let note = said
                .strip_suffix(')')
                .and_then(|rest| rest.split_once(" ("))
                .and_then(|(mark, number)| Some(format!("{mark}: {}", notes.get(number)?)));
            table.insert((minor, arch.to_owned(), mode.to_owned()), note.unwrap_or_else(|| said.to_owned()));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn key(minor: u32, arch: &str, mode: &str) -> Key {
        (minor, arch.to_owned(), mode.to_owned())
    }

    #[test]
    fn the_table_survives_being_written() {
        let mut table = Table::new();
        table.insert(key(18, "amd64", "default"), WORKS.to_owned());
        table.insert(key(18, "amd64", "pgo"), "n/a: flag provided but not defined: -pgo".to_owned());
        table.insert(key(19, "amd64", "pgo"), "n/a: flag provided but not defined: -pgo".to_owned());
        table.insert(key(27, "arm64", "pie"), "refused: no idea. None".to_owned());
        let text = render(&table);
        assert_eq!(parse(&text), table, "{text}");
        assert_eq!(text.matches("-pgo\n").count(), 1, "{text}");
    }

    #[test]
    fn the_worst_of_a_minor_counts() {
        let scratch = Scratch::new("support-test").unwrap();
        let path = scratch.path().join("matrix.json");
        let entry = |check, go, verdict, words| {
            serde_json::json!({
                "check": check, "go": go, "arch": "amd64", "mode": "pie", "verdict": verdict, "words": words,
            })
        };
        let entries = Value::Array(vec![
            entry("file", "1.23.1", "works", ""),
            entry("process", "1.23.1", "refused", "not\n this | one"),
            entry("file", "1.23.12", "works", ""),
            entry("file", "1.24.3", "works", ""),
        ]);
        fs::write(&path, entries.to_string()).unwrap();
        let table = found(&path).unwrap();
        assert_eq!(table[&key(23, "amd64", "pie")], "refused: not this / one");
        assert_eq!(table[&key(24, "amd64", "pie")], WORKS);
    }

    #[test]
    fn only_cells_that_ran_are_compared() {
        let works = |minor| (key(minor, "amd64", "pgo"), WORKS.to_owned());
        let refused = |minor| (key(minor, "amd64", "pgo"), "refused: no".to_owned());
        let table = Table::from([works(20), works(21), works(22)]);
        assert!(compare(&table, &Table::from([works(21)])).is_empty());
        let words = compare(&table, &Table::from([refused(20), works(22), works(23)]));
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].starts_with("Go 1.20 amd64 pgo: README.md says \"✓\""), "{words:?}");
        assert!(words[1].contains("\"nothing\""), "{words:?}");
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let text = format!("a\n{BEGIN}\n| 1.18 | {WORKS} |\n{END}\nb\n");
        let (before, table, after) = parts(&text).unwrap();
        assert_eq!((before, after), ("a\n", "\nb\n"));
        assert_eq!(parse(table)[&key(18, "amd64", "default")], WORKS);
        assert!(parts("no markers").is_err());
    }
}
