//! The runtime's globals that only figures and proofs need: where a program does not have one, or it is not found,
//! what is read through it is left out and the rest stays.
//!
//! As with the others ([`super::globals`]), stripping removes their names, and each is then the k-th distinct address
//! that a function of the runtime refers to. So that a compiler which moved something is noticed, another function
//! that has to refer to the same address is asked too, where there is one; what is found is checked on the live
//! process besides.

use super::code::Code;
use super::image::{Architecture, Image};
use super::layout::Layout;
use super::symbols::{Function, Symbols};

/// Linked addresses; `None` where the version has no such thing, or it was not found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionalGlobals {
    /// `runtime.work`, what the collector has done.
    pub work: Option<u64>,
    /// `runtime.mheap_`, the heap.
    pub mheap: Option<u64>,
    /// `runtime.gcCPULimiter` (Go 1.19 on).
    pub limiter: Option<u64>,
    /// `runtime.startingStackSize`, 32 bits (Go 1.19 on).
    pub starting_stack_size: Option<u64>,
    /// `runtime.ncgocall`, the calls into C by threads that have ended, 64 bits.
    pub ncgocall: Option<u64>,
    /// `runtime.finq`, the first block of finalizers that are to be run.
    pub finq: Option<u64>,
    /// `runtime.finqueued`, how many were queued, 64 bits (Go 1.25 on).
    pub finqueued: Option<u64>,
    /// `runtime.finexecuted`, how many have run, 64 bits (Go 1.25 on).
    pub finexecuted: Option<u64>,
    /// `runtime.gcCleanups`, the queue of cleanups (Go 1.25 on).
    pub cleanups: Option<u64>,
    /// `runtime.allfin`, the head of the list of all blocks of finalizers.
    pub allfin: Option<u64>,
}

const NAMES: [&str; 10] = [
    "runtime.work",
    "runtime.mheap_",
    "runtime.gcCPULimiter",
    "runtime.startingStackSize",
    "runtime.ncgocall",
    "runtime.finq",
    "runtime.finqueued",
    "runtime.finexecuted",
    "runtime.gcCleanups",
    "runtime.allfin",
];

/// The functions that are asked.
const FUNCTIONS: [&str; 13] = [
    "runtime.putfull",
    "runtime.trygetfull",
    "runtime.gcSweep",
    "runtime.gcDrainN",
    "runtime.(*gcControllerState).findRunnableGCWorker",
    "runtime.gfput",
    "runtime.gcComputeStartingStackSize",
    "runtime.mexit",
    "runtime.queuefinalizer",
    "runtime.runfinq",
    "runtime.runFinalizers",
    "runtime.(*p).destroy",
    "runtime.freeSpecial",
];

impl OptionalGlobals {
    /// Names and addresses of those that are known.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.addresses()).filter_map(|(name, address)| Some((name, address?)))
    }

    const fn addresses(&self) -> [Option<u64>; 10] {
        [
            self.work,
            self.mheap,
            self.limiter,
            self.starting_stack_size,
            self.ncgocall,
            self.finq,
            self.finqueued,
            self.finexecuted,
            self.cleanups,
            self.allfin,
        ]
    }

    /// By the symbol table.
    pub(super) fn by_name(image: &Image) -> Self {
        let [
            work,
            mheap,
            limiter,
            starting_stack_size,
            ncgocall,
            finq,
            finqueued,
            finexecuted,
            cleanups,
            allfin,
        ] = image.symbol_addresses(NAMES);
        Self {
            work,
            mheap,
            limiter,
            starting_stack_size,
            ncgocall,
            finq,
            finqueued,
            finexecuted,
            cleanups,
            allfin,
        }
    }

    /// By the machine code.
    pub(super) fn by_code(image: &Image, symbols: &Symbols, layout: &Layout) -> Self {
        let references = |function: Option<Function>| {
            function.and_then(|function| Code::of(image, function)).map(Code::references).unwrap_or_default()
        };
        let [
            putfull,
            trygetfull,
            gc_sweep,
            gc_drain_n,
            find_worker,
            gfput,
            starting_stack,
            mexit,
            queuefinalizer,
            runfinq,
            run_finalizers,
            p_destroy,
            free_special,
        ] = symbols.find(image, FUNCTIONS).map(references);
        let amd64 = image.architecture() == Architecture::Amd64;
        let back = |address: Option<&u64>, field: Option<u32>| address?.checked_sub(u64::from(field?));
        let agreed = |address: Option<u64>, other: &[u64]| address.filter(|at| other.contains(at));
        let finq = queuefinalizer.get(2).copied();
        Self {
            work: agreed(putfull.first().copied(), &trygetfull),
            mheap: gc_sweep.get(1).copied(),
            limiter: agreed(back(gc_drain_n.get(1), layout.limiter.enabled), &find_worker),
            starting_stack_size: agreed(gfput.first().copied(), &starting_stack),
            ncgocall: mexit.get(if amd64 { 5 } else { 6 }).copied(),
            finq: agreed(finq, &runfinq).or_else(|| agreed(finq, &run_finalizers)),
            finqueued: layout.cleanups.queued.and(queuefinalizer.get(if amd64 { 8 } else { 9 }).copied()),
            finexecuted: run_finalizers.get(6).copied(),
            allfin: queuefinalizer.get(5).copied(),
            cleanups: agreed(back(p_destroy.get(7), layout.cleanups.queued), &free_special),
        }
    }
}
