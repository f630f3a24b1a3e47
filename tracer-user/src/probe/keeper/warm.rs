//! Keeps the kernel ready to take probes off at once.
//!
//! Before the kernel touches the first breakpoint it takes `dup_mmap_sem` for writing (kernel/events/uprobes.c,
//! `register_for_each_vma`), and that waits for a grace period of RCU: 5 to 14 ms were seen, in which a program that has just
//! begun a storm hits every probe. Who comes soon after another writer does not wait (kernel/rcu/sync.c): of 309 that came
//! within 12 ms none did, of 62 after 16 to 20 ms one. So, while the end of a lease has to be quick, probes come and go all the time
//! on a page that nobody has mapped, where they cost no program anything.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use super::link;
use super::wire::Site;
use crate::memory::monotonic_ns;

/// Between two writers.
const STEP_NS: u64 = 6_000_000;
/// One puts a probe on and takes it off a step later, which takes it up to 80 ms for good.
const THREADS: u64 = 8;

/// The page, and the threads that wait for their turns until it is dropped.
pub(super) struct Warmth {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Held by the one who waits for the next turn.
    turn: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// How long it is to be kept up, and when the next turn is, `CLOCK_MONOTONIC` ns.
    until_ns: u64,
    next_ns: u64,
    closed: bool,
}

impl Warmth {
    /// Starts the threads. Without them all goes as well, but later.
    ///
    /// # Errors
    /// There is no page or no thread to be had.
    pub(super) fn new(program: &OwnedFd) -> io::Result<Self> {
        let page = File::from(memfd_create(c"gotrail-keeper", MemfdFlags::CLOEXEC)?);
        page.set_len(THREADS)?;
        let warmth = Self { shared: Arc::default() };
        for offset in 0..THREADS {
            let (page, program) = (page.try_clone()?, program.try_clone()?);
            let shared = Arc::clone(&warmth.shared);
            let run = move || {
                let site = [Site { offset, cookie: 0 }];
                while shared.await_turn() {
                    // One that is refused is a longer wait at the most.
                    let link = link::create(program.as_fd(), page.as_fd(), std::process::id(), &site);
                    // To the end, so that it does not come just when the window's probes go.
                    thread::sleep(Duration::from_nanos(STEP_NS));
                    drop(link);
                }
            };
            thread::Builder::new().name("gotrail-keeper".to_owned()).stack_size(64 << 10).spawn(run)?;
        }
        Ok(warmth)
    }

    /// Keeps it up for the length of a lease that has just begun.
    pub(super) fn keep_until(&self, until_ns: u64) {
        let next_ns = monotonic_ns().saturating_add(STEP_NS);
        *self.shared.lock() = State { until_ns, next_ns, closed: false };
        self.shared.changed.notify_all();
    }

    /// Enough.
    pub(super) fn end(&self) {
        self.shared.lock().until_ns = 0;
        self.shared.changed.notify_all();
    }
}

impl Drop for Warmth {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is the caller's turn; `false` when there will be none any more.
    fn await_turn(&self) -> bool {
        let _first = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        loop {
            let now = monotonic_ns();
            if state.closed {
                return false;
            }
            state = if state.next_ns >= state.until_ns {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if now < state.next_ns {
                let left = state.next_ns - now;
                self.wait(state, left)
            } else {
                state.next_ns = now + 2 * STEP_NS;
                return true;
            };
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, ns: u64) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, Duration::from_nanos(ns));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
