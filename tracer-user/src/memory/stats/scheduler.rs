//! Ps and their queues, and Ms.

use super::super::reader::Reader;
use super::super::runtime::{Runtime, RuntimeError};
use super::plausible::Trusted;
use super::words::{byte, low};

/// More Ms than any process has: the runtime's own limit is 10 000 unless it is told otherwise.
const MOST_MS: usize = 1 << 16;
/// More Ps than any process has.
const MOST_PS: usize = 1 << 16;
/// The slots of a P's run queue (runtime/runtime2.go).
const RUN_QUEUE: u32 = 256;

/// What a P does (`p.status`, runtime/runtime2.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PState {
    /// Nothing: there is no work for it, or no thread.
    Idle,
    /// A thread runs Go code, or the scheduler, with it.
    Running,
    /// Its thread is in a system call (to Go 1.25).
    Syscall,
    /// Stopped with the world.
    GcStop,
    /// Left over from a larger `GOMAXPROCS`.
    Dead,
    /// None of the runtime's values.
    Unknown(u32),
}

impl PState {
    const fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Idle,
            1 => Self::Running,
            2 => Self::Syscall,
            3 => Self::GcStop,
            4 => Self::Dead,
            other => Self::Unknown(other),
        }
    }

    /// As the runtime's sources name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Syscall => "syscall",
            Self::GcStop => "gcstop",
            Self::Dead => "dead",
            Self::Unknown(_) => "???",
        }
    }
}

/// One P.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Its number.
    pub id: u32,
    /// What it does.
    pub state: PState,
    /// Goroutines in its run queue, the one that runs next included.
    pub run_queue: u64,
    /// Its timers, stopped ones that are still there included.
    pub timers: Option<u32>,
    /// Those of them that were stopped.
    pub timers_stopped: Option<u32>,
    /// When its next timer is due, `CLOCK_MONOTONIC` ns; `None` without one.
    pub next_timer_ns: Option<u64>,
    /// The collector's work on it just now: `dedicated`, `fractional` or `idle`.
    pub gc_worker: Option<&'static str>,
    /// How often it scheduled, modulo 2^32.
    pub ticks: Option<u32>,
    /// Dead goroutines that it keeps for reuse.
    pub(super) free: u64,
    /// Goroutines created on it (Go 1.26 on).
    pub(super) created: Option<u64>,
    /// Cleanups queued on it (Go 1.25 on).
    pub(super) cleanups_queued: Option<u64>,
    /// The thread's goroutine is in a system call while it holds the P.
    pub(super) in_syscall: bool,
}

/// The scheduler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scheduler {
    /// All Ps, by number: `GOMAXPROCS` of them.
    pub processors: Vec<Processor>,
    /// Whether `GOMAXPROCS` was set by hand, in the environment or by the program (Go 1.25 on).
    pub custom_gomaxprocs: Option<bool>,
    /// Idle Ps, as the scheduler counts them.
    pub idle_ps: u32,
    /// Goroutines in the global run queue.
    pub global_run_queue: u64,
    /// Ms that look for work.
    pub spinning: u32,
    /// Whether sysmon sleeps, which it does while nothing runs.
    pub sysmon_sleeps: Option<bool>,
    /// Whether the world is stopped or being stopped.
    pub stop_wanted: bool,
    /// Goroutines created so far (Go 1.26 on).
    pub created: Option<u64>,
    /// Sum of the time that goroutines waited for `sync.Mutex` and `sync.RWMutex`, in ns (Go 1.20 on). One event in
    /// eight is measured and counts eightfold.
    pub(super) mutex_wait_ns: Option<u64>,
    /// Likewise, threads that have ended for the runtime's own locks.
    pub(super) lock_wait_ns: Option<u64>,
    /// Goroutines in system calls or C code without a P (Go 1.26 on).
    pub(super) syscall_no_p: Option<u64>,
    /// Dead goroutines that are kept for reuse.
    pub(super) free: u64,
}

impl Scheduler {
    /// Goroutines in all run queues.
    #[must_use]
    pub fn runnable(&self) -> u64 {
        self.processors.iter().fold(self.global_run_queue, |sum, p| sum.saturating_add(p.run_queue))
    }

