//! `fuzz`: libFuzzer on every parser.
//!
//! The targets are a workspace of their own below `fuzz/`, as they need a nightly compiler. What they learn is kept
//! in the cache, so that the next run goes on from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cells::Mode;
use crate::command;
use crate::fixtures;
use crate::setup::{self, install_command};
use crate::workspace::{Workspace, forget_cargo_run};

const CARGO_FUZZ: &str = "0.13.2";

/// Most memory that a target may take, what it reads from at the start included, and for one allocation, in MB.
const MEMORY: u32 = 1024;
const ALLOCATION: u32 = 256;
/// Longest that one input may take, in seconds.
const PATIENCE: u32 = 10;

/// The real programs that inputs are changes of: program, Go version, mode, architecture. Small ones, of both ends of
/// what is supported.
const BASES: [(&str, &str, Mode, &str); 6] = [
    ("spawn", "1.21.13", Mode::Stripped, "amd64"),
    ("spawn", "1.23.9", Mode::Default, "amd64"),
    ("spawn", "1.27.3", Mode::Stripped, "amd64"),
    ("spawn", "1.27.3", Mode::Pie, "amd64"),
    ("spawn", "1.21.13", Mode::Stripped, "arm64"),
    ("spawn", "1.27.3", Mode::Default, "arm64"),
];

/// The targets, each with the length of its longest input: changes of files are short.
const TARGETS: [(&str, u32); 9] = [
    ("program", 512),
    ("layout_dwarf", 512),
    ("build_info", 512),
    ("snapshot", 1024),
    ("core_file", 1024),
    ("machine_code", 4096),
    ("version", 600),
    ("events", 1300),
    ("proc_text", 4096),
];

/// Options of `fuzz`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Only these targets.
    #[arg(long = "target", value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each runs.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
}

/// Runs the verb.
pub(crate) fn run(arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let known = TARGETS.map(|(name, _)| name);
    if let Some(unknown) = arguments.targets.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no target `{unknown}`; there are: {}", known.join(", "));
    }
    setup::ensure_go(workspace)?;
    let folder = workspace.cache.join("fuzz");
    let bases = bases(workspace, &folder.join("bases"))?;
    let cargo_fuzz = cargo_fuzz(workspace)?;
    println!("building the targets");
    command::run(&mut cargo_fuzz("build"), "build the fuzz targets", "see the compiler's words above")?;

    let mut broken = Vec::new();
    for (target, length) in TARGETS {
        if !arguments.targets.is_empty() && !arguments.targets.iter().any(|name| name == target) {
            continue;
        }
        println!("== {target}, {} minutes", arguments.minutes);
        let (corpus, found) = (folder.join("corpus").join(target), folder.join("found").join(target));
        seed(&corpus, &workspace.root.join("fuzz/regressions").join(target), bases.len())?;
        fs::create_dir_all(&found).with_context(|| format!("can't make the folder {}", found.display()))?;
        let mut run = cargo_fuzz("run");
        run.env("GOTRAIL_FUZZ_BASES", folder.join("bases")).arg(target).arg(&corpus).arg("--");
        run.arg(format!("-artifact_prefix={}/", found.display()));
        run.args([
            format!("-max_total_time={}", u64::from(arguments.minutes) * 60),
            format!("-max_len={length}"),
            format!("-rss_limit_mb={MEMORY}"),
            format!("-malloc_limit_mb={ALLOCATION}"),
            format!("-timeout={PATIENCE}"),
            // Changes make inputs longer from the start.
            "-len_control=0".to_owned(),
            "-print_final_stats=1".to_owned(),
        ]);
        let remedy = format!(
            "what broke it is in {}: mend the parser, and keep a copy in fuzz/regressions/{target}",
            found.display()
        );
        if let Err(error) = command::run(&mut run, &format!("get {target} through"), &remedy) {
            eprintln!("failed: {error:#}");
            broken.push(target);
        }
    }
    if broken.is_empty() {
        println!("nothing broke");
        return Ok(ExitCode::SUCCESS);
    }
    println!("broken: {}", broken.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Puts the real programs into one folder; returns where they are.
fn bases(workspace: &Workspace, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let mut files = Vec::new();
    for (name, go, mode, arch) in BASES {
        let built = fixtures::build_for(workspace, name, go, mode, arch)?;
        let file = folder.join(format!("{name}-{go}-{arch}-{}", mode.name()));
        fs::copy(&built, &file)
            .with_context(|| format!("can't copy {} to {}", built.display(), file.display()))?;
        files.push(file);
    }
    // What another version left there would shift which base an input means.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !files.contains(&entry.path()) {
            fs::remove_file(entry.path()).with_context(|| format!("can't remove {:?}", entry.path()))?;
        }
    }
    Ok(files)
}

