//! The one list of the structures and fields that gotrail reads: the source of the types, of the paths searched in
//! DWARF and of the table's keys.

use std::collections::BTreeMap;

use super::LayoutError;

/// The path that stands for the structure's own size.
pub(super) const SIZE: &str = "#size";

/// One field, or the size, of a structure of the Go runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name here and in the table, like `g.goid`.
    pub key: &'static str,
    /// The Go structure, like `runtime.g`.
    pub strukt: &'static str,
    /// Where it is in that structure, by the names of Go's sources; the first path that exists is meant.
    /// A `*` in front wants a pointer there, so that a field which became a structure is not taken for the
    /// pointer that it used to be. `#size` is the structure's size.
    pub paths: &'static [&'static str],
    /// Whether every supported version has it.
    pub required: bool,
}

/// A value of a layout: an offset that every supported version has, or one that only some have.
trait Slot: Copy {
    const REQUIRED: bool;
    fn new(offset: Option<u32>) -> Option<Self>;
    fn offset(self) -> Option<u32>;
}

impl Slot for u32 {
    const REQUIRED: bool = true;

    fn new(offset: Option<u32>) -> Option<Self> {
        offset
    }

    fn offset(self) -> Option<u32> {
        Some(self)
    }
}

impl Slot for Option<u32> {
    const REQUIRED: bool = false;

    fn new(offset: Option<u32>) -> Option<Self> {
        Some(offset)
    }

    fn offset(self) -> Option<u32> {
        self
    }
}

/// Takes one value, remembering the key of a required one that is missing.
fn take<S: Slot + Default>(
    key: &'static str,
    offset: &impl Fn(&str) -> Option<u32>,
    missing: &mut Vec<&'static str>,
) -> S {
    S::new(offset(key)).unwrap_or_else(|| {
        missing.push(key);
        S::default()
    })
}

