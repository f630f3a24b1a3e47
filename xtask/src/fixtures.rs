//! `fixtures`: the Go programs that tests and demo look at.
//!
//! Every folder below `tests/fixtures` with a go.mod is one program. What was built is kept in the cache under
//! the hash of everything that decides its bytes, so a clean clone builds nothing twice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::command;
use crate::fnv::Fnv1a;
use crate::go::{self, BUILD_ENVIRONMENT, Refused, Toolchain};
use crate::scratch::Scratch;
use crate::setup;
use crate::workspace::Workspace;

/// Options of `fixtures`; without any, everything is built.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these programs.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only these Go versions; any that the Go module proxy has.
    #[arg(long = "go", value_name = "VERSION")]
    versions: Vec<String>,
    /// Only these ways of building.
    #[arg(long = "mode", value_name = "MODE")]
    modes: Vec<Mode>,
}

/// How a fixture is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// As `go build` does it.
    Default,
    /// Without symbol table and DWARF, as released programs often are.
    Stripped,
}

impl Mode {
    /// Its name in paths and lists.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Stripped => "stripped",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            // Without the paths of this checkout: the cache outlives it.
            Self::Default => &["-trimpath"],
            Self::Stripped => &["-trimpath", "-ldflags=-s -w"],
        }
    }
}

/// One program that is there.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) go: String,
    pub(crate) mode: Mode,
    pub(crate) path: PathBuf,
}

/// The outcome for a whole matrix.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) built: Vec<Fixture>,
    /// Combinations that can't exist here, each with its reason.
    pub(crate) skipped: Vec<String>,
    /// Combinations that should exist but did not build.
    pub(crate) failed: Vec<String>,
}

