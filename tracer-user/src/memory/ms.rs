//! Which thread is which M.

use std::collections::HashMap;

use super::reader::{Reader, field, u64_at};
use super::runtime::{Runtime, RuntimeError};

/// More Ms than any process has: the runtime itself dies of 10 000 unless told otherwise (`sched.maxmcount`).
const MOST: usize = 1 << 16;

/// The Ms of a process, as far as they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ms {
    /// `runtime.allm`: the newest M.
    head: u64,
    /// By thread id, as the process's own PID namespace numbers it: the address of its M.
    pub by_thread: HashMap<u32, u64>,
}

impl<R: Reader> Runtime<'_, R> {
    /// Reads `m.procid` of all Ms. New ones are put before the others in the list (allocm, runtime/proc.go).
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn ms(&self) -> Result<Ms, RuntimeError> {
        let layout = &self.binary.layout().m;
        let head = self.newest_m()?;
        let mut ms = Ms { head, by_thread: HashMap::new() };
        let mut m = head;
        for _ in 0..MOST {
            if m == 0 {
                break;
            }
            let parts = [(field(m, layout.procid), 8), (field(m, layout.alllink), 8)];
            let (bytes, read) = self.memory.read_batch(&parts).map_err(|e| self.read_error(e))?;
            if !read.iter().all(|ok| *ok) {
                // It was taken off the list and freed meanwhile.
                break;
            }
            // 0 until its thread has begun.
            if let Ok(thread @ 1..) = u32::try_from(u64_at(&bytes, 0)) {
                ms.by_thread.insert(thread, m);
            }
            m = u64_at(&bytes, 8);
        }
        Ok(ms)
    }

    /// Whether there are other Ms than when these were read, as far as one word tells.
    ///
    /// # Errors
    /// [`RuntimeError::Read`].
    pub fn has_new_ms(&self, ms: &Ms) -> Result<bool, RuntimeError> {
        Ok(self.newest_m()? != ms.head)
    }

    fn newest_m(&self) -> Result<u64, RuntimeError> {
        self.memory.u64(self.global(self.binary.globals().allm)).map_err(|e| self.read_error(e))
    }
}
