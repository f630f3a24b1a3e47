//! Where things are: the work tree, cargo's target folder, the cache that outlives a clone.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The places that every verb works with; all absolute.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The top folder of the work tree.
    pub(crate) root: PathBuf,
    /// Cargo's target folder.
    pub(crate) target: PathBuf,
    /// What is worth keeping between clean clones: tools, fixtures, backends.
    pub(crate) cache: PathBuf,
}

impl Workspace {
    /// Finds the places from the environment that cargo gives us, else from the current folder.
    pub(crate) fn locate() -> Result<Self> {
        let start = match env::var_os("CARGO_MANIFEST_DIR") {
            Some(manifest) => PathBuf::from(manifest),
            None => env::current_dir().context("can't tell the current folder")?,
        };
        let Some(root) = start.ancestors().find(|folder| folder.join("xtask/Cargo.toml").is_file()) else {
            bail!("can't find the work tree above {}; run this inside of it", start.display());
        };
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root: root.to_owned(), target, cache: cache_folder(|name| env::var_os(name))? })
    }

    /// A cargo command in the work tree, as if typed by hand: without what `cargo run` put into our
    /// environment, which would make build scripts that look at it run again each time.
    pub(crate) fn cargo(&self) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.current_dir(&self.root);
        forget_cargo_run(&mut command);
        command
    }

    /// Where a tool of the cache lives.
    pub(crate) fn tool(&self, name: &str, version: &str) -> PathBuf {
        self.tool_folder(name, version).join("bin").join(name)
    }

    /// The `--root` of a tool's `cargo install`.
    pub(crate) fn tool_folder(&self, name: &str, version: &str) -> PathBuf {
        self.cache.join("tools").join(format!("{name}-{version}"))
    }

    /// The eBPF object for an architecture, by Rust's name, once it is built.
    pub(crate) fn bpf_object(&self, architecture: &str) -> PathBuf {
        self.bpf_target(architecture).join("bpfel-unknown-none/bpf/gotrail-bpf")
    }

    /// The target folder of the eBPF programs: their own, as another compiler builds them, and one for each
    /// architecture, as flags of the compiler choose it.
    pub(crate) fn bpf_target(&self, architecture: &str) -> PathBuf {
        if architecture == env::consts::ARCH {
            self.target.join("bpf")
        } else {
            self.target.join(format!("bpf-{architecture}"))
        }
    }

    /// Files that xtask itself writes for the build and the tests.
    pub(crate) fn generated(&self) -> Result<PathBuf> {
        let folder = self.target.join("xtask");
        fs::create_dir_all(&folder)
            .with_context(|| format!("can't make the folder {}: is it writable?", folder.display()))?;
        Ok(folder)
    }
}

/// Removes what `cargo run` sets for the program that it runs.
pub(crate) fn forget_cargo_run(command: &mut Command) {
    const SET_BY_CARGO: [&str; 5] =
        ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "OUT_DIR"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || SET_BY_CARGO.contains(&&*text) {
            command.env_remove(&name);
        }
    }
}

fn cache_folder(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = match (set("GOTRAIL_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _, _) => cache,
        (None, Some(caches), _) => caches.join("gotrail"),
        (None, None, Some(home)) => home.join(".cache/gotrail"),
        (None, None, None) => bail!(
            "can't tell where to keep tools and fixtures: none of GOTRAIL_CACHE, XDG_CACHE_HOME and HOME \
             is set; set GOTRAIL_CACHE to a folder that may grow by about 3 GB"
        ),
    };
    if Path::is_absolute(&folder) {
        Ok(folder)
    } else {
        bail!("the cache folder {} is not an absolute path; set GOTRAIL_CACHE to one", folder.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(variables: &[(&str, &str)]) -> Result<PathBuf> {
        cache_folder(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_the_named_one_else_the_users() {
        let all = [("GOTRAIL_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(folder(&all).unwrap(), PathBuf::from("/a"));
        assert_eq!(folder(&all[1..]).unwrap(), PathBuf::from("/b/gotrail"));
        assert_eq!(folder(&all[2..]).unwrap(), PathBuf::from("/c/.cache/gotrail"));
        assert_eq!(
            folder(&[("GOTRAIL_CACHE", ""), ("HOME", "/c")]).unwrap(),
            PathBuf::from("/c/.cache/gotrail")
        );
    }

    #[test]
    fn no_cache_or_a_relative_one_is_refused_with_advice() {
        for variables in [&[][..], &[("GOTRAIL_CACHE", "here")][..]] {
            let error = folder(variables).expect_err("there is no usable folder");
            assert!(format!("{error:#}").contains("GOTRAIL_CACHE"), "{error:#}");
        }
    }
}
