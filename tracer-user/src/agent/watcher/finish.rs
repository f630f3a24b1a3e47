//! The end of the watch.

use tracer_ebpf::{SUM_BLOCKED, SUM_BLOCKED_TO_RUN, SUM_SYSTEM_CALL, TIER_T2};

use super::{Ended, Notice, Summary, Watcher};
use crate::agent::governor::Step;
use crate::memory::{Runtime, monotonic_ns};
use crate::model::{Distribution, SiteWaits, SystemCallSite, WaitSite};
use crate::probe::Why;
use crate::target::{Exit, Sent};

impl Watcher {
    /// Takes the probes off, takes in the last records, looks once more, and closes the account.
    pub fn finish(&mut self) -> (Summary, Vec<Notice>) {
        let mut notices = Vec::new();
        self.govern(&mut notices);
        self.end_gaps(|_| true, &mut notices);
        let detached_in = self.session.detach();
        self.mend(&mut notices);
        if let Some(switches) = self.switches.take() {
            for batch in switches {
                batch.iter().for_each(|switch| self.process.switches.apply(switch));
            }
        }
        if let Some(stream) = self.stream.take() {
            for batch in stream {
                self.take_in(vec![batch]);
            }
        }
        self.session.join();
        let relinks = self.session.relinks();
        self.relinks.extend(relinks);
        self.tell_relinks(&mut notices);
        self.take_sums();
        self.governor.stop();
        let detached_ns = monotonic_ns();
        for step in self.governor.steps() {
            if let Step::Ended(stretch) = step {
                // What was watched all the time was, up to the end.
                if stretch.sampled {
                    self.stretch_ended(&stretch);
                } else if let why @ (Why::KeeperGone | Why::Deadline) = stretch.why {
                    if stretch.tier == TIER_T2 {
                        self.process.begin_gap();
                    }
                    let (tier, from_ns) = (stretch.tier, stretch.end_ns);
                    notices.push(Notice::Gap { tier, from_ns, to_ns: detached_ns, why });
                }
                notices.push(Notice::Governed(Step::Ended(stretch)));
            }
        }
        self.process.switches.sampled.pause_until(detached_ns);
        if self.exit.is_none() {
            self.hear_signals();
        }
        let senders_known = self.senders_unknown().is_none();
        self.forget_endings();
        self.look(&mut notices);
        let now = Runtime::reopen(self.target.pid(), &self.binary, self.bias).goids().ok();
        // A process that has ended has none any more.
        let now = now.or(self.last_goids).filter(|_| self.exit.is_none_or(|exit| exit != Exit::Exec));
        let goids = now.zip(self.goids).and_then(|(now, before)| now.checked_sub(before));
        let summary = Summary {
            lost: self.session.lost(),
            rare_gaps: self.rare_gaps,
            cost: self.governor.ledger(),
            goids,
            accounting: self.session.accounting(),
            detached_in,
            watched: self.begun.elapsed(),
            exit: self.exit,
            ended: self.end.clone(),
            signals: self.signals.clone(),
            senders_known,
        };
        (summary, notices)
    }

    /// The process has ended: what the kernel says of that. The tracepoint knows at once, and when.
    pub(super) fn ended(&mut self) -> Notice {
        let told = self.endings.as_ref().ok().and_then(|endings| endings.end(self.target.pid()));
        let (exit, at_ns) = told.unwrap_or_else(|| {
            let at_ns = monotonic_ns();
            (self.watch.status(), at_ns)
        });
        self.ended_by(exit, at_ns)
    }

    /// The watch is over, for this and since then; with what led to it.
    pub(super) fn ended_by(&mut self, exit: Exit, at_ns: u64) -> Notice {
        self.exit = Some(exit);
        self.hear_signals();
        let upon = Sent::behind(exit, at_ns, &self.signals).cloned();
        let ended = Ended { exit, at_ns, upon };
        self.end = Some(ended.clone());
        Notice::Ended(ended)
    }

    /// Takes in which signals it was sent.
    fn hear_signals(&mut self) {
        if let Ok(endings) = &self.endings {
            self.signals = endings.signals(self.target.pid());
        }
    }

    /// What was told of the process is not needed any more, and its number may be another one's soon.
    pub(super) fn forget_endings(&mut self) {
        if let Ok(endings) = std::mem::replace(&mut self.endings, Err("the watch is over".to_owned())) {
            endings.forget(self.target.pid());
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
