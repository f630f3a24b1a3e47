//! What the locks of package sync say of themselves, where a goroutine is known to wait in one.
//!
//! Structures of sync/{mutex,rwmutex,waitgroup,cond}.go, internal/sync/mutex.go: on 64 bits the same from Go 1.18
//! to 1.27. None of them records who holds it.

use super::reader::{Reader, u32_at, u64_at};
use super::runtime::Runtime;

/// A lock, or what else package sync waits with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Address of the structure, for a lock by value within a larger one that of the field.
    pub address: u64,
    /// What it is, and its state at one moment.
    pub state: LockState,
}

/// The state of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// A `sync.Mutex`.
    Mutex {
        /// Somebody holds it.
        locked: bool,
        /// A waiter has waited so long that it is handed over to it.
        starving: bool,
    },
    /// A `sync.RWMutex`.
    RwMutex {
        /// A writer holds it, or waits for readers to leave.
        writer: bool,
        /// Readers that the writer waits for.
        readers_before_writer: u32,
    },
    /// A `sync.WaitGroup`.
    WaitGroup {
        /// Calls of `Done` that are missing.
        counter: i32,
    },
    /// A `sync.Cond`.
    Cond,
}

impl LockState {
    /// The type.
    #[must_use]
    pub const fn type_name(self) -> &'static str {
        match self {
            Self::Mutex { .. } => "sync.Mutex",
            Self::RwMutex { .. } => "sync.RWMutex",
            Self::WaitGroup { .. } => "sync.WaitGroup",
            Self::Cond => "sync.Cond",
        }
    }
}

/// Functions that wait, and where what they wait at is in their receiver.
const WAITING: [(&str, u64); 6] = [
    ("sync.(*Mutex).lockSlow", MUTEX_SEMA),
    ("internal/sync.(*Mutex).lockSlow", MUTEX_SEMA),
    ("sync.(*RWMutex).Lock", 8),
    ("sync.(*RWMutex).RLock", 12),
    ("sync.(*WaitGroup).Wait", 8),
    ("sync.(*Cond).Wait", 16),
];
const MUTEX_SEMA: u64 = 4;
/// `mutexLocked` and `mutexStarving`.
const LOCKED: u32 = 1;
const STARVING: u32 = 4;

impl<R: Reader> Runtime<'_, R> {
    /// The lock behind a semaphore, or behind a list of waiters, by the functions on the stack of one that waits
    /// there, innermost first. `None` if none of them is known, or the lock can't be read.
    pub fn lock<'f>(&self, waited_at: u64, functions: impl IntoIterator<Item = &'f str>) -> Option<Lock> {
        let (function, offset) = functions
            .into_iter()
            .find_map(|function| WAITING.iter().find(|(known, _)| *known == function))?;
        let address = waited_at.checked_sub(*offset)?;
        let mut bytes = [0; 24];
        // The smallest of them is a mutex of 8 bytes, which may be the last in its page.
        let len = if *offset == MUTEX_SEMA { 8 } else { 24 };
        self.memory.read(address, bytes.get_mut(..len)?).ok()?;
        let state = match function.rsplit_once('.') {
            Some((_, "lockSlow")) => LockState::Mutex {
                locked: u32_at(&bytes, 0) & LOCKED != 0,
                starving: u32_at(&bytes, 0) & STARVING != 0,
            },
            Some((_, "Lock" | "RLock")) => LockState::RwMutex {
                // readerCount is negative then.
                writer: u32_at(&bytes, 16).cast_signed() < 0,
                readers_before_writer: u32_at(&bytes, 20),
            },
            Some(("sync.(*Cond)", _)) => LockState::Cond,
            _ => LockState::WaitGroup { counter: ((u64_at(&bytes, 0) >> 32) as u32).cast_signed() },
        };
        Some(Lock { address, state })
    }

    /// Whether a lock that was found is still such that its waiters wait for somebody.
    pub fn is_taken(&self, lock: Lock) -> bool {
        let word = |at: u64| self.memory.u32(lock.address.wrapping_add(at)).unwrap_or(0);
        match lock.state {
            LockState::Mutex { .. } => word(0) & LOCKED != 0,
            LockState::WaitGroup { .. } => word(4).cast_signed() > 0,
            LockState::RwMutex { .. } | LockState::Cond => true,
        }
    }
}
