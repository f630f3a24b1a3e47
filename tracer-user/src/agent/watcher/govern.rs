//! Taking in what the governor decided.

use tracer_ebpf::{Probe, TIER_T2, TIER_T3};

use super::{Notice, Watcher};
use crate::agent::governor::{Mode, Step, Stretch};
use crate::memory::monotonic_ns;
use crate::probe::{Mended, Why};

/// The share of the CPU time from which on it counts that probes go a few hundredths of a second earlier: more than what the
/// others miss meanwhile.
const EMERGENCY: f64 = 0.1;

impl Watcher {
    /// Takes in what the governor decided, and does what only the session can.
    pub(super) fn govern(&mut self, notices: &mut Vec<Notice>) {
        self.governor.tick();
        for step in self.governor.steps() {
            match &step {
                Step::Begun { tier, at_ns } => {
                    if *tier == TIER_T2 {
                        self.process.end_gap(*at_ns);
                    }
                    if let Some(i) = self.gaps.iter().position(|(gap, ..)| gap == tier) {
                        let (tier, from_ns, why) = self.gaps.swap_remove(i);
                        notices.push(Notice::Gap { tier, from_ns, to_ns: *at_ns, why });
                    }
                }
                Step::Ended(stretch) => self.stretch_ended(stretch),
                Step::TakeOff { probes, numbers } => {
                    let at_once = numbers.predicted > EMERGENCY;
                    if let Err(error) = self.session.take_off(probes, at_once) {
                        // The tier is off as a whole then: dearer than wanted in knowledge, not in cost.
                        notices.push(Notice::ProbesLost(error.to_string()));
                        continue;
                    }
                }
                Step::PutBack { probes } => {
                    if let Err(error) = self.session.put_back(probes) {
                        notices.push(Notice::ProbesLost(error.to_string()));
                        continue;
                    }
                }
                Step::Relink { tier } => {
                    if let Err(error) = self.session.relink(*tier) {
                        notices.push(Notice::ProbesLost(error.to_string()));
                        continue;
                    }
                }
                Step::Mode { tier, from: Mode::Steady, .. } => {
                    // How it goes on is told; what was not observed until now is, too.
                    self.end_gaps(|gap| gap == *tier, notices);
                    if *tier == TIER_T2 {
                        self.process.begin_gap();
                        self.process.begin_windows();
                    }
                }
                Step::Mode { .. } | Step::Asked { .. } | Step::Refused { .. } | Step::Priced { .. } => {}
            }
            notices.push(Notice::Governed(step));
        }
        let relinks = self.session.relinks();
        if !relinks.is_empty() {
            self.process.lose(monotonic_ns());
        }
        self.relinks.extend(relinks);
        self.tell_relinks(notices);
    }

    /// Tells how the link of the rare tier was made anew.
    pub(super) fn tell_relinks(&mut self, notices: &mut Vec<Notice>) {
        self.rare_gaps += self.relinks.len() as u64;
        notices.extend(self.relinks.drain(..).map(Notice::Relinked));
    }

    /// Has what somebody took put on again.
    pub(super) fn mend(&mut self, notices: &mut Vec<Notice>) {
        for Mended { tier, from_ns, to_ns, failed } in self.session.mend() {
            if tier == TIER_T2 {
                self.process.begin_gap();
            }
            notices.push(Notice::Gap { tier, from_ns, to_ns, why: Why::KeeperGone });
            match failed {
                Some(why) => notices.push(Notice::ProbesLost(why)),
                None if tier == TIER_T2 => self.process.end_gap(to_ns),
                None => {}
            }
        }
    }

    /// Tells of what was not observed all the time up to now and is not for the time being.
    pub(super) fn end_gaps(&mut self, of: impl Fn(u32) -> bool, notices: &mut Vec<Notice>) {
        let to_ns = monotonic_ns();
        for (tier, from_ns, why) in self.gaps.extract_if(.., |(tier, ..)| of(*tier)) {
            notices.push(Notice::Gap { tier, from_ns, to_ns, why });
        }
    }

    /// A tier was observed for a while, and is not any more.
    pub(super) fn stretch_ended(&mut self, stretch: &Stretch) {
        if stretch.tier == TIER_T2 {
            self.process.begin_gap();
        }
        let count = |wanted: &[Probe]| {
            stretch.hits.iter().filter(|(probe, _)| wanted.contains(probe)).map(|(_, n)| n).sum()
        };
        let time = (stretch.begin_ns, stretch.end_ns);
        if stretch.sampled && stretch.tier == TIER_T2 {
            self.process.sample(time, count(&[Probe::GoCreate]), count(&[Probe::GoExit]));
        } else if stretch.sampled && stretch.tier == TIER_T3 && stretch.end_ns > stretch.begin_ns {
            let sampled = &mut self.process.switches.sampled;
            sampled.parks.add(time.0, time.1, count(&[Probe::GoPark]));
            sampled.readies.add(time.0, time.1, count(&[Probe::GoReady]));
            sampled.runs.add(time.0, time.1, count(&[Probe::GoRun]));
            sampled.cost_ns += stretch.cost_ns;
            sampled.pause_until(stretch.begin_ns);
            sampled.last_end_ns = Some(stretch.end_ns);
        } else if !stretch.sampled && !matches!(stretch.why, Why::Asked | Why::TargetGone) {
            self.gaps.push((stretch.tier, stretch.end_ns, stretch.why));
        }
    }
}
