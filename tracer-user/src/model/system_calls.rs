//! System calls of goroutines: how many, how long, which and where.

use std::collections::HashMap;

use super::distribution::Distribution;

/// Which call, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemCallSite {
    /// Its number on the process's architecture.
    pub number: u16,
    /// Id of the stack, 0 if unknown; what it is, [`super::Switches::stacks`] says.
    pub stack: u32,
}

/// Those that both began and ended while somebody looked.
#[derive(Clone, Debug, Default)]
pub struct SystemCalls {
    /// How long they took, by place.
    pub sites: HashMap<SystemCallSite, Distribution>,
}

impl SystemCalls {
    /// Takes in what the kernel counted at a place.
    pub fn add(&mut self, site: SystemCallSite, times: &Distribution) {
        self.sites.entry(site).or_default().merge(times);
    }

    /// Those of each number, wherever they were.
    #[must_use]
    pub fn by_number(&self) -> HashMap<u16, Distribution> {
        let mut all: HashMap<u16, Distribution> = HashMap::new();
        for (site, times) in &self.sites {
            all.entry(site.number).or_default().merge(times);
        }
        all
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Distribution {
        self.sites.values().fold(Distribution::default(), |mut sum, times| {
            sum.merge(times);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_apart_and_summed_up() {
        let mut calls = SystemCalls::default();
        let mut times = Distribution::default();
        times.record(100);
        for (number, stack) in [(1, 7), (1, 7), (1, 8), (2, 7)] {
            calls.add(SystemCallSite { number, stack }, &times);
        }
        assert_eq!(calls.sites[&SystemCallSite { number: 1, stack: 7 }].count, 2);
        assert_eq!((calls.by_number()[&1].count, calls.all().total_ns), (3, 400));
    }
}
