//! The executable of a process, understood, with the help of what lies beside it on this host.

use crate::binary::{BinaryError, GoBinary};
use crate::target::{HeldFile, Target, debug_file, mapped_libraries, read_library};

use super::watcher::WatchError;

/// Libraries of a process that are looked into, at most.
const MAX_LIBRARIES: usize = 64;

/// Reads and understands the executable of a process.
///
/// # Errors
/// [`WatchError`]: the process is gone or not ours to look at, or its executable is not understood.
pub fn understand(target: &Target) -> Result<GoBinary, WatchError> {
    understand_and_hold(target).map(|(binary, _)| binary)
}

/// The same, and the file, for who keeps the binary for long (see [`GoBinary::reread_from`]).
///
/// # Errors
/// As [`understand`].
pub(super) fn understand_and_hold(target: &Target) -> Result<(GoBinary, HeldFile), WatchError> {
    let pid = target.pid();
    let (bytes, held) = target.hold_executable()?;
    match GoBinary::parse_with(bytes, |id| debug_file(Some(pid), id)) {
        Err(error @ (BinaryError::NotGo(_) | BinaryError::NotElf(_))) => {
            Err(library(pid).unwrap_or(error.into()))
        }
        result => Ok((result?, held)),
    }
}

/// The Go library that a program of another language has loaded, as an error: it has a Go runtime, but not where
/// gotrail looks for it.
fn library(pid: u32) -> Option<WatchError> {
    mapped_libraries(pid).into_iter().take(MAX_LIBRARIES).find_map(|path| {
        let build = GoBinary::read_build(&read_library(pid, &path).ok()?).ok()?;
        Some(WatchError::GoLibrary { pid, path, version: build.version.to_string() })
    })
}
