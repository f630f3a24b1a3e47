//! Which locks a function has taken at a place in it, by the flow of its code: through which atomic instruction or call,
//! and where their addresses are kept in the frame.
//!
//! Values have names, never numbers: that of what was in a register at the entry, of an address in the image or in the
//! frame, or of what an instruction made. Two places that hold the same name hold the same number. Where ways through
//! the code meet, only what is the same on all of them is known; an instruction that makes a value anew takes its name
//! away from all that held the one before. What can't be followed is unknown, never guessed (TRUTH-1).

mod state;
mod step;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::state::{Site, State};
use self::step::Value;
pub(super) use self::step::{Base, Next, Op, REGISTERS, Registers, Step};
use super::Code;
use crate::binary::image::Architecture;

/// Times that a stretch of code is followed anew, in all, for each of its instructions: a real function needs a few.
const MAX_ROUNDS: usize = 16;
/// Instructions of a function that is followed.
const MAX_STEPS: usize = 1 << 14;

/// What a callee does with the lock whose address is its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::binary) enum Callee {
    /// It takes it.
    Takes,
    /// It takes it, or not.
    MayTake,
    /// It gives it back.
    Gives,
    /// It is what is left of taking it, where an atomic instruction before has not; so many bytes into the lock its
    /// argument points, and that instruction.
    TakesSlowly { argument: u64, atomic: u64 },
    /// The same of giving it back.
    GivesSlowly { argument: u64, atomic: u64 },
    /// It may give back what its callers hold.
    MayGive,
}

/// A lock that is held, by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operand {
    /// A linked address.
    Variable(u64),
    /// In a word of the frame, counted from the stack pointer at that place, with so much added.
    Slot {
        /// Where the word is.
        at: i64,
        /// What is to be added to it.
        plus: u64,
    },
}

/// What a function holds at a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Locks that it has taken and not given back, on every way there.
    pub held: BTreeSet<Operand>,
    /// There may be others.
    pub maybe: bool,
    /// It may have given back a lock that it did not take.
    pub gave: bool,
}

/// Why a function was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::binary) enum NotFollowed {
    /// It does nothing with locks.
    NoLocks,
    /// It is too large, or of an architecture that is not followed.
    Unknown,
}

/// A function's code, followed.
#[derive(Debug)]
pub(in crate::binary) struct Followed {
    steps: Vec<Step>,
    registers: Registers,
    callees: HashMap<u64, Callee>,
    /// Of what atomic instructions do.
    atomics: HashMap<u64, Atomic>,
    /// The state before, by number of step: where ways meet, and at the entry.
    states: HashMap<usize, State>,
    /// The frame's words whose address was given away, from the lowest on.
    given_away: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Atomic {
    /// From the word that is changed back to the lock.
    back: u64,
    takes: bool,
}

impl Followed {
    /// Follows a function, `callee` says what those do that it calls, by their address.
    pub(in crate::binary) fn new(
        code: Code<'_>,
        mut callee: impl FnMut(u64) -> Option<Callee>,
        is_function: impl Fn(u64) -> bool,
    ) -> Result<Self, NotFollowed> {
        let (steps, registers) = match code.architecture {
            Architecture::Amd64 => super::lower::amd64(code),
            Architecture::Arm64 => return Err(NotFollowed::Unknown),
        };
        if steps.len() > MAX_STEPS {
            return Err(NotFollowed::Unknown);
        }
        let called: BTreeSet<u64> = steps
            .iter()
            .flat_map(|step| &step.ops)
            .filter_map(|op| if let Op::Call(target) = op { *target } else { None })
            .collect();
        let callees: HashMap<u64, Callee> =
            called.into_iter().filter_map(|target| Some((target, callee(target)?))).collect();
        if callees.is_empty() {
            return Err(NotFollowed::NoLocks);
        }
        let mut followed = Self {
            steps,
            registers,
            callees,
            atomics: HashMap::new(),
            states: HashMap::new(),
            given_away: BTreeSet::new(),
        };
        followed.run().ok_or(NotFollowed::Unknown)?;
        followed.find_atomics();
        followed.run().ok_or(NotFollowed::Unknown)?;
        followed.find_given_away(is_function);
        Ok(followed)
    }

