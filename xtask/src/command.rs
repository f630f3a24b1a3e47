//! Running other programs, with errors that say what was run, why it failed and what to do.

use std::env;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a command to its end, its output going where ours goes.
///
/// `purpose` completes "can't ..."; `remedy` is the advice if it fails.
pub(crate) fn run(command: &mut Command, purpose: &str, remedy: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("can't {purpose}: `{}` does not start; {remedy}", line(command)))?;
    if !status.success() {
        bail!("can't {purpose}: `{}` ended with {status}; {remedy}", line(command));
    }
    Ok(())
}

/// Runs a command to its end and returns its standard output without the white space around it.
pub(crate) fn capture(command: &mut Command, purpose: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't {purpose}: `{}` does not start", line(command)))?;
    if !output.status.success() {
        // Some programs explain themselves on standard output (Go, when asked for JSON).
        let words = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        let said = String::from_utf8_lossy(words);
        bail!("can't {purpose}: `{}` ended with {}: {}", line(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A command as one would type it, without its environment.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// The first executable file of that name in a `PATH`-like list.
pub(crate) fn find_in(path: &OsStr, name: &str) -> Option<PathBuf> {
    env::split_paths(path).map(|folder| folder.join(name)).find(|file| is_executable(file))
}

/// The first executable file of that name on our own `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    find_in(&env::var_os("PATH").unwrap_or_default(), name)
}

/// Whether this is a file that may be run.
pub(crate) fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_its_output_and_the_purpose() {
        let error = capture(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]), "try my luck")
            .expect_err("exit 3 is a failure");
        let text = format!("{error:#}");
        for part in ["can't try my luck", "sh -c", "no luck", "3"] {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named_too() {
        let error =
            run(&mut Command::new("/nowhere/at-all"), "do it", "install it").expect_err("no such file");
        let text = format!("{error:#}");
        assert!(text.contains("/nowhere/at-all") && text.contains("install it"), "{text}");
    }
}