/// The least that a corpus begins with: each base as it is, and what was found before.
fn seed(corpus: &Path, found: &Path, bases: usize) -> Result<()> {
    let told = || format!("can't fill the corpus {}", corpus.display());
    fs::create_dir_all(corpus).with_context(told)?;
    for base in 0..bases {
        let input = [u8::try_from(base).unwrap_or_default(), 0, 0, 0];
        fs::write(corpus.join(format!("base-{base}")), input).with_context(told)?;
    }
    for entry in fs::read_dir(found).into_iter().flatten().flatten() {
        fs::copy(entry.path(), corpus.join(entry.file_name())).with_context(told)?;
    }
    Ok(())
}

/// What makes a command of a verb of cargo-fuzz, with the nightly compiler; installs it where it is missing.
fn cargo_fuzz(workspace: &Workspace) -> Result<impl Fn(&str) -> Command + '_> {
    let tool = workspace.tool("cargo-fuzz", CARGO_FUZZ);
    if !command::is_executable(&tool) {
        println!("installing cargo-fuzz {CARGO_FUZZ} into the cache");
        let mut install = install_command(workspace, "cargo-fuzz", CARGO_FUZZ);
        command::run(&mut install, "install cargo-fuzz", "is the crates registry reachable?")?;
    }
    let mut nightly = Command::new("rustup");
    command::capture(nightly.args(["run", "nightly", "cargo", "--version"]), "find a nightly compiler")
        .context("fuzzing needs a nightly compiler: `rustup toolchain install nightly`")?;
    Ok(move |verb: &str| {
        let mut command = Command::new("rustup");
        command.current_dir(&workspace.root).args(["run", "nightly"]).arg(&tool).args(["fuzz", verb]);
        // The parsers have no unsafe code: without a sanitizer the same time tries several times as much.
        command.args(["--fuzz-dir", "fuzz", "--sanitizer", "none"]);
        command.env("CARGO_TARGET_DIR", workspace.target.join("fuzz"));
        forget_cargo_run(&mut command);
        for unwanted in ["CARGO", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
        {
            command.env_remove(unwanted);
        }
        command
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn every_target_is_a_file_and_the_other_way_round() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
        let mut files: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        files.sort();
        let mut targets = TARGETS.map(|(name, _)| name);
        targets.sort_unstable();
        assert_eq!(files, targets);
    }

    #[test]
    fn a_corpus_begins_with_each_base_and_what_was_found() {
        let scratch = Scratch::new("fuzz-test").unwrap();
        let (corpus, found) = (scratch.path().join("corpus"), scratch.path().join("found"));
        fs::create_dir(&found).unwrap();
        fs::write(found.join("one"), b"x").unwrap();
        seed(&corpus, &found, 3).unwrap();
        assert_eq!(fs::read(corpus.join("base-2")).unwrap(), [2, 0, 0, 0]);
        assert_eq!(fs::read(corpus.join("one")).unwrap(), b"x");
        assert_eq!(fs::read_dir(&corpus).unwrap().count(), 4);
    }
}