/// Declares the structures: `part: Type = "Go structure" { field: u32 or Option<u32> = [paths], }`.
macro_rules! layout {
    ($(
        $(#[$part_doc:meta])*
        $part:ident: $Part:ident = $strukt:literal {
            $($(#[$doc:meta])* $field:ident: $slot:ty = [$($path:expr),+],)*
        }
    )*) => {
        $(
            $(#[$part_doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $Part {
                $($(#[$doc])* pub $field: $slot,)*
            }
        )*

        /// The offsets of one version of the Go runtime, in bytes.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Layout {
            $($(#[$part_doc])* pub $part: $Part,)*
            /// `runtime.waitReasonStrings`: the text of a goroutine's wait reason by its number. Empty where it
            /// is not known; the numbers differ between versions.
            pub wait_reasons: Vec<String>,
        }

        /// Every field of a [`Layout`], in its order.
        pub const FIELDS: &[Field] = &[$($(Field {
            key: concat!(stringify!($part), ".", stringify!($field)),
            strukt: $strukt,
            paths: &[$($path),+],
            required: <$slot as Slot>::REQUIRED,
        },)*)*];

        impl Layout {
            /// Makes a layout of the offsets by key.
            ///
            /// # Errors
            ///
            /// A required one is missing; the error names all of those.
            pub fn from_offsets(
                offset: impl Fn(&str) -> Option<u32>,
                wait_reasons: Vec<String>,
            ) -> Result<Self, LayoutError> {
                let mut missing = Vec::new();
                let layout = Self {
                    $($part: $Part {
                        $($field: take::<$slot>(
                            concat!(stringify!($part), ".", stringify!($field)),
                            &offset,
                            &mut missing,
                        ),)*
                    },)*
                    wait_reasons,
                };
                if missing.is_empty() { Ok(layout) } else { Err(LayoutError::Incomplete { missing }) }
            }

            /// The offsets by key, without those that this version does not have.
            #[must_use]
            pub fn to_offsets(&self) -> BTreeMap<&'static str, u32> {
                let all = [$($((
                    concat!(stringify!($part), ".", stringify!($field)),
                    self.$part.$field.offset(),
                ),)*)*];
                all.into_iter().filter_map(|(key, offset)| Some((key, offset?))).collect()
            }
        }
    };
}

layout! {
    /// A goroutine: `runtime.g` (runtime2.go).
    g: GLayout = "runtime.g" {
        /// The structure's size.
        size: u32 = [SIZE],
        /// The stack's low end.
        stack_lo: u32 = ["stack.lo"],
        /// The stack's high end.
        stack_hi: u32 = ["stack.hi"],
        /// The innermost panic, a `*_panic`.
        panic_: u32 = ["_panic"],
        /// The thread that runs it, a `*m`.
        m: u32 = ["m"],
        /// The stack pointer while it is not running.
        sched_sp: u32 = ["sched.sp"],
        /// The program counter while it is not running.
        sched_pc: u32 = ["sched.pc"],
        /// The goroutine's own address, once it has run.
        sched_g: u32 = ["sched.g"],
        /// The frame pointer while it is not running.
        sched_bp: u32 = ["sched.bp"],
        /// The stack pointer at a system call; 0 outside of one.
        syscallsp: u32 = ["syscallsp"],
        /// The program counter at a system call.
        syscallpc: u32 = ["syscallpc"],
        /// The frame pointer at a system call (Go 1.23 on).
        syscallbp: Option<u32> = ["syscallbp"],
        /// The status, 32 bits, with 0x1000 while the collector scans it.
        atomicstatus: u32 = ["atomicstatus"],
        /// The goroutine's number, 64 bits.
        goid: u32 = ["goid"],
        /// Roughly when it was blocked, set by the collector only.
        waitsince: u32 = ["waitsince"],
        /// Why it waits, 8 bits: an index of the wait reasons.
        waitreason: u32 = ["waitreason"],
        /// The place in the rotation of goroutines whose scheduling is measured, 8 bits.
        tracking_seq: u32 = ["trackingSeq"],
        /// The thread that it is locked to, a `*m` without a type.
        lockedm: u32 = ["lockedm"],
        /// The signal that ended it, 32 bits.
        sig: u32 = ["sig"],
        /// The faulting address of that signal.
        sigcode1: u32 = ["sigcode1"],
        /// The program counter at that signal.
        sigpc: u32 = ["sigpc"],
        /// The goroutine that started it (Go 1.21 on).
        parent_goid: Option<u32> = ["parentGoid"],
        /// The return address of the `go` statement that started it.
        gopc: u32 = ["gopc"],
        /// Traces of its ancestors, with `tracebackancestors` only.
        ancestors: u32 = ["ancestors"],
        /// The entry of its function.
        startpc: u32 = ["startpc"],
        /// The list of what it waits for, a `*sudog`, linked by `waitlink`.
        waiting: u32 = ["waiting"],
        /// The profiler's labels.
        labels: u32 = ["labels"],
        /// When its sleep ends (Go 1.23 on).
        sleep_when: Option<u32> = ["sleepWhen"],
        /// The innermost deferred call, a `*_defer`.
        defer_: Option<u32> = ["_defer"],
        /// The stack pointer that is expected at the outermost frame.
        stktopsp: Option<u32> = ["stktopsp"],
        /// The timer of its sleeps, a `*timer`.
        timer: Option<u32> = ["timer"],
        /// Whether it is stopped at an instruction of which no stack map is known, a `bool`.
        async_safe_point: Option<u32> = ["asyncSafePoint"],
        /// The bubble of testing/synctest that it is in, a `*synctestBubble` (Go 1.25 on).
        bubble: Option<u32> = ["bubble"],
    }

    /// A thread: `runtime.m` (runtime2.go).
    m: MLayout = "runtime.m" {
        /// Its scheduling goroutine, a `*g`.
        g0: u32 = ["g0"],
        /// The kernel's number of the thread, 64 bits.
        procid: u32 = ["procid"],
        /// Its signal-handling goroutine, a `*g`.
        gsignal: u32 = ["gsignal"],
        /// The goroutine that it runs, a `*g`.
        curg: u32 = ["curg"],
        /// The processor that it holds, a `*p` without a type.
        p: u32 = ["p"],
        /// Its number in the runtime, 64 bits.
        id: u32 = ["id"],
        /// Whether it executes C code, a `bool`.
        incgo: u32 = ["incgo"],
        /// The number of calls into C in progress, 32 bits.
        ncgo: u32 = ["ncgo"],
        /// The next of all threads.
        alllink: u32 = ["alllink"],
        /// The goroutine that is locked to it, a `*g` without a type.
        lockedg: u32 = ["lockedg"],
        /// Its own address (Go 1.26 on).
        self_: Option<u32> = ["self"],
    }

    /// A processor, which a thread needs to run Go code: `runtime.p` (runtime2.go).
    p: PLayout = "runtime.p" {
        /// Its number, 32 bits.
        id: u32 = ["id"],
        /// Its status, 32 bits.
        status: u32 = ["status"],
        /// The next of the idle ones.
        link: u32 = ["link"],
        /// The thread that holds it, a `*m` without a type.
        m: u32 = ["m"],
        /// The run queue's read index, 32 bits.
        runqhead: u32 = ["runqhead"],
        /// The run queue's write index, 32 bits.
        runqtail: u32 = ["runqtail"],
        /// The run queue: a ring of 256 `*g` without types.
        runq: u32 = ["runq"],
        /// The goroutine that runs next, a `*g` without a type.
        runnext: u32 = ["runnext"],
        /// How often it has switched to a goroutine, 32 bits.
        schedtick: Option<u32> = ["schedtick"],
        /// The buffer of the write barrier, a `wbBuf`.
        wb_buf: Option<u32> = ["wbBuf"],
        /// The value of `schedtick` that the monitor has seen, 32 bits.
        seen_schedtick: Option<u32> = ["sysmontick.schedtick"],
        /// When it saw that for the first time, by the monotonic clock.
        seen_schedwhen: Option<u32> = ["sysmontick.schedwhen"],
    }

    /// The scheduler: `runtime.sched`, a `runtime.schedt` (runtime2.go).
    sched: SchedLayout = "runtime.schedt" {
        /// The goroutine numbers given out to processors, 64 bits.
        goidgen: u32 = ["goidgen"],
        /// When the network was last polled; 0 while a thread does.
        last_poll: u32 = ["lastpoll"],
        /// The number of idle threads, 32 bits.
        nmidle: u32 = ["nmidle"],
        /// The number of threads created so far, 64 bits.
        mnext: u32 = ["mnext"],
        /// The most threads allowed, 32 bits.
        maxmcount: u32 = ["maxmcount"],
        /// The number of threads that have ended, 64 bits.
        nmfreed: u32 = ["nmfreed"],
        /// The number of the runtime's own goroutines, 32 bits.
        ngsys: u32 = ["ngsys"],
        /// The number of idle processors, 32 bits.
        npidle: u32 = ["npidle"],
        /// The number of threads that look for work, 32 bits.
        nmspinning: u32 = ["nmspinning"],
        /// The global run queue's length, 32 bits; inside of the queue from Go 1.25 on.
        runq_size: u32 = ["runq.size", "runqsize"],
        /// Whether the collector wants to stop the world: 32 bits to Go 1.19, then a byte.
        gcwaiting: u32 = ["gcwaiting"],
        /// When `GOMAXPROCS` last changed.
        procresizetime: u32 = ["procresizetime"],
        /// A histogram of the time to stop the world for the collector (Go 1.22 on).
        stw_stopping_time_gc: Option<u32> = ["stwStoppingTimeGC"],
        /// The same for other causes (Go 1.22 on).
        stw_stopping_time_other: Option<u32> = ["stwStoppingTimeOther"],
        /// A histogram of the time that the world was stopped for the collector (Go 1.22 on).
        stw_total_time_gc: Option<u32> = ["stwTotalTimeGC"],
        /// The same for other causes (Go 1.22 on).
        stw_total_time_other: Option<u32> = ["stwTotalTimeOther"],
    }

    /// A goroutine in a list of waiters: `runtime.sudog` (runtime2.go).
    sudog: SudogLayout = "runtime.sudog" {
        /// The goroutine, a `*g`.
        g: u32 = ["g"],
        /// The next waiter.
        next: u32 = ["next"],
        /// The data to send or where to receive it. From Go 1.26 on this is a pair of which the second holds
        /// while the first may be hidden from the collector.
        elem: u32 = ["elem.vu", "*elem"],
        /// The channel; a pair likewise.
        c: u32 = ["c.maybeTraceablePtr.vu", "*c"],
        /// Whether it is a case of a `select`, a `bool`.
        is_select: u32 = ["isSelect"],
        /// The next thing that the same goroutine waits for.
        waitlink: u32 = ["waitlink"],
    }

    /// A channel: `runtime.hchan` (chan.go).
    hchan: HchanLayout = "runtime.hchan" {
        /// The number of values in the buffer.
        qcount: u32 = ["qcount"],
        /// The buffer's capacity in values.
        dataqsiz: u32 = ["dataqsiz"],
        /// The size of a value, 16 bits.
        elemsize: u32 = ["elemsize"],
        /// Whether it is closed, 32 bits.
        closed: u32 = ["closed"],
        /// The type of a value.
        elemtype: u32 = ["elemtype"],
        /// The first receiver that waits, a `*sudog`.
        recvq_first: u32 = ["recvq.first"],
        /// The first sender that waits, a `*sudog`.
        sendq_first: u32 = ["sendq.first"],
        /// The timer that sends on it, a `*timer` (Go 1.23 on).
        timer: Option<u32> = ["timer"],
    }

    /// A panic: `runtime._panic` (runtime2.go).
    panic: PanicLayout = "runtime._panic" {
        /// Its value, an interface.
        arg: u32 = ["arg"],
        /// The panic that it interrupted.
        link: u32 = ["link"],
        /// Whether it is over, a `bool`.
        recovered: u32 = ["recovered"],
        /// Whether it is no panic but `runtime.Goexit`, a `bool`.
        goexit: u32 = ["goexit"],
    }

    /// The collector's pacer: `runtime.gcController`, a `runtime.gcControllerState` (mgcpacer.go).
    gc: GcControllerLayout = "runtime.gcControllerState" {
        /// `GOGC`, 32 bits signed; negative is off.
        gc_percent: u32 = ["gcPercent"],
        /// `GOMEMLIMIT` (Go 1.19 on).
        memory_limit: Option<u32> = ["memoryLimit"],
        /// The heap size at which the cycle should end, by `GOGC` alone (Go 1.19 on).
        gc_percent_heap_goal: Option<u32> = ["gcPercentHeapGoal"],
        /// The goal of the previous cycle.
        last_heap_goal: u32 = ["lastHeapGoal"],
        /// The bytes that the collector holds for live.
        heap_live: u32 = ["heapLive"],
        /// The bytes marked by the previous cycle.
        heap_marked: u32 = ["heapMarked"],
        /// The time spent in assists in this cycle.
        assist_time: Option<u32> = ["assistTime"],
        /// The time spent by dedicated workers in this cycle.
        dedicated_mark_time: Option<u32> = ["dedicatedMarkTime"],
        /// When this cycle's mark phase began.
        mark_start_time: u32 = ["markStartTime"],
        /// The bytes of spans in use (Go 1.19 on).
        heap_in_use: Option<u32> = ["heapInUse"],
        /// The bytes given back to the system (Go 1.19 on).
        heap_released: Option<u32> = ["heapReleased"],
        /// The bytes of free spans (Go 1.19 on).
        heap_free: Option<u32> = ["heapFree"],
        /// The bytes allocated so far (Go 1.19 on).
        total_alloc: Option<u32> = ["totalAlloc"],
        /// The bytes freed so far (Go 1.19 on).
        total_free: Option<u32> = ["totalFree"],
        /// The bytes mapped and usable at once (Go 1.19 on).
        mapped_ready: Option<u32> = ["mappedReady"],
    }

    /// Memory statistics: `runtime.memstats`, a `runtime.mstats` (mstats.go).
    memstats: MemstatsLayout = "runtime.mstats" {
        /// The bytes of profiling buckets.
        buckhash_sys: u32 = ["buckhash_sys"],
        /// When the last cycle ended, by the wall clock.
        last_gc_unix: u32 = ["last_gc_unix"],
        /// The same by the monotonic clock.
        last_gc_nanotime: u32 = ["last_gc_nanotime"],
        /// The pauses' sum.
        pause_total_ns: u32 = ["pause_total_ns"],
        /// A ring of the last 256 pauses, the newest at `(numgc - 1) % 256`.
        pause_ns: u32 = ["pause_ns"],
        /// Their ends by the wall clock.
        pause_end: u32 = ["pause_end"],
        /// The number of cycles, 32 bits.
        numgc: u32 = ["numgc"],
        /// The number of cycles asked for by `runtime.GC`, 32 bits.
        numforcedgc: u32 = ["numforcedgc"],
    }

    /// A timer: `runtime.timer` (time.go).
    timer: TimerLayout = "runtime.timer" {
        /// When it fires next, by the monotonic clock.
        when: Option<u32> = ["when"],
        /// The time between two times that it fires; 0 if it fires once.
        period: Option<u32> = ["period"],
    }

    /// A descriptor that the network poller watches: `runtime.pollDesc` (netpoll.go).
    polldesc: PollDescLayout = "runtime.pollDesc" {
        /// The file descriptor, a word.
        fd: Option<u32> = ["fd"],
        /// Who waits to read: 0, 1 (ready), 2 (about to wait) or a `*g` without a type.
        rg: Option<u32> = ["rg"],
        /// Who waits to write; likewise.
        wg: Option<u32> = ["wg"],
        /// The deadline of reads, by the monotonic clock; 0 for none, negative once it has passed.
        rd: Option<u32> = ["rd"],
        /// The deadline of writes; likewise.
        wd: Option<u32> = ["wd"],
    }

    /// What is kept of an ancestor of a goroutine: `runtime.ancestorInfo` (runtime2.go).
    ancestor: AncestorLayout = "runtime.ancestorInfo" {
        /// The structure's size.
        size: Option<u32> = [SIZE],
        /// The addresses on its stack, a slice.
        pcs: Option<u32> = ["pcs"],
        /// Its number, 64 bits.
        goid: Option<u32> = ["goid"],
        /// The return address of the `go` statement that started it.
        gopc: Option<u32> = ["gopc"],
    }

    /// A bubble of testing/synctest: `runtime.synctestBubble` (synctest.go, Go 1.25 on).
    bubble: BubbleLayout = "runtime.synctestBubble" {
        /// Its number, 64 bits.
        id: Option<u32> = ["id"],
    }

    /// A deferred call: `runtime._defer` (runtime2.go).
    defer: DeferLayout = "runtime._defer" {
        /// The structure's size.
        size: Option<u32> = [SIZE],
        /// The next one out.
        link: Option<u32> = ["link"],
    }

    /// The buffer of the write barrier: `runtime.wbBuf` (mwbbuf.go).
    wbbuf: WbBufLayout = "runtime.wbBuf" {
        /// The structure's size.
        size: Option<u32> = [SIZE],
    }

    /// The heap: `runtime.mheap_`, a `runtime.mheap` (mheap.go).
    mheap: MheapLayout = "runtime.mheap" {
        /// All spans, a slice of `*mspan`.
        allspans: Option<u32> = ["allspans"],
    }

    /// A run of pages: `runtime.mspan` (mheap.go).
    mspan: MspanLayout = "runtime.mspan" {
        /// The address of its first byte.
        start_addr: Option<u32> = ["startAddr"],
        /// The number of its pages of 8192 bytes.
        npages: Option<u32> = ["npages"],
        /// The multiplier that divides by the size of its objects, 32 bits.
        div_mul: Option<u32> = ["divMul"],
        /// Twice its size class, and 1 if its objects hold no pointers; 8 bits.
        spanclass: Option<u32> = ["spanclass"],
        /// Its state, 8 bits: 1 is in use by the heap.
        state: Option<u32> = ["state"],
        /// The size of its objects.
        elemsize: Option<u32> = ["elemsize"],
        /// The address behind its last object.
        limit: Option<u32> = ["limit"],
        /// Its specials, a list of `*special`.
        specials: Option<u32> = ["specials"],
    }

    /// What is special about an object: `runtime.special` (mheap.go).
    special: SpecialLayout = "runtime.special" {
        /// The next one of the span.
        next: Option<u32> = ["next"],
        /// The object's distance from the span's begin: 16 bits to Go 1.23, then 64.
        offset: Option<u32> = ["offset"],
        /// Its kind, 8 bits; the numbers differ between versions.
        kind: Option<u32> = ["kind"],
    }

    /// Cleanups that are due: `runtime.gcCleanups`, a `runtime.cleanupQueue` (mcleanup.go, Go 1.25 on).
    cleanups: CleanupsLayout = "runtime.cleanupQueue" {
        /// The list of all blocks, a `*cleanupBlock`.
        all: Option<u32> = ["all"],
    }
}
