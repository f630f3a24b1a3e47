//! `fixtures`: the Go programs that tests and demo look at.
//!
//! Every folder below `tests/fixtures` with a go.mod is one program. What was built is kept in the cache
//! under the hash of everything that decides its bytes, so a clean clone builds nothing twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::cells::{Cell, Mode, Wanted};
use crate::command::capture;
use crate::fnv::Fnv1a;
use crate::go::{self, BUILD_ENVIRONMENT, Refused, Toolchain};
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `fixtures`; without any, everything usual is built.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    wanted: Wanted,
}

/// What became of one cell that Go was asked for.
pub(crate) enum Made {
    /// The program is there.
    At(PathBuf),
    /// Go can't make it, or what it makes does not run here; in the words of Go.
    NotByGo(String),
}

/// The outcome for a whole matrix.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) made: Vec<(Cell, Made)>,
    /// Combinations that can't exist here, each with its reason.
    pub(crate) skipped: Vec<String>,
    /// Combinations that should exist but did not build.
    pub(crate) failed: Vec<String>,
}

impl Outcome {
    /// The list that the tests read from `GOTRAIL_FIXTURES`.
    pub(crate) fn json(&self) -> Value {
        let entry = |(cell, made): &(Cell, Made)| {
            let mut entry =
                json!({ "name": cell.name, "go": cell.go, "mode": cell.mode.name(), "arch": cell.arch });
            match made {
                Made::At(path) => entry["path"] = json!(path),
                Made::NotByGo(words) => entry["na"] = json!(words),
            }
            entry
        };
        Value::Array(self.made.iter().map(entry).collect())
    }

