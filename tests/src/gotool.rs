//! The Go toolchain, where a test lets Go's own tools judge.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Any `go` of this machine.
///
/// # Errors
/// There is none.
pub fn go() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).map(|folder| folder.join("go"));
    let usual = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"].map(PathBuf::from);
    places.chain(usual).find(|go| go.is_file()).context("there is no `go` on PATH")
}

/// Runs `go` with arguments, away from every go.mod, and returns what it says.
///
/// # Errors
/// It does not end well; with its words.
pub fn run(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(go()?)
        .args(arguments)
        .current_dir(folder)
        .env("GOBIN", folder)
        .env("GOFLAGS", "-mod=mod")
        .env("GOWORK", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .output()
        .context("`go` does not start")?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "`go {}`: {}\n{said}\n{errors}", arguments.join(" "), output.status);
    Ok(said.into_owned())
}

/// Fetches a program through the Go module proxy and builds it into a folder.
///
/// # Errors
/// It can't be fetched or built.
pub fn install(folder: &Path, package: &str) -> Result<PathBuf> {
    run(folder, &["install", package])?;
    let name = package.split('@').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    Ok(folder.join(name))
}
