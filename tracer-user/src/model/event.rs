//! One thing that a probe saw. Addresses are linked ones; times are `CLOCK_MONOTONIC` ns.

use super::reasons::{GcTrigger, StwReason};

/// One thing that a probe saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When.
    pub time_ns: u64,
    /// On whose behalf, if that could be told.
    pub goid: Option<u64>,
    /// On which thread.
    pub thread: u32,
    /// What.
    pub kind: EventKind,
}

/// What a probe saw.
#[derive(Clone, Debug, PartialEq)]
pub enum EventKind {
    /// A GC cycle starts.
    GcStart {
        /// Live heap in bytes.
        heap_live: u64,
        /// What set it off, where the version tells.
        trigger: Option<GcTrigger>,
        /// GOMAXPROCS at the time.
        procs: u32,
    },
    /// Marking has ended.
    GcMarkEnd {
        /// Whether the program forced the cycle; told only where its start does not say (Go 1.18).
        forced: Option<bool>,
    },
    /// Mark termination runs.
    GcMarkTermination,
    /// The live heap of the cycle is known.
    GcLive {
        /// Bytes that were marked.
        marked: u64,
    },
    /// The cycle is over, sweeping begins.
    GcSweep,
    /// Somebody asks for the world to stop.
    StwStop {
        /// Why, from Go 1.21 on.
        reason: Option<StwReason>,
        /// Who; empty for the GC's own stops.
        caller: CallStack,
    },
    /// The world starts again.
    StwStart {
        /// Why it was stopped, from Go 1.22 on.
        reason: Option<StwReason>,
        /// When stopping began, from Go 1.22 on.
        started_stopping_ns: Option<u64>,
        /// When the last P had stopped, from Go 1.23 on.
        finished_stopping_ns: Option<u64>,
        /// CPU time lost by Ps that had stopped and waited for the rest, from Go 1.23 on.
        stopping_cpu_ns: Option<u64>,
    },
    /// A panic, throw, fatal error or hardware signal.
    Crash(Box<CrashRecord>),
    /// A panic was recovered.
    Recovered,
    /// GOMAXPROCS is set.
    Procresize {
        /// To this.
        procs: u32,
        /// By whom.
        caller: CallStack,
    },
    /// The program calls `runtime.GC`.
    ForcedGc {
        /// From here.
        caller: CallStack,
    },
    /// The program calls `debug.SetGCPercent`.
    SetGcPercent {
        /// With this; negative switches automatic GC off.
        percent: i32,
        /// From here.
        caller: CallStack,
    },
    /// A goroutine was created; [`Event::goid`] is its creator.
    GoCreate {
        /// Its id.
        goid: u64,
        /// Return address of the `go` statement.
        gopc: u64,
        /// Entry of its start function.
        startpc: u64,
    },
    /// A goroutine ended.
    GoExit {
        /// Its id.
        goid: u64,
        /// Return address of the `go` statement.
        gopc: u64,
        /// Entry of its start function.
        startpc: u64,
    },
}

/// A stack as the probe captured it, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallStack {
    /// Entry 0 is the probed function itself, the others are return addresses.
    pub pcs: Vec<u64>,
    /// Index of the first frame of the goroutine's own stack.
    pub user_from: usize,
    /// Frames further out are missing.
    pub truncated: bool,
    /// Return address of the `go` statement that created the goroutine, 0 if unknown.
    pub gopc: u64,
    /// Entry of its start function, 0 if unknown.
    pub startpc: u64,
}

/// Which function of the crash path was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicStage {
    /// `gopanic`: may yet be recovered.
    Begun,
    /// `fatalpanic`: was not recovered.
    Fatal,
    /// `throw`: the runtime gave up.
    Throw,
    /// `fatal`: a misuse that the runtime does not survive.
    FatalError,
    /// `sigpanic`: a hardware signal becomes a panic.
    Signal,
}

/// The text of a crash, as far as the probe got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashText {
    /// There is none.
    None,
    /// These bytes, of this many.
    Captured {
        /// The bytes.
        bytes: Vec<u8>,
        /// Length in the process.
        full_len: u64,
    },
    /// A constant that the process never touched: it is in the file.
    InFile {
        /// Linked address of the bytes.
        address: u64,
        /// How many.
        len: u64,
    },
    /// A constant whose string header is in the file as well.
    HeaderInFile {
        /// Linked address of the header.
        address: u64,
    },
}

/// A panic, throw, fatal error or hardware signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashRecord {
    /// Where on the crash path.
    pub stage: PanicStage,
    /// Linked address of the panic value's type, 0 for throw and fatal.
    pub type_address: u64,
    /// The data word of the panic value's interface.
    pub data_word: u64,
    /// The eight bytes that it points to.
    pub value: u64,
    /// The text.
    pub text: CrashText,
    /// Last hardware signal of the goroutine, 0 if none.
    pub signal: u32,
    /// Address whose access raised it.
    pub fault_address: u64,
    /// Linked address of the instruction that raised it.
    pub fault_pc: u64,
    /// The stack.
    pub stack: CallStack,
}
