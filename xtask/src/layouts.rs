//! `layouts`: measures where the Go runtime keeps its fields, and writes the table that gotrail embeds.
//!
//! A small program is built with released toolchains for each architecture, and its DWARF is read by gotrail's
//! own code. Of each minor its first and last release are measured; where these differ, the releases between
//! are searched by halves for the change. Versions between two equal ones count as equal, unless `--every` says
//! to measure them all.

mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use self::rows::{Layout, Release, Row, bridged, parse, text, witnesses};
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

/// A release's layouts in the order of [`ARCHITECTURES`].
type Measured = Vec<Layout>;

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

#[cfg(test)]
mod tests;