    /// Whether it takes locks, and whether it gives some back.
    pub(in crate::binary) fn uses(&self) -> (bool, bool) {
        let any = |test: fn(&Callee) -> bool| self.callees.values().any(test);
        (
            any(|c| matches!(c, Callee::Takes | Callee::MayTake | Callee::TakesSlowly { .. })),
            any(|c| matches!(c, Callee::Gives | Callee::GivesSlowly { .. })),
        )
    }

    /// What is held before the instruction at an address, or within which it lies.
    pub(in crate::binary) fn at(&self, address: u64) -> Option<Holding> {
        let (state, step) = self.state_before(address)?;
        let mut holding = Holding { gave: state.gave, ..Holding::default() };
        let stack = state.get(self.registers.stack).filter(|value| value.base == Base::Frame);
        // What waits here has not taken it yet.
        let waits_for = step.ops.iter().find_map(|op| match op {
            Op::Call(Some(target)) => match self.callees.get(target) {
                Some(Callee::TakesSlowly { .. }) => state.atomic.map(|(site, _)| site).or(Some(0)),
                _ => None,
            },
            _ => None,
        });
        for (site, held) in &state.sites {
            if waits_for == Some(*site) {
                continue;
            }
            let operand = match *held {
                // Which one it is that is waited for is not known.
                _ if waits_for == Some(0) => None,
                Site::Held(Value { base: Base::Image, plus }) => Some(Operand::Variable(plus)),
                Site::Held(value) => self.slot(&state, stack, value),
                Site::Maybe => None,
            };
            match operand {
                Some(operand) => {
                    holding.held.insert(operand);
                }
                None => holding.maybe = true,
            }
        }
        Some(holding)
    }

    /// Whether it may have given back what it did not take, where it returns.
    pub(in crate::binary) fn gives(&self) -> bool {
        let mut gives = false;
        self.each(|state, step| gives |= state.gave && step.next == Next::Ends { returns: true });
        gives
    }

    /// Visits all instructions that are reached, with the state before each.
    fn each(&self, mut visit: impl FnMut(&State, &Step)) {
        let mut current: Option<State> = None;
        for (number, step) in self.steps.iter().enumerate() {
            if let Some(known) = self.states.get(&number) {
                current = Some(known.clone());
            }
            let Some(state) = &mut current else { continue };
            visit(state, step);
            self.apply(step, state);
            if matches!(step.next, Next::Ends { .. } | Next::Jump(_, false)) {
                current = None;
            }
        }
    }

    /// A word of the frame that holds a value for certain.
    fn slot(&self, state: &State, stack: Option<Value>, value: Value) -> Option<Operand> {
        let stack = stack?;
        // Behind an address that was given away anything may have been written, up to the frame's end.
        let is_own = |at: u64| {
            let is_in_frame = at.cast_signed() < 0;
            !self.given_away.iter().any(|taken| {
                (taken.cast_signed() < 0) == is_in_frame && taken.cast_signed() <= at.cast_signed()
            })
        };
        state.slots.iter().find(|(at, held)| held.base == value.base && is_own(**at)).map(|(at, held)| {
            Operand::Slot {
                at: at.wrapping_sub(stack.plus).cast_signed(),
                plus: value.plus.wrapping_sub(held.plus),
            }
        })
    }

