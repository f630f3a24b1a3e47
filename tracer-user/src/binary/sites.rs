//! Where probes go: a pure plan from machine code (SAFE-2).
//!
//! A probe on an ordinary instruction is single-stepped by the kernel, ten times the cost of one on an
//! instruction that the kernel emulates. Nearly every Go function begins with a stack check, in or behind
//! which there is one, with the arguments still in their registers. Functions that the compiler may inline
//! into others (with a profile it inlines much of the scheduler) are observed where they can't be: where they
//! are called through a function value, or at the calls that are left.

use tracer_ebpf::{MAX_COROUTINE_CALLS, MAX_RESUMES, Probe, TIER_T1, TIER_T2, TIER_T3};

use super::code::{Code, Cost, Spot};
use super::image::Image;
use super::inlining::{Inlining, hosts_outside, inlining};
use super::layout::Layout;
use super::read::Build;
use super::symbols::{Function, Symbols};
use super::version::GoVersion;

/// One place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What it observes.
    pub probe: Probe,
    /// The function that it is in.
    pub function: String,
    /// Linked address of that function.
    pub entry: u64,
    /// Linked address of the instruction.
    pub address: u64,
    /// Its offset in the file: what the kernel places it by.
    pub file_offset: u64,
    /// The instruction's bytes, to be compared with those in memory.
    pub bytes: Vec<u8>,
    /// What a hit costs.
    pub cost: Cost,
    /// For sites of goroutines: the number of the register that holds the `*g`.
    pub register: u8,
    /// The instruction is the conditional branch of the stack check, which runs twice where the stack grows.
    pub stack_check: bool,
}

/// A probe that has no site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What would have been observed.
    pub probe: Probe,
    /// Why not.
    pub why: String,
    /// Whether the events are lost; false where the program simply can't do this (the function is not linked).
    pub lost: bool,
}

/// A function of the scheduler that the compiler inlined, and what is observed instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitute {
    /// What is observed.
    pub probe: Probe,
    /// The function that would be observed otherwise.
    pub function: String,
    /// Where it was inlined.
    pub into: String,
    /// What is observed instead, and why nothing is lost.
    pub instead: String,
}

/// All sites of some tiers of one binary.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Where probes go.
    pub sites: Vec<Site>,
    /// What can't be observed.
    pub unavailable: Vec<Unavailable>,
    /// What is observed elsewhere than usual.
    pub substitutes: Vec<Substitute>,
    /// Linked addresses that calls of `gogo` return to which resume a goroutine that never ceased to run.
    pub resumes: Vec<u64>,
    /// Linked addresses that calls of `gogo` return to which hand over from one coroutine to another.
    pub coroutine_calls: Vec<u64>,
}

impl Plan {
    /// The sites of one tier.
    pub fn tier(&self, tier: u32) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.probe.tier() == tier)
    }

    /// Whether everything that a tier observes has its place: nothing is lost.
    #[must_use]
    pub fn is_whole(&self, tier: u32) -> bool {
        self.tier(tier).next().is_some()
            && !self.unavailable.iter().any(|missing| missing.lost && missing.probe.tier() == tier)
    }

    /// Creations without exits, or exits without creations, would tell of numbers that are not so.
    fn both_or_neither(&mut self, one: Probe, other: Probe) {
        let has = |plan: &Self, probe: Probe| plan.sites.iter().any(|site| site.probe == probe);
        for (lacking, useless) in [(one, other), (other, one)] {
            if !has(self, lacking) && has(self, useless) {
                self.sites.retain(|site| site.probe != useless);
                self.substitutes.retain(|substitute| substitute.probe != useless);
                let why = format!("without {} it would tell half of the lifetimes", lacking.name());
                self.unavailable.push(Unavailable { probe: useless, why, lost: true });
            }
        }
    }
}

