//! What crosses the kernel border when a process ends: who sent it a signal that kills, and with which status it left.

use bytemuck::{Pod, Zeroable};

/// Name of the hash map [`EndingKey`]` -> `[`Ending`].
pub const MAP_ENDINGS: &str = "ENDINGS";
/// Name of the constant with the kernel's [`KernelOffsets`].
pub const GLOBAL_KERNEL_OFFSETS: &str = "KERNEL_OFFSETS";
/// Entries of that map for each process: its end, each signal that kills, and [`OUT_OF_MEMORY`].
pub const ENDINGS_EACH: u32 = SIGNALS + 1;
/// Signals that have names are below this.
pub const SIGNALS: u32 = 32;
/// [`EndingKey::signal`]: the kernel chose the process to be killed for want of memory.
pub const OUT_OF_MEMORY: u32 = SIGNALS;
/// How long a process may take from a signal that it was sent until it sends itself the same for that, ns: orchestrators
/// give it a minute at most.
pub const ANSWERED_WITHIN: u64 = 60_000_000_000;

/// Of one process: its end, or a signal that was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct EndingKey {
    /// The process, as the agent's PID namespace numbers it.
    pub tgid: u32,
    /// Number of the signal, 0 for the end: the agent puts that entry there, which is what asks for all of them.
    pub signal: u32,
}
const _: () = assert!(size_of::<EndingKey>() == 8);

/// What happened last of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Ending {
    /// When, `CLOCK_MONOTONIC` ns; 0 if it has not.
    pub time_ns: u64,
    /// Who sent the signal, in the initial PID namespace.
    pub sender: u32,
    /// `si_code` of the signal; [`SI_KERNEL`] also for what the kernel sends without saying more.
    pub code: i32,
    /// Wait status of a process that has ended.
    pub status: i32,
    /// 1 if all of its threads were told to exit: that status is final. That of its first thread alone is not.
    pub is_final: u32,
    /// Name of the sending thread.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Ending>() == 40);

/// Where in the kernel's structures the programs find what they need, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct KernelOffsets {
    /// `task_struct.tgid`.
    pub task_tgid: u64,
    /// `task_struct.exit_code`.
    pub task_exit_code: u64,
    /// `task_struct.signal`.
    pub task_signal: u64,
    /// `signal_struct.flags`.
    pub signal_flags: u64,
    /// `signal_struct.group_exit_code`.
    pub signal_group_exit_code: u64,
}
const _: () = assert!(size_of::<KernelOffsets>() == 40);

/// `SI_KERNEL` (include/uapi/asm-generic/siginfo.h).
pub const SI_KERNEL: i32 = 0x80;

/// Signals that do nothing or stop a process where nobody handles them (signal(7)), and those that Go's own runtime sends
/// all the time to make a goroutine yield (SIGURG) or to take a profile (SIGPROF): CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG,
/// PROF, WINCH.
const HARMLESS: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 27 | 1 << 28;

/// Whether a process sent the signal, by its `si_code`: `SI_USER`, `SI_QUEUE`, `SI_MESGQ`, `SI_TKILL`. Other codes are the
/// kernel's, also those below 0: timers and asynchronous I/O go off whoever runs.
#[must_use]
#[inline(always)]
pub const fn is_of_process(code: i32) -> bool {
    matches!(code, 0 | -1 | -3 | -6)
}

/// Whether a signal may kill, by its number; of those that have names.
#[must_use]
#[inline(always)]
pub const fn is_deadly(signal: u32) -> bool {
    signal != 0 && signal < SIGNALS && HARMLESS >> signal & 1 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_sends_is_told_from_what_the_kernel_does() {
        assert!([0, -1, -3, -6].into_iter().all(is_of_process));
        assert!(![SI_KERNEL, 1, -2, -4, -5].into_iter().any(is_of_process));
    }

    #[test]
    fn signals_that_kill_are_told_from_those_that_do_not() {
        for deadly in [1, 2, 3, 6, 9, 11, 15, 31] {
            assert!(is_deadly(deadly), "{deadly}");
        }
        for harmless in [0, 17, 18, 19, 23, 27, 28, 32, 64, u32::MAX] {
            assert!(!is_deadly(harmless), "{harmless}");
        }
    }
}