    fn state_before(&self, address: u64) -> Option<(State, &Step)> {
        let behind = self.steps.partition_point(|step| step.address <= address);
        let wanted = behind.checked_sub(1)?;
        let is_in = self.steps.get(wanted).is_some_and(|step| address.wrapping_sub(step.address) < step.len);
        let mut from = wanted;
        while !self.states.contains_key(&from) {
            from = from.checked_sub(1)?;
            // What is before does not lead here.
            if matches!(self.steps.get(from)?.next, Next::Ends { .. } | Next::Jump(_, false)) {
                return None;
            }
        }
        let mut state = self.states.get(&from)?.clone();
        for step in self.steps.get(from..wanted)? {
            self.apply(step, &mut state);
        }
        is_in.then_some(())?;
        Some((state, self.steps.get(wanted)?))
    }

    /// Follows all ways until nothing changes. `None` where that takes too long.
    fn run(&mut self) -> Option<()> {
        let numbers: HashMap<u64, usize> =
            self.steps.iter().enumerate().map(|(number, step)| (step.address, number)).collect();
        let targets: BTreeSet<usize> = self
            .steps
            .iter()
            .filter_map(|step| match step.next {
                Next::Jump(to, _) => numbers.get(&to).copied(),
                _ => None,
            })
            .collect();
        let mut registers = [None; REGISTERS];
        for (register, slot) in (0_u8..).zip(&mut registers) {
            *slot = Some(Value { base: Base::Entry(register), plus: 0 });
        }
        if let Some(slot) = registers.get_mut(usize::from(self.registers.stack)) {
            *slot = Some(Value { base: Base::Frame, plus: 0 });
        }
        let entry =
            State { registers, slots: BTreeMap::new(), sites: BTreeMap::new(), gave: false, atomic: None };
        let mut states: HashMap<usize, State> = HashMap::from([(0, entry)]);
        let mut queue = BTreeSet::from([0]);
        let mut left = self.steps.len().checked_mul(MAX_ROUNDS)?;
        while let Some(mut number) = queue.pop_first() {
            let Some(mut state) = states.get(&number).cloned() else { continue };
            let mut reach = |number: usize, state: &State| match states.get_mut(&number) {
                Some(known) => {
                    if known.meet(state) {
                        queue.insert(number);
                    }
                }
                None => {
                    states.insert(number, state.clone());
                    queue.insert(number);
                }
            };
            loop {
                left = left.checked_sub(1)?;
                let Some(step) = self.steps.get(number) else { break };
                self.apply(step, &mut state);
                match step.next {
                    Next::Ends { .. } => break,
                    Next::Jump(to, depends) => {
                        if let Some(to) = numbers.get(&to) {
                            reach(*to, &state);
                        }
                        if !depends {
                            break;
                        }
                    }
                    Next::Behind => {}
                }
                number += 1;
                if targets.contains(&number) {
                    reach(number, &state);
                    break;
                }
            }
        }
        self.states = states;
        Some(())
    }

    fn apply(&self, step: &Step, state: &mut State) {
        let frame = |state: &State, base: u8, plus: u64| {
            state.get(base).filter(|value| value.base == Base::Frame).map(|value| value.moved(plus).plus)
        };
        for op in &step.ops {
            match *op {
                Op::Copy { to, from, plus } => {
                    let value = state.named(step.address, from);
                    state.set(to, Some(value.moved(plus)));
                }
                Op::Address { to, at } => state.set(to, Some(Value { base: Base::Image, plus: at })),
                Op::Load { to, base, plus } => {
                    let at = frame(state, base, plus);
                    match at.and_then(|at| state.slots.get(&at)).copied() {
                        Some(value) => state.set(to, Some(value)),
                        None => {
                            let value = state.make(step.address, to);
                            if let Some(at) = at {
                                state.keep(at, value);
                            }
                        }
                    }
                }
                Op::Store { base, plus, size, from } => {
                    let Some(at) = frame(state, base, plus) else {
                        // Elsewhere than in the frame, but where its address was given away.
                        if base == self.registers.stack {
                            state.slots.clear();
                        }
                        continue;
                    };
                    state.forget(at, size);
                    if let (Some(from), 8) = (from, size) {
                        let value = state.named(step.address, from);
                        state.keep(at, value);
                    }
                }
                Op::StoreAnywhere => state.slots.clear(),
                Op::Make { to } => {
                    state.make(step.address, to);
                }
                Op::Atomic { base, plus } => {
                    let value = state.named(step.address, base).moved(plus);
                    match self.atomics.get(&step.address) {
                        Some(Atomic { back, takes: true }) => {
                            state.take(step.address, value.moved(back.wrapping_neg()));
                        }
                        Some(Atomic { back, takes: false }) => state.give(value.moved(back.wrapping_neg())),
                        None => {}
                    }
                    state.atomic = Some((step.address, value));
                }
                Op::Call(target) => self.call(step.address, target, state),
            }
        }
    }

