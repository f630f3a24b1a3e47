//! Which toolchain can build the eBPF programs on this machine.
//!
//! Two can. Debian's packages bring a compiler with a prebuilt `core` for the eBPF target: no nightly, no
//! standard library sources. Elsewhere the ordinary aya route is a nightly with `rust-src`, which builds
//! `core` itself. The linker, bpf-linker, must understand the bitcode of whichever compiler is used.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{capture, find_in, is_executable};
use crate::version::Version;
use crate::workspace::{Workspace, forget_cargo_run};

/// The LLVM that our bpf-linker is built against; it reads bitcode of this major version and older.
pub(crate) const LLVM_MAJOR: u32 = 22;
/// The linker's version in the cache.
pub(crate) const BPF_LINKER: &str = "0.13.0";
/// The target that all programs are built for.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";
/// The first stable compiler with which the ordinary route needs no help.
const ORDINARY_NEEDS: Version = Version::new(1, 98, 0);

/// A complete way of building the eBPF programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) route: Route,
    /// The folder that holds bpf-linker.
    linker_folder: PathBuf,
}

/// The compiler's part of a way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Debian's compiler with its prebuilt `core`.
    Debian { cargo: PathBuf, rustc: PathBuf },
    /// A nightly of rustup that builds `core` itself. The project has not run this one.
    Ordinary { cargo: PathBuf },
}

/// What is missing for Debian's route.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    pub(crate) packages: Vec<&'static str>,
    pub(crate) linker: bool,
}

/// What the search found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Complete(Toolchain),
    Incomplete(Missing),
}

/// The machine to search; a value, so that tests can search a made-up one.
pub(crate) struct Machine {
    /// `/`, but for tests.
    pub(crate) root: PathBuf,
    /// What `PATH` says.
    pub(crate) path: OsString,
    /// Where the cache keeps bpf-linker.
    pub(crate) cached_linker: PathBuf,
}

impl Machine {
    /// The machine that we run on.
    pub(crate) fn this(workspace: &Workspace) -> Self {
        Self {
            root: PathBuf::from("/"),
            path: std::env::var_os("PATH").unwrap_or_default(),
            cached_linker: workspace.tool("bpf-linker", BPF_LINKER),
        }
    }

    /// Searches: Debian's route if complete, else the ordinary one if complete, else what Debian's lacks.
    pub(crate) fn search(&self) -> Result<Found> {
        let missing = self.missing_for_debian();
        if missing == Missing::default() {
            let route = Route::Debian {
                cargo: self.root.join("usr/bin/cargo"),
                rustc: self.root.join("usr/bin/rustc"),
            };
            self.check_llvm()?;
            return Ok(Found::Complete(Toolchain { route, linker_folder: folder_of(&self.cached_linker) }));
        }
        Ok(match self.ordinary() {
            Some(toolchain) => Found::Complete(toolchain),
            None => Found::Incomplete(missing),
        })
    }

    fn missing_for_debian(&self) -> Missing {
        // The eBPF `core` tells Debian's `rustc-web` from an older `/usr/bin/rustc` that has none.
        let wanted = [
            ("usr/bin/rustc", "rustc-web"),
            ("usr/bin/cargo", "cargo-web"),
            ("usr/lib/rustlib/bpfel-unknown-none/lib", "libstd-rust-web-dev-bpf"),
            ("usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev"),
        ];
        let mut packages: Vec<_> = wanted
            .iter()
            .filter(|(file, _)| !self.root.join(file).exists())
            .map(|(_, package)| *package)
            .collect();
        let linker = !is_executable(&self.cached_linker);
        if packages.contains(&"libstd-rust-web-dev-bpf") {
            for compiler in ["cargo-web", "rustc-web"] {
                if !packages.contains(&compiler) {
                    packages.insert(0, compiler);
                }
            }
        }
        Missing { packages, linker }
    }

    /// The linker was built for one LLVM; a compiler of a newer one would fail in it with words that help no
    /// one.
    fn check_llvm(&self) -> Result<()> {
        let rustc = self.root.join("usr/bin/rustc");
        let said = capture(Command::new(&rustc).arg("-vV"), "ask Debian's compiler for its LLVM version")?;
        let llvm = said
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(Version::find)
            .with_context(|| format!("`{} -vV` names no LLVM version: {said:?}", rustc.display()))?;
        if llvm.major() > LLVM_MAJOR {
            bail!(
                "{} uses LLVM {llvm}, but the bpf-linker of this project is built against LLVM {LLVM_MAJOR}, \
                 which can't read its output; raise LLVM_MAJOR and BPF_LINKER in xtask/src/toolchain.rs",
                rustc.display()
            );
        }
        Ok(())
    }

