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
        /// The calls into C so far, 64 bits.
        ncgocall: Option<u32> = ["ncgocall"],
        /// Whether it looks for work, a `bool`.
        spinning: Option<u32> = ["spinning"],
        /// Whether it was made for a thread that C code started, a `bool`.
        isextra: Option<u32> = ["isextra"],
        /// The time that it waited for locks of the runtime, in ns (Go 1.22 on).
        lock_wait_time: Option<u32> = ["mLockProfile.waitTime"],
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
        /// The number of times that it scheduled, 32 bits.
        schedtick: Option<u32> = ["schedtick"],
        /// The number of dead goroutines kept for reuse, 32 bits.
        gfree: Option<u32> = ["gFree.size", "gFree.n"],
        /// The number of its timers, 32 bits.
        timers_len: Option<u32> = ["timers.len", "numTimers"],
        /// Those of them that were stopped but are still there, 32 bits.
        timers_zombies: Option<u32> = ["timers.zombies", "deletedTimers"],
        /// When its next timer is due; 0 for none.
        timers_next: Option<u32> = ["timers.minWhenHeap", "timer0When"],
        /// The goroutines that it created (Go 1.26 on).
        goroutines_created: Option<u32> = ["goroutinesCreated"],
        /// The cleanups that it queued (Go 1.25 on).
        cleanups_queued: Option<u32> = ["cleanupsQueued"],
        /// How it works for the collector: 0 not, 1 dedicated, 2 fractional, 3 idle; a word.
        gc_mark_worker_mode: Option<u32> = ["gcMarkWorkerMode"],
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
        /// The number of idle threads that are locked to a goroutine, 32 bits.
        nmidlelocked: Option<u32> = ["nmidlelocked"],
        /// The number of threads of the runtime itself, 32 bits.
        nmsys: Option<u32> = ["nmsys"],
        /// The number of dead goroutines kept for reuse, 32 bits (to Go 1.24).
        gfree: Option<u32> = ["gFree.n"],
        /// Those of them that have a stack, 32 bits (Go 1.25 on).
        gfree_stack: Option<u32> = ["gFree.stack.size"],
        /// Those that have none, 32 bits (Go 1.25 on).
        gfree_no_stack: Option<u32> = ["gFree.noStack.size"],
        /// The goroutines in system calls or C code without a P, 32 bits signed (Go 1.26 on).
        syscall_no_p: Option<u32> = ["nGsyscallNoP"],
        /// The goroutines that were created without a P or by Ps that are gone (Go 1.26 on).
        goroutines_created: Option<u32> = ["goroutinesCreated"],
        /// Whether sysmon sleeps because all is idle: 32 bits to Go 1.19, then a byte.
        sysmonwait: Option<u32> = ["sysmonwait"],
        /// Whether `GOMAXPROCS` was set by hand, a `bool` (Go 1.25 on).
        custom_gomaxprocs: Option<u32> = ["customGOMAXPROCS"],
        /// The sum of `GOMAXPROCS` over time up to its last change, in ns.
        totaltime: Option<u32> = ["totaltime"],
        /// The time that Ps were idle since the last GC cycle, in ns (Go 1.20 on).
        idle_time: Option<u32> = ["idleTime"],
        /// A histogram of the time from runnable to running.
        time_to_run: Option<u32> = ["timeToRun"],
        /// The time that goroutines waited for `sync.Mutex` and `sync.RWMutex`, in ns (Go 1.20 on).
        mutex_wait: Option<u32> = ["totalMutexWaitTime"],
        /// The time that ended threads waited for locks of the runtime, in ns (Go 1.22 on).
        lock_wait: Option<u32> = ["totalRuntimeLockWaitTime"],
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
        /// The heap size at which the cycle should end (Go 1.18; computed since).
        heap_goal: Option<u32> = ["heapGoal"],
        /// The heap size at which the next cycle begins (Go 1.18; computed since).
        trigger: Option<u32> = ["trigger"],
        /// The heap size at which this cycle began, all ones outside of one (Go 1.19 on).
        triggered: Option<u32> = ["triggered"],
        /// The least trigger that leaves room for sweeping (Go 1.19 on).
        sweep_min_trigger: Option<u32> = ["sweepDistMinTrigger"],
        /// The bytes that are expected to be allocated during a mark phase (Go 1.19 on).
        runway: Option<u32> = ["runway"],
        /// The heap size below which no cycle begins.
        heap_minimum: Option<u32> = ["heapMinimum"],
        /// The bytes of the heap that hold pointers.
        heap_scan: Option<u32> = ["heapScan"],
        /// The bytes of stacks scanned by the last cycle (Go 1.19 on).
        last_stack_scan: Option<u32> = ["lastStackScan"],
        /// The bytes of global variables that are scanned.
        globals_scan: Option<u32> = ["globalsScan"],
        /// The time spent by fractional workers in this cycle.
        fractional_mark_time: Option<u32> = ["fractionalMarkTime"],
        /// The time spent by idle workers in this cycle.
        idle_mark_time: Option<u32> = ["idleMarkTime"],
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
        /// The heap's statistics, three `heapStatsDelta` of which the sum counts.
        heap_stats: Option<u32> = ["heapStats"],
        /// Which of the three is written to, 32 bits.
        heap_stats_gen: Option<u32> = ["heapStats.gen"],
        /// The bytes of stacks that the system made.
        stacks_sys: Option<u32> = ["stacks_sys"],
        /// The bytes taken for `mspan` structures.
        mspan_sys: Option<u32> = ["mspan_sys"],
        /// The bytes taken for `mcache` structures.
        mcache_sys: Option<u32> = ["mcache_sys"],
        /// The bytes taken by the collector.
        gc_misc_sys: Option<u32> = ["gcMiscSys"],
        /// The bytes taken for anything else.
        other_sys: Option<u32> = ["other_sys"],
        /// The share of CPU time that the collector took since the program began, a double.
        gc_cpu_fraction: Option<u32> = ["gc_cpu_fraction"],
        /// A histogram of the pauses for the collector (to Go 1.21).
        gc_pause_dist: Option<u32> = ["gcPauseDist"],
    }

    /// A histogram of times: `runtime.timeHistogram` (histogram.go).
    hist: TimeHistogramLayout = "runtime.timeHistogram" {
        /// The number of negative times, behind the counts of the buckets.
        underflow: Option<u32> = ["underflow"],
        /// The number of times beyond the last bucket (Go 1.20 on).
        overflow: Option<u32> = ["overflow"],
    }

    /// The heap's statistics: `runtime.heapStatsDelta` (mstats.go).
    heap_stats: HeapStatsLayout = "runtime.heapStatsDelta" {
        /// The structure's size.
        size: Option<u32> = [SIZE],
        /// The bytes in use or ready for it.
        committed: Option<u32> = ["committed"],
        /// The bytes given back to the system.
        released: Option<u32> = ["released"],
        /// The bytes of spans of objects.
        in_heap: Option<u32> = ["inHeap"],
        /// The bytes of spans of stacks.
        in_stacks: Option<u32> = ["inStacks"],
        /// The bytes of the collector's work buffers.
        in_work_bufs: Option<u32> = ["inWorkBufs"],
        /// The bytes of unrolled pointer masks (to Go 1.24).
        in_ptr_scalar_bits: Option<u32> = ["inPtrScalarBits"],
        /// The number of tiny objects that were put into a block together.
        tiny_alloc_count: Option<u32> = ["tinyAllocCount"],
        /// The bytes of large objects allocated.
        large_alloc: Option<u32> = ["largeAlloc"],
        /// The number of large objects allocated.
        large_alloc_count: Option<u32> = ["largeAllocCount"],
        /// The number of objects allocated, by size class.
        small_alloc_count: Option<u32> = ["smallAllocCount"],
        /// The bytes of large objects freed.
        large_free: Option<u32> = ["largeFree"],
        /// The number of large objects freed.
        large_free_count: Option<u32> = ["largeFreeCount"],
        /// The number of objects freed, by size class.
        small_free_count: Option<u32> = ["smallFreeCount"],
    }

    /// The collector's work: `runtime.work`, a `runtime.workType` (mgc.go; Go 1.19 on, before it has no name).
    work: WorkLayout = "runtime.workType" {
        /// The number of cycles begun, 32 bits.
        cycles: Option<u32> = ["cycles"],
        /// Whether this cycle was asked for by `runtime.GC`, a `bool`.
        user_forced: Option<u32> = ["userForced"],
        /// When the last sweep termination began.
        t_sweep_term: Option<u32> = ["tSweepTerm"],
        /// When the last mark phase began.
        t_mark: Option<u32> = ["tMark"],
        /// When the last mark termination began.
        t_mark_term: Option<u32> = ["tMarkTerm"],
        /// When the last mark termination ended.
        t_end: Option<u32> = ["tEnd"],
        /// The heap's size when the last cycle began.
        heap0: Option<u32> = ["heap0"],
        /// The heap's size when its mark termination began.
        heap1: Option<u32> = ["heap1"],
        /// The bytes that it marked.
        heap2: Option<u32> = ["heap2"],
        /// The CPU time for assists, in ns, as of the last cycle (Go 1.20 on).
        cpu_assist: Option<u32> = ["cpuStats.GCAssistTime", "cpuStats.gcAssistTime"],
        /// The CPU time for dedicated and fractional workers, in ns, as of the last cycle (Go 1.20 on).
        cpu_dedicated: Option<u32> = ["cpuStats.GCDedicatedTime", "cpuStats.gcDedicatedTime"],
        /// The CPU time for idle workers, in ns, as of the last cycle (Go 1.20 on).
        cpu_gc_idle: Option<u32> = ["cpuStats.GCIdleTime", "cpuStats.gcIdleTime"],
        /// The CPU time for pauses, on all Ps, in ns, as of the last cycle (Go 1.20 on).
        cpu_gc_pause: Option<u32> = ["cpuStats.GCPauseTime", "cpuStats.gcPauseTime"],
        /// The CPU time for the collector, in ns, as of the last cycle (Go 1.20 on).
        cpu_gc_total: Option<u32> = ["cpuStats.GCTotalTime", "cpuStats.gcTotalTime"],
        /// The CPU time for giving memory back while allocating, in ns, as of the last cycle (Go 1.20 on).
        cpu_scavenge_assist: Option<u32> = ["cpuStats.ScavengeAssistTime", "cpuStats.scavengeAssistTime"],
        /// The CPU time for giving memory back in the background, in ns, as of the last cycle (Go 1.20 on).
        cpu_scavenge_bg: Option<u32> = ["cpuStats.ScavengeBgTime", "cpuStats.scavengeBgTime"],
        /// The CPU time for giving memory back, in ns, as of the last cycle (Go 1.20 on).
        cpu_scavenge_total: Option<u32> = ["cpuStats.ScavengeTotalTime", "cpuStats.scavengeTotalTime"],
        /// The CPU time in which Ps were idle, in ns, as of the last cycle (Go 1.20 on).
        cpu_idle: Option<u32> = ["cpuStats.IdleTime", "cpuStats.idleTime"],
        /// The CPU time for everything else, in ns, as of the last cycle (Go 1.20 on).
        cpu_user: Option<u32> = ["cpuStats.UserTime", "cpuStats.userTime"],
        /// The CPU time that Ps could have run, in ns, as of the last cycle (Go 1.20 on).
        cpu_total: Option<u32> = ["cpuStats.TotalTime", "cpuStats.totalTime"],
    }

    /// The heap: `runtime.mheap_`, a `runtime.mheap` (mheap.go).
    mheap: MheapLayout = "runtime.mheap" {
        /// Twice the number of sweeps begun, 32 bits.
        sweepgen: Option<u32> = ["sweepgen"],
        /// The number of pages of 8 KiB of spans in use.
        pages_in_use: Option<u32> = ["pagesInUse"],
        /// The bytes of `mspan` structures in use.
        spanalloc_inuse: Option<u32> = ["spanalloc.inuse"],
        /// The bytes of `mcache` structures in use.
        cachealloc_inuse: Option<u32> = ["cachealloc.inuse"],
        /// All spans, a slice of `*mspan`.
        allspans: Option<u32> = ["allspans"],
    }

    /// What limits the collector's CPU time: `runtime.gcCPULimiter`, a `runtime.gcCPULimiterState` (mgclimit.go).
    limiter: LimiterLayout = "runtime.gcCPULimiterState" {
        /// Whether it limits now, a `bool`.
        enabled: Option<u32> = ["enabled"],
        /// The last cycle in which it did, 32 bits.
        last_enabled_cycle: Option<u32> = ["lastEnabledCycle"],
    }

    /// A block of finalizers that are to be run: `runtime.finblock` (mfinal.go; to Go 1.25).
    finblock: FinblockLayout = "runtime.finblock" {
        /// The next block.
        next: Option<u32> = ["next"],
        /// The number of finalizers in it, 32 bits.
        cnt: Option<u32> = ["cnt"],
    }

    /// Cleanups that are to be run: `runtime.gcCleanups`, a `runtime.cleanupQueue` (mcleanup.go; Go 1.25 on).
    cleanups: CleanupsLayout = "runtime.cleanupQueue" {
        /// The number of goroutines that run them, 32 bits.
        goroutines: Option<u32> = ["ng"],
        /// The number of goroutines that run one just now, 32 bits.
        running: Option<u32> = ["running"],
        /// The number queued by Ps that are gone.
        queued: Option<u32> = ["queued"],
        /// The number that have run.
        executed: Option<u32> = ["executed"],
        /// The list of all blocks, a `*cleanupBlock`.
        all: Option<u32> = ["all"],
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
}
