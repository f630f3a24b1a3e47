//! Which locks a function has taken at a place in it, by the flow of its code: through which atomic instruction or call,
//! and where their addresses are kept in the frame.
//!
//! Values have names, never numbers: that of what was in a register at the entry, of an address in the image or in the
//! frame, or of what an instruction made. Two places that hold the same name hold the same number. Where ways through
//! the code meet, only what is the same on all of them is known; an instruction that makes a value anew takes its name
//! away from all that held the one before. What can't be followed is unknown, never guessed (TRUTH-1).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Code;
use crate::binary::image::Architecture;

/// Times that a stretch of code is followed anew, in all, for each of its instructions: a real function needs a few.
const MAX_ROUNDS: usize = 16;
/// Instructions of a function that is followed.
const MAX_STEPS: usize = 1 << 14;
/// Words of a frame that are followed.
const MAX_SLOTS: usize = 256;
/// General registers.
pub(super) const REGISTERS: usize = 16;

/// What a value counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Base {
    /// Linked addresses.
    Image,
    /// The stack pointer at the entry.
    Frame,
    /// What was in a register at the entry.
    Entry(u8),
    /// What an instruction put into a register.
    Made(u64, u8),
}

/// A value by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) base: Base,
    pub(super) plus: u64,
}

impl Value {
    const fn moved(self, by: u64) -> Self {
        Self { base: self.base, plus: self.plus.wrapping_add(by) }
    }

    /// Whether the two are different addresses for certain.
    fn differs(self, other: Self) -> bool {
        let is_place = |value: Self| matches!(value.base, Base::Image | Base::Frame);
        self.plus != other.plus && self.base == other.base
            || self.base != other.base && is_place(self) && is_place(other)
    }
}

/// What an instruction does, as far as this follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A register gets what another one holds, and some more.
    Copy { to: u8, from: u8, plus: u64 },
    /// A register gets an address in the image.
    Address { to: u8, at: u64 },
    /// A register gets a word of memory.
    Load { to: u8, base: u8, plus: u64 },
    /// So many bytes of memory get something: a register, or what is not known.
    Store { base: u8, plus: u64, size: u64, from: Option<u8> },
    /// So many bytes at a place that is not known.
    StoreAnywhere,
    /// A register gets what is not known.
    Make { to: u8 },
    /// A word of memory is changed atomically.
    Atomic { base: u8, plus: u64 },
    /// A call; `None` of a target that is not known.
    Call(Option<u64>),
}

/// Where it goes from an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To the one behind.
    Behind,
    /// There, and to the one behind if it depends.
    Jump(u64, bool),
    /// Nowhere that is known.
    Ends { returns: bool },
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) address: u64,
    pub(super) len: u64,
    pub(super) ops: Vec<Op>,
    pub(super) next: Next,
}

/// How registers are used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    /// The stack pointer.
    pub(super) stack: u8,
    /// The one that holds the first argument and the first result.
    pub(super) first: u8,
    /// Those that a call leaves as they were.
    pub(super) kept: &'static [u8],
}

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

/// A lock at a place that took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Held(Value),
    Maybe,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    registers: [Option<Value>; REGISTERS],
    /// Words of the frame.
    slots: BTreeMap<u64, Value>,
    /// By the address of what took it.
    sites: BTreeMap<u64, Site>,
    gave: bool,
    /// The last atomic instruction, and on what.
    atomic: Option<(u64, Value)>,
}