    /// A stable compiler that needs no help with aya, a nightly with the sources of `core`, and a bpf-linker.
    fn ordinary(&self) -> Option<Toolchain> {
        let rustc = find_in(&self.path, "rustc")?;
        let stable = Version::find(&capture(Command::new(rustc).arg("--version"), "ask rustc").ok()?)?;
        if stable < ORDINARY_NEEDS {
            return None;
        }
        let rustup = find_in(&self.path, "rustup")?;
        let mut sysroot = Command::new(rustup);
        sysroot.args(["run", "nightly", "rustc", "--print", "sysroot"]);
        let sysroot = PathBuf::from(capture(&mut sysroot, "ask for a nightly").ok()?);
        if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            return None;
        }
        let linker = match find_in(&self.path, "bpf-linker") {
            Some(linker) => linker,
            None if is_executable(&self.cached_linker) => self.cached_linker.clone(),
            None => return None,
        };
        let cargo = find_in(&self.path, "cargo")?;
        Some(Toolchain { route: Route::Ordinary { cargo }, linker_folder: folder_of(&linker) })
    }
}

impl Toolchain {
    /// The command that builds the programs for an architecture, by Rust's name, into their own target folder.
    pub(crate) fn build(&self, workspace: &Workspace, features: &str, architecture: &str) -> Result<Command> {
        let mut command = match &self.route {
            Route::Debian { cargo, rustc } => {
                let mut command = Command::new(cargo);
                // `core`'s prebuilt form and inline assembly for eBPF count as unstable on a stable compiler.
                command
                    .env("RUSTC", rustc)
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env_remove("RUSTUP_TOOLCHAIN")
                    .arg("build");
                command
            }
            Route::Ordinary { cargo } => {
                let mut command = Command::new(cargo);
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC");
                command.args(["+nightly", "build", "-Z", "build-std=core"]);
                command
            }
        };
        command
            .current_dir(&workspace.root)
            .args(["--locked", "--ignore-rust-version", "-p", "tracer-ebpf", "--bin", "gotrail-bpf"])
            .args(["--features", features, "--profile", "bpf", "--target", BPF_TARGET, "--target-dir"])
            .arg(workspace.bpf_target(architecture))
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(architecture))
            .env("PATH", self.path()?);
        forget_host_build(&mut command);
        Ok(command)
    }

    fn path(&self) -> Result<OsString> {
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.linker_folder.clone()).chain(std::env::split_paths(&rest));
        std::env::join_paths(folders).context("a folder on PATH has a name that can't be there")
    }
}

/// The host build's wrappers and cargo's own library path are not for another compiler.
pub(crate) fn forget_host_build(command: &mut Command) {
    for unwanted in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "LD_LIBRARY_PATH", "CARGO"] {
        command.env_remove(unwanted);
    }
    forget_cargo_run(command);
}

