//! Instructions as far as they are followed, and the names of values.

/// General registers.
pub(in crate::binary::code) const REGISTERS: usize = 16;

/// What a value counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::binary::code) enum Base {
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
pub(in crate::binary::code) struct Value {
    pub(in crate::binary::code) base: Base,
    pub(in crate::binary::code) plus: u64,
}

impl Value {
    pub(super) const fn moved(self, by: u64) -> Self {
        Self { base: self.base, plus: self.plus.wrapping_add(by) }
    }

    /// Whether the two are different addresses for certain.
    pub(super) fn differs(self, other: Self) -> bool {
        let is_place = |value: Self| matches!(value.base, Base::Image | Base::Frame);
        self.plus != other.plus && self.base == other.base
            || self.base != other.base && is_place(self) && is_place(other)
    }
}

/// What an instruction does, as far as this follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::binary::code) enum Op {
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
pub(in crate::binary::code) enum Next {
    /// To the one behind.
    Behind,
    /// There, and to the one behind if it depends.
    Jump(u64, bool),
    /// Nowhere that is known.
    Ends { returns: bool },
}

/// One instruction.
#[derive(Clone, Debug)]
pub(in crate::binary::code) struct Step {
    pub(in crate::binary::code) address: u64,
    pub(in crate::binary::code) len: u64,
    pub(in crate::binary::code) ops: Vec<Op>,
    pub(in crate::binary::code) next: Next,
}

/// How registers are used.
#[derive(Clone, Copy, Debug)]
pub(in crate::binary::code) struct Registers {
    /// The stack pointer.
    pub(in crate::binary::code) stack: u8,
    /// The one that holds the first argument and the first result.
    pub(in crate::binary::code) first: u8,
    /// Those that a call leaves as they were.
    pub(in crate::binary::code) kept: &'static [u8],
}
