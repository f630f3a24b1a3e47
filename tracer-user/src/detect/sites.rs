//! What detectors look at, and how they name places in the source.

use std::cell::RefCell;

use super::finding::{Role, SiteRef};
use super::ledger::Ledger;
use crate::binary::{CallSite, Frame, GoBinary, is_standard_library};
use crate::memory::{Pc, Symbolizer};
use crate::model::{CallStack, Group, Process, WaitClass};
use crate::target::CpuLimit;

/// What the user can set.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    /// A stop of the world this long is a finding, ns.
    pub long_stw_ns: u64,
    /// A handler or a pool waiter that has not moved for this long is stuck, ns.
    pub stuck_ns: u64,
    /// Forced GC cycles a minute that are a finding.
    pub forced_gc_per_minute: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { long_stw_ns: 100_000_000, stuck_ns: 10_000_000_000, forced_gc_per_minute: 6.0 }
    }
}

/// What detectors look at.
#[derive(Debug)]
pub struct Context<'a> {
    /// The process.
    pub process: &'a Process,
    /// Its executable.
    pub binary: &'a GoBinary,
    /// Who tunes the runtime, from the machine code.
    pub hazards: &'a [CallSite],
    /// CPUs that it may use, if known.
    pub cpu_limit: Option<CpuLimit>,
    /// `GOMAXPROCS` in its environment at start, if set.
    pub env_gomaxprocs: Option<String>,
    /// Limits.
    pub thresholds: Thresholds,
    /// What was reported before.
    pub ledger: &'a Ledger,
    /// `CLOCK_MONOTONIC` ns.
    pub now_ns: u64,
    /// Frames already looked up.
    pub symbolizer: &'a RefCell<Symbolizer>,
}

impl Context<'_> {
    /// All frames of a stack, inlined ones included, innermost first.
    pub(super) fn frames(&self, pcs: &[Pc]) -> Vec<Frame> {
        let mut symbolizer = self.symbolizer.borrow_mut();
        pcs.iter().flat_map(|pc| symbolizer.frames(self.binary, *pc).to_vec()).collect()
    }

    /// The frames of a group's stack.
    pub(super) fn group_frames(&self, group: &Group) -> Vec<Frame> {
        self.frames(self.process.groups.stack(group.key.stack))
    }

    /// The frames of a stack that a probe captured; only the goroutine's own part.
    pub(super) fn call_frames(&self, stack: &CallStack) -> Vec<Frame> {
        call_frames(self.binary, self.symbolizer, stack)
    }

    /// The `go` statement with this return address.
    pub(super) fn creation(&self, gopc: u64) -> Option<Frame> {
        if gopc == 0 {
            return None;
        }
        let frame =
            self.symbolizer.borrow_mut().innermost(self.binary, Pc { address: gopc, exact: false })?;
        // The runtime itself makes the main goroutine, and its own.
        (!frame.function.starts_with("runtime.")).then_some(frame)
    }

    /// The runtime's words for a wait reason.
    pub(super) fn wait_reason(&self, number: u8) -> &str {
        self.binary.layout().wait_reasons.get(usize::from(number)).map_or("?", String::as_str)
    }

    /// What kind of wait a group is in.
    pub(super) fn class(&self, group: &Group) -> WaitClass {
        WaitClass::of(self.wait_reason(group.key.wait_reason))
    }
}

/// The place in the program that a captured stack comes from: its innermost frame that is not the runtime's.
#[must_use]
pub fn caller_site(
    binary: &GoBinary,
    symbolizer: &RefCell<Symbolizer>,
    stack: &CallStack,
) -> Option<SiteRef> {
    let frames = call_frames(binary, symbolizer, stack);
    site(Role::Called, blocked_frame(&frames))
}

/// The frames of a stack that a probe captured, innermost first; only the goroutine's own part.
pub(crate) fn call_frames(
    binary: &GoBinary,
    symbolizer: &RefCell<Symbolizer>,
    stack: &CallStack,
) -> Vec<Frame> {
    let mut symbolizer = symbolizer.borrow_mut();
    let mut frames: Vec<Frame> = Vec::new();
    // The first address of each of the two stacks is where it is, the others are return addresses.
    let mut exact = true;
    for address in stack.pcs.iter().skip(stack.user_from) {
        frames.extend_from_slice(&symbolizer.frames(binary, Pc { address: *address, exact }));
        // What a signal interrupted did not call: the runtime put the call of sigpanic onto its stack.
        exact = frames
            .last()
            .is_some_and(|f| matches!(f.function.as_str(), "runtime.sigpanic" | "runtime.asyncPreempt"));
    }
    frames
}

