//! Core files of fixtures, as the kernel writes them, or gcore.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::fixture::Build;
use crate::process::Process;
use crate::scratch::Scratch;

/// Why the kernel does not write core files into the folder that a process runs in.
#[must_use]
pub fn kernel_lacks() -> Option<String> {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    match fs::read_to_string(PATTERN) {
        Ok(pattern) if pattern.starts_with(['|', '/', '@']) || pattern.contains('/') => Some(format!(
            "the kernel's core files go elsewhere ({PATTERN} is {:?}; tests need a plain name, such as core)",
            pattern.trim()
        )),
        Ok(_) => None,
        Err(error) => Some(format!("can't read {PATTERN}: {error}")),
    }
}

/// Why there is no gcore.
#[must_use]
pub fn gcore_lacks() -> Option<String> {
    let error = Command::new("gcore").output().err()?;
    Some(format!("gcore does not start: {error}; it comes with gdb"))
}

/// Starts a fixture in a folder, where the kernel may write its core file when it crashes.
///
/// # Errors
/// It does not start, or does not get to say `ready`.
pub fn start_ready(program: &Path, name: &str, arguments: &[&str], folder: &Scratch) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder.path()).env("GOTRACEBACK", "crash");
    // SAFETY: between fork and exec only setrlimit is called, which is safe there.
    unsafe {
        command.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            if libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    };
    let mut process = Process::start(name, &mut command)?;
    process.await_output("`ready`", |line| line.starts_with("ready").then_some(()))?;
    Ok(process)
}

/// The same of one that was built.
///
/// # Errors
/// As [`start_ready`].
pub fn start(build: &Build, arguments: &[&str], folder: &Scratch) -> Result<Process> {
    start_ready(&build.path, &build.to_string(), arguments, folder)
}

/// The core file that the kernel wrote into a folder.
///
/// # Errors
/// There is none.
pub fn of_kernel(folder: &Scratch) -> Result<PathBuf> {
    let entries = fs::read_dir(folder.path()).context("can't list the folder of the core")?;
    let found = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core")));
    found.context("the kernel wrote no core file")
}

/// Has gcore write a core file of a process, which goes on.
///
/// # Errors
/// It does not.
pub fn by_gcore(process: &Process, folder: &Scratch) -> Result<PathBuf> {
    let prefix = folder.path().join("gcore");
    let output = Command::new("gcore").arg("-o").arg(&prefix).arg(process.pid().to_string()).output()?;
    let path = PathBuf::from(format!("{}.{}", prefix.display(), process.pid()));
    ensure!(path.exists(), "gcore wrote nothing: {}", String::from_utf8_lossy(&output.stderr));
    Ok(path)
}
