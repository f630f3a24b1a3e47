//! What a profile in pprof's format says of the process: its code, and when.

use std::time::UNIX_EPOCH;

use gotrail::export::pprof::Mapping;
use gotrail::memory::Runtime;
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

/// A `CLOCK_MONOTONIC` time in ns since the epoch (TIME-1); 0 where that can't be known.
pub(crate) fn unix_ns(runtime: &Runtime<'_>, at_ns: u64) -> i64 {
    let at = runtime.wall(at_ns).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    at.and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}
