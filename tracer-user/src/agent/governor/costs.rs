//! What a hit of each probe costs the target: measured on this host, or assumed.

use tracer_ebpf::{MAX_FRAMES, Probe};

use crate::binary::{Cost, Plan};
use crate::probe::Calibration;

/// What a kind of hit costs, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// An emulated trap with a small record.
    pub record_ns: u64,
    /// The same with a stack or a text in the record.
    pub stack_ns: u64,
    /// What it costs more where the kernel steps over the instruction instead.
    pub step_ns: u64,
}

impl Prices {
    /// Where nothing could be measured: an emulated trap takes 780 ns on a guest and less on bare metal, a stepped one
    /// 11 us; rounded up.
    pub const ASSUMED: Self = Self { record_ns: 1_000, stack_ns: 12_000, step_ns: 11_000 };

    /// As measured. What is below any machine's is taken to be a fault of the measurement.
    #[must_use]
    pub fn measured(calibration: &Calibration) -> Self {
        const LEAST: u64 = 100;
        let record_ns = calibration.record_ns.max(calibration.trap_ns).max(LEAST);
        Self {
            record_ns,
            stack_ns: calibration.stack_ns.max(record_ns),
            step_ns: calibration.stepped_ns.saturating_sub(calibration.trap_ns).max(LEAST),
        }
    }
}

/// What a hit of each probe of a plan costs.
#[derive(Clone, Debug)]
pub struct Costs {
    /// By the number of the probe.
    hit_ns: [u64; 32],
    stepped: [bool; 32],
    prices: Prices,
}

impl Costs {
    /// The costs of a plan's probes.
    #[must_use]
    pub fn new(plan: &Plan, prices: Prices) -> Self {
        let mut stepped = [false; 32];
        for site in plan.sites.iter().filter(|site| site.cost != Cost::Emulated) {
            // One of several sites: which of them is hit is not counted.
            stepped[index(site.probe)] = true;
        }
        let mut costs = Self { hit_ns: [0; 32], stepped, prices };
        costs.set(prices);
        costs
    }

    /// Takes other prices.
    pub fn set(&mut self, prices: Prices) {
        self.prices = prices;
        for probe in Probe::ALL {
            let base = match probe {
                // Two tracepoints and a stack of some frames, assumed by one measurement: 1.6 us where a record was 1.1.
                Probe::GoSyscall => prices.record_ns + prices.record_ns / 2,
                probe if has_stack(probe) => prices.stack_ns,
                _ => prices.record_ns,
            };
            let i = index(probe);
            self.hit_ns[i] = base + if self.stepped[i] { prices.step_ns } else { 0 };
        }
    }

    /// The prices in use.
    #[must_use]
    pub const fn prices(&self) -> Prices {
        self.prices
    }

    /// What each frame costs that is walked to tell stacks apart, ns: a deep stack has as many as are ever captured.
    #[must_use]
    pub const fn frame_ns(&self) -> u64 {
        self.prices.stack_ns.saturating_sub(self.prices.record_ns) / MAX_FRAMES as u64
    }

    /// What a hit of a probe costs the target, ns, with the stack where it has one of any depth; those of parks are
    /// counted by frames ([`Self::frame_ns`]).
    #[must_use]
    pub const fn hit_ns(&self, probe: Probe) -> u64 {
        self.hit_ns[index(probe)]
    }
}

/// Numbers of probes are below 32 (`tracer_ebpf::MAX_PROBES`).
const fn index(probe: Probe) -> usize {
    probe as usize & 31
}

/// Whether the record of a probe has a stack or a text.
const fn has_stack(probe: Probe) -> bool {
    matches!(
        probe,
        Probe::Gopanic
            | Probe::Fatalpanic
            | Probe::Throw
            | Probe::Fatal
            | Probe::Sigpanic
            | Probe::StwStop
            | Probe::Procresize
            | Probe::ForcedGc
            | Probe::SetGcPercent
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_1_a_measurement_below_any_machines_is_not_believed() {
        let calibration =
            Calibration { trap_ns: 3, record_ns: 0, stack_ns: 2, stepped_ns: 1, ..Calibration::default() };
        assert_eq!(Prices::measured(&calibration), Prices { record_ns: 100, stack_ns: 100, step_ns: 100 });
        let calibration = Calibration {
            trap_ns: 700,
            record_ns: 900,
            stack_ns: 3_000,
            stepped_ns: 10_700,
            ..Calibration::default()
        };
        assert_eq!(
            Prices::measured(&calibration),
            Prices { record_ns: 900, stack_ns: 3_000, step_ns: 10_000 }
        );
    }
}