/// Whether a function is machinery below the code that somebody wrote: the runtime and what synchronizes.
pub(super) fn is_machinery(function: &str) -> bool {
    [
        "runtime.",
        "internal/runtime/",
        "sync.",
        "internal/sync.",
        "internal/poll.",
        "internal/synctest.",
        "time.Sleep",
    ]
    .iter()
    .any(|prefix| function.starts_with(prefix))
}

/// Where in the program a system call is made, and the function of the standard library that does it if there is one: the
/// innermost frame of the program's own, or else of the standard library above its machinery.
#[must_use]
pub fn system_call_frame(frames: &[Frame]) -> Option<(&Frame, Option<&Frame>)> {
    let is_library = |frame: &Frame| {
        frame.wrapper
            || is_standard_library(&frame.function)
            || frame.function.starts_with("golang.org/x/sys/")
    };
    if let Some(at) = frames.iter().position(|frame| !is_library(frame)) {
        return Some((&frames[at], at.checked_sub(1).map(|inner| &frames[inner])));
    }
    let is_below = |frame: &Frame| {
        let function = &frame.function;
        frame.wrapper
            || is_machinery(function)
            || function.starts_with("syscall.")
            || function.starts_with("internal/syscall/")
    };
    frames.iter().find(|frame| !is_below(frame)).or_else(|| frames.last()).map(|frame| (frame, None))
}

/// The frame where a goroutine waits: the innermost that is not machinery.
pub(super) fn blocked_frame(frames: &[Frame]) -> Option<&Frame> {
    frames.iter().find(|frame| !is_machinery(&frame.function) && !frame.wrapper)
}

/// `file.go:12` with the last two elements of the path, for sentences.
pub(super) fn short(frame: &Frame) -> String {
    let mut parts = frame.file.rsplitn(3, '/');
    let (file, directory) = (parts.next().unwrap_or_default(), parts.next());
    match directory {
        Some(directory) if !directory.is_empty() => format!("{directory}/{file}:{}", frame.line),
        _ => format!("{file}:{}", frame.line),
    }
}

/// The frames that people want to see: without the runtime's machinery at the inner end, what the compiler
/// generated, and the runtime's own outermost frame.
pub(super) fn readable(frames: Vec<Frame>) -> Vec<Frame> {
    frames
        .into_iter()
        .skip_while(|f| f.function.starts_with("runtime.") || f.function.starts_with("internal/runtime/"))
        .filter(|f| !f.wrapper && f.file != "<autogenerated>" && f.function != "runtime.goexit")
        .collect()
}

/// A site reference, if there is a frame.
pub(super) fn site(role: Role, frame: Option<&Frame>) -> Option<SiteRef> {
    frame.map(|frame| SiteRef::new(role, frame))
}

/// Nanoseconds in words: `1.5 s`, `12 ms`, `3m20s`.
pub(super) fn duration(ns: u64) -> String {
    crate::text::duration(ns)
}

/// `1 handler`, `3 handlers`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(functions: &[&str]) -> Option<(String, Option<String>)> {
        let frames: Vec<Frame> = functions
            .iter()
            .map(|function| Frame {
                function: (*function).to_owned(),
                file: String::new(),
                line: 0,
                inlined: false,
                offset: 0,
                wrapper: false,
            })
            .collect();
        let (place, by) = system_call_frame(&frames)?;
        Some((place.function.clone(), by.map(|by| by.function.clone())))
    }

    #[test]
    fn a_system_call_is_where_the_program_asks_for_it() {
        let some = |place: &str, by: Option<&str>| Some((place.to_owned(), by.map(str::to_owned)));
        let write = ["internal/runtime/syscall.Syscall6", "syscall.Syscall", "syscall.write"];
        let poll = ["internal/poll.(*FD).Write", "os.(*File).Write"];
        let all = [&write[..], &poll, &["example.com/wal.(*Log).append", "main.main"]].concat();
        assert_eq!(place(&all), some("example.com/wal.(*Log).append", Some("os.(*File).Write")));
        assert_eq!(place(&[&write[..], &poll].concat()), some("os.(*File).Write", None));
        let unix = ["syscall.Syscall", "golang.org/x/sys/unix.Fsync", "main.sync"];
        assert_eq!(place(&unix), some("main.sync", Some("golang.org/x/sys/unix.Fsync")));
        let all_machinery = place(&write);
        assert_eq!(all_machinery, some("syscall.write", None));
        assert_eq!(place(&[]), None);
    }
}
