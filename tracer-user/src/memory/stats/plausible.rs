//! Checks the globals that only figures need on the live process, before anything is told of what they say (FAIL-1).
//! One that does not look as it must is not used, and that is said.

use super::super::reader::Reader;
use super::super::runtime::{Runtime, RuntimeError};
use super::Unknown;
use super::words::low;
use crate::binary::OptionalGlobals;

/// More finalizers than a block of 4 KiB holds, of five words each.
pub(super) const MOST_IN_BLOCK: u32 = 128;
/// Bounds of a first stack: `fixedStack`, and more than `maxstacksize` ever allows.
const STACK: (u32, u32) = (1 << 11, 1 << 30);
/// More calls, or finalizers, than any process makes.
const ABSURD: u64 = 1 << 56;

/// Those that hold.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) statistics: OptionalGlobals,
}

impl Trusted {
    pub(super) fn check<R: Reader>(
        runtime: &Runtime<'_, R>,
        unknown: &mut Vec<Unknown>,
    ) -> Result<Self, RuntimeError> {
        let mut statistics = runtime.binary.globals().optional;
        let l = runtime.binary.layout();
        // Where the version has no such thing there is nothing to tell.
        let checks: [Checked<'_, R>; 8] = [
            (&mut statistics.work, "runtime.work", "gc.cpu", l.work.cpu_total.is_some(), work),
            (
                &mut statistics.mheap,
                "runtime.mheap_",
                "memory.mspan, memory.mcache",
                l.mheap.spanalloc_inuse.is_some(),
                mheap,
            ),
            (
                &mut statistics.limiter,
                "runtime.gcCPULimiter",
                "gc.limiter",
                l.limiter.last_enabled_cycle.is_some(),
                limiter,
            ),
            (
                &mut statistics.starting_stack_size,
                "runtime.startingStackSize",
                "memory.starting_stack_bytes",
                l.gc.memory_limit.is_some(),
                starting_stack,
            ),
            (
                &mut statistics.ncgocall,
                "runtime.ncgocall",
                "threads.cgo_calls",
                l.m.ncgocall.is_some(),
                count,
            ),
            (
                &mut statistics.finq,
                "runtime.finq",
                "finalizers.waiting",
                l.finblock.cnt.is_some(),
                finalizers,
            ),
            (
                &mut statistics.finqueued,
                "runtime.finqueued",
                "finalizers.queued",
                l.cleanups.queued.is_some(),
                count,
            ),
            (
                &mut statistics.finexecuted,
                "runtime.finexecuted",
                "finalizers.executed",
                l.cleanups.queued.is_some(),
                count,
            ),
        ];
        for (slot, name, what, expected, check) in checks {
            let Some(linked) = slot.filter(|_| expected) else {
                *slot = None;
                if expected {
                    let why = format!(
                        "{name} was not found in the machine code, and the program has no symbol table"
                    );
                    unknown.push(Unknown { what, why });
                }
                continue;
            };
            if !check(runtime, linked)? {
                *slot = None;
                let why = format!("what is at the place of {name} is not what should be there");
                unknown.push(Unknown { what, why });
            }
        }
        match statistics.cleanups {
            Some(linked) if !cleanups(runtime, linked)? => {
                statistics.cleanups = None;
                let why = "what is at the place of runtime.gcCleanups is not what should be there".to_owned();
                unknown.push(Unknown { what: "cleanups", why });
            }
            None if l.cleanups.queued.is_some() => {
                let why = "runtime.gcCleanups was not found in the machine code, and the program has no symbol table";
                unknown.push(Unknown { what: "cleanups", why: why.to_owned() });
            }
            _ => {}
        }
        Ok(Self { statistics })
    }
}

