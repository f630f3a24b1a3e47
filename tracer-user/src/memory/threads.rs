//! Which thread runs which goroutine, on which P, and since when as far as the runtime's monitor has seen.

use super::hash::Map;
use super::reader::{Reader, field, u8_at, u64_at};
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
    pub(super) fn running_threads(&self) -> Result<Map<u64, Thread>, RuntimeError> {
        let layout = &self.binary.layout().m;
        let fields = [layout.curg, layout.procid, layout.alllink, layout.p, layout.incgo];
        let first = fields.into_iter().min().unwrap_or(0);
        let mut bytes = vec![0; (fields.into_iter().max().unwrap_or(0) - first) as usize + 8];
        let mut threads = Map::default();
        let mut m =
            self.memory.u64(self.global(self.binary.globals().allm)).map_err(|e| self.read_error(e))?;
        for _ in 0..MOST {
            if m == 0 {
                break;
            }
            self.memory.read(field(m, first), &mut bytes).map_err(|e| self.read_error(e))?;
            let [curg, procid, next, p, _] = fields.map(|at| u64_at(&bytes, at - first));
            if curg != 0 {
                let in_cgo = u8_at(&bytes, layout.incgo - first) != 0;
                let (processor, since_ns) = if p == 0 { (None, None) } else { self.processor(p) };
                let id = u32::try_from(procid).unwrap_or(0);
                threads.insert(curg, Thread { id, processor, in_cgo, since_ns });
            }
            m = next;
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
