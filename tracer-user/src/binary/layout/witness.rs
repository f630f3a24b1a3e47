//! Proving by machine code that a program's runtime has the layout of a release that was measured.
//!
//! A patch release that the table does not know yet, or a distributor's rebuild, has in nearly all cases the
//! layout of its neighbours; but "nearly" is a guess (FAIL-1). Functions that use the fields say for certain:
//! where the code of all of them is the same as in the measured release, instruction by instruction but for the
//! places that the linker chose, every offset in it is the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::super::code::Code;
use super::super::globals::Globals;
use super::super::image::Image;
use super::super::symbols::Symbols;
use super::super::version::GoVersion;
use super::{Layout, LayoutSource, table};

/// Functions of the runtime that every program has, or that every program has that reads files or sockets, and that
/// together use every field of [`Layout`]: goroutines and stacks, Ms, Ps, the scheduler, channels and sudogs, the
/// collector, panics, signals, timers, the poller, ancestors, the heap and its spans, and what is counted of all that.
const WITNESSES: [&str; 87] = [
    "runtime.newproc1",
    "runtime.casgstatus",
    "runtime.gopark",
    "runtime.park_m",
    "runtime.ready",
    "runtime.execute",
    "runtime.schedule",
    "runtime.goexit0",
    "runtime.gdestroy",
    "runtime.gfget",
    "runtime.mstart1",
    "runtime.minit",
    "runtime.mcommoninit",
    "runtime.mexit",
    "runtime.gopanic",
    "runtime.procresize",
    "runtime.runqput",
    "runtime.runqgrab",
    "runtime.pidleget",
    "runtime.pidleput",
    "runtime.mget",
    "runtime.mput",
    "runtime.checkmcount",
    "runtime.checkdead",
    "runtime.schedtrace",
    "runtime.reentersyscall",
    "runtime.exitsyscall",
    "runtime.goroutineheader",
    "runtime.tracebackothers",
    "runtime.printcreatedby",
    "runtime.dopanic_m",
    "runtime.sigpanic",
    "runtime.preprintpanics",
    "runtime.recovery",
    "runtime.chansend",
    "runtime.chanrecv",
    "runtime.timeSleep",
    "runtime.semacquire1",
    "runtime.wakeNetPoller",
    "runtime.newBucket",
    "runtime.(*gcControllerState).startCycle",
    "runtime.(*gcControllerState).endCycle",
    "runtime.gcMarkTermination",
    "runtime.stopTheWorldWithSema",
    "runtime.gfput",
    "runtime.checkTimers",
    "runtime.(*timers).check",
    "runtime.doaddtimer",
    "runtime.(*timers).addHeap",
    "runtime.sysmon",
    "runtime.startm",
    "runtime.oneNewExtraM",
    "runtime.gcBgMarkWorker",
    "runtime.(*mcache).refill",
    "runtime.(*mcache).allocLarge",
    "runtime.allocmcache",
    "runtime.(*fixalloc).alloc",
    "runtime.(*mheap).init",
    "runtime.(*mheap).initSpan",
    "runtime.(*mheap).allocSpan",
    "runtime.(*mheap).freeSpanLocked",
    "runtime.(*sweepLocked).sweep",
    "runtime.itabAdd",
    "runtime.(*timeHistogram).record",
    "runtime.gcStart",
    "runtime.gcSweep",
    "runtime.gcDrainN",
    "runtime.(*cpuStats).accumulate",
    "runtime.(*gcCPULimiterState).updateLocked",
    "runtime.(*gcControllerState).findRunnableGCWorker",
    "runtime.(*gcControllerState).heapGoalInternal",
    "runtime.(*gcControllerState).memoryLimitHeapGoal",
    "runtime.(*gcControllerState).trigger",
    "runtime.(*gcControllerState).commit",
    "runtime.(*gcControllerState).resetLive",
    "runtime.(*gcControllerState).update",
    "runtime.queuefinalizer",
    "runtime.freeSpecial",
    "runtime.(*p).destroy",
    "runtime.netpollready",
    "runtime.netpollblock",
    "internal/poll.runtime_pollOpen",
    "internal/poll.runtime_pollReset",
    "internal/poll.runtime_pollSetDeadline",
    "runtime.printAncestorTraceback",
    "runtime.addspecial",
    "runtime.wbBufFlush1",
];

/// Fewer than these in a program prove nothing.
const ENOUGH: usize = 30;

/// The code of the witnesses in measured releases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    arch: String,
    /// The release, without `go`.
    version: String,
    /// Witness to the hash of its code, in hexadecimal.
    code: BTreeMap<String, String>,
}

