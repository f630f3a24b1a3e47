//! Kernels: Debian's own, unpacked into the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Architecture;
use crate::command::{self, capture};
use crate::scratch::Scratch;
use crate::workspace::Workspace;

/// A kernel that is there.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What `uname -r` says in it.
    pub(super) version: String,
    /// The file to boot.
    pub(super) image: PathBuf,
}

/// Finds the newest kernel of a series in the cache, else fetches the newest that apt knows.
pub(super) fn find(workspace: &Workspace, architecture: Architecture, series: &str) -> Result<Kernel> {
    let folder = workspace.cache.join("kernels").join(architecture.name());
    if let Some(version) = newest(&names_in(&folder), architecture, series).into_iter().next() {
        let image = folder.join(&version);
        return Ok(Kernel { version, image });
    }
    fs::create_dir_all(&folder).with_context(|| format!("can't make the folder {}", folder.display()))?;
    let known = capture(
        Command::new("apt-cache").args(["pkgnames", &format!("linux-image-{series}.")]),
        "ask apt for kernels",
    )?;
    let packages: Vec<String> =
        known.lines().filter_map(|line| line.strip_prefix("linux-image-")).map(str::to_owned).collect();
    // apt also knows names that it can't fetch.
    for version in newest(&packages, architecture, series) {
        let package = format!("linux-image-{version}:{}", architecture.name());
        if is_available(&package)? {
            let image = fetch(&package, &version, &folder)?;
            return Ok(Kernel { version, image });
        }
    }
    bail!(
        "apt has no linux-image-{series}.*-cloud-{0}; Debian 12 with its updates has these kernels{1}",
        architecture.name(),
        if architecture == Architecture::Arm64 { " (after `dpkg --add-architecture arm64`)" } else { "" },
    )
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Those of a series that are made for virtual machines, the newest first.
fn newest(versions: &[String], architecture: Architecture, series: &str) -> Vec<String> {
    let mut found: Vec<_> = versions
        .iter()
        .filter_map(|version| {
            let rest = version.strip_prefix(series)?.strip_prefix('.')?;
            let number = rest.strip_suffix(&format!("-cloud-{}", architecture.name()))?;
            // 0-56 of the older series, 117+deb12 of the newer one; nothing else in between.
            let number = number.split_once('+').map_or(number, |(number, _)| number);
            let parts: Option<Vec<u32>> = number.split('-').map(|part| part.parse().ok()).collect();
            Some((parts?, version.clone()))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, version)| version).collect()
}

fn is_available(package: &str) -> Result<bool> {
    let said = capture(Command::new("apt-cache").args(["policy", package]), "ask apt for a kernel")?;
    Ok(said.lines().any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|v| v != "(none)")))
}

fn fetch(package: &str, version: &str, folder: &Path) -> Result<PathBuf> {
    println!("fetching {package} into the cache");
    let scratch = Scratch::within(folder, "kernel")?;
    let mut apt = Command::new("apt-get");
    // Its own user may not write into our cache, which is no harm but a warning.
    apt.current_dir(scratch.path()).args(["-q", "-o", "APT::Sandbox::User=root", "download", package]);
    command::run(&mut apt, "fetch a kernel", "read apt's words above")?;
    let archive = names_in(scratch.path()).into_iter().find(|name| name.ends_with(".deb"));
    let archive = archive.with_context(|| format!("apt-get download left no file for {package}"))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.current_dir(scratch.path()).args(["-x", &archive, "unpacked"]);
    command::run(&mut unpack, "unpack a kernel", "is the file whole?")?;
    let image = folder.join(version);
    let unpacked = scratch.path().join("unpacked/boot").join(format!("vmlinuz-{version}"));
    fs::rename(&unpacked, &image).with_context(|| {
        format!("can't put {} into place: has {package} no such file?", unpacked.display())
    })?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_chosen_by_number() {
        let names = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-60-cloud-amd64-dbg",
            "6.1.0-60-cloud-amd64-unsigned",
            "6.1.0-61-cloud-arm64",
            "6.1.0-62-amd64",
            "6.12.99+deb12-cloud-amd64",
            "6.12.117+deb12-cloud-amd64",
            "6.12-cloud-amd64",
            "6.1",
        ]
        .map(str::to_owned);
        let chosen = |series| newest(&names, Architecture::Amd64, series);
        assert_eq!(chosen("6.1"), ["6.1.0-56-cloud-amd64", "6.1.0-9-cloud-amd64"]);
        assert_eq!(chosen("6.12"), ["6.12.117+deb12-cloud-amd64", "6.12.99+deb12-cloud-amd64"]);
        assert_eq!(newest(&names, Architecture::Arm64, "6.1"), ["6.1.0-61-cloud-arm64"]);
        assert_eq!(chosen("5.10"), Vec::<String>::new());
    }
}
