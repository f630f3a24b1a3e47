//! The end of the watch.

use tracer_ebpf::{SUM_BLOCKED, SUM_BLOCKED_TO_RUN, SUM_SYSTEM_CALL};

use super::{Ended, Notice, Summary, Watcher};
use crate::agent::governor::Step;
use crate::memory::{Runtime, monotonic_ns};
use crate::model::{Distribution, SiteWaits, SystemCallSite, WaitSite};
use crate::target::{Exit, Sender, Sent};

impl Watcher {
    /// Takes the probes off, takes in the last records, looks once more, and closes the account.
    pub fn finish(&mut self) -> (Summary, Vec<Notice>) {
        let mut notices = Vec::new();
        self.govern(&mut notices);
        let detached_in = self.session.detach();
        if let Some(switches) = self.switches.take() {
            for batch in switches {
                batch.iter().for_each(|switch| self.process.switches.apply(switch));
            }
        }
        if let Some(stream) = self.stream.take() {
            for batch in stream {
                batch.into_iter().for_each(|event| self.apply(event));
            }
        }
        self.session.join();
        self.take_sums();
        self.governor.stop();
        for step in self.governor.steps() {
            if let Step::Ended(stretch) = step {
                // What was watched all the time was, up to the end.
                if stretch.sampled {
                    self.ended(&stretch);
                }
                notices.push(Notice::Governed(Step::Ended(stretch)));
            }
        }
        if self.exit.is_none() {
            self.hear_signals();
        }
        if let Ok(endings) = &self.endings {
            endings.forget(self.target.pid());
        }
        self.look(&mut notices);
        let now = Runtime::reopen(self.target.pid(), &self.binary, self.bias).goids().ok();
        // A process that has ended has none any more.
        let now = now.or(self.last_goids).filter(|_| self.exit.is_none_or(|exit| exit != Exit::Exec));
        let goids = now.zip(self.goids).and_then(|(now, before)| now.checked_sub(before));
        let summary = Summary {
            cost: self.governor.ledger(),
            goids,
            accounting: self.session.accounting(),
            detached_in,
            watched: self.begun.elapsed(),
            exit: self.exit,
            ended: self.ended.clone(),
            signals: self.signals.clone(),
        };
        (summary, notices)
    }

    /// The process has ended: what the kernel says of that, and of what led to it.
    pub(super) fn ended_by(&mut self, exit: Exit) -> Notice {
        let pid = self.target.pid();
        let told = self
            .endings
            .as_ref()
            .ok()
            .filter(|_| exit == Exit::Unknown)
            .and_then(|endings| endings.exit(pid));
        let exit = told.unwrap_or(exit);
        self.exit = Some(exit);
        self.hear_signals();
        let at_ns = monotonic_ns();
        let upon = Sent::behind(exit, at_ns, &self.signals).cloned();
        let ended = Ended { exit, at_ns, upon };
        self.ended = Some(ended.clone());
        Notice::Ended(ended)
    }

    /// Takes in which signals it was sent.
    pub(super) fn hear_signals(&mut self) {
        let Ok(endings) = &self.endings else { return };
        self.signals = endings.signals(self.target.pid());
        for sent in &mut self.signals {
            if let Sender::Kernel { out_of_memory } = &mut sent.by
                && sent.signal == libc::SIGKILL
            {
                *out_of_memory = self.oom_kills.happened();
            }
        }
    }

    /// What the kernel summed up of switches and system calls; call it once.
    fn take_sums(&mut self) {
        for (key, sum) in self.session.sums() {
            let mut times = Distribution::default();
            times.add(sum.count, sum.total_ns, &sum.buckets);
            if key.kind == SUM_SYSTEM_CALL {
                let site = SystemCallSite { number: key.reason, stack: key.stack };
                self.process.system_calls.add(site, &times);
                continue;
            }
            // The programs read a byte.
            let reason = key.reason as u8;
            let site = WaitSite { reason, stack: key.stack };
            let switches = &mut self.process.switches;
            match key.kind {
                SUM_BLOCKED => {
                    switches.add_waits(site, &SiteWaits { blocked: times, ..SiteWaits::default() });
                }
                SUM_BLOCKED_TO_RUN => {
                    switches.add_waits(site, &SiteWaits { until_run: times, ..SiteWaits::default() });
                }
                _ => {
                    switches.latency.entry((reason != 0).then_some(reason)).or_default().merge(&times);
                }
            }
        }
    }
}
