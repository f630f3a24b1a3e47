//! What is known of a process that does not run any more, beside its memory: its registers, and when it stopped.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::monotonic_ns;
use super::reader::{Reader, field, u64_at};
use super::runtime::{Runtime, RuntimeError};
use crate::target::{CoreSignal, Registers};

/// The last moment of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Stopped {
    /// By the kernel's number of the thread: the registers of all threads.
    pub(super) threads: HashMap<u32, Registers>,
    /// The signal that ended it, and the thread that got it.
    pub(super) crash: Option<(CoreSignal, u32)>,
    /// The latest time that is found in its memory, `CLOCK_MONOTONIC` ns of the machine that it ran on: it ended
    /// then, or later. 0 if none is found.
    pub(super) at_ns: u64,
    /// One moment by two clocks: ns since the epoch, and `CLOCK_MONOTONIC` ns. The end of its last GC cycle.
    pub(super) wall: Option<(u64, u64)>,
}

impl<R: Reader> Runtime<'_, R> {
    /// Whether the process runs; else its memory is that of a core file.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.stopped.is_none()
    }

    /// Now, in `CLOCK_MONOTONIC` ns; in a core file the latest time that the runtime itself has written down, which
    /// is when the process ended, or earlier (0 if there is none).
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.stopped.as_ref().map_or_else(monotonic_ns, |stopped| stopped.at_ns)
    }

    /// The wall time of a `CLOCK_MONOTONIC` time of the process; `None` where that can't be known.
    #[must_use]
    pub fn wall(&self, at_ns: u64) -> Option<SystemTime> {
        let Some(stopped) = &self.stopped else {
            let (now, now_ns) = (SystemTime::now(), monotonic_ns());
            let ahead = Duration::from_nanos(at_ns.saturating_sub(now_ns));
            return now.checked_add(ahead)?.checked_sub(Duration::from_nanos(now_ns.saturating_sub(at_ns)));
        };
        let (unix_ns, same_ns) = stopped.wall?;
        let at = UNIX_EPOCH.checked_add(Duration::from_nanos(unix_ns))?;
        at.checked_add(Duration::from_nanos(at_ns.saturating_sub(same_ns)))?
            .checked_sub(Duration::from_nanos(same_ns.saturating_sub(at_ns)))
    }

    /// The last moment of a process, as far as its runtime has written down.
    pub(super) fn last_moment(&self) -> Result<Stopped, RuntimeError> {
        let (layout, globals) = (self.binary.layout(), self.binary.globals());
        let (sched, memstats) = (self.global(globals.sched), self.global(globals.memstats));
        let parts = [
            (field(sched, layout.sched.last_poll), 8),
            (field(sched, layout.sched.procresizetime), 8),
            (field(memstats, layout.memstats.last_gc_nanotime), 8),
            (field(memstats, layout.memstats.last_gc_unix), 8),
            (field(self.global(globals.gc_controller), layout.gc.mark_start_time), 8),
        ];
        let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
        let at = |index: u32| u64_at(&bytes, index * 8);
        let (gc, unix) = (at(2), at(3));
        Ok(Stopped {
            threads: HashMap::new(),
            crash: None,
            at_ns: [0, 1, 2, 4].map(at).into_iter().max().unwrap_or(0),
            wall: (read[2] && read[3] && gc != 0 && unix != 0).then_some((unix, gc)),
        })
    }
}
