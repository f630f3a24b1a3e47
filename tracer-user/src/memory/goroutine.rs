//! One goroutine as read from memory.

use std::sync::Arc;

use super::stack::Stack;
use super::threads::Thread;

/// `g.atomicstatus` without the scan bit (runtime/runtime2.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Just allocated.
    Idle,
    /// On a run queue.
    Runnable,
    /// Executes Go code.
    Running,
    /// In a system call or C code.
    Syscall,
    /// Parked.
    Waiting,
    /// Unused, or ended.
    Dead,
    /// Its stack is being moved.
    CopyStack,
    /// Stopped itself for suspendG.
    Preempted,
    /// Found leaked by the process's own goroutineleak profile (Go 1.26).
    Leaked,
    /// On an extra M (Go 1.26).
    DeadExtra,
    /// None of the runtime's values.
    Unknown(u32),
}

/// `_Gscan`: the collector looks at its stack.
pub(super) const SCAN: u32 = 0x1000;

impl Status {
    /// Those that Go has.
    pub const KNOWN: [Self; 10] = [
        Self::Idle,
        Self::Runnable,
        Self::Running,
        Self::Syscall,
        Self::Waiting,
        Self::Dead,
        Self::CopyStack,
        Self::Preempted,
        Self::Leaked,
        Self::DeadExtra,
    ];

    /// Decodes the word; the scan bit is dropped.
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        match word & !SCAN {
            0 => Self::Idle,
            1 => Self::Runnable,
            2 => Self::Running,
            3 => Self::Syscall,
            4 => Self::Waiting,
            6 => Self::Dead,
            8 => Self::CopyStack,
            9 => Self::Preempted,
            10 => Self::Leaked,
            11 => Self::DeadExtra,
            other => Self::Unknown(other),
        }
    }

    /// The runtime's name (`gStatusStrings`, runtime/traceback.go).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Runnable => "runnable",
            Self::Running => "running",
            Self::Syscall => "syscall",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::CopyStack => "copystack",
            Self::Preempted => "preempted",
            Self::Leaked => "leaked",
            Self::DeadExtra => "waiting for cgo callback",
            Self::Unknown(_) => "???",
        }
    }

    /// Whether the goroutine exists for the program.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        !matches!(self, Self::Idle | Self::Dead | Self::DeadExtra)
    }

    /// Whether it is off the CPU until somebody wakes it.
    #[must_use]
    pub const fn is_parked(self) -> bool {
        matches!(self, Self::Waiting | Self::Leaked)
    }
}

/// What stays the same exactly as long as a goroutine stays parked in one place: no wakeup was missed
/// between two snapshots that show the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Park {
    /// Bytes of stack in use; the distance survives a move of the stack.
    pub depth: u64,
    /// Where it parked.
    pub pc: u64,
    /// `g.trackingSeq`, counted at each transition out of running.
    pub tracking: u8,
}

/// One goroutine.
#[derive(Clone, Debug)]
pub struct Goroutine {
    /// Its id: unique in the process, never reused.
    pub goid: u64,
    /// What it does.
    pub status: Status,
    /// Index into `runtime.waitReasonStrings`; meaningful while parked.
    pub wait_reason: u8,
    /// `g.waitsince`, from which Go's own tracebacks take the age, `CLOCK_MONOTONIC` ns; 0 if no GC cycle has seen
    /// it parked. The begin of the cycle *before* the one that saw it: it may have been parked only later.
    pub wait_since_ns: u64,
    /// When it was parked for certain, `CLOCK_MONOTONIC` ns; 0 if that is not known of any moment before this.
    pub parked_by_ns: u64,
    /// Return address of its `go` statement, linked.
    pub gopc: u64,
    /// Entry of its start function, linked.
    pub startpc: u64,
    /// Its creator, 0 if unknown.
    pub parent_goid: u64,
    /// The collector was looking at its stack at that moment.
    pub scan: bool,
    /// The thread that runs it now, or is in a system call or C code with it.
    pub thread: Option<Thread>,
    /// Locked to its thread by `runtime.LockOSThread`.
    pub locked: bool,
    /// Part of the runtime itself.
    pub system: bool,
    /// Where it parked, while it is parked.
    pub park: Option<Park>,
    /// Linked addresses of its stack, innermost first; empty if it can't be known or was not asked for. Those who
    /// have the same share it.
    pub stack: Arc<Stack>,
    /// Changed while it was read, twice: its stack is left out.
    pub torn: bool,
}

impl Goroutine {
    /// The id of its thread, as the thread's PID namespace numbers it.
    #[must_use]
    pub fn thread_id(&self) -> Option<u32> {
        self.thread.map(|thread| thread.id)
    }
}
