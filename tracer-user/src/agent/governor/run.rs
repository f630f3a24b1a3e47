//! The running governor, as others see it: it has a thread of its own, or where no dear tier is to be governed, some time of
//! its caller's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::costs::{Costs, Prices};
use super::step::{Mode, Step};
use super::worker::Worker;
use crate::binary::{GoBinary, Plan};
use crate::memory::monotonic_ns;
use crate::probe::{Alarm, Counters, Detacher, Leases, Stretches, calibrate};

/// What is governed.
#[derive(Debug)]
pub(in crate::agent) struct Subject {
    pub(in crate::agent) pid: u32,
    pub(in crate::agent) binary: Arc<GoBinary>,
    pub(in crate::agent) bias: u64,
    pub(in crate::agent) share: f64,
    pub(in crate::agent) plan: Plan,
    /// Tiers that are to be observed at all.
    pub(in crate::agent) tiers: u32,
    pub(in crate::agent) counters: Counters,
    pub(in crate::agent) leases: Option<Leases>,
    /// What wakes it before its time.
    pub(in crate::agent) alarm: Option<Alarm>,
    pub(in crate::agent) detacher: Detacher,
    pub(in crate::agent) stretches: Stretches,
    /// Where the second tier is not on yet, since it would be too dear: its hits a second, and the CPUs that the target uses.
    pub(in crate::agent) too_dear: Option<(f64, f64)>,
    /// Until when switches were asked for whatever they cost, `CLOCK_MONOTONIC` ns.
    pub(in crate::agent) switches_until_ns: Option<u64>,
    /// Likewise system calls.
    pub(in crate::agent) syscalls_until_ns: Option<u64>,
}

/// How a tier is observed, and how much of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierState {
    /// `TIER_` bit.
    pub tier: u32,
    /// In which way.
    pub mode: Mode,
    /// Whether its probes are on at the moment.
    pub on: bool,
    /// For how long they were, up to the last time that they went, ns.
    pub observed_ns: u64,
    /// How often they came.
    pub stretches: u64,
}

/// What the probes have cost so far, as predicted by hits.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// CPU time that the target has used since attach, ns.
    pub cpu_ns: u64,
    /// Of that, what the hits cost, ns.
    pub spent_ns: u64,
    /// Of that, what the user asked for whatever it costs, ns.
    pub asked_ns: u64,
    /// CPUs that the target uses.
    pub cpus: f64,
    /// What a hit costs.
    pub costs: Costs,
    /// Whether that was measured on this host.
    pub measured: bool,
    /// The dear tiers.
    pub tiers: Vec<TierState>,
}

/// The running governor.
#[derive(Debug)]
pub(in crate::agent) struct Running {
    stop: Arc<AtomicBool>,
    ledger: Arc<Mutex<Ledger>>,
    /// Unbounded, as no step may be lost on the way: there are at most some tens a second, by the governor's own pace.
    steps: Receiver<Step>,
    thread: Option<JoinHandle<()>>,
    /// Instead of a thread.
    worker: Option<Box<Worker>>,
}

impl Running {
    /// Starts the thread for a session whose dear tiers are on.
    ///
    /// # Errors
    /// The thread does not start.
    pub(in crate::agent) fn start(subject: Subject) -> std::io::Result<Self> {
        let (worker, mut running) = Self::prepare(subject);
        let stopped = Arc::clone(&running.stop);
        let thread =
            std::thread::Builder::new().name("governor".to_owned()).spawn(move || worker.run(&stopped))?;
        running.thread = Some(thread);
        Ok(running)
    }

    /// Without a thread, for a session without dear tiers: [`Self::tick`] does the work.
    pub(in crate::agent) fn without_thread(subject: Subject) -> Self {
        let (worker, mut running) = Self::prepare(subject);
        calibrate::begin();
        running.worker = Some(Box::new(worker));
        running
    }

    fn prepare(subject: Subject) -> (Worker, Self) {
        let (sender, steps) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let costs = Costs::new(&subject.plan, Prices::ASSUMED);
        let ledger = Arc::new(Mutex::new(Ledger {
            at_ns: monotonic_ns(),
            cpu_ns: 0,
            spent_ns: 0,
            asked_ns: 0,
            cpus: 0.0,
            costs: costs.clone(),
            measured: false,
            tiers: Vec::new(),
        }));
        let worker = Worker::new(subject, costs, sender, Arc::clone(&ledger));
        (worker, Self { stop, ledger, steps, thread: None, worker: None })
    }

    /// Looks, if there is no thread that does and it is time. Call it often.
    pub(in crate::agent) fn tick(&mut self) {
        if let Some(worker) = self.worker.as_mut().filter(|worker| worker.is_due()) {
            worker.turn();
        }
    }

    /// What was decided since the last call.
    pub(in crate::agent) fn steps(&self) -> Vec<Step> {
        self.steps.try_iter().collect()
    }

    /// What the probes have cost so far.
    pub(in crate::agent) fn ledger(&self) -> Ledger {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the thread; it takes in the last hits before. Call it when the probes have gone.
    pub(in crate::agent) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has printed itself; the keeper drops its links without it.
            drop(thread.join());
        }
        if let Some(mut worker) = self.worker.take() {
            worker.finish();
        }
    }
}
