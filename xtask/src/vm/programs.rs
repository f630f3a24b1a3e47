//! The Go programs in a machine: its init, and what gotrail is tried on.
//!
//! They are built anew each time: Go keeps what it compiled, and the rest takes a second.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::plan::Wanted;
use crate::command;
use crate::go;
use crate::workspace::Workspace;

/// A program that was built for a machine.
pub(super) struct Program {
    pub(super) wanted: Wanted,
    /// Where it is on the host.
    pub(super) path: PathBuf,
}

impl Program {
    /// Where it is in the machine, without the slash in front.
    pub(super) fn guest_path(&self) -> String {
        format!("fixtures/{}", self.wanted.file())
    }
}

/// Builds fixtures for an architecture, by Go's name.
pub(super) fn build(
    workspace: &Workspace,
    folder: &Path,
    architecture: &str,
    wanted: &[Wanted],
) -> Result<Vec<Program>> {
    fs::create_dir_all(folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let mut programs = Vec::new();
    for wanted in wanted {
        let path = folder.join(wanted.file());
        let source = workspace.root.join("tests/fixtures").join(wanted.fixture);
        compile(workspace, &source, wanted.version, wanted.flags(), architecture, &path)?;
        programs.push(Program { wanted: wanted.clone(), path });
    }
    Ok(programs)
}

/// Builds the init.
pub(super) fn init(workspace: &Workspace, path: &Path, architecture: &str) -> Result<PathBuf> {
    let source = workspace.root.join("tests/vm/init");
    compile(workspace, &source, go::NEWEST, &["-trimpath"], architecture, path)?;
    Ok(path.to_owned())
}

fn compile(
    workspace: &Workspace,
    source: &Path,
    version: &str,
    flags: &[&str],
    architecture: &str,
    to: &Path,
) -> Result<()> {
    let mut go = go::toolchain(workspace, version)?.go()?;
    go.current_dir(source).env("GOARCH", architecture).arg("build").args(flags).arg("-o").arg(to).arg(".");
    let purpose = format!("build {} for {architecture} with Go {version}", source.display());
    command::run(&mut go, &purpose, "see the Go compiler's words above")
}
