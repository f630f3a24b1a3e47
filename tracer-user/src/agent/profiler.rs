//! A wall-clock profile of one process: looks at its goroutines, samples of its CPUs, and the sums of both.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::pace::Pace;
use crate::memory::{Look, Ms, ReadError, Runtime, RuntimeError, Sampler};
use crate::memory::{Source, monotonic_ns};
use crate::model::{Class, OnCpu, Wall};
use crate::probe::{Accounting, CpuSamples};
use crate::target::{Exit, Target, Watch, thread_ids};

/// Longest sleep: Ctrl-C is heard, and the ring emptied, that often at least.
const SLEEP: Duration = Duration::from_millis(50);
/// Threads are asked for that often, and at once when there is a new M.
const THREADS_EVERY: Duration = Duration::from_millis(500);
/// The process is looked at that often.
const TARGET_EVERY: Duration = Duration::from_secs(1);
/// How long the end of a process whose memory is gone is waited for.
const EXIT_WAIT: Duration = Duration::from_secs(2);

/// How a profile is taken.
#[derive(Clone, Copy, Debug)]
pub struct ProfileOptions {
    /// How long.
    pub duration: Duration,
    /// Share of one CPU that gotrail may use.
    pub budget: f64,
    /// Looks a second; without it as many as the budget allows.
    pub rate: Option<f64>,
    /// Read pprof labels.
    pub labels: bool,
    /// The runtime's own goroutines too.
    pub system: bool,
}

/// What was found on the CPUs, in samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounts {
    /// Goroutines that the scheduler runs: these have their stacks in the profile.
    pub running: u64,
    /// Of those of the runtime itself, which are not in it.
    pub system: u64,
    /// Goroutines in a system call or in C code.
    pub syscall: u64,
    /// Goroutines that count as waiting while they work for the collector, or are about to wait.
    pub other: u64,
    /// The scheduler, with no goroutine.
    pub scheduler: u64,
    /// Threads that are not Go's.
    pub foreign: u64,
}

impl CpuCounts {
    /// All of them.
    #[must_use]
    pub const fn all(&self) -> u64 {
        self.running + self.system + self.syscall + self.other + self.scheduler + self.foreign
    }
}

/// What a profile has besides its rows.
#[derive(Clone, Debug, Default)]
pub struct ProfileSummary {
    /// When the first look began, `CLOCK_MONOTONIC` ns.
    pub began_ns: u64,
    /// The sums of all looks: `at_ns` is that of the last.
    pub looks: Look,
    /// What was found on the CPUs.
    pub on_cpu: CpuCounts,
    /// CPUs that were sampled.
    pub cpus: usize,
    /// Threads whose M the programs could not be told.
    pub untold: u64,
    /// The account of these samples, if there were any to be taken.
    pub accounting: Option<Accounting>,
    /// Why there were none.
    pub no_cpu: Option<String>,
    /// gotrail's own CPU time while it sampled, ns, and the time that took.
    pub used_ns: u64,
    /// Likewise.
    pub took_ns: u64,
    /// How the process ended, if it did.
    pub exit: Option<Exit>,
    /// Stacks and labels that were left out.
    pub left_out: (u64, u64),
}

/// Takes a profile.
pub struct Profiler<'a> {
    target: &'a Target,
    runtime: &'a Runtime<'a>,
    options: ProfileOptions,
    /// What has the stacks and labels of the rows.
    pub sampler: Sampler<'a, Source>,
    /// The sums.
    pub wall: Wall,
    cpu: Option<CpuSamples>,
    ms: Ms,
    summary: ProfileSummary,
}

impl<'a> Profiler<'a> {
    /// Makes everything ready. Where the CPUs can't be sampled the profile goes without, and says so.
    #[must_use]
    pub fn new(target: &'a Target, runtime: &'a Runtime<'a>, options: ProfileOptions) -> Self {
        let mut summary = ProfileSummary::default();
        let cpu = match CpuSamples::attach(target, runtime.binary(), runtime.bias()) {
            Ok(cpu) => Some(cpu),
            Err(error) => {
                summary.no_cpu = Some(error.to_string());
                None
            }
        };
        summary.cpus = cpu.as_ref().map_or(0, CpuSamples::cpus);
        Self {
            target,
            runtime,
            options,
            sampler: Sampler::new(runtime, options.labels),
            wall: Wall::default(),
            cpu,
            ms: Ms::default(),
            summary,
        }
    }

