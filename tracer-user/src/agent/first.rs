//! What the second tier is to begin with: how many goroutines a process creates is known before there is a probe.

use std::time::{Duration, Instant};

use super::governor;
use crate::memory::Runtime;
use crate::target::cpu_time_ns;

/// Creations a second that cost next to nothing to observe for the longer of the first leases.
const FEW: f64 = 5_000.0;
/// What a hit costs at least, seconds, before that is measured on this host.
const HIT: f64 = 0.7e-6;
/// So many times the budget is no matter of a short measurement.
const FAR: f64 = 3.0;
/// What is never worth leaving a probe off for: this share of one CPU.
const NEGLIGIBLE: f64 = 0.001;
/// How long creations are counted.
const ENOUGH: Duration = Duration::from_millis(10);

/// What was known of a process at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) at: Instant,
    /// Goroutine ids that the runtime had handed out.
    pub(super) goids: Option<u64>,
    /// CPU time, ns.
    pub(super) cpu: Option<u64>,
}

/// How creations and exits are observed until the governor has looked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum First {
    /// They are few: gotrail may be slow for once without losing sight of them.
    Few,
    /// As usual.
    Usual,
    /// Not at all, as they are too dear: hits a second, and the CPUs that the process uses.
    TooDear(f64, f64),
}

impl First {
    /// By what has happened since, for a process whose probes may cost so much of its CPU time.
    pub(super) fn measure(runtime: &Runtime<'_>, begun: &Begun, budget: f64) -> Self {
        let (Some(goids), Some(cpu)) = (begun.goids, begun.cpu) else { return Self::Usual };
        std::thread::sleep(ENOUGH.saturating_sub(begun.at.elapsed()));
        let (Ok(goids_now), Some(cpu_now)) = (runtime.goids(), cpu_time_ns(runtime.pid())) else {
            return Self::Usual;
        };
        let seconds = begun.at.elapsed().as_secs_f64();
        let rate = goids_now.saturating_sub(goids) as f64 / seconds;
        Self::of(rate, cpu_now.saturating_sub(cpu) as f64 / 1e9 / seconds, budget)
    }

    /// By creations a second and the CPUs that are used.
    fn of(rate: f64, cpus: f64, budget: f64) -> Self {
        // Each creation is followed by an exit.
        let hits = 2.0 * rate;
        if rate <= FEW {
            Self::Few
        } else if budget < 1.0 && hits * HIT > FAR * (budget * cpus).max(NEGLIGIBLE) {
            Self::TooDear(hits, cpus)
        } else {
            Self::Usual
        }
    }

    /// How long they are observed before the governor must have looked.
    pub(super) fn lease(self) -> Duration {
        match self {
            Self::Few => governor::STEADY_LEASE,
            Self::Usual => crate::probe::Options::default().first_lease,
            Self::TooDear(..) => Duration::ZERO,
        }
    }

    /// Hits a second and CPUs, where they are too dear.
    pub(super) const fn too_dear(self) -> Option<(f64, f64)> {
        match self {
            Self::TooDear(hits, cpus) => Some((hits, cpus)),
            Self::Few | Self::Usual => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_1_a_spawner_is_not_even_begun_with() {
        assert_eq!(First::of(100_000.0, 0.09, 0.018), First::TooDear(200_000.0, 0.09));
        assert_eq!(First::of(100_000.0, 0.001, 1.0), First::Usual, "it may cost all");
        assert_eq!(First::of(20_000.0, 2.0, 0.018), First::Usual, "a busy server");
        assert_eq!(First::of(100.0, 0.001, 0.018), First::Few);
    }
}