/// Functions whose entry is observed: probe, name, the first minor version that has it, whether every program
/// of that version and later ones has it.
const ENTRIES: [(Probe, &str, u16, bool); 16] = [
    (Probe::GcStart, "runtime.(*gcControllerState).startCycle", 18, true),
    (Probe::GcMarkEnd, "runtime.(*gcControllerState).endCycle", 18, true),
    (Probe::GcMarkTermination, "runtime.gcMarkTermination", 18, true),
    (Probe::GcLive, "runtime.(*gcControllerState).resetLive", 18, true),
    (Probe::GcSweep, "runtime.gcSweep", 18, true),
    (Probe::StwStop, "runtime.stopTheWorldWithSema", 18, true),
    (Probe::StwStart, "runtime.startTheWorldWithSema", 18, true),
    (Probe::Gopanic, "runtime.gopanic", 18, true),
    (Probe::Fatalpanic, "runtime.fatalpanic", 18, true),
    (Probe::Throw, "runtime.throw", 18, true),
    // Before Go 1.19 such errors go through throw.
    (Probe::Fatal, "runtime.fatal", 19, true),
    (Probe::Sigpanic, "runtime.sigpanic", 18, true),
    (Probe::Procresize, "runtime.procresize", 18, true),
    (Probe::ForcedGc, "runtime.GC", 18, false),
    (Probe::SetGcPercent, "runtime/debug.setGCPercent", 18, false),
    (Probe::Recovery, "runtime.recovery", 18, true),
];

/// What the body of `runtime.GC` calls (runtime/mgc.go, Go 1.18 to 1.27).
const FORCED_GC_CALLS: [&str; 4] =
    ["runtime.gcStart", "runtime.gcWaitOnMark", "runtime.sweepone", "runtime.mProf_PostSweep"];

/// Places, and reasons for none, that one plan has at most; a real one has some fifty.
const MAX_SITES: usize = 1024;

/// Plans the sites of `tiers` (`TIER_` bits).
#[must_use]
pub(super) fn plan(image: &Image, symbols: &Symbols, layout: &Layout, build: &Build, tiers: u32) -> Plan {
    let version = &build.version;
    let mut planner = Planner {
        image,
        symbols,
        layout,
        inlining: inlining(image, symbols),
        by_profile: build.may_be_by_profile(),
        plan: Plan::default(),
    };
    if planner.inlining.incomplete {
        for probe in Probe::ALL.into_iter().filter(|probe| probe.tier() & tiers != 0) {
            let why = "the trees of inlined calls are larger than those of any program".to_owned();
            planner.unavailable(probe, why, true);
        }
        return planner.plan;
    }
    if tiers & TIER_T1 != 0 {
        planner.rare(version);
    }
    if tiers & TIER_T2 != 0 {
        planner.creation();
        planner.exit(version);
        planner.plan.both_or_neither(Probe::GoCreate, Probe::GoExit);
    }
    if tiers & TIER_T3 != 0 {
        planner.park();
        planner.ready();
        planner.run();
    }
    planner.plan
}

