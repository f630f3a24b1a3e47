//! What is known at a place in the code.

use std::collections::BTreeMap;

use super::step::{Base, REGISTERS, Value};

/// Words of a frame that are followed.
const MAX_SLOTS: usize = 256;

/// A lock at a place that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Held(Value),
    Maybe,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) registers: [Option<Value>; REGISTERS],
    /// Words of the frame.
    pub(super) slots: BTreeMap<u64, Value>,
    /// By the address of what took it.
    pub(super) sites: BTreeMap<u64, Site>,
    pub(super) gave: bool,
    /// The last atomic instruction, and on what.
    pub(super) atomic: Option<(u64, Value)>,
}

impl State {
    pub(super) fn meet(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, other) in self.registers.iter_mut().zip(other.registers) {
            if *mine != other {
                *mine = None;
            }
        }
        self.slots.retain(|at, value| other.slots.get(at) == Some(value));
        for (address, site) in &mut self.sites {
            if other.sites.get(address) != Some(site) {
                *site = Site::Maybe;
            }
        }
        for address in other.sites.keys() {
            self.sites.entry(*address).or_insert(Site::Maybe);
        }
        self.gave |= other.gave;
        if self.atomic != other.atomic {
            self.atomic = None;
        }
        *self != before
    }

    pub(super) fn get(&self, register: u8) -> Option<Value> {
        self.registers.get(usize::from(register)).copied().flatten()
    }

    pub(super) fn set(&mut self, register: u8, value: Option<Value>) {
        if let Some(slot) = self.registers.get_mut(usize::from(register)) {
            *slot = value;
        }
    }

    /// A value that this instruction makes: what held the one before of that name is not known any more.
    pub(super) fn make(&mut self, at: u64, register: u8) -> Value {
        let base = Base::Made(at, register);
        for slot in &mut self.registers {
            *slot = slot.filter(|value| value.base != base);
        }
        self.slots.retain(|_, value| value.base != base);
        for site in self.sites.values_mut() {
            if matches!(site, Site::Held(value) if value.base == base) {
                *site = Site::Maybe;
            }
        }
        self.atomic = self.atomic.filter(|(_, value)| value.base != base);
        let value = Value { base, plus: 0 };
        self.set(register, Some(value));
        value
    }

    /// The value in a register, with a name if it had none.
    pub(super) fn named(&mut self, at: u64, register: u8) -> Value {
        self.get(register).unwrap_or_else(|| self.make(at, register))
    }

    pub(super) fn forget(&mut self, at: u64, size: u64) {
        self.slots.retain(|slot, _| slot.wrapping_sub(at) >= size && at.wrapping_sub(*slot) >= 8);
    }

    pub(super) fn keep(&mut self, at: u64, value: Value) {
        if self.slots.len() < MAX_SLOTS {
            self.slots.insert(at, value);
        }
    }

    pub(super) fn take(&mut self, site: u64, value: Value) {
        // Taken again at the same place: the one before may be another.
        let is_new = !self.sites.contains_key(&site);
        self.sites.insert(site, if is_new { Site::Held(value) } else { Site::Maybe });
    }

    pub(super) fn give(&mut self, value: Value) {
        let before = self.sites.len();
        let mut is_found = false;
        self.sites.retain(|_, site| {
            let is_it = !is_found && *site == Site::Held(value);
            is_found |= is_it;
            !is_it
        });
        if is_found {
            return;
        }
        let mut may_be_it = false;
        for site in self.sites.values_mut() {
            match site {
                Site::Held(held) if held.differs(value) => {}
                _ => {
                    *site = Site::Maybe;
                    may_be_it = true;
                }
            }
        }
        self.gave |= before == 0 || !may_be_it;
    }

    pub(super) fn may_give(&mut self) {
        self.gave |= self.sites.is_empty();
        for site in self.sites.values_mut() {
            *site = Site::Maybe;
        }
    }
}