static MEASURED: LazyLock<Vec<Measured>> = LazyLock::new(|| {
    // The tests read it too, so that a broken one is noticed.
    serde_json::from_str(include_str!("witnesses.json")).unwrap_or_default()
});

/// The shapes of a program's witnesses, by name, with the layout that is claimed for it.
#[must_use]
pub fn witnesses(
    image: &Image,
    symbols: &Symbols,
    layout: &Layout,
    globals: &Globals,
) -> BTreeMap<&'static str, String> {
    // Structures that are variables: their fields appear in the code as addresses.
    let offsets = layout.to_offsets();
    let size = |part: &str| {
        let last = offsets.iter().filter(|(key, _)| key.starts_with(part)).map(|(_, offset)| *offset).max();
        u64::from(last.unwrap_or(0)) + 8
    };
    let own = |address: Option<u64>, part| address.map(|address| (address, size(part)));
    let optional = &globals.optional;
    let known: Vec<(u64, u64)> = [
        own(Some(globals.sched), "sched."),
        own(Some(globals.gc_controller), "gc."),
        own(Some(globals.memstats), "memstats."),
        own(optional.work, "work."),
        own(optional.mheap, "mheap."),
        own(optional.limiter, "limiter."),
        own(optional.cleanups, "cleanups."),
    ]
    .into_iter()
    // One that is not known is still one: what an address counts as is its range's place in the list.
    .map(Option::unwrap_or_default)
    .collect();
    symbols
        .find(image, WITNESSES)
        .into_iter()
        .zip(WITNESSES)
        .filter_map(|(function, name)| {
            let code = Code::of(image, function?)?;
            Some((name, format!("{:016x}", code.shape(&known))))
        })
        .collect()
}

/// A layout that is claimed for a program, until its witnesses have been heard.
#[derive(Debug)]
pub(in super::super) struct Claim {
    pub(in super::super) layout: Layout,
    version: String,
    code: &'static BTreeMap<String, String>,
}

/// The layout of the measured release of the same minor that is next to `version`.
pub(in super::super) fn claim(version: &GoVersion, goarch: &str) -> Option<Claim> {
    let mut best: Option<(u16, &Measured, Layout)> = None;
    for measured in MEASURED.iter().filter(|measured| measured.arch == goarch) {
        let Ok(release) = GoVersion::parse(&format!("go{}", measured.version)) else { continue };
        let distance = release.patch.abs_diff(version.patch);
        if release.minor != version.minor || best.as_ref().is_some_and(|(least, ..)| *least <= distance) {
            continue;
        }
        if let Ok((layout, _)) = table::row(&release, goarch) {
            best = Some((distance, measured, layout));
        }
    }
    best.map(|(_, measured, layout)| Claim {
        layout,
        version: measured.version.clone(),
        code: &measured.code,
    })
}

impl Claim {
    /// Whether the program's witnesses agree.
    ///
    /// # Errors
    /// What they say otherwise.
    pub(in super::super) fn prove(
        &self,
        image: &Image,
        symbols: &Symbols,
        globals: &Globals,
    ) -> Result<LayoutSource, String> {
        let found = witnesses(image, symbols, &self.layout, globals);
        let differ: Vec<&str> = found
            .iter()
            .filter(|(name, shape)| self.code.get(**name) != Some(shape))
            .map(|(name, _)| *name)
            .collect();
        if let Some(first) = differ.first() {
            return Err(format!(
                "{} of {} functions are not those of go{}, {first} among them",
                differ.len(),
                found.len(),
                self.version
            ));
        }
        if found.len() < ENOUGH {
            return Err(format!("only {} of the functions that could tell are there", found.len()));
        }
        Ok(LayoutSource::Code { version: self.version.clone(), functions: found.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_has_witnesses() {
        let whole: Vec<Measured> = serde_json::from_str(include_str!("witnesses.json")).unwrap();
        assert_eq!(whole.len(), MEASURED.len());
        for arch in ["amd64", "arm64"] {
            for minor in 18..=27 {
                let version = GoVersion::parse(&format!("go1.{minor}.99")).unwrap();
                let claim = claim(&version, arch).unwrap_or_else(|| panic!("{minor} {arch}"));
                assert!(claim.code.len() >= ENOUGH, "{minor} {arch}: {}", claim.code.len());
            }
            assert!(claim(&GoVersion::parse("go1.99.0").unwrap(), arch).is_none());
        }
    }

    #[test]
    fn the_nearest_release_is_claimed() {
        let claimed = |text: &str| claim(&GoVersion::parse(text).unwrap(), "amd64").unwrap().version;
        assert_eq!(claimed("go1.23.1-foo"), "1.23.2");
        assert_eq!(claimed("go1.23.99"), "1.23.12");
    }
}
