//! `layouts`: measures where the Go runtime keeps its fields, and writes the table that gotrail embeds.
//!
//! A small program is built with released toolchains for each architecture, and its DWARF is read by gotrail's
//! own code. Of each minor its first and last release are measured; where these differ, the releases between
//! are searched by halves for the change. Versions between two equal ones count as equal, unless `--every` says
//! to measure them all.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::command::{capture, run as run_command};
use crate::go::{self, Refused};
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `layouts`; without any, the table is written anew.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Changes nothing, but fails if the table is not what the toolchains say.
    #[arg(long)]
    check: bool,
    /// The versions to check, separated by commas; those of the test matrix if not given.
    #[arg(long = "go", value_name = "VERSIONS", value_delimiter = ',', requires = "check")]
    versions: Vec<String>,
    /// Checks builds with this `GOEXPERIMENT` against the table's plain ones.
    #[arg(long, value_name = "NAME", requires = "check")]
    experiment: Option<String>,
    /// Measures every release instead of searching by halves.
    #[arg(long, conflicts_with = "check")]
    every: bool,
}

/// By Go's names.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// The last patch of each minor that was known when this was written. Some proxies list only what somebody
/// has asked them for, so their list alone would lack releases.
const KNOWN: [(u16, u16); 10] =
    [(18, 10), (19, 13), (20, 14), (21, 13), (22, 12), (23, 12), (24, 13), (25, 14), (26, 11), (27, 4)];

/// Names every structure of the table, so that the linker keeps all their types, and reads from a pipe with a deadline,
/// so that it keeps the network poller.
const PROGRAM: &str = "package main

import (
	\"os\"
	\"time\"
)

func main() {
	r, w, err := os.Pipe()
	if err != nil || r.SetReadDeadline(time.Now()) != nil {
		os.Exit(1)
	}
	r.Read(make([]byte, 1))
	w.Close()
	work, stop := make(chan int), make(chan struct{})
	go func() {
		work <- 1
		close(stop)
	}()
	for {
		select {
		case n := <-work:
			println(n)
		case <-stop:
			return
		}
	}
}
";

/// A release of Go 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release {
    minor: u16,
    patch: u16,
}

impl Release {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("1.")?.split('.').map(str::parse);
        let (minor, patch) = (parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?);
        parts.next().is_none().then_some(Self { minor, patch })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minor, patch } = self;
        // The first release of a minor has its patch in its name only since 1.21.
        if *patch == 0 && *minor < 21 {
            write!(formatter, "1.{minor}")
        } else {
            write!(formatter, "1.{minor}.{patch}")
        }
    }
}

/// What was measured of one release on one architecture.
#[derive(Clone, Debug)]
struct Layout {
    offsets: BTreeMap<String, u64>,
    wait_reasons: Vec<String>,
    /// The code that uses the fields, hashed: releases differ in it that have the same layout.
    witnesses: BTreeMap<String, String>,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets && self.wait_reasons == other.wait_reasons
    }
}

impl Eq for Layout {}

impl Layout {
    fn read(json: &Value) -> Option<Self> {
        let offsets = json.get("offsets")?.as_object()?;
        let reasons = json.get("wait_reasons")?.as_array()?;
        Some(Self {
            offsets: offsets
                .iter()
                .map(|(key, offset)| Some((key.clone(), offset.as_u64()?)))
                .collect::<Option<_>>()?,
            wait_reasons: reasons
                .iter()
                .map(|reason| reason.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            witnesses: json
                .get("witnesses")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(name, hash)| Some((name.clone(), hash.as_str()?.to_owned())))
                .collect(),
        })
    }

    /// How another one differs, in words.
    fn difference(&self, other: &Self) -> Vec<String> {
        let shown = |offset: Option<&u64>| offset.map_or_else(|| "absent".to_owned(), u64::to_string);
        let keys: std::collections::BTreeSet<_> = self.offsets.keys().chain(other.offsets.keys()).collect();
        let mut words: Vec<_> = keys
            .into_iter()
            .map(|key| (key, self.offsets.get(key), other.offsets.get(key)))
            .filter(|(_, mine, theirs)| mine != theirs)
            .map(|(key, mine, theirs)| format!("{key} {} -> {}", shown(mine), shown(theirs)))
            .collect();
        if self.wait_reasons != other.wait_reasons {
            words.push("the wait reasons".to_owned());
        }
        words
    }
}