fn rustflags(architecture: &str) -> String {
    let architecture = format!("--cfg=bpf_target_arch=\"{architecture}\"");
    ["-Cdebuginfo=2", "-Clink-arg=--btf", "-Clinker=bpf-linker", &architecture].join("\u{1f}")
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or_else(|| Path::new(OsStr::new("/"))).to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::scratch::{Scratch, write_script};

    /// A made-up machine: an empty root, a `PATH` of one empty folder, no linker.
    struct Fake {
        scratch: Scratch,
    }

    impl Fake {
        fn new() -> Self {
            let fake = Self { scratch: Scratch::new("toolchain-test").unwrap() };
            fs::create_dir_all(fake.at("bin")).unwrap();
            fake
        }

        fn at(&self, file: &str) -> PathBuf {
            self.scratch.path().join(file)
        }

        fn script(&self, file: &str, body: &str) {
            write_script(&self.at(file), body);
        }

        fn debian(&self, llvm: &str) {
            self.script("root/usr/bin/rustc", &format!("echo 'rustc 1.96.0'; echo 'LLVM version: {llvm}'"));
            self.script("root/usr/bin/cargo", "");
            self.script("root/usr/lib/llvm-22/bin/llvm-config", "");
            fs::create_dir_all(self.at("root/usr/lib/rustlib/bpfel-unknown-none/lib")).unwrap();
            self.script("cache/bpf-linker", "");
        }

        fn ordinary(&self, stable: &str) {
            let nightly = self.at("nightly");
            fs::create_dir_all(nightly.join("lib/rustlib/src/rust/library/core")).unwrap();
            self.script("bin/rustc", &format!("echo 'rustc {stable} (0123abcd 2026-11-01)'"));
            let asked = "run nightly rustc --print sysroot";
            self.script("bin/rustup", &format!("[ \"$*\" = '{asked}' ] && echo '{}'", nightly.display()));
            self.script("bin/cargo", "");
            self.script("bin/bpf-linker", "");
        }

        fn search(&self) -> Result<Found> {
            Machine {
                root: self.at("root"),
                path: self.at("bin").into_os_string(),
                cached_linker: self.at("cache/bpf-linker"),
            }
            .search()
        }
    }

    fn route(found: Found) -> Option<Route> {
        match found {
            Found::Complete(toolchain) => Some(toolchain.route),
            Found::Incomplete(_) => None,
        }
    }

    #[test]
    fn an_empty_machine_lacks_everything_by_name() {
        let Found::Incomplete(missing) = Fake::new().search().unwrap() else {
            panic!("an empty machine can't be complete");
        };
        assert_eq!(missing.packages, ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"]);
        assert!(missing.linker);
    }

    #[test]
    fn debians_packages_are_found_and_win() {
        let fake = Fake::new();
        fake.debian("22.1.8");
        fake.ordinary("1.98.0");
        let found = route(fake.search().unwrap());
        assert!(matches!(found, Some(Route::Debian { .. })), "{found:?}");
    }

    #[test]
    fn an_older_debian_compiler_does_not_stand_for_the_packages() {
        let fake = Fake::new();
        fake.debian("22.1.8");
        fs::remove_dir_all(fake.at("root/usr/lib/rustlib")).unwrap();
        let Found::Incomplete(missing) = fake.search().unwrap() else { panic!("core for eBPF is missing") };
        assert_eq!(missing.packages, ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"]);
        assert!(!missing.linker);
    }

    #[test]
    fn a_compiler_with_a_newer_llvm_is_refused_in_words() {
        let fake = Fake::new();
        fake.debian("23.1.0");
        let error = fake.search().expect_err("LLVM 22 can't read bitcode of 23");
        assert!(format!("{error:#}").contains("LLVM 23.1.0"), "{error:#}");
    }

    #[test]
    fn the_ordinary_route_needs_each_of_its_parts() {
        let complete = Fake::new();
        complete.ordinary("1.98.0");
        let found = route(complete.search().unwrap());
        assert_eq!(found, Some(Route::Ordinary { cargo: complete.at("bin/cargo") }));

        let old = Fake::new();
        old.ordinary("1.97.1");
        assert_eq!(route(old.search().unwrap()), None);

        for part in ["bin/rustup", "bin/bpf-linker", "bin/rustc", "bin/cargo"] {
            let fake = Fake::new();
            fake.ordinary("1.98.0");
            fs::remove_file(fake.at(part)).unwrap();
            assert_eq!(route(fake.search().unwrap()), None, "without {part}");
        }

        let no_sources = Fake::new();
        no_sources.ordinary("1.98.0");
        fs::remove_dir_all(no_sources.at("nightly/lib/rustlib/src")).unwrap();
        assert_eq!(route(no_sources.search().unwrap()), None);
    }

    #[test]
    fn the_build_commands_differ_where_the_routes_do() {
        let workspace = Workspace {
            root: PathBuf::from("/w"),
            target: PathBuf::from("/w/target"),
            cache: PathBuf::from("/c"),
        };
        let build = |route| {
            let toolchain = Toolchain { route, linker_folder: PathBuf::from("/linker") };
            crate::command::line(&toolchain.build(&workspace, "programs", std::env::consts::ARCH).unwrap())
        };
        let debian = build(Route::Debian { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into() });
        assert!(debian.starts_with("/usr/bin/cargo build --locked"), "{debian}");
        assert!(!debian.contains("build-std"), "{debian}");
        let ordinary = build(Route::Ordinary { cargo: "/r/cargo".into() });
        assert!(ordinary.starts_with("/r/cargo +nightly build -Z build-std=core --locked"), "{ordinary}");
        for line in [debian, ordinary] {
            assert!(line.contains("--target bpfel-unknown-none --target-dir /w/target/bpf"), "{line}");
        }
    }
}