struct Planner<'a> {
    image: &'a Image,
    symbols: &'a Symbols,
    layout: &'a Layout,
    inlining: Inlining<'a>,
    /// Nothing else inlines `runtime.GC` into other packages.
    by_profile: bool,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn rare(&mut self, version: &GoVersion) {
        let functions = self.symbols.find(self.image, ENTRIES.map(|(_, name, ..)| name));
        for ((probe, name, since, always), function) in ENTRIES.into_iter().zip(functions) {
            let inlined = self.note_inlined(probe, name, version);
            match function {
                Some(function) => self.entry(probe, name, function),
                None if version.minor < since => {
                    self.unavailable(probe, format!("{name} came with Go 1.{since}"), false);
                }
                // Nothing but what was inlined is left of it, and that has been told.
                None if inlined => {}
                None => self.unavailable(probe, format!("{name} is not in the binary"), always),
            }
        }
    }

    /// Says which of the observed functions were inlined into others, and what becomes of the events there. Returns
    /// whether this one was.
    fn note_inlined(&mut self, probe: Probe, name: &str, version: &GoVersion) -> bool {
        let mut hosts: Vec<&str> = self.inlining.hosts_of(name).into_iter().map(|(_, into)| into).collect();
        if probe == Probe::ForcedGc && self.by_profile {
            hosts.extend(hosts_outside(self.image, self.symbols, name, FORCED_GC_CALLS));
            hosts.sort_unstable();
            hosts.dedup();
        }
        for into in &hosts {
            match stop_is_told(version, into).filter(|_| probe == Probe::StwStop) {
                Some(instead) => self.substitute(probe, name, into, &instead),
                None => self.lost_to_inlining(probe, name, into),
            }
        }
        !hosts.is_empty()
    }

    /// Creation: behind each call of `newproc1`, the first cheap instruction at which the new `*g` is still in
    /// a register. All its fields are set by then, and nobody can run it yet (runtime/proc.go, `newproc`).
    /// Where `newproc1` was inlined, or nothing cheap comes in time, the call of `runqput` that follows it has the same
    /// `*g` as an argument.
    fn creation(&mut self) {
        const WHAT: &str = "runtime.newproc1";
        let [newproc1, runqput] = self.symbols.find(self.image, [WHAT, "runtime.runqput"]);
        let Some(newproc1) = newproc1 else {
            return self.unavailable(Probe::GoCreate, format!("{WHAT} is not in the binary"), true);
        };
        let mut any = false;
        for (function, name) in self.runtime_functions() {
            // debugCallWrap1 creates the goroutine of a debugger's call only.
            if name.starts_with("runtime.debugCall") {
                continue;
            }
            let Some(code) = Code::of(self.image, function) else { continue };
            if !code.may_call(&[newproc1.entry]) {
                continue;
            }
            let spots = code.behind_calls(newproc1.entry);
            any |= !spots.is_empty();
            // Without inlining (-gcflags=all=-l) a call of an accessor comes first, over which the g is on the stack.
            let is_cheap =
                |spot: &Result<Spot, String>| matches!(spot, Ok(Spot { cost: Cost::Emulated, .. }));
            let handed_on = runqput.and_then(|runqput| code.handed_on(newproc1.entry, runqput.entry, 1));
            match handed_on {
                Some(handed_on) if !spots.iter().any(is_cheap) => {
                    for spot in handed_on {
                        self.add(Probe::GoCreate, name, function, Ok(spot));
                    }
                }
                _ => {
                    for spot in spots {
                        self.add(Probe::GoCreate, name, function, spot);
                    }
                }
            }
        }
        for (function, name) in self.inlining.hosts_of(WHAT) {
            let spots = Code::of(self.image, function)
                .zip(runqput)
                .map(|(code, runqput)| code.at_calls(runqput.entry, 1))
                .unwrap_or_default();
            if spots.is_empty() {
                let why = format!("{WHAT} was inlined into {name}, and no call behind it takes the new g");
                self.unavailable(Probe::GoCreate, why, true);
                continue;
            }
            any = true;
            for spot in spots {
                self.add(Probe::GoCreate, name, function, Ok(spot));
            }
            self.substitute(Probe::GoCreate, WHAT, name, "the call of runtime.runqput behind it");
        }
        if !any {
            self.unavailable(Probe::GoCreate, "nothing in the runtime calls newproc1".to_owned(), true);
        }
    }

    /// Exit: `gdestroy` from Go 1.22, which ends coroutines too, else `goexit0`; both get the `*g` in the first
    /// argument register. Where gdestroy was inlined into one of its two callers, that is observed: goexit0, which
    /// mcall calls through a function value, so that it can't be inlined itself; for coroutines not `coroswitch_m`,
    /// which runs at each switch, but coroexit, which each of them calls once as its last act.
    fn exit(&mut self, version: &GoVersion) {
        const GDESTROY: &str = "runtime.gdestroy";
        const GOEXIT0: &str = "runtime.goexit0";
        const COROEXIT: &str = "runtime.coroexit";
        let [gdestroy, goexit0, coroexit] = self.symbols.find(self.image, [GDESTROY, GOEXIT0, COROEXIT]);
        let hosts = self.inlining.hosts_of(GDESTROY);
        match (gdestroy, goexit0) {
            (Some(gdestroy), _) => self.entry(Probe::GoExit, GDESTROY, gdestroy),
            // Before Go 1.22 there is none.
            (None, Some(goexit0)) if hosts.is_empty() => self.entry(Probe::GoExit, GOEXIT0, goexit0),
            (None, Some(_)) => {}
            (None, None) => self.unavailable(
                Probe::GoExit,
                format!("neither {GDESTROY} nor {GOEXIT0} is in this {version} binary"),
                true,
            ),
        }
        for (_, host) in hosts {
            match (host, goexit0, coroexit) {
                (GOEXIT0, Some(goexit0), _) => {
                    self.entry(Probe::GoExit, GOEXIT0, goexit0);
                    self.substitute(Probe::GoExit, GDESTROY, host, "the entry of runtime.goexit0");
                }
                ("runtime.coroswitch_m", _, Some(coroexit))
                    if self.inlining.hosts_of(COROEXIT).is_empty() =>
                {
                    let spot = Code::of(self.image, coroexit)
                        .ok_or_else(|| "its code is not in the file".to_owned())
                        .and_then(Code::entry)
                        .map(|spot| Spot { register: self.image.architecture().g_register(), ..spot });
                    self.add(Probe::GoExit, COROEXIT, coroexit, spot);
                    self.substitute(Probe::GoExit, GDESTROY, host, "the entry of runtime.coroexit");
                }
                _ => self.lost_to_inlining(Probe::GoExit, GDESTROY, host),
            }
        }
    }

    /// Park: `park_m`, which mcall calls through a function value, and which has the wait reason and the saved
    /// registers; `gopark` itself may be inlined into each of its callers.
    fn park(&mut self) {
        const WHAT: &str = "runtime.park_m";
        match self.symbols.find(self.image, [WHAT]) {
            [Some(function)] => self.entry(Probe::GoPark, WHAT, function),
            [None] => self.unavailable(Probe::GoPark, format!("{WHAT} is not in the binary"), true),
        }
        for (_, into) in self.inlining.hosts_of("runtime.gopark") {
            self.substitute(Probe::GoPark, "runtime.gopark", into, "runtime.park_m, which is never inlined");
        }
    }

    /// Ready: the entry of `ready`, and where it was inlined the call of `runqput` that it ends in.
    fn ready(&mut self) {
        const WHAT: &str = "runtime.ready";
        let [ready, runqput] = self.symbols.find(self.image, [WHAT, "runtime.runqput"]);
        match ready {
            Some(function) => self.entry(Probe::GoReady, WHAT, function),
            None if self.inlining.hosts_of(WHAT).is_empty() => {
                self.unavailable(Probe::GoReady, format!("{WHAT} is not in the binary"), true);
            }
            None => {}
        }
        for (function, into) in self.inlining.hosts_of(WHAT) {
            let spots = Code::of(self.image, function)
                .zip(runqput)
                .map(|(code, runqput)| code.at_calls(runqput.entry, 1))
                .unwrap_or_default();
            if spots.is_empty() {
                self.lost_to_inlining(Probe::GoReady, WHAT, into);
                continue;
            }
            for spot in spots {
                self.add(Probe::GoReady, into, function, Ok(spot));
            }
            self.substitute(Probe::GoReady, WHAT, into, "the call of runtime.runqput that it ends in");
        }
    }

    /// Run: the assembly function `gogo`, which starts and resumes every goroutine, coroutines included, and is
    /// never inlined; `execute` may be.
    fn run(&mut self) {
        const WHAT: &str = "runtime.gogo";
        let [Some(function)] = self.symbols.find(self.image, [WHAT]) else {
            return self.unavailable(Probe::GoRun, format!("{WHAT} is not in the binary"), true);
        };
        // gobuf.g, from the start of gobuf.
        let g_offset = self.layout.g.sched_g.saturating_sub(self.layout.g.sched_sp);
        let spot = Code::of(self.image, function)
            .ok_or_else(|| "its code is not in the file".to_owned())
            .and_then(|code| code.gogo(g_offset));
        self.add(Probe::GoRun, WHAT, function, spot);
        self.tell_runs_apart(function);
        for (_, into) in self.inlining.hosts_of("runtime.execute") {
            self.substitute(Probe::GoRun, "runtime.execute", into, "runtime.gogo, which is never inlined");
        }
    }

    /// Not every call of `gogo` is a run: `newstack` goes on with a goroutine whose stack has grown, `recovery` behind
    /// a panic, `goschedguarded_m` with one that may not yield (runtime/stack.go, panic.go, proc.go, Go 1.18 to 1.27).
    /// Which a call is, the function tells whose source it is in, wherever that was inlined.
    fn tell_runs_apart(&mut self, gogo: Function) {
        for (function, _) in self.runtime_functions() {
            let Some(code) = Code::of(self.image, function).filter(|code| code.may_call(&[gogo.entry]))
            else {
                continue;
            };
            for spot in code.at_calls(gogo.entry, 0) {
                let back = spot.address + spot.len as u64;
                let frames = self.symbols.frames(self.image, back, false);
                let (calls, most) = match frames.first().map(|frame| frame.function.as_str()) {
                    Some("runtime.newstack" | "runtime.recovery" | "runtime.goschedguarded_m") => {
                        (&mut self.plan.resumes, MAX_RESUMES)
                    }
                    Some("runtime.coroswitch_m") => (&mut self.plan.coroutine_calls, MAX_COROUTINE_CALLS),
                    _ => continue,
                };
                if calls.len() < most {
                    calls.push(back);
                } else {
                    let why = format!("gogo is called at more than {most} places that are no runs");
                    self.unavailable(Probe::GoRun, why, true);
                }
            }
        }
    }

    fn runtime_functions(&self) -> Vec<(Function, &'a str)> {
        let mut functions = Vec::new();
        self.symbols.for_each_name(self.image, |function, name, _| {
            if name.starts_with("runtime.") {
                functions.push((function, name));
            }
        });
        functions
    }

    fn entry(&mut self, probe: Probe, name: &str, function: Function) {
        let spot = Code::of(self.image, function)
            .ok_or_else(|| "its code is not in the file".to_owned())
            .and_then(Code::entry);
        self.add(probe, name, function, spot);
    }

    fn add(&mut self, probe: Probe, name: &str, function: Function, spot: Result<Spot, String>) {
        match spot.and_then(|spot| self.site(probe, name, function, spot)) {
            Ok(_) if self.plan.sites.len() == MAX_SITES => {
                self.unavailable(probe, format!("there are more than {MAX_SITES} places"), true);
            }
            Ok(site) => self.plan.sites.push(site),
            Err(why) => self.unavailable(probe, format!("{name}: {why}"), true),
        }
    }

    fn site(&self, probe: Probe, name: &str, function: Function, spot: Spot) -> Result<Site, String> {
        let outside = || format!("the file does not hold the instruction at {:#x}", spot.address);
        Ok(Site {
            probe,
            function: name.to_owned(),
            entry: function.entry,
            address: spot.address,
            file_offset: self.image.file_offset(spot.address).ok_or_else(outside)?,
            bytes: self.image.read(spot.address, spot.len).ok_or_else(outside)?.into_owned(),
            cost: spot.cost,
            register: spot.register,
            stack_check: spot.stack_check,
        })
    }

    fn unavailable(&mut self, probe: Probe, why: String, lost: bool) {
        if self.plan.unavailable.len() < MAX_SITES {
            self.plan.unavailable.push(Unavailable { probe, why, lost });
        }
    }

    fn substitute(&mut self, probe: Probe, function: &str, into: &str, instead: &str) {
        if self.plan.substitutes.len() == MAX_SITES {
            return;
        }
        self.plan.substitutes.push(Substitute {
            probe,
            function: function.to_owned(),
            into: into.to_owned(),
            instead: instead.to_owned(),
        });
    }

    fn lost_to_inlining(&mut self, probe: Probe, name: &str, into: &str) {
        let why = format!("{name} was inlined into {into}, where its calls can't be told");
        self.unavailable(probe, why, true);
    }
}

/// What tells of a stop of the world where `stopTheWorldWithSema` was inlined into `into`: from Go 1.22 on what starts
/// the world again is told since when and why it was stopped (runtime/proc.go, `worldStop`). Who had it stopped, it is
/// not told; the GC's own stops need not say.
fn stop_is_told(version: &GoVersion, into: &str) -> Option<String> {
    let told = "the entry of runtime.startTheWorldWithSema, which is told of begin and reason of the stop";
    let by_gc = ["runtime.gcStart", "runtime.gcMarkDone", "runtime.gcMarkTermination"]
        .iter()
        .any(|gc| into.strip_prefix(gc).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
    let but = if by_gc { "" } else { " (not of who asked for it)" };
    (version.minor >= 22).then(|| format!("{told}{but}"))
}

#[cfg(test)]
mod tests;