impl State {
    fn meet(&mut self, other: &Self) -> bool {
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

    fn get(&self, register: u8) -> Option<Value> {
        self.registers.get(usize::from(register)).copied().flatten()
    }

    fn set(&mut self, register: u8, value: Option<Value>) {
        if let Some(slot) = self.registers.get_mut(usize::from(register)) {
            *slot = value;
        }
    }

    /// A value that this instruction makes: what held the one before of that name is not known any more.
    fn make(&mut self, at: u64, register: u8) -> Value {
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
    fn named(&mut self, at: u64, register: u8) -> Value {
        self.get(register).unwrap_or_else(|| self.make(at, register))
    }

    fn forget(&mut self, at: u64, size: u64) {
        self.slots.retain(|slot, _| slot.wrapping_sub(at) >= size && at.wrapping_sub(*slot) >= 8);
    }

    fn keep(&mut self, at: u64, value: Value) {
        if self.slots.len() < MAX_SLOTS {
            self.slots.insert(at, value);
        }
    }

    fn take(&mut self, site: u64, value: Value) {
        // Taken again at the same place: the one before may be another.
        let is_new = !self.sites.contains_key(&site);
        self.sites.insert(site, if is_new { Site::Held(value) } else { Site::Maybe });
    }

    fn give(&mut self, value: Value) {
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

    fn may_give(&mut self) {
        self.gave |= self.sites.is_empty();
        for site in self.sites.values_mut() {
            *site = Site::Maybe;
        }
    }
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
mod tests {
    use super::*;

    const LOCK_SLOW: u64 = 0x9000;
    const UNLOCK_SLOW: u64 = 0x9010;
    const OTHER: u64 = 0x9100;

    /// Code that begins with room for its frame and ends with its return.
    struct Assembly(Vec<u8>);

    impl Assembly {
        /// sub $0x18,%rsp; mov %rax,0x20(%rsp)
        fn new() -> Self {
            Self(vec![0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x44, 0x24, 0x20])
        }

        fn here(&self) -> u64 {
            0x1000 + self.0.len() as u64
        }

        fn bytes(&mut self, bytes: &[u8]) -> u64 {
            let at = self.here();
            self.0.extend(bytes);
            at
        }

        fn call(&mut self, target: u64) -> u64 {
            let distance = target.wrapping_sub(self.here() + 5) as u32;
            self.bytes(&[&[0xe8][..], &distance.to_le_bytes()].concat())
        }

        /// Locks what is 16 bytes behind where RCX leads; returns where the slow way is.
        fn lock(&mut self) -> u64 {
            // xor %eax,%eax; mov $1,%edx; lock cmpxchg %edx,0x10(%rcx); je; lea 0x10(%rcx),%rax
            self.bytes(&[0x31, 0xc0, 0xba, 1, 0, 0, 0, 0xf0, 0x0f, 0xb1, 0x51, 0x10, 0x74, 9]);
            self.bytes(&[0x48, 0x8d, 0x41, 0x10]);
            self.call(LOCK_SLOW)
        }

        fn unlock(&mut self) {
            // mov $-1,%ebx; lock xadd %ebx,0x10(%rcx); je; lea 0x10(%rcx),%rax
            self.bytes(&[0xbb, 255, 255, 255, 255, 0xf0, 0x0f, 0xc1, 0x59, 0x10, 0x74, 9]);
            self.bytes(&[0x48, 0x8d, 0x41, 0x10]);
            self.call(UNLOCK_SLOW);
        }

        /// mov 0x20(%rsp),%rcx
        fn load(&mut self) {
            self.bytes(&[0x48, 0x8b, 0x4c, 0x24, 0x20]);
        }

        /// add $0x18,%rsp; ret
        fn followed(mut self, other: Option<Callee>) -> Followed {
            self.bytes(&[0x48, 0x83, 0xc4, 0x18, 0xc3]);
            let code = Code { bytes: &self.0, address: 0x1000, architecture: Architecture::Amd64 };
            let callee = |target| match target {
                LOCK_SLOW => Some(Callee::TakesSlowly { argument: 0, atomic: 0 }),
                UNLOCK_SLOW => Some(Callee::GivesSlowly { argument: 0, atomic: 0 }),
                _ => other,
            };
            Followed::new(code, callee, |_| false).unwrap()
        }
    }

    fn held(operands: &[Operand]) -> Holding {
        Holding { held: operands.iter().copied().collect(), ..Holding::default() }
    }

    const MINE: Operand = Operand::Slot { at: 0x20, plus: 0x10 };

    #[test]
    fn a_lock_is_held_from_where_it_is_taken_to_where_it_is_given_back() {
        let mut code = Assembly::new();
        let before = code.call(OTHER);
        code.load();
        let waits = code.lock();
        let within = code.call(OTHER);
        code.load();
        code.unlock();
        let behind = code.call(OTHER);
        let followed = code.followed(None);
        assert_eq!(followed.at(before), Some(held(&[])));
        assert_eq!(followed.at(waits), Some(held(&[])));
        assert_eq!(followed.at(within), Some(held(&[MINE])));
        assert_eq!(followed.at(within + 4), Some(held(&[MINE])));
        assert_eq!(followed.at(behind), Some(held(&[])));
        assert!(!followed.gives());
    }

    #[test]
    fn who_waits_for_a_second_time_holds_it() {
        let mut code = Assembly::new();
        code.load();
        code.lock();
        code.load();
        let again = code.lock();
        assert_eq!(code.followed(None).at(again), Some(held(&[MINE])));
    }

    #[test]
    fn truth_1_what_is_not_certain_is_not_held() {
        let maybe = Holding { maybe: true, ..Holding::default() };
        let within = |between: &[u8], other| {
            let mut code = Assembly::new();
            code.load();
            // je behind the lock, if anything is between.
            code.lock();
            code.bytes(between);
            code.call(OTHER);
            let at = code.call(OTHER);
            code.followed(other).at(at)
        };
        assert_eq!(within(&[], None), Some(held(&[MINE])));
        // A callee may have given it back.
        assert_eq!(within(&[], Some(Callee::MayGive)), Some(maybe.clone()));
        // mov %rbx,0x20(%rsp); movups %xmm15,0x18(%rsp); lea 0x20(%rsp),%rdi: the word is another, or may be.
        for between in [
            &[0x48, 0x89, 0x5c, 0x24, 0x20][..],
            &[0x44, 0x0f, 0x11, 0x7c, 0x24, 0x18],
            &[0x48, 0x8d, 0x7c, 0x24, 0x20],
        ] {
            assert_eq!(within(between, None), Some(maybe.clone()), "{between:x?}");
        }
        // test %ebx,%ebx; je behind the lock.
        let mut code = Assembly::new();
        code.load();
        code.bytes(&[0x85, 0xdb, 0x74, 23]);
        code.lock();
        let at = code.call(OTHER);
        assert_eq!(code.followed(None).at(at), Some(maybe));
    }

    #[test]
    fn truth_1_a_lock_of_the_round_before_is_not_that_of_this_one() {
        let mut code = Assembly::new();
        let begin = code.call(OTHER);
        // mov %rax,0x20(%rsp): what the call returns, another one each time.
        code.bytes(&[0x48, 0x89, 0x44, 0x24, 0x20]);
        code.load();
        code.lock();
        let distance = (begin as i64 - code.here() as i64 - 6) as i32;
        // jne begin
        code.bytes(&[&[0x0f, 0x85][..], &distance.to_le_bytes()].concat());
        let at = code.call(OTHER);
        let holding = code.followed(None).at(at).unwrap();
        assert!(holding.held.is_empty() && holding.maybe, "{holding:?}");
    }

    #[test]
    fn who_gives_back_what_it_did_not_take_is_known() {
        let mut code = Assembly::new();
        code.load();
        code.unlock();
        let at = code.call(OTHER);
        let followed = code.followed(None);
        assert!(followed.at(at).unwrap().gave);
        assert!(followed.gives());
    }
}