    /// Looks until the time is over, `stop` is set, or the process ends.
    ///
    /// # Errors
    /// [`RuntimeError`], but not that the process ended: that ends the profile, with what there is.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<ProfileSummary, RuntimeError> {
        let watch = Watch::new(self.target.pid())?;
        let (begun, cpu_begun) = (Instant::now(), own_cpu_time());
        self.summary.began_ns = monotonic_ns();
        let result = self.sample(begun, stop);
        if let Some(cpu) = &mut self.cpu {
            cpu.detach();
        }
        self.drain();
        self.summary.took_ns = nanos(begun.elapsed());
        self.summary.used_ns = nanos(own_cpu_time().saturating_sub(cpu_begun));
        self.summary.accounting = self.cpu.as_ref().map(CpuSamples::accounting);
        self.summary.untold = self.cpu.as_ref().map_or(0, CpuSamples::untold);
        self.summary.left_out = self.sampler.left_out();
        match result {
            Err(RuntimeError::Read { source: ReadError::Gone, .. }) => {
                self.summary.exit = Some(watch.wait(EXIT_WAIT).unwrap_or(Exit::Unknown));
            }
            other => other?,
        }
        Ok(self.summary.clone())
    }

    fn sample(&mut self, begun: Instant, stop: &AtomicBool) -> Result<(), RuntimeError> {
        let deadline = begun + self.options.duration;
        let mut pace = Pace::new(self.options.budget, self.options.rate, monotonic_ns());
        let (mut threads_at, mut target_at) = (None::<Instant>, Instant::now());
        loop {
            let (now, cpu_now) = (Instant::now(), own_cpu_time());
            self.look()?;
            if self.cpu.is_some()
                && (threads_at.is_none_or(|at| at.elapsed() >= THREADS_EVERY)
                    || self.runtime.has_new_ms(&self.ms)?)
            {
                self.tell_threads()?;
                threads_at = Some(now);
            }
            self.drain();
            if now >= deadline || stop.load(Ordering::Acquire) {
                return Ok(());
            }
            if target_at.elapsed() >= TARGET_EVERY {
                target_at = now;
                if self.target.look().is_some_and(|look| !look.same_program) {
                    self.summary.exit = Some(Exit::Exec);
                    return Ok(());
                }
            }
            pace.cost(own_cpu_time().saturating_sub(cpu_now));
            // The last look is at the end.
            let next = (now + pace.next()).min(deadline);
            loop {
                let left = next.saturating_duration_since(Instant::now());
                if left.is_zero() || stop.load(Ordering::Acquire) {
                    break;
                }
                std::thread::sleep(left.min(SLEEP));
                if left > SLEEP {
                    self.drain();
                }
            }
        }
    }

    fn look(&mut self) -> Result<(), RuntimeError> {
        let (wall, system) = (&mut self.wall, self.options.system);
        wall.begin(monotonic_ns());
        let look = self.sampler.look(|sight| {
            if system || !sight.system {
                wall.see(&sight);
            }
        })?;
        wall.end();
        let first = wall.looks() == 1;
        let sum = &mut self.summary.looks;
        sum.at_ns = look.at_ns;
        sum.alive += look.alive;
        // All are new to the first look.
        sum.new += if first { 0 } else { look.new };
        sum.ended += look.ended;
        sum.unwound += look.unwound;
        sum.torn += look.torn;
        sum.unread += look.unread;
        sum.beyond = sum.beyond.max(look.beyond);
        Ok(())
    }

    fn tell_threads(&mut self) -> Result<(), RuntimeError> {
        self.ms = self.runtime.ms()?;
        let Some(cpu) = &mut self.cpu else { return Ok(()) };
        if self.target.inner_pid == self.target.pid() {
            cpu.tell(&self.ms.by_thread);
        } else {
            let ids = thread_ids(self.target.pid());
            let ours = self.ms.by_thread.iter().filter_map(|(id, m)| Some((*ids.get(id)?, *m)));
            cpu.tell(&ours.collect());
        }
        Ok(())
    }

    fn drain(&mut self) {
        let Some(cpu) = &mut self.cpu else { return };
        let (sampler, wall, counts) = (&mut self.sampler, &mut self.wall, &mut self.summary.on_cpu);
        let system = self.options.system;
        cpu.drain(|sample| {
            let OnCpu { goid, status, has_m, .. } = &sample;
            match (goid, status.map(Class::of)) {
                _ if !has_m => counts.foreign += 1,
                (None, _) | (_, None) => counts.scheduler += 1,
                (_, Some(Class::Syscall)) => counts.syscall += 1,
                _ if !system && sampler.is_system(sample.startpc) => counts.system += 1,
                (_, Some(Class::Running)) => {
                    counts.running += 1;
                    let stack = sampler.chain(&sample.pcs, sample.maybe_return, sample.truncated);
                    let labels = sampler.labels_at(sample.labels);
                    wall.hit(&sample, stack, labels);
                }
                // On the way into a run queue.
                (_, Some(Class::Runnable)) => counts.scheduler += 1,
                (_, Some(Class::Waiting)) => counts.other += 1,
            }
        });
    }
}

fn own_cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
