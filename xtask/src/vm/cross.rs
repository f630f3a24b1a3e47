//! gotrail for a machine: one static file, as there is nothing beside it in there.
//!
//! Debian's compiler builds it, whose standard library comes for other architectures too. Export is left out:
//! its TLS is C code, and no backend is in the machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::Architecture;
use crate::build;
use crate::command;
use crate::setup::Ready;
use crate::shim;
use crate::toolchain::{Route, forget_host_build};
use crate::workspace::Workspace;

/// What cross-building needs on an amd64 host: a file of each package, and its name.
pub(super) fn packages(architecture: Architecture) -> &'static [(&'static str, &'static str)] {
    match architecture {
        _ if architecture.rust() == std::env::consts::ARCH => &[],
        Architecture::Amd64 => &[
            ("/usr/bin/x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
            ("/usr/x86_64-linux-gnu/lib/libc.a", "libc6-dev-amd64-cross"),
            ("/usr/lib/rustlib/x86_64-unknown-linux-gnu/lib", "libstd-rust-web-dev:amd64"),
        ],
        Architecture::Arm64 => &[
            ("/usr/bin/aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
            ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"),
            ("/usr/lib/rustlib/aarch64-unknown-linux-gnu/lib", "libstd-rust-web-dev:arm64"),
        ],
    }
}

/// Builds gotrail with the eBPF object of that architecture inside.
pub(super) fn gotrail(workspace: &Workspace, ready: &Ready, architecture: Architecture) -> Result<PathBuf> {
    let Route::Debian { cargo, rustc } = &ready.toolchain.route else {
        bail!(
            "gotrail is cross-built by Debian's rustc-web, which this machine lacks; install it and run setup"
        );
    };
    let object = build::build_programs(workspace, ready, "programs", architecture.rust())?;

    let target = format!("{}-unknown-linux-gnu", architecture.rust());
    let folder = workspace.target.join("vm");
    let mut command = Command::new(cargo);
    command
        .current_dir(&workspace.root)
        .arg("build")
        .args(shim::FLAGS)
        .args(["-p", "tracer-user", "--bin", "gotrail", "--no-default-features", "--features", "probe"])
        .args(["--target", &target, "--target-dir"])
        .arg(&folder)
        .env("RUSTC", rustc)
        .env("GOTRAIL_BPF_OBJECT", object)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        // The whole file goes into the machine's memory, twice while it boots. Optimised it would run in half
        // the time, but take longer to build than that saves.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env(linker_variable(&target), format!("{}-linux-gnu-gcc", architecture.rust()));
    forget_host_build(command.env_remove("RUSTUP_TOOLCHAIN"));
    shim::wrap(&mut command, rustc.as_os_str(), workspace)?;
    command::run(&mut command, &format!("build gotrail for {}", architecture.name()), "see its words above")?;
    Ok(folder.join(target).join("debug/gotrail"))
}

fn linker_variable(target: &str) -> String {
    format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_named_as_cargo_reads_it() {
        assert_eq!(
            linker_variable("aarch64-unknown-linux-gnu"),
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER"
        );
    }

    #[test]
    fn the_hosts_own_architecture_needs_nothing() {
        let needed = [Architecture::Amd64, Architecture::Arm64].map(|a| packages(a).len());
        assert!(
            needed.contains(&0) || !["x86_64", "aarch64"].contains(&std::env::consts::ARCH),
            "{needed:?}"
        );
    }
}
