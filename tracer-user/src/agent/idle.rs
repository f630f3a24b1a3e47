//! A process that has not run has not changed: what was read of it still holds.

use std::time::{Duration, Instant};

use crate::memory::{Snapshot, monotonic_ns};
use crate::target::cpu_time_ns;

/// Goroutines of a snapshot that is kept at most.
const MOST: usize = 1_000;
/// After so long it is read again all the same: what others write into a process's memory is no CPU time of its own.
const AGAIN: Duration = Duration::from_secs(30);
/// After so long an idle process is looked at all the same: whether it was stopped, say.
const CHECK: Duration = Duration::from_secs(10);

/// What was read last, and how much CPU time the process had used by then.
#[derive(Debug, Default)]
pub(super) struct Idle {
    kept: Option<(Snapshot, Instant)>,
    /// Read before the snapshot was taken, so that whatever runs meanwhile shows.
    cpu_before: Option<u64>,
    cpu: Option<u64>,
    checked: Option<(u64, Instant)>,
}

impl Idle {
    /// The last snapshot with the time of now, if the process has not run since it was taken. Where it is `None`, the next
    /// thing to do is to take one.
    pub(super) fn snapshot(&mut self, pid: u32) -> Option<&Snapshot> {
        let now = monotonic_ns();
        self.cpu_before = cpu_time_ns(pid);
        let (snapshot, read) = self.kept.as_mut()?;
        let idle = self.cpu_before.is_some() && self.cpu_before == self.cpu && read.elapsed() < AGAIN;
        (snapshot.taken_ns, snapshot.took_ns) = (now, 0);
        idle.then_some(snapshot)
    }

    /// Keeps a snapshot that was taken.
    pub(super) fn keep(&mut self, snapshot: Snapshot) {
        self.cpu = self.cpu_before;
        let keep = snapshot.goroutines.len() <= MOST && snapshot.torn == 0;
        self.kept = keep.then(|| (snapshot, Instant::now()));
    }

    /// Whether the process has not run since this was asked last, and was looked at not long ago.
    pub(super) fn is_idle(&mut self, pid: u32) -> bool {
        let Some(cpu) = cpu_time_ns(pid) else { return false };
        let idle = self.checked.is_some_and(|(before, at)| before == cpu && at.elapsed() < CHECK);
        if !idle {
            self.checked = Some((cpu, Instant::now()));
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_1_what_ran_is_read_again() {
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = sleeper.id();
        let mut idle = Idle::default();
        assert!(idle.snapshot(pid).is_none(), "nothing was read yet");
        idle.keep(Snapshot::empty(1));
        // It may still have been starting.
        std::thread::sleep(Duration::from_millis(200));
        if idle.snapshot(pid).is_none() {
            idle.keep(Snapshot::empty(1));
        }
        let again = idle.snapshot(pid).expect("it sleeps");
        assert!(again.taken_ns > 1);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(idle.snapshot(pid).is_none(), "it is gone");
        let me = std::process::id();
        let mut idle = Idle::default();
        assert!(idle.snapshot(me).is_none());
        idle.keep(Snapshot::empty(1));
        assert!(idle.snapshot(me).is_none(), "we run");
        assert!(!idle.is_idle(me) && !idle.is_idle(me));
    }
}
