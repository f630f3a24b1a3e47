//! Which locks of package sync a function has taken at a place, by its code: what tells a goroutine that holds a lock from
//! one that only knows it. Go does not record who holds a lock.
//!
//! That a function takes *some* lock says nothing of the one that is waited for: it is held only where the address that was
//! locked is still to be found, and is the same.

use std::collections::HashMap;
use std::sync::Arc;

use super::code::{Callee, Code, Followed, Holding, NotFollowed};
use super::read::GoBinary;
use super::symbols::Function;

/// Bytes into a `sync.RWMutex` of what readers count in and wait at (sync/rwmutex.go, Go 1.18 to 1.27).
const READER_COUNT: u64 = 16;
const READER_SEM: u64 = 12;

/// What takes a lock and gives it back, and what is left of that where the rest was inlined.
const CALLEES: [(&str, Callee); 20] = [
    ("sync.(*Mutex).Lock", Callee::Takes),
    ("sync.(*Mutex).lockSlow", Callee::TakesSlowly { argument: 0, atomic: 0 }),
    ("sync.(*Mutex).TryLock", Callee::MayTake),
    ("sync.(*Mutex).Unlock", Callee::Gives),
    ("sync.(*Mutex).unlockSlow", Callee::GivesSlowly { argument: 0, atomic: 0 }),
    ("internal/sync.(*Mutex).Lock", Callee::Takes),
    ("internal/sync.(*Mutex).lockSlow", Callee::TakesSlowly { argument: 0, atomic: 0 }),
    ("internal/sync.(*Mutex).TryLock", Callee::MayTake),
    ("internal/sync.(*Mutex).Unlock", Callee::Gives),
    ("internal/sync.(*Mutex).unlockSlow", Callee::GivesSlowly { argument: 0, atomic: 0 }),
    ("sync.(*RWMutex).Lock", Callee::Takes),
    ("sync.(*RWMutex).RLock", Callee::Takes),
    ("sync.(*RWMutex).TryLock", Callee::MayTake),
    ("sync.(*RWMutex).TryRLock", Callee::MayTake),
    ("sync.(*RWMutex).Unlock", Callee::Gives),
    ("sync.(*RWMutex).RUnlock", Callee::Gives),
    ("sync.(*RWMutex).rUnlockSlow", Callee::GivesSlowly { argument: 0, atomic: READER_COUNT }),
    ("sync.(*rlocker).Lock", Callee::Takes),
    ("sync.(*rlocker).Unlock", Callee::Gives),
    ("sync.runtime_SemacquireRWMutexR", Callee::TakesSlowly { argument: READER_SEM, atomic: READER_COUNT }),
];

/// How deep it is looked for callees that give back what their caller holds.
const DEPTH: u32 = 2;
/// Functions that are looked at in all: some seconds.
const MOST_FUNCTIONS: usize = 1 << 14;

/// What a frame does with locks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locking {
    /// What it holds at this place.
    pub holding: Holding,
    /// It gives locks back, and takes none.
    pub only_gives: bool,
}

/// What was found out of the functions that were asked about.
#[derive(Debug, Default)]
pub struct LockingCode {
    /// By the entries of [`CALLEES`].
    callees: Option<HashMap<u64, Callee>>,
    /// By entry; of what can't be followed, what is said of it at any place.
    functions: HashMap<u64, Result<Followed, Locking>>,
    /// By address: many goroutines are at few places.
    places: HashMap<u64, Arc<Locking>>,
    /// By entry: whether it may give back what its caller holds.
    gives: HashMap<u64, bool>,
}

impl LockingCode {
    /// What the frame at a linked address does; `exact` as for [`GoBinary::frames`].
    pub fn at(&mut self, binary: &GoBinary, address: u64, exact: bool) -> Arc<Locking> {
        let look_up = if exact { address } else { address.saturating_sub(1) };
        if let Some(known) = self.places.get(&look_up) {
            return Arc::clone(known);
        }
        let locking = Arc::new(self.look_up(binary, look_up));
        self.places.insert(look_up, Arc::clone(&locking));
        locking
    }