    fn call(&self, at: u64, target: Option<u64>, state: &mut State) {
        let argument = state.named(at, self.registers.first);
        match target.and_then(|target| self.callees.get(&target)) {
            Some(Callee::Takes) => state.take(at, argument),
            Some(Callee::MayTake) => {
                state.sites.insert(at, Site::Maybe);
            }
            Some(Callee::Gives) => state.give(argument),
            Some(Callee::MayGive) => state.may_give(),
            Some(Callee::TakesSlowly { argument: into, .. }) => {
                // Where the instruction before is known, that has taken it.
                let is_known = state.atomic.is_some_and(|(site, _)| self.atomics.contains_key(&site));
                if !is_known {
                    state.take(at, argument.moved(into.wrapping_neg()));
                }
            }
            Some(Callee::GivesSlowly { argument: into, .. }) => {
                let is_known = state.atomic.is_some_and(|(site, _)| self.atomics.contains_key(&site));
                if !is_known {
                    state.give(argument.moved(into.wrapping_neg()));
                }
            }
            None => {}
        }
        let kept = self.registers.kept;
        for register in (0_u8..).take(REGISTERS).filter(|r| *r != self.registers.stack && !kept.contains(r)) {
            state.set(register, None);
        }
        state.make(at, self.registers.first);
        state.atomic = None;
    }

    /// Which atomic instructions take a lock or give it back: behind them stands the slow way of the same lock.
    fn find_atomics(&mut self) {
        let mut found = HashMap::new();
        self.each(|state, step| {
            let [Op::Call(Some(target))] = step.ops.as_slice() else { return };
            let (into, back, takes) = match self.callees.get(target) {
                Some(Callee::TakesSlowly { argument, atomic }) => (*argument, *atomic, true),
                Some(Callee::GivesSlowly { argument, atomic }) => (*argument, *atomic, false),
                _ => return,
            };
            let (Some((site, value)), Some(argument)) = (state.atomic, state.get(self.registers.first))
            else {
                return;
            };
            if argument.moved(into.wrapping_neg()) == value.moved(back.wrapping_neg()) {
                found.insert(site, Atomic { back, takes });
            }
        });
        self.atomics = found;
    }

    /// Words of the frame whose address is in a register other than those that frames are built with.
    fn find_given_away(&mut self, is_function: impl Fn(u64) -> bool) {
        let mut found = BTreeSet::new();
        self.each(|state, step| {
            for op in &step.ops {
                let Op::Copy { to, from, plus } = *op else { continue };
                let is_frames = to == self.registers.stack || self.registers.kept.contains(&to);
                let value = state.get(from).filter(|value| value.base == Base::Frame && !is_frames);
                let Some(at) = value.map(|value| value.moved(plus).plus) else { continue };
                // A closure, which nobody changes: what it has by value was never assigned to again
                // (cmd/compile/internal/escape, `flowClosure`).
                let is_closure = state
                    .slots
                    .get(&at)
                    .is_some_and(|first| first.base == Base::Image && is_function(first.plus));
                if !is_closure {
                    found.insert(at);
                }
            }
        });
        self.given_away = found;
    }
}

#[cfg(test)]
mod tests;