/// A release's layouts in the order of [`ARCHITECTURES`].
type Measured = Vec<Layout>;

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    arch: String,
    first: Release,
    last: Release,
    layout: Layout,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let newest = setup::ensure_go(workspace)?;
    if arguments.check {
        check(arguments, workspace)
    } else {
        let candidates = candidates(&listed(newest.go()?, &workspace.cache));
        write(workspace, &candidates, arguments.every)
    }
}

fn table(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tracer-user/src/binary/layout/layouts.json")
}

fn write(workspace: &Workspace, candidates: &[Vec<Release>], every: bool) -> Result<ExitCode> {
    let matrix: Vec<_> = go::VERSIONS.iter().filter_map(|version| Release::parse(version)).collect();
    let mut rows = Vec::new();
    for candidates in candidates {
        let mut survey =
            Survey { measure: |release| measure(workspace, release, None), known: BTreeMap::new() };
        let (Some(first), Some(last)) =
            (survey.first_of(candidates.iter())?, survey.first_of(candidates.iter().rev())?)
        else {
            continue;
        };
        for release in candidates.iter().filter(|release| every || matrix.contains(release)) {
            survey.layouts(*release)?;
        }
        let mut measured: Vec<_> = survey.found().map(|(release, _)| release).collect();
        measured.dedup();
        for pair in measured.windows(2) {
            survey.search(candidates, pair[0], pair[1])?;
        }
        println!("1.{}: {first} to {last}, {} measured", first.minor, survey.found().count());
        rows.extend(survey.rows());
    }
    ensure!(!rows.is_empty(), "no Go toolchain can be had here; run `cargo xtask setup`, or check GOPROXY");
    rows.sort_by(|one, other| (&one.arch, one.first).cmp(&(&other.arch, other.first)));
    let rows = bridged(rows);
    for row in &rows {
        println!("{} {} to {}: {} fields", row.arch, row.first, row.last, row.layout.offsets.len());
    }
    let file = table(workspace);
    fs::write(&file, text(&rows)).with_context(|| format!("can't write {}", file.display()))?;
    let file = file.with_file_name("witnesses.json");
    fs::write(&file, witnesses(&rows)).with_context(|| format!("can't write {}", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let file = table(workspace);
    let rows = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    let rows = parse(&rows).with_context(|| format!("{} is not a table of layouts", file.display()))?;
    let versions = if arguments.versions.is_empty() {
        go::VERSIONS.map(str::to_owned).to_vec()
    } else {
        arguments.versions.clone()
    };
    let (mut checked, mut wrong) = (0, 0);
    for version in versions {
        let release = Release::parse(&version)
            .with_context(|| format!("{version:?} is not a release of Go; one looks like 1.27.3"))?;
        let Some(measured) = measure(workspace, release, arguments.experiment.as_deref())? else { continue };
        for (arch, layout) in ARCHITECTURES.iter().zip(measured) {
            checked += 1;
            let row = rows
                .iter()
                .find(|row| row.arch == *arch && (row.first..=row.last).contains(&release))
                .map(|row| row.layout.difference(&layout));
            match row {
                Some(words) if words.is_empty() => println!("{release} {arch}: as the table says"),
                Some(words) => {
                    wrong += 1;
                    println!("{release} {arch}: not as the table says: {}", words.join(", "));
                }
                None => {
                    wrong += 1;
                    println!("{release} {arch}: the table has no row");
                }
            }
        }
    }
    ensure!(checked > 0, "none of the versions could be had, so nothing was checked");
    Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The releases that the proxy lists. Without its list those in [`KNOWN`] have to do.
fn listed(mut list: Command, folder: &Path) -> Vec<Release> {
    // Go answers nothing about its toolchains without the checksum database, which builds here do without.
    list.env("GOENV", "off").env_remove("GOSUMDB");
    list.current_dir(folder).args(["list", "-m", "-versions", "golang.org/toolchain"]);
    match capture(&mut list, "list the Go toolchains that there are") {
        Ok(said) => releases_in(&said, go::architecture()),
        Err(error) => {
            eprintln!("note: {error:#}");
            Vec::new()
        }
    }
}

/// `v0.0.1-go1.21.0.linux-amd64` and the like; those of other systems, and candidates, are left out.
fn releases_in(list: &str, architecture: &str) -> Vec<Release> {
    let ending = format!(".linux-{architecture}");
    list.split_whitespace()
        .filter_map(|word| Release::parse(word.strip_prefix("v0.0.1-go")?.strip_suffix(&ending)?))
        .collect()
}

/// The releases that may exist, by minor.
fn candidates(listed: &[Release]) -> Vec<Vec<Release>> {
    KNOWN
        .iter()
        .map(|&(minor, known)| {
            let listed = listed.iter().filter(|release| release.minor == minor).map(|release| release.patch);
            (0..=listed.fold(known, u16::max)).map(|patch| Release { minor, patch }).collect()
        })
        .collect()
}

/// The releases of one minor while they are being measured.
struct Survey<M> {
    measure: M,
    /// `None`: can't be had.
    known: BTreeMap<Release, Option<Measured>>,
}

impl<M: Fn(Release) -> Result<Option<Measured>>> Survey<M> {
    fn layouts(&mut self, release: Release) -> Result<Option<&Measured>> {
        if !self.known.contains_key(&release) {
            self.known.insert(release, (self.measure)(release)?);
        }
        Ok(self.known.get(&release).and_then(Option::as_ref))
    }

    fn first_of<'a>(&mut self, releases: impl Iterator<Item = &'a Release>) -> Result<Option<Release>> {
        for &release in releases {
            if self.layouts(release)?.is_some() {
                return Ok(Some(release));
            }
        }
        Ok(None)
    }

    /// The measured ones in order.
    fn found(&self) -> impl Iterator<Item = (Release, &Measured)> {
        self.known.iter().filter_map(|(release, layouts)| Some((*release, layouts.as_ref()?)))
    }

    /// Measures between two releases until each change lies between neighbours.
    fn search(&mut self, candidates: &[Release], low: Release, high: Release) -> Result<()> {
        if self.layouts(low)?.cloned() == self.layouts(high)?.cloned() {
            return Ok(());
        }
        let mut between: Vec<_> = candidates.iter().copied().filter(|at| low < *at && *at < high).collect();
        // The middle first; where that can't be had, what is nearest to it.
        let middle = between.get(between.len() / 2).copied();
        between.sort_by_key(|at| middle.map_or(0, |middle| at.patch.abs_diff(middle.patch)));
        match self.first_of(between.iter())? {
            Some(middle) => {
                self.search(candidates, low, middle)?;
                self.search(candidates, middle, high)
            }
            None => Ok(()),
        }
    }

    /// Neighbours with the same layout become one row.
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for (index, arch) in ARCHITECTURES.iter().enumerate() {
            let mut new_run = true;
            for (release, layouts) in self.found() {
                let Some(layout) = layouts.get(index) else { continue };
                match rows.last_mut().filter(|row| !new_run && row.layout == *layout) {
                    Some(row) => {
                        row.last = release;
                        row.layout = layout.clone();
                    }
                    None => rows.push(Row {
                        arch: (*arch).to_owned(),
                        first: release,
                        last: release,
                        layout: layout.clone(),
                    }),
                }
                new_run = false;
            }
        }
        rows
    }
}

/// Measures one release; `None`, with a word about it, if it can't be had.
fn measure(workspace: &Workspace, release: Release, experiment: Option<&str>) -> Result<Option<Measured>> {
    let mut files = Vec::new();
    for arch in ARCHITECTURES {
        match program(workspace, release, arch, experiment) {
            Ok(file) => files.push(file),
            Err(error) if error.is::<Refused>() => {
                eprintln!("skipped: {error:#}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--quiet", "--locked", "-p", "tracer-user", "--no-default-features"]);
    cargo.args(["--example", "layout_rows", "--"]).args(&files);
    let said = capture(&mut cargo, &format!("read the layouts of Go {release}"))?;
    let layouts = said.lines().zip(ARCHITECTURES).map(|(line, arch)| {
        let told = || format!("layout_rows says nothing sensible about Go {release} for {arch}: {line}");
        let json: Value = serde_json::from_str(line).with_context(told)?;
        // The version may go on with experiments.
        let version =
            json.get("version").and_then(Value::as_str).and_then(|version| version.split([' ', '-']).next());
        ensure!(version == Some(&format!("go{release}")), "{}", told());
        ensure!(json.get("arch").and_then(Value::as_str) == Some(arch), "{}", told());
        Layout::read(&json).with_context(told)
    });
    let layouts = layouts.collect::<Result<Vec<_>>>()?;
    ensure!(layouts.len() == ARCHITECTURES.len(), "layout_rows lacks an answer about Go {release}: {said}");
    Ok(Some(layouts))
}

/// The program built by one release for one architecture, from the cache if it is there.
fn program(workspace: &Workspace, release: Release, arch: &str, experiment: Option<&str>) -> Result<PathBuf> {
    let name = match experiment {
        Some(experiment) => format!("{release}-{arch}-{experiment}"),
        None => format!("{release}-{arch}"),
    };
    let place = workspace.cache.join("layouts").join(name);
    let (source, binary) = (place.join("main.go"), place.join("probe"));
    if binary.is_file() && fs::read_to_string(&source).is_ok_and(|known| known == PROGRAM) {
        return Ok(binary);
    }
    let toolchain = go::toolchain(workspace, &release.to_string())?;
    fs::create_dir_all(&place).with_context(|| format!("can't make the folder {}", place.display()))?;
    // Built aside and renamed, the source last: whoever sees both sees whole ones that belong together.
    let scratch = Scratch::within(&place, "build")?;
    let (fresh_source, fresh) = (scratch.path().join("main.go"), scratch.path().join("probe"));
    fs::write(&fresh_source, PROGRAM).with_context(|| format!("can't write {}", fresh_source.display()))?;
    let mut go = toolchain.go()?;
    go.current_dir(scratch.path()).env("GOOS", "linux").env("GOARCH", arch);
    if let Some(experiment) = experiment {
        go.env("GOEXPERIMENT", experiment);
    }
    go.args(["build", "-o", "probe", "main.go"]);
    let purpose = format!("build for {arch} with Go {release}");
    run_command(&mut go, &purpose, "see the Go compiler's words above")?;
    for (from, to) in [(&fresh, &binary), (&fresh_source, &source)] {
        fs::rename(from, to).with_context(|| format!("can't put {} into place", to.display()))?;
    }
    Ok(binary)
}

/// The table as it is written: one line per structure, so that a change is seen in a few lines.
fn text(rows: &[Row]) -> String {
    let mut text = String::from("[\n");
    for (index, row) in rows.iter().enumerate() {
        let quoted = |text: &str| Value::from(text).to_string();
        let _ = write!(
            text,
            " {{\"arch\": {}, \"first\": \"{}\", \"last\": \"{}\",\n  \"offsets\": {{",
            quoted(&row.arch),
            row.first,
            row.last
        );
        let mut last_part = None;
        for (key, offset) in &row.layout.offsets {
            let part = key.split('.').next();
            let separator = match last_part {
                None => "\n   ",
                Some(last) if last == part => ", ",
                Some(_) => ",\n   ",
            };
            let _ = write!(text, "{separator}{}: {offset}", quoted(key));
            last_part = Some(part);
        }
        text.push_str("\n  },\n  \"wait_reasons\": [");
        for (index, reason) in row.layout.wait_reasons.iter().enumerate() {
            let separator = match index {
                0 => "\n   ",
                _ if index % 6 == 0 => ",\n   ",
                _ => ", ",
            };
            let _ = write!(text, "{separator}{}", quoted(reason));
        }
        text.push_str(if index + 1 < rows.len() { "\n  ]},\n" } else { "\n  ]}\n" });
    }
    text.push_str("]\n");
    text
}

/// Between two rows of a minor may be releases that can't be had. What is the same on both sides is so for them too;
/// what differs is left out. gotrail's own tests notice where that is something it can't do without.
fn bridged(rows: Vec<Row>) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    for row in rows {
        if let Some(last) = all.last()
            && last.arch == row.arch
            && last.last.minor == row.first.minor
            && last.last.patch + 1 < row.first.patch
            && last.layout.wait_reasons == row.layout.wait_reasons
        {
            let same = |(key, offset): (&String, &u64)| {
                (row.layout.offsets.get(key) == Some(offset)).then(|| (key.clone(), *offset))
            };
            let layout = Layout {
                offsets: last.layout.offsets.iter().filter_map(same).collect(),
                wait_reasons: row.layout.wait_reasons.clone(),
                witnesses: BTreeMap::new(),
            };
            let patch = |release: Release, patch: u16| Release { patch, ..release };
            let bridge = Row {
                arch: row.arch.clone(),
                first: patch(row.first, last.last.patch + 1),
                last: patch(row.first, row.first.patch - 1),
                layout,
            };
            all.push(bridge);
        }
        all.push(row);
    }
    all
}

/// The code of each row's last release: what proves the layout of a release that was not measured.
fn witnesses(rows: &[Row]) -> String {
    let mut text = String::from("[\n");
    // Nothing was measured of the others.
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.layout.witnesses.is_empty()).collect();
    for (index, row) in rows.iter().enumerate() {
        let quoted = |text: &str| Value::from(text).to_string();
        let _ =
            write!(text, " {{\"arch\": {}, \"version\": \"{}\", \"code\": {{", quoted(&row.arch), row.last);
        for (index, (name, hash)) in row.layout.witnesses.iter().enumerate() {
            let separator = if index == 0 { "\n  " } else { ",\n  " };
            let _ = write!(text, "{separator}{}: {}", quoted(name), quoted(hash));
        }
        text.push_str(if index + 1 < rows.len() { "\n }},\n" } else { "\n }}\n" });
    }
    text.push_str("]\n");
    text
}

fn parse(text: &str) -> Result<Vec<Row>> {
    let json: Vec<Value> = serde_json::from_str(text)?;
    let row = |row: &Value| {
        let field = |name| row.get(name).and_then(Value::as_str);
        Some(Row {
            arch: field("arch")?.to_owned(),
            first: field("first").and_then(Release::parse)?,
            last: field("last").and_then(Release::parse)?,
            layout: Layout::read(row)?,
        })
    };
    json.iter().map(|value| row(value).with_context(|| format!("not a row: {value}"))).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn layout(goid: u64) -> Layout {
        let offsets = [("g.goid".to_owned(), goid), ("g.m".to_owned(), 48), ("p.id".to_owned(), 0)];
        let wait_reasons = vec![String::new(), "a \"quoted\" one".to_owned()];
        Layout { offsets: offsets.into(), wait_reasons, witnesses: BTreeMap::new() }
    }

    fn at(patch: u16) -> Release {
        Release { minor: 24, patch }
    }

    /// Rows as (architecture, first patch, last patch), and which patches were measured for that.
    fn survey(last: u16, absent: &[u16], goid: impl Fn(u16) -> u64) -> (Vec<(String, u16, u16)>, Vec<u16>) {
        let asked = RefCell::new(Vec::new());
        let measure = |release: Release| {
            asked.borrow_mut().push(release.patch);
            let there = !absent.contains(&release.patch);
            Ok(there.then(|| vec![layout(goid(release.patch)), layout(8)]))
        };
        let mut survey = Survey { measure, known: BTreeMap::new() };
        let candidates: Vec<_> = (0..=last).map(at).collect();
        let first = survey.first_of(candidates.iter()).unwrap().unwrap();
        let last = survey.first_of(candidates.iter().rev()).unwrap().unwrap();
        survey.search(&candidates, first, last).unwrap();
        let rows = survey.rows().into_iter().map(|row| (row.arch, row.first.patch, row.last.patch)).collect();
        (rows, asked.into_inner())
    }

    fn amd64(rows: &[(String, u16, u16)]) -> Vec<(u16, u16)> {
        rows.iter().filter(|row| row.0 == "amd64").map(|row| (row.1, row.2)).collect()
    }

    #[test]
    fn equal_ends_need_no_search() {
        let (rows, asked) = survey(13, &[], |_| 8);
        assert_eq!(asked, [0, 13]);
        assert_eq!(rows, [("amd64".to_owned(), 0, 13), ("arm64".to_owned(), 0, 13)]);
    }

    #[test]
    fn each_change_is_found_between_neighbours() {
        for change in 1..=13 {
            let (rows, asked) = survey(13, &[], |patch| u64::from(patch >= change));
            assert_eq!(amd64(&rows), [(0, change - 1), (change, 13)]);
            assert!(asked.len() <= 7, "{asked:?}");
        }
        let (rows, _) = survey(13, &[], |patch| u64::from(patch >= 3) + u64::from(patch >= 9));
        assert_eq!(amd64(&rows), [(0, 2), (3, 8), (9, 13)]);
    }

    #[test]
    fn releases_that_cannot_be_had_are_not_covered() {
        let (rows, _) = survey(13, &[0, 6, 7, 13], |patch| u64::from(patch >= 7));
        assert_eq!(amd64(&rows), [(1, 5), (8, 12)]);
    }

    #[test]
    fn what_is_the_same_on_both_sides_of_a_gap_is_so_within() {
        let row = |first, last, goid| Row {
            arch: "amd64".to_owned(),
            first: at(first),
            last: at(last),
            layout: layout(goid),
        };
        let rows = bridged(vec![row(0, 2, 8), row(5, 6, 16), row(7, 9, 24)]);
        let ranges: Vec<_> = rows.iter().map(|row| (row.first.patch, row.last.patch)).collect();
        assert_eq!(ranges, [(0, 2), (3, 4), (5, 6), (7, 9)]);
        assert_eq!(rows[1].layout.difference(&layout(8)), ["g.goid absent -> 8"]);
        let mut other = row(5, 6, 8);
        other.layout.wait_reasons.pop();
        assert_eq!(bridged(vec![row(0, 2, 8), other]).len(), 2);
    }

    #[test]
    fn releases_are_read_and_named_as_go_does() {
        let list = "golang.org/toolchain v0.0.1-go1.20.linux-amd64 v0.0.1-go1.21.0.linux-amd64 \
                    v0.0.1-go1.21.0.linux-arm64 v0.0.1-go1.26rc1.linux-amd64 v0.0.1-go1.27.9.linux-amd64";
        let releases = releases_in(list, "amd64");
        let names: Vec<_> = releases.iter().map(Release::to_string).collect();
        assert_eq!(names, ["1.20", "1.21.0", "1.27.9"]);
        let candidates = candidates(&releases);
        assert_eq!(candidates.last().unwrap().last().unwrap().to_string(), "1.27.9");
        assert_eq!(candidates[2][0].to_string(), "1.20");
    }

    #[test]
    fn the_table_survives_being_written() {
        let rows = [(0, 3, 8), (4, 13, 16)].map(|(first, last, goid)| Row {
            arch: "amd64".to_owned(),
            first: at(first),
            last: at(last),
            layout: layout(goid),
        });
        assert_eq!(parse(&text(&rows)).unwrap(), rows);
        assert!(
            text(&rows).contains("\n   \"g.goid\": 8, \"g.m\": 48,\n   \"p.id\": 0\n"),
            "{}",
            text(&rows)
        );
        assert!(parse("[{}]").is_err());
    }

    #[test]
    fn a_difference_is_told_by_field() {
        let mut other = layout(16);
        other.offsets.remove("p.id");
        other.wait_reasons.pop();
        let words = layout(8).difference(&other);
        assert_eq!(words, ["g.goid 8 -> 16", "p.id 0 -> absent", "the wait reasons"]);
        assert!(layout(8).difference(&layout(8)).is_empty());
    }
}
