//! aya on compilers older than the one it asks for.
//!
//! aya 0.16 and aya-obj 0.6 declare Rust 1.98, for one method of the standard library that older compilers have
//! as well but call unstable. A wrapper around the compiler opens that one feature for those two crates alone,
//! so that every other crate, ours included, stays on what the compiler calls stable.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::capture;
use crate::scratch::Scratch;
use crate::version::Version;
use crate::workspace::Workspace;

/// The first compiler that builds aya as it is.
const AYA_NEEDS: Version = Version::new(1, 98, 0);

/// Carries a wrapper that the user had set already (sccache, say): ours runs it in turn.
const INNER_WRAPPER: &str = "GOTRAIL_INNER_RUSTC_WRAPPER";

const WRAPPER: &str = r#"#!/bin/sh
# Written by `cargo xtask`. Cargo calls this as: rustc-wrapper RUSTC ARGUMENTS...
# aya and aya_obj need one library feature that this compiler has but calls unstable.
previous=
for argument in "$@"; do
    if [ "$previous" = --crate-name ]; then
        case "$argument" in
            aya | aya_obj)
                RUSTC_BOOTSTRAP=1
                export RUSTC_BOOTSTRAP
                set -- "$@" '-Zcrate-attr=feature(result_option_map_or_default)'
                ;;
        esac
        break
    fi
    previous=$argument
done
if [ -n "${GOTRAIL_INNER_RUSTC_WRAPPER:-}" ]; then
    exec "$GOTRAIL_INNER_RUSTC_WRAPPER" "$@"
fi
exec "$@"
"#;

/// A cargo command that can compile aya with the compiler at hand, whichever it is. The caller adds the
/// subcommand first and then [`FLAGS`].
pub(crate) fn cargo(workspace: &Workspace) -> Result<Command> {
    let mut cargo = workspace.cargo();
    wrap(&mut cargo, &env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")), workspace)?;
    let object = workspace.bpf_object(env::consts::ARCH);
    if object.is_file() {
        cargo.env("GOTRAIL_BPF_OBJECT", object);
    }
    Ok(cargo)
}

/// Puts the wrapper around the compiler that a cargo command uses, if that compiler needs it.
pub(crate) fn wrap(cargo: &mut Command, rustc: &OsStr, workspace: &Workspace) -> Result<()> {
    if rustc_version(rustc)? < AYA_NEEDS {
        let wrapper = write_wrapper(&workspace.generated()?)?;
        if let Some(inner) =
            env::var_os("RUSTC_WRAPPER").filter(|inner| !inner.is_empty() && *inner != *wrapper)
        {
            cargo.env(INNER_WRAPPER, inner);
        }
        cargo.env("RUSTC_WRAPPER", wrapper);
    }
    Ok(())
}

/// What every cargo subcommand that may compile aya needs.
pub(crate) const FLAGS: [&str; 2] = ["--locked", "--ignore-rust-version"];

fn rustc_version(rustc: &OsStr) -> Result<Version> {
    let text = capture(Command::new(rustc).arg("--version"), "ask the Rust compiler for its version")?;
    Version::find(&text).with_context(|| format!("`rustc --version` names no version: {text:?}"))
}

fn write_wrapper(folder: &Path) -> Result<PathBuf> {
    let wrapper = folder.join("rustc-wrapper");
    if fs::read(&wrapper).is_ok_and(|present| present == WRAPPER.as_bytes()) {
        return Ok(wrapper);
    }
    // Written aside and renamed: a compiler may be starting the old one right now.
    let scratch = Scratch::within(folder, "wrapper")?;
    let fresh = scratch.path().join("rustc-wrapper");
    fs::write(&fresh, WRAPPER)
        .and_then(|()| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&fresh, &wrapper))
        .with_context(|| format!("can't write the compiler wrapper {}", wrapper.display()))?;
    Ok(wrapper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::is_executable;
    use crate::scratch::write_script;

    /// Runs the wrapper around a fake compiler that prints its arguments and `RUSTC_BOOTSTRAP`.
    fn wrapped(arguments: &[&str], inner: Option<&str>) -> String {
        let scratch = Scratch::new("shim-test").unwrap();
        let wrapper = write_wrapper(scratch.path()).unwrap();
        assert!(is_executable(&wrapper), "cargo could not run it");
        let script = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            write_script(&path, text);
            path
        };
        let rustc = script("rustc", "echo \"[$*] ${RUSTC_BOOTSTRAP:-unset}\"");
        // By way of sh, as this process has just written it (see `write_script`).
        let mut command = Command::new("sh");
        command
            .arg(wrapper)
            .arg(rustc)
            .args(arguments)
            .env_remove("RUSTC_BOOTSTRAP")
            .env_remove(INNER_WRAPPER);
        if let Some(text) = inner {
            command.env(INNER_WRAPPER, script("inner", text));
        }
        capture(&mut command, "run the wrapper").unwrap()
    }

    #[test]
    fn only_aya_and_aya_obj_get_the_feature() {
        for name in ["aya", "aya_obj"] {
            let said = wrapped(&["--crate-name", name, "--edition=2024", "src/lib.rs"], None);
            assert_eq!(
                said,
                format!(
                    "[--crate-name {name} --edition=2024 src/lib.rs \
                     -Zcrate-attr=feature(result_option_map_or_default)] 1"
                )
            );
        }
        for name in ["aya_log", "tracer_user", "xaya", "libc"] {
            let said = wrapped(&["--crate-name", name, "--cfg", "feature=\"aya\"", "a b"], None);
            assert_eq!(said, format!("[--crate-name {name} --cfg feature=\"aya\" a b] unset"));
        }
        assert_eq!(wrapped(&["-vV"], None), "[-vV] unset");
    }

    #[test]
    fn the_users_own_wrapper_still_runs() {
        let said = wrapped(&["--crate-name", "aya"], Some("echo inner\nexec \"$@\""));
        assert!(said.starts_with("inner\n") && said.contains("map_or_default)] 1"), "{said}");
    }
}
