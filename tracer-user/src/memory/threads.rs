//! Which thread runs which goroutine, on which P, and since when as far as the runtime's monitor has seen.

use std::collections::HashMap;

use super::reader::{Reader, field};
use super::runtime::{Runtime, RuntimeError};

/// Most Ms that are followed; a process has some hundred.
const MOST: usize = 1 << 16;

/// The M that a goroutine runs on, or is in a system call with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// As its PID namespace numbers it; 0 if it has not begun.
    pub id: u32,
    /// The number of the P that it holds; none in a long system call, and in C code.
    pub processor: Option<u32>,
    /// It executes C code (`m.incgo`).
    pub in_cgo: bool,
    /// The P has not switched to another goroutine since this moment, `CLOCK_MONOTONIC` ns, by the runtime's monitor:
    /// it looks every 20 us to 10 ms, so that it may have been a little longer. `None` if the monitor has not
    /// seen it yet.
    pub since_ns: Option<u64>,
}

impl<R: Reader> Runtime<'_, R> {
    /// By `g`: the Ms that have a goroutine (`m.curg`).
    pub(super) fn running_threads(&self) -> Result<HashMap<u64, Thread>, RuntimeError> {
        let layout = &self.binary.layout().m;
        let read = |address: u64| self.memory.u64(address).map_err(|e| self.read_error(e));
        let mut threads = HashMap::new();
        let mut m = read(self.global(self.binary.globals().allm))?;
        for _ in 0..MOST {
            if m == 0 {
                break;
            }
            let curg = read(field(m, layout.curg))?;
            if curg != 0 {
                let id = u32::try_from(read(field(m, layout.procid))?).unwrap_or(0);
                let mut in_cgo = [0];
                self.memory.read(field(m, layout.incgo), &mut in_cgo).map_err(|e| self.read_error(e))?;
                let p = read(field(m, layout.p))?;
                let (processor, since_ns) = if p == 0 { (None, None) } else { self.processor(p) };
                threads.insert(curg, Thread { id, processor, in_cgo: in_cgo != [0], since_ns });
            }
            m = read(field(m, layout.alllink))?;
        }
        Ok(threads)
    }

    /// The number of a P, and when the monitor has seen its newest switch (`retake`, runtime/proc.go).
    fn processor(&self, p: u64) -> (Option<u32>, Option<u64>) {
        let layout = &self.binary.layout().p;
        let id = self.memory.u32(field(p, layout.id)).ok();
        let since = || {
            let tick = self.memory.u32(field(p, layout.schedtick?)).ok()?;
            let seen = self.memory.u32(field(p, layout.seen_schedtick?)).ok()?;
            let when = self.memory.u64(field(p, layout.seen_schedwhen?)).ok()?;
            let still = self.memory.u32(field(p, layout.schedtick?)).ok()?;
            (tick == seen && tick == still && when != 0).then_some(when)
        };
        (id, since())
    }
}