impl Outcome {
    /// The list that the tests read from `GOTRAIL_FIXTURES`.
    pub(crate) fn json(&self) -> Value {
        let entry = |fixture: &Fixture| {
            json!({
                "name": fixture.name,
                "go": fixture.go,
                "mode": fixture.mode.name(),
                "path": fixture.path,
            })
        };
        Value::Array(self.built.iter().map(entry).collect())
    }
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    setup::ensure_go(workspace)?;
    let outcome = build_matrix(workspace, &arguments.names, &arguments.versions, &arguments.modes)?;
    for fixture in &outcome.built {
        println!("{} {} {} {}", fixture.name, fixture.go, fixture.mode.name(), fixture.path.display());
    }
    for reason in &outcome.skipped {
        eprintln!("skipped: {reason}");
    }
    for reason in &outcome.failed {
        eprintln!("failed: {reason}");
    }
    let complete = outcome.failed.is_empty() && !outcome.built.is_empty();
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds all programs with all versions in all modes; an empty list stands for the default one.
pub(crate) fn build_matrix(
    workspace: &Workspace,
    names: &[String],
    versions: &[String],
    modes: &[Mode],
) -> Result<Outcome> {
    let known = names_in(&folder(workspace))?;
    if let Some(unknown) = names.iter().find(|name| !known.contains(*name)) {
        bail!("there is no fixture `{unknown}`; there are: {}", Vec::from_iter(known).join(", "));
    }
    let names = if names.is_empty() { Vec::from_iter(known) } else { names.to_vec() };
    let versions =
        if versions.is_empty() { go::VERSIONS.map(str::to_owned).to_vec() } else { versions.to_vec() };
    let modes = if modes.is_empty() { Mode::value_variants() } else { modes };

    let mut outcome = Outcome::default();
    for version in versions {
        let toolchain = match go::toolchain(workspace, &version) {
            Ok(toolchain) => toolchain,
            Err(error) if error.is::<Refused>() => {
                outcome.skipped.push(format!("{error:#}"));
                continue;
            }
            Err(error) => return Err(error),
        };
        for name in &names {
            if let Some(reason) = too_old(workspace, name, &toolchain)? {
                outcome.skipped.push(reason);
                continue;
            }
            for mode in modes {
                match build_with(workspace, name, &toolchain, *mode) {
                    Ok(path) => {
                        let fixture = Fixture { name: name.clone(), go: version.clone(), mode: *mode, path };
                        outcome.built.push(fixture);
                    }
                    Err(error) => outcome.failed.push(format!("{error:#}")),
                }
            }
        }
    }
    Ok(outcome)
}

/// Builds one program, or finds it in the cache.
pub(crate) fn build(workspace: &Workspace, name: &str, version: &str, mode: Mode) -> Result<PathBuf> {
    let toolchain = go::toolchain(workspace, version)?;
    match too_old(workspace, name, &toolchain)? {
        Some(reason) => bail!(reason),
        None => build_with(workspace, name, &toolchain, mode),
    }
}

fn build_with(workspace: &Workspace, name: &str, toolchain: &Toolchain, mode: Mode) -> Result<PathBuf> {
    let source = folder(workspace).join(name);
    let version = toolchain.version();
    let key = key(&source, version, mode)?;
    let place =
        workspace.cache.join("fixtures").join(name).join(format!("{version}-{}-{key:016x}", mode.name()));
    let binary = place.join(name);
    if binary.is_file() {
        return Ok(binary);
    }
    // Built aside and renamed: whoever sees the file sees a whole one, even when two of us build at once.
    fs::create_dir_all(&place).with_context(|| format!("can't make the folder {}", place.display()))?;
    let scratch = Scratch::within(&place, "build")?;
    let fresh = scratch.path().join(name);
    let mut go = toolchain.go()?;
    go.current_dir(&source).arg("build").args(mode.flags()).arg("-o").arg(&fresh).arg(".");
    let purpose = format!("build the fixture {name} with Go {version} ({})", mode.name());
    command::run(&mut go, &purpose, "see the Go compiler's words above")?;
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

/// The hash of all that decides the binary: sources, toolchain, flags, environment, architecture.
fn key(source: &Path, version: &str, mode: Mode) -> Result<u64> {
    let mut hash = Fnv1a::new();
    hash.field(version.as_bytes());
    hash.field(go::architecture().as_bytes());
    for flag in mode.flags() {
        hash.field(flag.as_bytes());
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
    use super::*;

    fn source(files: &[(&str, &str)]) -> Scratch {
        let scratch = Scratch::new("fixtures-test").unwrap();
        for (name, text) in files {
            let path = scratch.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        scratch
    }

    #[test]
    fn the_key_follows_content_and_not_the_place() {
        let files = [("go.mod", "module shop\n"), ("main.go", "package main\n"), ("a/b.go", "package a\n")];
        let first = source(&files);
        let again = source(&files);
        let of = |scratch: &Scratch| key(scratch.path(), "1.27.3", Mode::Default).unwrap();
        assert_eq!(of(&first), of(&again));

        fs::write(again.path().join("a/b.go"), "package a // changed\n").unwrap();
        assert_ne!(of(&first), of(&again));

        fs::rename(first.path().join("main.go"), first.path().join("other.go")).unwrap();
        assert_ne!(of(&first), of(&source(&files)));
    }

    #[test]
    fn the_key_follows_version_and_mode() {
        let scratch = source(&[("go.mod", "module shop\n")]);
        let of = |version, mode| key(scratch.path(), version, mode).unwrap();
        assert_ne!(of("1.27.3", Mode::Default), of("1.27.3", Mode::Stripped));
        assert_ne!(of("1.27.3", Mode::Default), of("1.25.5", Mode::Default));
    }

    #[test]
    fn only_folders_with_a_go_mod_are_fixtures() {
        let scratch =
            source(&[("shop/go.mod", ""), ("shopload/go.mod", ""), ("notes/readme.md", ""), ("go.mod", "")]);
        assert_eq!(Vec::from_iter(names_in(scratch.path()).unwrap()), ["shop", "shopload"]);
    }
}