    /// Timers of all Ps; `None` if that is not known.
    #[must_use]
    pub fn timers(&self) -> Option<u64> {
        self.processors.iter().map(|p| p.timers.map(u64::from)).sum()
    }
}

/// Ms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// Those that exist.
    pub total: u64,
    /// Those of them that Go made: without the ones lent to threads of C code (Go 1.20 on).
    pub of_go: Option<u64>,
    /// Made so far.
    pub created: u64,
    /// Ended so far.
    pub ended: u64,
    /// Parked for want of work.
    pub idle: u32,
    /// Parked because the goroutine that they are locked to can't run.
    pub idle_locked: Option<u32>,
    /// In C code, called from Go.
    pub in_cgo: u64,
    /// Calls into C so far; `None` if those of ended threads are not known.
    pub cgo_calls: Option<u64>,
    /// Sum of the time that goroutines and threads waited for `sync.Mutex`, `sync.RWMutex` and the runtime's own
    /// locks, in ns (Go 1.20 on; the runtime's own from Go 1.22 on).
    pub lock_wait_ns: Option<u64>,
}

impl<R: Reader> Runtime<'_, R> {
    pub(super) fn scheduler(&self) -> Result<Scheduler, RuntimeError> {
        let s = &self.binary.layout().sched;
        let [
            idle_ps,
            global,
            spinning,
            sysmon,
            gcwaiting,
            custom,
            created,
            mutex_wait,
            lock_wait,
            no_p,
            free,
            free_stack,
            free_no_stack,
        ] = self.words(
            Some(self.binary.globals().sched),
            [
                Some(s.npidle),
                Some(s.runq_size),
                Some(s.nmspinning),
                s.sysmonwait,
                Some(s.gcwaiting),
                s.custom_gomaxprocs,
                s.goroutines_created,
                s.mutex_wait,
                s.lock_wait,
                s.syscall_no_p,
                s.gfree,
                s.gfree_stack,
                s.gfree_no_stack,
            ],
        )?;
        let count = |word: Option<u64>| u64::from(low(word.unwrap_or(0)));
        let processors = self.processors()?;
        let created = created.and_then(|own| {
            processors.iter().try_fold(own, |sum: u64, p| Some(sum.wrapping_add(p.created?)))
        });
        Ok(Scheduler {
            processors,
            custom_gomaxprocs: custom.map(|word| byte(word) != 0),
            idle_ps: low(idle_ps.unwrap_or(0)),
            global_run_queue: count(global),
            spinning: low(spinning.unwrap_or(0)),
            sysmon_sleeps: sysmon.map(|word| byte(word) != 0),
            stop_wanted: byte(gcwaiting.unwrap_or(0)) != 0,
            created,
            mutex_wait_ns: mutex_wait,
            lock_wait_ns: lock_wait,
            // It may be below zero for a moment.
            syscall_no_p: no_p.map(|word| u64::from(low(word).cast_signed().max(0).unsigned_abs())),
            free: count(free) + count(free_stack) + count(free_no_stack),
        })
    }

    fn processors(&self) -> Result<Vec<Processor>, RuntimeError> {
        let p = &self.binary.layout().p;
        let (at, len, _) = self.slice(self.binary.globals().allp)?;
        let mut processors = Vec::new();
        for address in self.pointers(at, len.min(MOST_PS as u64))? {
            let [
                id,
                status,
                m,
                head,
                tail,
                next,
                ticks,
                free,
                timers,
                stopped,
                due,
                created,
                cleanups,
                worker,
            ] = self.words_at(
                address,
                [
                    Some(p.id),
                    Some(p.status),
                    Some(p.m),
                    Some(p.runqhead),
                    Some(p.runqtail),
                    Some(p.runnext),
                    p.schedtick,
                    p.gfree,
                    p.timers_len,
                    p.timers_zombies,
                    p.timers_next,
                    p.goroutines_created,
                    p.cleanups_queued,
                    p.gc_mark_worker_mode,
                ],
            )?;
            let (Some(id), Some(status)) = (id, status) else { continue };
            let state = PState::from_word(low(status));
            // `runqtail - runqhead` wraps; more than the ring has room for was read in two different moments.
            let queued = low(tail.unwrap_or(0)).wrapping_sub(low(head.unwrap_or(0))).min(RUN_QUEUE);
            processors.push(Processor {
                id: low(id),
                state,
                run_queue: u64::from(queued) + u64::from(next.unwrap_or(0) != 0),
                timers: timers.map(low),
                timers_stopped: stopped.map(low),
                next_timer_ns: due.filter(|due| *due != 0 && due.cast_signed() > 0),
                gc_worker: match worker {
                    Some(1) => Some("dedicated"),
                    Some(2) => Some("fractional"),
                    Some(3) => Some("idle"),
                    _ => None,
                },
                ticks: ticks.map(low),
                free: u64::from(low(free.unwrap_or(0))),
                created,
                cleanups_queued: cleanups,
                in_syscall: state == PState::Running && self.holder_is_in_syscall(m.unwrap_or(0))?,
            });
        }
        Ok(processors)
    }

    /// Whether the goroutine that an M runs is in a system call: from Go 1.26 on its P says `running` then too.
    fn holder_is_in_syscall(&self, m: u64) -> Result<bool, RuntimeError> {
        let layout = self.binary.layout();
        if m == 0 {
            return Ok(false);
        }
        let [curg] = self.words_at(m, [Some(layout.m.curg)])?;
        let Some(curg) = curg.filter(|curg| *curg != 0) else { return Ok(false) };
        let [status] = self.words_at(curg, [Some(layout.g.atomicstatus)])?;
        Ok(status.is_some_and(|word| low(word) & 0xfff == 3))
    }

    pub(super) fn threads(&self, trusted: &Trusted) -> Result<Threads, RuntimeError> {
        let layout = self.binary.layout();
        let (s, m) = (&layout.sched, &layout.m);
        let [created, ended, idle, idle_locked, mutex_wait, lock_wait] = self.words(
            Some(self.binary.globals().sched),
            [Some(s.mnext), Some(s.nmfreed), Some(s.nmidle), s.nmidlelocked, s.mutex_wait, s.lock_wait],
        )?;
        let dead_calls = self.word(trusted.statistics.ncgocall)?;
        let [mut next] = self.words(Some(self.binary.globals().allm), [Some(0)])?;
        let (mut lent, mut in_cgo, mut calls, mut waited) = (0_u64, 0_u64, 0_u64, 0_u64);
        for _ in 0..MOST_MS {
            let Some(address) = next.filter(|address| *address != 0) else { break };
            // One read for each M: there are as many as threads.
            let [link, ncgo, ncgocall, extra, wait] = self.words_at(
                address,
                [Some(m.alllink), Some(m.ncgo), m.ncgocall, m.isextra, m.lock_wait_time],
            )?;
            lent += u64::from(extra.is_some_and(|word| byte(word) != 0));
            in_cgo = in_cgo.saturating_add(u64::from(low(ncgo.unwrap_or(0)).cast_signed() > 0));
            calls = calls.wrapping_add(ncgocall.unwrap_or(0));
            waited = waited.wrapping_add(wait.unwrap_or(0));
            next = link;
        }
        let (created, ended) = (created.unwrap_or(0), ended.unwrap_or(0));
        let total = created.saturating_sub(ended);
        Ok(Threads {
            total,
            of_go: m.isextra.map(|_| total.saturating_sub(lent)),
            created,
            ended,
            idle: low(idle.unwrap_or(0)),
            idle_locked: idle_locked.map(low),
            in_cgo,
            cgo_calls: dead_calls.map(|dead| dead.wrapping_add(calls)),
            lock_wait_ns: mutex_wait
                .map(|mutex| mutex.wrapping_add(lock_wait.unwrap_or(0)).wrapping_add(waited)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p_has_the_states_of_the_runtime() {
        let names: Vec<&str> = (0..6).map(|word| PState::from_word(word).name()).collect();
        assert_eq!(names, ["idle", "running", "syscall", "gcstop", "dead", "???"]);
    }
}