    /// How many programs are there.
    pub(crate) fn built(&self) -> usize {
        self.made.iter().filter(|(_, made)| matches!(made, Made::At(_))).count()
    }
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure_go(workspace)?;
    let outcome = build_matrix(workspace, &arguments.wanted)?;
    for (cell, made) in &outcome.made {
        match made {
            Made::At(path) => println!("{cell} {}", path.display()),
            Made::NotByGo(words) => println!("{cell} n/a: {words}"),
        }
    }
    for reason in &outcome.skipped {
        eprintln!("skipped: {reason}");
    }
    for reason in &outcome.failed {
        eprintln!("failed: {reason}");
    }
    let complete = outcome.failed.is_empty() && !outcome.made.is_empty();
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds all cells that are wanted.
pub(crate) fn build_matrix(workspace: &Workspace, wanted: &Wanted) -> Result<Outcome> {
    let known = names_in(&folder(workspace))?;
    if let Some(unknown) = wanted.names.iter().find(|name| !known.contains(*name)) {
        bail!("there is no fixture `{unknown}`; there are: {}", Vec::from_iter(known).join(", "));
    }
    let names = if wanted.names.is_empty() { Vec::from_iter(known) } else { wanted.names.clone() };
    let mut cells: Vec<Cell> = names.iter().flat_map(|name| wanted.cells(name)).collect();
    // One toolchain after the other.
    cells.sort_by_key(|cell| crate::version::Version::find(&cell.go));

    let mut outcome = Outcome::default();
    let mut current: Option<(String, Option<Toolchain>)> = None;
    for cell in cells {
        if current.as_ref().is_none_or(|(version, _)| *version != cell.go) {
            let toolchain = match go::toolchain(workspace, &cell.go) {
                Ok(toolchain) => Some(toolchain),
                Err(error) if error.is::<Refused>() => {
                    outcome.skipped.push(format!("{error:#}"));
                    None
                }
                Err(error) => return Err(error),
            };
            current = Some((cell.go.clone(), toolchain));
        }
        let Some((_, Some(toolchain))) = &current else { continue };
        if let Some(reason) = too_old(workspace, &cell.name, toolchain)? {
            outcome.skipped.push(reason);
            continue;
        }
        match make(workspace, &cell, toolchain) {
            Ok(made) => outcome.made.push((cell, made)),
            Err(error) => outcome.failed.push(format!("{error:#}")),
        }
    }
    Ok(outcome)
}

/// Builds one program for this machine, or finds it in the cache.
pub(crate) fn build(workspace: &Workspace, name: &str, version: &str, mode: Mode) -> Result<PathBuf> {
    build_for(workspace, name, version, mode, go::architecture())
}

/// Builds one program for an architecture, as Go names it, or finds it in the cache.
pub(crate) fn build_for(
    workspace: &Workspace,
    name: &str,
    version: &str,
    mode: Mode,
    arch: &'static str,
) -> Result<PathBuf> {
    let toolchain = go::toolchain(workspace, version)?;
    let cell = Cell { name: name.to_owned(), go: version.to_owned(), mode, arch };
    match too_old(workspace, name, &toolchain)? {
        Some(reason) => bail!(reason),
        None => build_with(workspace, &cell, &toolchain),
    }
}

/// Builds a Go program of the tests that is no fixture, from its folder below `tests`.
pub(crate) fn build_helper(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let toolchain = go::toolchain(workspace, go::NEWEST)?;
    let (go, arch) = (go::NEWEST.to_owned(), go::architecture());
    let cell = Cell { name: name.to_owned(), go, mode: Mode::Default, arch };
    build_from(&workspace.root.join("tests").join(name), workspace, &cell, &toolchain)
}

/// Builds a cell and tells what is Go's fault from what is ours.
fn make(workspace: &Workspace, cell: &Cell, toolchain: &Toolchain) -> Result<Made> {
    let built = build_with(workspace, cell, toolchain);
    if cell.is_beyond_go() {
        // Should it be built all the same, so much the better.
        return Ok(built.map_or_else(|error| Made::NotByGo(go_words(&error)), Made::At));
    }
    let path = built?;
    // The race detector of some versions can't map its shadow memory on newer kernels. Each time anew: the
    // cache may be older than the kernel.
    let words = if cell.mode == Mode::Race { dies_at_start(&path)? } else { None };
    Ok(words.map_or(Made::At(path), Made::NotByGo))
}

/// What a program says that does not get as far as waiting for its input.
fn dies_at_start(program: &Path) -> Result<Option<String>> {
    let told = || format!("can't start {}", program.display());
    let output = Command::new(program).stdin(Stdio::null()).output().with_context(told)?;
    if output.stdout.starts_with(b"ready") {
        return Ok(None);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Ok(Some(format!("it dies at start ({}): {}", output.status, first.trim())))
}

/// The first line of Go's own words at the end of an error.
fn go_words(error: &anyhow::Error) -> String {
    let text = error.root_cause().to_string();
    let said = text.split_once("exit status: ").map_or(text.as_str(), |(_, rest)| rest);
    let line = said.lines().next().unwrap_or_default();
    line.split_once(": ").map_or(line, |(_, words)| words).trim().to_owned()
}

fn build_with(workspace: &Workspace, cell: &Cell, toolchain: &Toolchain) -> Result<PathBuf> {
    build_from(&folder(workspace).join(&cell.name), workspace, cell, toolchain)
}

fn build_from(source: &Path, workspace: &Workspace, cell: &Cell, toolchain: &Toolchain) -> Result<PathBuf> {
    let key = key(source, cell)?;
    let foreign = if cell.arch == go::architecture() { String::new() } else { format!("{}-", cell.arch) };
    let label = format!("{}-{foreign}{}-{key:016x}", cell.go, cell.mode.name());
    let place = workspace.cache.join("fixtures").join(&cell.name).join(label);
    let binary = place.join(&cell.name);
    if binary.is_file() {
        return Ok(binary);
    }
    // Built aside and renamed: whoever sees the file sees a whole one, even when two of us build at once.
    fs::create_dir_all(&place).with_context(|| format!("can't make the folder {}", place.display()))?;
    let scratch = Scratch::within(&place, "build")?;
    let fresh = scratch.path().join(&cell.name);
    let mut go = toolchain.go()?;
    // The standard library is compiled once for all programs of a version that are built alike.
    go.env("GOCACHE", workspace.cache.join("go-build"));
    go.env("GOOS", "linux").env("GOARCH", cell.arch);
    if cell.mode.needs_c() {
        go.env("CGO_ENABLED", "1");
    }
    go.current_dir(source).arg("build").args(cell.mode.flags(&cell.name));
    if cell.mode == Mode::Pgo {
        let profile = scratch.path().join("profile");
        if !cell.is_beyond_go() {
            let plain = Cell { mode: Mode::Default, ..cell.clone() };
            let mut program = Command::new(build_with(workspace, &plain, toolchain)?);
            capture(program.arg("-profile").arg(&profile), &format!("make a profile for {cell}"))?;
        }
        go.arg(format!("-pgo={}", profile.display()));
    }
    go.arg("-o").arg(&fresh).arg(".");
    capture(&mut go, &format!("build the fixture {cell}"))?;
    fs::rename(&fresh, &binary).with_context(|| format!("can't put {} into place", binary.display()))?;
    Ok(binary)
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root.join("tests/fixtures")
}

/// Whether a program asks for a newer Go than this.
fn too_old(workspace: &Workspace, name: &str, toolchain: &Toolchain) -> Result<Option<String>> {
    let go_mod = folder(workspace).join(name).join("go.mod");
    let text = fs::read_to_string(&go_mod)
        .with_context(|| format!("can't read {}: is there a fixture of that name?", go_mod.display()))?;
    let version = toolchain.version();
    let needed = go::needed_by(&text).filter(|needed| crate::version::Version::find(version) < Some(*needed));
    Ok(needed.map(|needed| format!("{name} asks for Go {needed} and newer, not {version}")))
}

fn names_in(folder: &Path) -> Result<BTreeSet<String>> {
    let told = || format!("can't list the fixtures in {}", folder.display());
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(told)? {
        let entry = entry.with_context(told)?;
        if entry.path().join("go.mod").is_file() {
            names.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The hash of all that decides the binary: sources, toolchain, flags, environment, architecture. But for a
/// profile, which is made anew for each build.
fn key(source: &Path, cell: &Cell) -> Result<u64> {
    let mut hash = Fnv1a::new();
    hash.field(cell.go.as_bytes());
    hash.field(cell.arch.as_bytes());
    for flag in cell.mode.flags(&cell.name) {
        hash.field(flag.as_bytes());
    }
    // Those that no flag tells apart.
    if matches!(cell.mode, Mode::Pgo | Mode::Cgo) {
        hash.field(cell.mode.name().as_bytes());
    }
    for (name, value) in BUILD_ENVIRONMENT {
        hash.field(name.as_bytes());
        hash.field(value.as_bytes());
    }
    for file in files_below(source)? {
        let told = || format!("can't read {}", file.display());
        let name = file.strip_prefix(source).with_context(told)?;
        hash.field(name.as_os_str().as_encoded_bytes());
        hash.field(&fs::read(&file).with_context(told)?);
    }
    Ok(hash.finish())
}

/// All files below a folder, in an order that does not depend on the file system.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let told = || format!("can't list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(told)? {
        let path = entry.with_context(told)?.path();
        if path.is_dir() {
            files.append(&mut files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::scratch::write_script;

    fn source(files: &[(&str, &str)]) -> Scratch {
        let scratch = Scratch::new("fixtures-test").unwrap();
        for (name, text) in files {
            let path = scratch.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        scratch
    }

    fn key_of(scratch: &Scratch, go: &str, mode: Mode, arch: &'static str) -> u64 {
        let cell = Cell { name: "shop".to_owned(), go: go.to_owned(), mode, arch };
        key(scratch.path(), &cell).unwrap()
    }

    #[test]
    fn the_key_follows_content_and_not_the_place() {
        let files = [("go.mod", "module shop\n"), ("main.go", "package main\n"), ("a/b.go", "package a\n")];
        let first = source(&files);
        let again = source(&files);
        let of = |scratch: &Scratch| key_of(scratch, "1.27.3", Mode::Default, "amd64");
        assert_eq!(of(&first), of(&again));

        fs::write(again.path().join("a/b.go"), "package a // changed\n").unwrap();
        assert_ne!(of(&first), of(&again));

        fs::rename(first.path().join("main.go"), first.path().join("other.go")).unwrap();
        assert_ne!(of(&first), of(&source(&files)));
    }

    #[test]
    fn the_key_follows_version_architecture_and_mode() {
        let scratch = source(&[("go.mod", "module shop\n")]);
        let mut keys = BTreeSet::new();
        for mode in Mode::value_variants().iter().filter(|mode| **mode != Mode::Trimpath) {
            for go in ["1.27.3", "1.25.5"] {
                for arch in ["amd64", "arm64"] {
                    assert!(keys.insert(key_of(&scratch, go, *mode, arch)), "{go} {arch} {mode:?}");
                }
            }
        }
    }

    #[test]
    fn go_is_quoted_without_our_words() {
        let script = "echo 'flag provided but not defined: -pgo' >&2; echo 'usage: go' >&2; exit 2";
        let error = capture(Command::new("sh").args(["-c", script]), "build it").expect_err("exit 2");
        assert_eq!(go_words(&error), "flag provided but not defined: -pgo");
    }

    #[test]
    fn a_program_that_dies_at_start_is_quoted() {
        let scratch = Scratch::new("fixtures-test").unwrap();
        let (well, ill) = (scratch.path().join("well"), scratch.path().join("ill"));
        write_script(&well, "echo ready 1; exit 1");
        write_script(&ill, "echo >&2; echo 'FATAL: unsupported' >&2; exit 66");
        assert_eq!(dies_at_start(&well).unwrap(), None);
        let words = dies_at_start(&ill).unwrap().unwrap();
        assert!(words.contains("66") && words.ends_with("FATAL: unsupported"), "{words}");
    }

    #[test]
    fn only_folders_with_a_go_mod_are_fixtures() {
        let scratch =
            source(&[("shop/go.mod", ""), ("shopload/go.mod", ""), ("notes/readme.md", ""), ("go.mod", "")]);
        assert_eq!(Vec::from_iter(names_in(scratch.path()).unwrap()), ["shop", "shopload"]);
    }
}
