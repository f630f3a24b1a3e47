//! Making the link of a fleet anew: without probes that cost too much, with those that cost no more too much, and where somebody
//! took it.

use std::collections::HashMap;
use std::sync::PoisonError;

use tracer_ebpf::{Probe, TIER_T1};

use super::{Inner, State, sorted};
use crate::memory::monotonic_ns;
use crate::probe::error::ProbeError;
use crate::probe::keeper::GOING_NS;
use crate::probe::kernel::Links;
use crate::probe::links::prepare;
use crate::probe::session::{AGAIN_NS, GOING_EACH_NS, Relink, TOO_OFTEN};

/// Why the link could not be made anew.
pub(super) struct Missing {
    pub(super) why: String,
    /// When to try again, `CLOCK_MONOTONIC` ns.
    next_ns: u64,
    /// Whose cost was the reason that the one before had gone.
    pub(super) by: Option<u32>,
}

/// What a process is to be told.
pub(super) struct Untold {
    /// When it joined, `CLOCK_MONOTONIC` ns.
    pub(super) joined_ns: u64,
    pub(super) relinks: Vec<Relink>,
}

impl Untold {
    pub(super) fn push(&mut self, relink: &Relink) {
        let from_ns = relink.from_ns.max(self.joined_ns);
        self.relinks.push(Relink { from_ns, ..relink.clone() });
    }
}

impl State {
    /// The link was made anew, or could not be: all are to be told.
    fn tell(&mut self, relink: &Relink) {
        self.since_ns = relink.to_ns;
        self.seen_ns = relink.to_ns;
        let next_ns = relink.to_ns.saturating_add(AGAIN_NS);
        self.missing = relink.failed.clone().map(|why| Missing { why, next_ns, by: relink.by });
        self.relinks.values_mut().for_each(|untold| untold.push(relink));
    }
}

impl Inner {
    /// Changes what is off by `change`, for a process that it costs too much, and the link if need be: one can't be changed,
    /// so it is dropped and made anew. All are to be told.
    pub(super) fn relink(
        &self,
        by: u32,
        change: impl FnOnce(&mut HashMap<Probe, u32>),
    ) -> Result<(), ProbeError> {
        let mut state = self.state();
        let before: Vec<Probe> = sorted(&state.off);
        change(&mut state.off);
        let off = sorted(&state.off);
        if before == off && self.detacher.tiers() & TIER_T1 != 0 {
            return Ok(());
        }
        // Nothing is put on again at the end, not even for the moment that it takes to be refused.
        if self.detacher.is_closed() {
            return Ok(());
        }
        // What takes longest is done while the old one is still there. If it fails, it does once more, and that is told.
        drop(prepare(&mut state.ebpf, TIER_T1, self.kind, &self.kernel));
        let _making = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // The file may be given up meanwhile.
        if self.detacher.is_closed() {
            return Ok(());
        }
        let from_ns = monotonic_ns();
        self.detacher.detach(TIER_T1);
        let made = self.link(&mut state);
        let failed = made.as_ref().err().map(ToString::to_string);
        let mut relink = Relink { from_ns, to_ns: monotonic_ns(), by: Some(by), off, failed };
        if self.detacher.take_killed(TIER_T1) != 0 {
            (relink.from_ns, relink.by) = (self.on_until_ns(&state), None);
        }
        state.tell(&relink);
        made
    }

    /// Puts the probes on again if somebody took them by killing the process that held them, or if they could not be put back
    /// before. All are to be told.
    pub(super) fn mend(&self) {
        let mut state = self.state();
        if self.detacher.is_closed() {
            let told = std::mem::replace(&mut state.told_end, true);
            if !told && (state.missing.is_some() | (self.detacher.take_killed(TIER_T1) != 0)) {
                self.tell_mended(&mut state, Some("the watch ends".to_owned()));
            }
            return;
        }
        let now_ns = monotonic_ns();
        let Some(ended) = self.detacher.ended() else { return };
        if ended == 0 {
            match &state.missing {
                None => return state.seen_ns = now_ns,
                Some(missing) if now_ns < missing.next_ns => return,
                Some(_) => {}
            }
        }
        let _making = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        // The file may be given up meanwhile.
        if self.detacher.is_closed() {
            return;
        }
        self.detacher.detach(TIER_T1);
        self.detacher.take_killed(TIER_T1);
        let failed = match (state.mends.is_allowed(now_ns), &state.missing) {
            (true, _) => self.link(&mut state).err().map(|error| error.to_string()),
            (false, None) => Some(TOO_OFTEN.to_owned()),
            // As was told.
            (false, Some(_)) => return,
        };
        self.tell_mended(&mut state, failed);
    }

    fn tell_mended(&self, state: &mut State, failed: Option<String>) {
        let (from_ns, by) = match &state.missing {
            Some(missing) => (state.since_ns, missing.by),
            None => (self.on_until_ns(state), None),
        };
        state.tell(&Relink { from_ns, to_ns: monotonic_ns(), by, off: sorted(&state.off), failed });
    }

    /// Until when the probes were on at least that somebody took.
    fn on_until_ns(&self, state: &State) -> u64 {
        let each = if self.kind == Links::Single { self.sites_on(&state.off).count() as u64 } else { 0 };
        state.seen_ns.saturating_sub(GOING_NS + GOING_EACH_NS * each).max(state.since_ns)
    }
}