/// Where it is, its name, what is left out without it, whether this version has it, and the check.
type Checked<'s, R> = (&'s mut Option<u64>, &'static str, &'static str, bool, Check<R>);
type Check<R> = fn(&Runtime<'_, R>, u64) -> Result<bool, RuntimeError>;

/// Cycles completed, which two others are compared with.
fn cycles<R: Reader>(runtime: &Runtime<'_, R>) -> Result<u32, RuntimeError> {
    let offset = runtime.binary.layout().memstats.numgc;
    let [cycles] = runtime.words(Some(runtime.binary.globals().memstats), [Some(offset)])?;
    Ok(low(cycles.unwrap_or(0)))
}

/// A count taken before and after another one, which moves with it but may be one ahead.
fn follows<R: Reader>(
    runtime: &Runtime<'_, R>,
    value: impl Fn() -> Result<Option<u32>, RuntimeError>,
) -> Result<bool, RuntimeError> {
    let before = cycles(runtime)?;
    let value = value()?;
    let after = cycles(runtime)?.wrapping_add(1);
    Ok(value.is_some_and(|value| value.wrapping_sub(before) <= after.wrapping_sub(before)))
}

/// Cycles begun are those completed, or one more.
fn work<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    let offset = runtime.binary.layout().work.cycles;
    follows(runtime, || Ok(runtime.words(Some(linked), [offset])?[0].map(low)))
}

/// Two steps of `sweepgen` for each cycle; and there is no heap without spans.
fn mheap<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    let m = &runtime.binary.layout().mheap;
    let sweeps = follows(runtime, || {
        let [sweepgen] = runtime.words(Some(linked), [m.sweepgen])?;
        Ok(sweepgen.map(low).filter(|sweepgen| sweepgen % 2 == 0).map(|sweepgen| sweepgen / 2))
    })?;
    let memstats = &runtime.binary.layout().memstats;
    let [spans, caches] = runtime.words(Some(linked), [m.spanalloc_inuse, m.cachealloc_inuse])?;
    let [span_bytes, cache_bytes] =
        runtime.words(Some(runtime.binary.globals().memstats), [memstats.mspan_sys, memstats.mcache_sys])?;
    let within = |used: Option<u64>, taken: Option<u64>| {
        used.zip(taken).is_some_and(|(used, taken)| used != 0 && used <= taken)
    };
    Ok(sweeps && within(spans, span_bytes) && within(caches, cache_bytes))
}

fn limiter<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    let l = &runtime.binary.layout().limiter;
    let [enabled, last] = runtime.words(Some(linked), [l.enabled, l.last_enabled_cycle])?;
    let known = cycles(runtime)?.saturating_add(1);
    Ok(enabled.is_some_and(|word| word & 0xff <= 1) && last.is_some_and(|cycle| low(cycle) <= known))
}

fn starting_stack<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    let size = runtime.word(Some(linked))?.map(low);
    Ok(size.is_some_and(|size| size.is_power_of_two() && (STACK.0..=STACK.1).contains(&size)))
}

fn count<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    Ok(runtime.word(Some(linked))?.is_some_and(|count| count < ABSURD))
}

/// The queue is empty, or begins with a block.
fn finalizers<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    let Some(block) = runtime.word(Some(linked))? else { return Ok(false) };
    if block == 0 {
        return Ok(true);
    }
    let layout = &runtime.binary.layout().finblock;
    let [next, count] = runtime.words_at(block, [layout.next, layout.cnt])?;
    Ok(block % 8 == 0
        && next.is_some_and(|next| next % 8 == 0)
        && count.is_some_and(|count| low(count) <= MOST_IN_BLOCK))
}

fn cleanups<R: Reader>(runtime: &Runtime<'_, R>, linked: u64) -> Result<bool, RuntimeError> {
    let c = &runtime.binary.layout().cleanups;
    let [executed, queued, goroutines, running] =
        runtime.words(Some(linked), [c.executed, c.queued, c.goroutines, c.running])?;
    let below = |word: Option<u64>| word.is_some_and(|word| word < ABSURD);
    // Those that run are some of those that there are, unless one ended in between.
    let few = |word: Option<u64>| word.is_some_and(|word| low(word) < 1 << 20);
    Ok(below(executed) && below(queued) && few(goroutines) && few(running))
}
