//! Keeps the kernel ready to take probes off at once.
//!
//! Before the kernel touches the first breakpoint it takes `dup_mmap_sem` for writing (kernel/events/uprobes.c,
//! `register_for_each_vma`), and that waits for a grace period of RCU: 5 to 14 ms were seen, in which a program that has just
//! begun a storm hits every probe. Who comes soon after another writer does not wait (kernel/rcu/sync.c): of 309 that came
//! within 12 ms none did, of 62 after 16 to 20 ms one. So, while the end of a lease has to be quick, probes come and go all the
//! time on a page that nobody has mapped, and nobody hits them.
//!
//! The threads have descriptors of their own: one that the kernel keeps in close(2) for some tens of milliseconds must not keep
//! the sockets of the holders open when the keeper is killed meanwhile. Their own probes may go by close(2), as nobody has mapped
//! the page.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};

use super::link::{Multi, load_nothing};
use super::wire::Site;
use crate::memory::monotonic_ns;

/// Between two writers, as long as none has waited.
const STEP_NS: u64 = 6_000_000;
/// And at least: below, there would be no thread at times, as most are still in close(2).
const SHORTEST_NS: u64 = 3_000_000;
/// Whoever takes longer has waited for a grace period.
const COLD_NS: u64 = 1_000_000;
/// Whoever takes longer has waited for a fork(2) as well, and all other forks of the machine for him.
const SLOW_NS: u64 = 20_000_000;
/// One puts a probe on and takes it off a step later, for good after some tens of milliseconds more: 80 were usual at most, and
/// 120 were seen.
const THREADS: u64 = 16;

/// The threads, which wait for their turns until this is dropped.
pub(super) struct Warmth {
    shared: Arc<Shared>,
}

struct Shared {
    /// Held by the one who waits for the next turn, and until his probe is on: no two of them make the machine's forks wait.
    turn: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How long it is to be kept up, and when the next turn is, `CLOCK_MONOTONIC` ns.
    until_ns: u64,
    next_ns: u64,
    step_ns: u64,
    /// Up to then it is not kept up any more, whoever asks for it.
    stopped_ns: u64,
    closed: bool,
}

impl Warmth {
    /// Starts the threads. Where they can't be had the probes go as well, but later.
    pub(super) fn begin() -> Self {
        let state = State { until_ns: 0, next_ns: 0, step_ns: STEP_NS, stopped_ns: 0, closed: false };
        let shared =
            Arc::new(Shared { turn: Mutex::default(), state: Mutex::new(state), changed: Condvar::new() });
        let (leader, follower) = (Arc::clone(&shared), Arc::clone(&shared));
        spawn(move || {
            let Ok((page, program)) = own_descriptors().and_then(|()| open()) else { return };
            let own = Arc::new((page, program));
            for _ in 1..THREADS {
                let (shared, own) = (Arc::clone(&follower), Arc::clone(&own));
                spawn(move || come_and_go(&shared, &own.0, &own.1));
            }
            drop(follower);
            come_and_go(&leader, &own.0, &own.1);
        });
        Self { shared }
    }

    /// Keeps it up until then, `CLOCK_MONOTONIC` ns; 0: no longer.
    pub(super) fn keep_until(&self, until_ns: u64) {
        let now = monotonic_ns();
        let mut state = self.shared.lock();
        if until_ns != 0 && until_ns <= state.stopped_ns {
            return;
        }
        if state.until_ns <= now {
            // The probes have just come.
            (state.step_ns, state.next_ns) = (STEP_NS, now + STEP_NS);
        }
        state.until_ns = until_ns;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for Warmth {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is the caller's turn; `None` when there will be none any more.
    fn await_turn(&self) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        loop {
            let now = monotonic_ns();
            if state.closed {
                return None;
            }
            state = if state.next_ns >= state.until_ns {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if now < state.next_ns {
                let left = Duration::from_nanos(state.next_ns - now);
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            } else {
                state.next_ns = now + 2 * state.step_ns;
                return Some(turn);
            };
        }
    }

    /// Learns from how long a probe took to come. Returns how long it should stay.
    fn learn(&self, took_ns: u64) -> u64 {
        let mut state = self.lock();
        if took_ns > SLOW_NS {
            (state.stopped_ns, state.until_ns) = (state.until_ns, 0);
        } else if took_ns > COLD_NS {
            state.step_ns = (state.step_ns / 2).max(SHORTEST_NS);
        }
        state.step_ns
    }
}

fn come_and_go(shared: &Shared, page: &OwnedFd, program: &OwnedFd) {
    let site = [Site { offset: 0, cookie: 0 }];
    let multi = Multi::new(program, page, std::process::id(), &site);
    while let Some(turn) = shared.await_turn() {
        let begun = monotonic_ns();
        // One that is refused is a longer wait at the most.
        let link = multi.make();
        let stay = shared.learn(monotonic_ns().saturating_sub(begun));
        drop(turn);
        // To the end, so that it does not go just when the window's probes do.
        thread::sleep(Duration::from_nanos(stay));
        drop(link);
    }
}

fn spawn(run: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().name("gotrail-keeper".to_owned()).stack_size(64 << 10);
    // One less to wait for a turn.
    drop(thread.spawn(run));
}

/// Gives the calling thread, and those that it starts from now on, a table of descriptors of their own, with nothing in it.
fn own_descriptors() -> io::Result<()> {
    // SAFETY: close_range(2) with this flag closes nothing for other threads; this one has just begun and knows of none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A page that nobody maps, and a program that does nothing.
fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let page = File::from(memfd_create(c"gotrail-keeper", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)?);
    page.set_len(4096)?;
    Ok((page.into(), load_nothing(c"keeper_ready")?))
}
