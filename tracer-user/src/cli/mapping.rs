//! What a profile in pprof's format says of the process: its code, and when.

use std::time::{SystemTime, UNIX_EPOCH};

use gotrail::export::pprof::Mapping;
use gotrail::memory::{Runtime, monotonic_ns};
use gotrail::target::Target;

/// The path of its executable.
pub(crate) fn file(target: &Target) -> String {
    let path = std::fs::read_link(target.exe_path()).unwrap_or_else(|_| target.exe_path());
    path.to_string_lossy().into_owned()
}

/// Where its Go code is.
pub(crate) fn of<'a>(runtime: &'a Runtime<'_>, file: &'a str) -> Mapping<'a> {
    let (binary, bias) = (runtime.binary(), runtime.bias());
    let (text, etext) = binary.text();
    Mapping {
        memory: (text.wrapping_add(bias), etext.wrapping_add(bias)),
        file_offset: binary.image().file_offset(text).unwrap_or(0),
        file,
        build_id: binary.image().gnu_build_id().unwrap_or_default(),
    }
}

/// A `CLOCK_MONOTONIC` time in ns since the epoch (TIME-1).
pub(crate) fn unix_ns(at_ns: u64) -> i64 {
    let ago = monotonic_ns().saturating_sub(at_ns);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    i64::try_from(now.saturating_sub(u128::from(ago))).unwrap_or(0)
}
