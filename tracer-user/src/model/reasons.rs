//! Reasons, as the Go runtime names and numbers them.

/// What set off a GC cycle (`gcTriggerKind`, runtime/mgc.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcTrigger {
    /// The heap reached its trigger.
    Heap,
    /// Two minutes passed.
    Time,
    /// The program asked: `runtime.GC` or `debug.FreeOSMemory`.
    Forced,
    /// None of the runtime's values.
    Unknown,
}

impl GcTrigger {
    /// Decodes the runtime's number.
    #[must_use]
    pub const fn from_kind(kind: u64) -> Self {
        match kind {
            0 => Self::Heap,
            1 => Self::Time,
            2 => Self::Forced,
            _ => Self::Unknown,
        }
    }

    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Time => "time",
            Self::Forced => "forced",
            Self::Unknown => "unknown",
        }
    }
}

/// Why the world is stopped (`stwReason`, runtime/proc.go, unchanged from Go 1.21 to 1.27).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StwReason(u8);

/// `stwReasonStrings`.
const STW_REASONS: [&str; 17] = [
    "unknown",
    "GC mark termination",
    "GC sweep termination",
    "write heap dump",
    "goroutine profile",
    "goroutine profile cleanup",
    "all goroutines stack trace",
    "read mem stats",
    "AllThreadsSyscall",
    "GOMAXPROCS",
    "start trace",
    "stop trace",
    "CountPagesInUse (test)",
    "ReadMetricsSlow (test)",
    "ReadMemStatsSlow (test)",
    "PageCachePagesLeaked (test)",
    "ResetDebugLog (test)",
];

impl StwReason {
    /// Decodes the runtime's number.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(if number < STW_REASONS.len() as u64 { number as u8 } else { 0 })
    }

    /// The reason that a stack shows, by the names of its functions, innermost first: before Go 1.21 the
    /// function that stops the world is not told why. The words are those of later versions.
    ///
    /// Source: the callers of `stopTheWorld`, `stopTheWorldGC` and `stopTheWorldWithSema`, Go 1.18 to 1.20.
    #[must_use]
    pub fn of_callers<'a>(functions: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        functions.into_iter().find_map(|function| {
            Some(Self(match function {
                "runtime.gcMarkDone" | "runtime.gcMarkTermination" => 1,
                "runtime.gcStart" => 2,
                "runtime/debug.WriteHeapDump" | "runtime.writeHeapDump" => 3,
                "runtime.goroutineProfileWithLabels"
                | "runtime.goroutineProfileWithLabelsConcurrent"
                | "runtime.goroutineProfileWithLabelsSync"
                | "runtime.GoroutineProfile"
                | "runtime/pprof.runtime_goroutineProfileWithLabels" => 4,
                "runtime.Stack" => 6,
                "runtime.ReadMemStats" => 7,
                "runtime.syscall_runtime_doAllThreadsSyscall"
                | "syscall.runtime_doAllThreadsSyscall"
                | "runtime.doAllThreadsSyscall" => 8,
                "runtime.GOMAXPROCS" => 9,
                "runtime.StartTrace" => 10,
                "runtime.StopTrace" => 11,
                _ => return None,
            }))
        })
    }

    /// The runtime's words.
    #[must_use]
    pub fn name(self) -> &'static str {
        STW_REASONS.get(usize::from(self.0)).copied().unwrap_or("unknown")
    }

    /// Whether it is one of the GC's own two stops.
    #[must_use]
    pub const fn is_gc(self) -> bool {
        matches!(self.0, 1 | 2)
    }
}

/// What kind of thing a parked goroutine waits for, by the runtime's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitClass {
    /// Another goroutine: channels, select, locks, condition variables, wait groups.
    Synchronization,
    /// Nobody, ever: `select {}` or a nil channel.
    Forever,
    /// The network or a file.
    Io,
    /// A timer.
    Sleep,
    /// The runtime itself: GC workers, finalizers and the like.
    Runtime,
}

impl WaitClass {
    /// Classes the words of `waitReasonStrings` (runtime/runtime2.go, Go 1.18 to 1.27).
    #[must_use]
    pub fn of(reason: &str) -> Self {
        match reason {
            "chan receive"
            | "chan send"
            | "select"
            | "semacquire"
            | "sync.Cond.Wait"
            | "sync.Mutex.Lock"
            | "sync.RWMutex.RLock"
            | "sync.RWMutex.Lock"
            | "sync.WaitGroup.Wait"
            | "coroutine" => Self::Synchronization,
            "chan receive (nil chan)" | "chan send (nil chan)" | "select (no cases)" => Self::Forever,
            "IO wait" => Self::Io,
            "sleep" => Self::Sleep,
            _ => Self::Runtime,
        }
    }

    /// Whether only another goroutine, or nobody, can end the wait.
    #[must_use]
    pub const fn is_blocking(self) -> bool {
        matches!(self, Self::Synchronization | Self::Forever)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_reasons_by_number() {
        assert_eq!(StwReason::from_number(7).name(), "read mem stats");
        assert_eq!(StwReason::from_number(9).name(), "GOMAXPROCS");
        assert!(StwReason::from_number(1).is_gc() && StwReason::from_number(2).is_gc());
        assert!(!StwReason::from_number(3).is_gc());
        assert_eq!(StwReason::from_number(99).name(), "unknown");
    }

    #[test]
    fn unknown_wait_reasons_are_never_called_blocked() {
        assert!(!WaitClass::of("something new").is_blocking());
        assert!(WaitClass::of("select (no cases)").is_blocking());
    }
}