    fn look_up(&mut self, binary: &GoBinary, look_up: u64) -> Locking {
        let Some(function) = binary.symbols().at(look_up) else { return Locking::default() };
        if !self.functions.contains_key(&function.entry) {
            let followed = self.follow(binary, function, DEPTH).map_err(|why| match why {
                NotFollowed::NoLocks => Locking::default(),
                NotFollowed::Unknown => self.by_calls(binary, function),
            });
            self.functions.insert(function.entry, followed);
        }
        match self.functions.get(&function.entry) {
            Some(Ok(followed)) => {
                let (takes, gives) = followed.uses();
                let unknown = || Holding { maybe: takes, gave: gives, ..Holding::default() };
                let holding = followed.at(look_up).unwrap_or_else(unknown);
                Locking { holding, only_gives: gives && !takes }
            }
            Some(Err(locking)) => locking.clone(),
            None => Locking::default(),
        }
    }

    /// Of a function that can't be followed: by its calls alone.
    fn by_calls(&mut self, binary: &GoBinary, function: Function) -> Locking {
        let Some(code) = Code::of(binary.image(), function) else { return Locking::default() };
        let callees = self.callees(binary);
        let calls = |gives: bool| {
            let entries: Vec<u64> = callees
                .iter()
                .filter(|(_, callee)| matches!(callee, Callee::Gives | Callee::GivesSlowly { .. }) == gives)
                .map(|(address, _)| *address)
                .collect();
            code.may_call(&entries)
        };
        let (takes, gives) = (calls(false), calls(true));
        Locking {
            holding: Holding { maybe: takes, gave: gives, ..Holding::default() },
            only_gives: gives && !takes,
        }
    }

    fn follow(&mut self, binary: &GoBinary, function: Function, depth: u32) -> Result<Followed, NotFollowed> {
        let Some(code) = Code::of(binary.image(), function) else { return Err(NotFollowed::Unknown) };
        let callee = |target| {
            let known = self.callees(binary).get(&target).copied();
            known.or_else(|| self.gives(binary, target, depth).then_some(Callee::MayGive))
        };
        let is_function =
            |address| binary.symbols().at(address).is_some_and(|function| function.entry == address);
        Followed::new(code, callee, is_function)
    }

    /// Whether the function there may give back what it did not take.
    fn gives(&mut self, binary: &GoBinary, target: u64, depth: u32) -> bool {
        if let Some(known) = self.gives.get(&target) {
            return *known;
        }
        let Some(deeper) = depth.checked_sub(1) else { return false };
        if self.gives.len() >= MOST_FUNCTIONS {
            return false;
        }
        // It may call itself.
        self.gives.insert(target, false);
        let function = binary.symbols().at(target).filter(|function| function.entry == target);
        let gives = function.is_some_and(|function| {
            let gives: Vec<u64> = self
                .callees(binary)
                .iter()
                .filter(|(_, callee)| matches!(callee, Callee::Gives | Callee::GivesSlowly { .. }))
                .map(|(address, _)| *address)
                .collect();
            let may_give = Code::of(binary.image(), function).is_some_and(|code| code.may_call(&gives));
            (may_give || deeper > 0)
                && self.follow(binary, function, deeper).is_ok_and(|followed| followed.gives())
        });
        self.gives.insert(target, gives);
        gives
    }

    fn callees(&mut self, binary: &GoBinary) -> &HashMap<u64, Callee> {
        self.callees.get_or_insert_with(|| {
            let found = binary.symbols().find(binary.image(), CALLEES.map(|(name, _)| name));
            let entries = found.iter().zip(CALLEES);
            entries.filter_map(|(function, (_, callee))| Some(((*function)?.entry, callee))).collect()
        })
    }
}
