//! The self-check: what is read must be a Go runtime that holds together, or nothing is printed (FAIL-1).

use std::collections::HashSet;
use std::time::Duration;

use super::goroutine::Status;
use super::reader::{Reader, field, u8_at, u32_at, u64_at};
use super::runtime::{Runtime, RuntimeError};

/// More goroutines, Ps or Ms than any process has.
const ABSURD: u64 = 1 << 27;
/// Times that the whole is looked at before it is held to be wrong.
const LOOKS: usize = 4;
/// Between checks of a live process that failed; the last is longer than the usual period of a quota (100 ms).
const WAITS: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(30), Duration::from_millis(120)];
/// Goroutines looked at by the check.
const SAMPLE: usize = 64;

impl<R: Reader> Runtime<'_, R> {
    /// The process runs on while it is looked at, and a structure that it writes just then does not hold together: its
    /// stack may be moving. What fails is looked at again; with wrong offsets it fails each time.
    pub(super) fn self_check(&self) -> Result<(), RuntimeError> {
        for _ in 1..LOOKS {
            match self.check_once() {
                Err(RuntimeError::SelfCheck { .. }) => {}
                done => return done,
            }
        }
        self.check_once()
    }

    /// The same for a process that runs by fits and starts: its thread may be off the processor right between two
    /// writes, for as long as others are on it or its cgroup's quota is used up.
    pub(super) fn self_check_patiently(&self) -> Result<(), RuntimeError> {
        for wait in WAITS {
            match self.self_check() {
                Err(RuntimeError::SelfCheck { .. }) => std::thread::sleep(wait),
                done => return done,
            }
        }
        self.self_check()
    }

    fn check_once(&self) -> Result<(), RuntimeError> {
        self.check_threads()?;
        self.check_processors()?;
        self.check_goroutines()
    }

    fn failed(&self, what: impl Into<String>) -> RuntimeError {
        RuntimeError::SelfCheck {
            pid: self.pid,
            what: what.into(),
            layout: self.binary.layout_source().to_string(),
        }
    }

    /// Every M's g0 points back to it, and so does what the Ms run.
    fn check_threads(&self) -> Result<(), RuntimeError> {
        let layout = self.binary.layout();
        let read = |address: u64| self.memory.u64(address).map_err(|e| self.read_error(e));
        let mut m = read(self.global(self.binary.globals().allm))?;
        let mut seen = HashSet::new();
        let (mut runs, mut astray) = (0, 0);
        while m != 0 {
            if m & 7 != 0 || !seen.insert(m) || seen.len() > 1 << 16 {
                return Err(self.failed("the list of Ms (runtime.allm) is not a list"));
            }
            let g0 = read(field(m, layout.m.g0))
                .map_err(|_| self.failed("an M in runtime.allm is not readable"))?;
            let back = if g0 == 0 { 0 } else { self.memory.u64(field(g0, layout.g.m)).unwrap_or(0) };
            if back != m {
                return Err(self.failed(format!("m.g0.m of the M at {m:#x} does not point back to it")));
            }
            match self.curg_points_back(m) {
                Some(true) => runs += 1,
                Some(false) => (runs, astray) = (runs + 1, astray + 1),
                None => {}
            }
            m = read(field(m, layout.m.alllink))?;
        }
        // One may have been stopped right between the two writes; with wrong offsets nearly all are astray.
        // In a core file it stays astray.
        if astray * 2 > runs && (self.is_live() || astray > 1) {
            return Err(self.failed(format!("m.curg.m of {astray} of {runs} Ms does not point back")));
        }
        if seen.is_empty() {
            return Err(self.failed("the process has no M yet: its Go runtime has not started"));
        }
        Ok(())
    }

    /// Whether the goroutine that an M runs points back to it; `None` if it runs none, or switches too fast for the
    /// two to be read together. They are written one after the other (`execute` and `dropg`, runtime/proc.go), so
    /// that a mismatch is looked at again.
    fn curg_points_back(&self, m: u64) -> Option<bool> {
        const LOOKS: u32 = 16;
        let layout = self.binary.layout();
        let curg = || self.memory.u64(field(m, layout.m.curg)).ok().filter(|curg| *curg != 0);
        let mut found = None;
        for _ in 0..LOOKS {
            let before = curg()?;
            let back = self.memory.u64(field(before, layout.g.m)).ok();
            if back == Some(m) {
                return Some(true);
            }
            if curg() == Some(before) {
                found = Some(false);
            }
        }
        found
    }

    /// Every P carries its index as its id.
    fn check_processors(&self) -> Result<(), RuntimeError> {
        let layout = self.binary.layout();
        let (at, len, cap) = self.slice(self.binary.globals().allp)?;
        if at & 7 != 0 || len == 0 || len > cap || len > 1 << 16 {
            return Err(self.failed(format!("runtime.allp is no slice: {at:#x}, {len} of {cap}")));
        }
        for (index, p) in self.pointers(at, len)?.into_iter().enumerate() {
            let id = self.memory.u32(field(p, layout.p.id)).unwrap_or(u32::MAX);
            if usize::try_from(id) != Ok(index) {
                return Err(self.failed(format!("P {index} says that its id is {id}")));
            }
        }
        Ok(())
    }

    /// Goroutines have legal states, and ids that were handed out, each once.
    fn check_goroutines(&self) -> Result<(), RuntimeError> {
        let layout = self.binary.layout();
        let globals = self.binary.globals();
        let (at, len, cap) = self.slice(globals.allgs)?;
        if at & 7 != 0 || len == 0 || len > cap || len > ABSURD {
            return Err(self.failed(format!("runtime.allgs is no slice: {at:#x}, {len} of {cap}")));
        }
        let sample = len.min(SAMPLE as u64);
        let parts: Vec<(u64, usize)> =
            self.pointers(at, sample)?.into_iter().map(|g| (g, layout.g.size as usize)).collect();
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        // Read after the goroutines: an id can't be newer than this.
        let highest = self
            .memory
            .u64(field(self.global(globals.sched), layout.sched.goidgen))
            .map_err(|e| self.read_error(e))?;
        let mut ids = HashSet::new();
        let (mut own, mut started) = (0, 0);
        let structs = bytes.chunks_exact(layout.g.size as usize).zip(&parts).zip(&read);
        for ((bytes, (address, _)), read) in structs {
            if !read {
                return Err(self.failed(format!("the g at {address:#x} in runtime.allgs is not readable")));
            }
            let status = Status::from_word(u32_at(bytes, layout.g.atomicstatus));
            let goid = u64_at(bytes, layout.g.goid);
            if let Status::Unknown(word) = status {
                return Err(self.failed(format!("the g at {address:#x} has the state {word}")));
            }
            if !status.is_alive() {
                continue;
            }
            if goid == 0 || goid > highest || !ids.insert(goid) {
                return Err(self.failed(format!("a g has the id {goid}, of {highest} handed out")));
            }
            let startpc = u64_at(bytes, layout.g.startpc).wrapping_sub(self.bias);
            if self.binary.symbols().at(startpc).is_some_and(|function| function.entry == startpc) {
                started += 1;
                let name = self.binary.function_name(startpc);
                own += u32::from(name.is_some_and(|n| n.starts_with("runtime.") && n != "runtime.main"));
            }
            let reason = u8_at(bytes, layout.g.waitreason);
            if status == Status::Waiting && usize::from(reason) >= self.binary.layout().wait_reasons.len() {
                return Err(self.failed(format!("goroutine {goid} waits for the reason {reason}")));
            }
            let (lo, hi) = (u64_at(bytes, layout.g.stack_lo), u64_at(bytes, layout.g.stack_hi));
            let sp = u64_at(bytes, layout.g.sched_sp);
            if status == Status::Waiting && !(lo < sp && sp <= hi) {
                return Err(self
                    .failed(format!("goroutine {goid} is parked with its stack pointer outside its stack")));
            }
        }
        // The collector's helpers (runtime/mgc.go, `gcenable`) are made before main runs, and never end.
        if own < 2 {
            return Err(self.failed("the goroutines of the runtime itself are not there"));
        }
        // Those that C threads call into Go with have no start function; the others all do.
        if started * 2 < ids.len() {
            return Err(self.failed(format!("{started} of {} goroutines begin with a function", ids.len())));
        }
        Ok(())
    }
}
