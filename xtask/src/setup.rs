//! `setup`: everything that building and testing needs, installed once.
//!
//! It looks before it installs, so a second run does nothing. What needs root is asked for in one exact line
//! when we are not root; what a user can do is done first.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use clap::Args;

use crate::command::{self, find_program};
use crate::go;
use crate::toolchain::{BPF_LINKER, Found, LLVM_MAJOR, Machine, Missing, Route, Toolchain};
use crate::workspace::Workspace;

/// `setup` has no options.
#[derive(Args)]
pub(crate) struct Arguments {}

/// What setup leaves behind for the other verbs.
pub(crate) struct Ready {
    /// Builds the eBPF programs.
    pub(crate) toolchain: Toolchain,
    /// Builds Go programs where the version does not matter.
    pub(crate) go: go::Toolchain,
}

/// Runs the verb.
pub(crate) fn run(_arguments: &Arguments, workspace: &Workspace) -> Result<ExitCode> {
    let ready = ensure(workspace)?;
    match &ready.toolchain.route {
        Route::Debian { rustc, .. } => println!("eBPF programs: {} with its prebuilt core", rustc.display()),
        Route::Ordinary { cargo } => println!(
            "eBPF programs: {} +nightly -Z build-std=core (a route that the project itself has not run)",
            cargo.display()
        ),
    }
    println!("Go {}: {}", ready.go.version(), ready.go.goroot().display());
    println!("cache: {}", workspace.cache.display());
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing; silent when nothing is.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Ready> {
    let machine = Machine::this(workspace);
    let mut packages = host_packages(&Host {
        linker: find_program("cc").is_some(),
        go: go::base().is_some(),
        rustfmt: find_program("cargo-fmt").is_some(),
        clippy: find_program("cargo-clippy").is_some(),
    });
    let mut missing = match machine.search()? {
        Found::Complete(_) => Missing::default(),
        Found::Incomplete(missing) => missing,
    };
    packages.append(&mut missing.packages);

    let refused = install_packages(&packages, &["install", "-y"]).err();
    // Not being root spoils the packages only: do what else can be done, then say what is left.
    if missing.linker && llvm_is_there() {
        install_linker(workspace)?;
    }
    let go = if go::base().is_some() { Some(go::toolchain(workspace, go::NEWEST)?) } else { None };
    if let Some(error) = refused {
        return Err(error);
    }
    match (machine.search()?, go) {
        (Found::Complete(toolchain), Some(go)) => Ok(Ready { toolchain, go }),
        (Found::Incomplete(missing), _) => bail!(
            "the eBPF toolchain is still incomplete after the installation: packages {:?}, bpf-linker {}; \
             run `cargo xtask setup` again and read what apt-get said",
            missing.packages,
            if missing.linker { "missing" } else { "there" }
        ),
        (_, None) => bail!("there is still no `go` on PATH after the installation; install Go 1.21 or newer"),
    }
}

/// Go alone, for the verbs that need nothing else: installed only where there is none at all.
pub(crate) fn ensure_go(workspace: &Workspace) -> Result<go::Toolchain> {
    if go::base().is_some() { go::toolchain(workspace, go::NEWEST) } else { Ok(ensure(workspace)?.go) }
}

/// What a host has of what it needs.
struct Host {
    linker: bool,
    go: bool,
    rustfmt: bool,
    clippy: bool,
}

/// Debian's packages for what every host needs, given what it has.
fn host_packages(host: &Host) -> Vec<&'static str> {
    let mut packages = Vec::new();
    if !host.linker {
        packages.extend(["gcc", "libc6-dev"]);
    }
    if !host.go {
        packages.push("golang-go");
    }
    if !host.rustfmt {
        packages.push("rustfmt-web");
    }
    if !host.clippy {
        packages.push("rust-web-clippy");
    }
    if !packages.is_empty() && !Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        packages.push("ca-certificates");
    }
    packages
}

/// Installs packages that only some verbs need, each named behind a file that shows that it is there. A name
/// that ends in an architecture asks for apt to know that one.
pub(crate) fn ensure_packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        wanted.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    let foreign = missing.iter().filter_map(|package| package.split_once(':')).map(|(_, name)| name);
    for architecture in foreign.collect::<BTreeSet<_>>() {
        if is_root() {
            command::run(
                Command::new("dpkg").args(["--add-architecture", architecture]),
                "let apt install packages of another architecture",
                "read dpkg's words above",
            )?;
        }
    }
    // What is recommended beside an emulator is its window.
    install_packages(&missing, &["install", "-y", "--no-install-recommends"])
}

fn install_packages(packages: &[&str], how: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get {} {}", how.join(" "), packages.join(" "));
    if find_program("apt-get").is_none() {
        bail!(
            "this machine lacks what Debian calls {}, and has no apt-get; install the equivalents, or, for the \
             eBPF programs, rustup's stable 1.98 or newer, a nightly with rust-src, and bpf-linker on PATH \
             (a route that the project itself has not run)",
            packages.join(", ")
        );
    }
    if !is_root() {
        bail!("packages are missing and only root can install them; run as root: {line}");
    }
    println!("installing: {line}");
    apt_get(&["update"])?;
    apt_get(&[how, packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    command::run(
        Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive"),
        "install Debian packages",
        "read its words above; the project was run on Debian 12 with its security updates",
    )
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn llvm_prefix() -> String {
    format!("/usr/lib/llvm-{LLVM_MAJOR}")
}

fn llvm_is_there() -> bool {
    Path::new(&llvm_prefix()).join("bin/llvm-config").exists()
}

fn install_linker(workspace: &Workspace) -> Result<()> {
    println!("installing bpf-linker {BPF_LINKER} into the cache (about a minute)");
    let features = format!("llvm-{LLVM_MAJOR}");
    let mut cargo = install_command(workspace, "bpf-linker", BPF_LINKER);
    cargo.args(["--no-default-features", "--features", &features]);
    // Both names: the one the linker's build script reads and the one of llvm-sys below it.
    cargo.env("LLVM_PREFIX", llvm_prefix()).env(format!("LLVM_SYS_{LLVM_MAJOR}1_PREFIX"), llvm_prefix());
    command::run(&mut cargo, "install bpf-linker", "it needs the package llvm-22-dev and the crates registry")
}

/// `cargo install` of a tool into the cache, untouched by the settings of the build that we are part of.
pub(crate) fn install_command(workspace: &Workspace, name: &str, version: &str) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["install", name, "--version", version, "--locked", "--root"]);
    cargo.arg(workspace.tool_folder(name, version));
    for unwanted in ["RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR"] {
        cargo.env_remove(unwanted);
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let all = || Host { linker: true, go: true, rustfmt: true, clippy: true };
        assert_eq!(host_packages(&all()), Vec::<&str>::new());
        assert!(host_packages(&Host { linker: false, ..all() }).starts_with(&["gcc", "libc6-dev"]));
        assert_eq!(host_packages(&Host { go: false, ..all() })[0], "golang-go");
        assert_eq!(host_packages(&Host { rustfmt: false, ..all() })[0], "rustfmt-web");
        assert_eq!(host_packages(&Host { clippy: false, ..all() })[0], "rust-web-clippy");
        install_packages(&[], &[]).expect("nothing to install is no work and no error");
    }
}
