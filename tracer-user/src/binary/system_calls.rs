//! Assembly that makes system calls and has no frame: the frame pointer in it is its caller's, so that following frame
//! pointers passes the caller over.

use super::image::Image;
use super::symbols::{Function, Symbols};

/// The functions of `syscall/asm_linux_amd64.s` and `asm_linux_arm64.s` that are called at more than one place, Go 1.18 to 1.27,
/// and what golang.org/x/sys/unix has of its own. Up to Go 1.18 all calls of package syscall were made in them. The one of
/// later versions (internal/runtime/syscall) has one caller, which says no more than it does.
const FUNCTIONS: [&str; 8] = [
    "syscall.rawSyscallNoError",
    "syscall.rawVforkSyscall",
    "syscall.Syscall",
    "syscall.Syscall6",
    "syscall.RawSyscall",
    "syscall.RawSyscall6",
    "golang.org/x/sys/unix.SyscallNoError",
    "golang.org/x/sys/unix.RawSyscallNoError",
];

/// Where that is: the first linked addresses and those behind the last, next to each other in one.
pub(super) fn frameless(image: &Image, symbols: &Symbols) -> Vec<(u64, u64)> {
    // In every place: what has a frame in between is followed well there.
    let has_none = |function: &Function| {
        // Padding is in no table.
        let may_have = |at: u64| symbols.frame_size(image, at).is_some_and(|size| size != 0);
        !(function.entry..function.end).step_by(4).any(may_have)
    };
    let mut found: Vec<(u64, u64)> = symbols
        .find(image, FUNCTIONS)
        .into_iter()
        .flatten()
        .filter(|function| symbols.frame_size(image, function.entry) == Some(0) && has_none(function))
        .map(|function| (function.entry, function.end))
        .collect();
    found.sort_unstable();
    found.dedup_by(|next, one| {
        let joined = one.1 == next.0;
        if joined {
            one.1 = next.1;
        }
        joined
    });
    found
}
