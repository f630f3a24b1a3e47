//! Machine code: what a probe plan, the search for globals and the search for calls ask of it, for both
//! architectures. Everything is decoded from a function's start, never guessed at (SAFE-2).

mod amd64;
mod arm64;

use super::image::{Architecture, Image};
use super::symbols::Function;

/// A function larger than this is not decoded: the largest of real programs are a few MiB.
const MAX_FUNCTION: u64 = 1 << 24;

/// What one hit of a probe at an instruction costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The kernel emulates the instruction.
    Emulated,
    /// The kernel single-steps it: about fourteen times as dear.
    Stepped,
}

impl Cost {
    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Stepped => "single-stepped",
        }
    }
}

/// An instruction that a probe can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Its linked address.
    pub(super) address: u64,
    /// Its length in bytes.
    pub(super) len: usize,
    /// What a hit costs.
    pub(super) cost: Cost,
    /// The number, in the instruction set, of the register that was asked for.
    pub(super) register: u8,
    /// It is the conditional branch of the stack check.
    pub(super) stack_check: bool,
}

/// A direct call, and what is known of its first integer argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// Linked address of the call instruction.
    pub(super) address: u64,
    /// Where it goes.
    pub(super) target: u64,
    /// Its first argument, where the code sets it to a constant.
    pub(super) argument: Option<i64>,
}

/// The bytes of one function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code<'a> {
    bytes: &'a [u8],
    address: u64,
    architecture: Architecture,
}

impl<'a> Code<'a> {
    /// The code of a function, if the file holds it.
    pub(super) fn of(image: &'a Image, function: Function) -> Option<Self> {
        let len = function.end.checked_sub(function.entry).filter(|len| *len <= MAX_FUNCTION)?;
        let bytes = image.read(function.entry, usize::try_from(len).ok()?)?;
        Some(Self { bytes, address: function.entry, architecture: image.architecture() })
    }

    /// The cheapest place at which a function's arguments are still in their registers, its return address is
    /// still where the call left it, and the frame pointer is still the caller's.
    pub(super) fn entry(self) -> Result<Spot, String> {
        match self.architecture {
            Architecture::Amd64 => amd64::entry(self),
            Architecture::Arm64 => arm64::entry(self),
        }
    }

    /// For each call of `callee`, the first cheap place behind it at which the callee's first result is still
    /// in a register.
    pub(super) fn behind_calls(self, callee: u64) -> Vec<Result<Spot, String>> {
        match self.architecture {
            Architecture::Amd64 => amd64::behind_calls(self, callee),
            Architecture::Arm64 => arm64::behind_calls(self, callee),
        }
    }

    /// The calls of `callee` themselves: cheap places at which its arguments are in their registers.
    /// `argument` (from 0) is the one whose register is asked for.
    pub(super) fn at_calls(self, callee: u64, argument: usize) -> Vec<Spot> {
        match self.architecture {
            Architecture::Amd64 => amd64::at_calls(self, callee, argument),
            Architecture::Arm64 => arm64::at_calls(self, callee, argument),
        }
    }

    /// The last instruction of `runtime.gogo`, a jump to its second half, with the register that holds the
    /// goroutine that is about to run.
    pub(super) fn gogo(self, g_offset: u32) -> Result<Spot, String> {
        match self.architecture {
            Architecture::Amd64 => amd64::gogo(self, g_offset),
            Architecture::Arm64 => arm64::gogo(self, g_offset),
        }
    }

    /// Distinct addresses of data that the function refers to, in the order of its instructions.
    pub(super) fn references(self) -> Vec<u64> {
        match self.architecture {
            Architecture::Amd64 => amd64::references(self),
            Architecture::Arm64 => arm64::references(self),
        }
    }

    /// Whether some bytes look like a call of one of `targets`: fast, and never wrongly `false`.
    pub(super) fn may_call(self, targets: &[u64]) -> bool {
        match self.architecture {
            Architecture::Amd64 => amd64::may_call(self, targets),
            Architecture::Arm64 => arm64::may_call(self, targets),
        }
    }

    /// The direct calls of one of `targets`.
    pub(super) fn calls(self, targets: &[u64]) -> Vec<Call> {
        match self.architecture {
            Architecture::Amd64 => amd64::calls(self, targets),
            Architecture::Arm64 => arm64::calls(self, targets),
        }
    }

    /// A hash of the code that does not depend on where the linker put things: branches out of the function and
    /// addresses of data are left out, but for data in `known` ranges (address and size), which count as the
    /// range's number and the offset in it.
    pub(super) fn shape(self, known: &[(u64, u64)]) -> u64 {
        let mut shape = Shape { hash: 0xcbf2_9ce4_8422_2325, known };
        match self.architecture {
            Architecture::Amd64 => amd64::shape(self, &mut shape),
            Architecture::Arm64 => arm64::shape(self, &mut shape),
        }
        shape.hash
    }

    /// The addresses of all instructions that return.
    pub(super) fn returns(self) -> Vec<u64> {
        match self.architecture {
            Architecture::Amd64 => amd64::returns(self),
            Architecture::Arm64 => arm64::returns(self),
        }
    }
}

/// The hash of a function's shape while it is made: FNV-1a over 64-bit words.
struct Shape<'a> {
    hash: u64,
    known: &'a [(u64, u64)],
}

impl Shape<'_> {
    fn feed(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// An address of data.
    fn feed_data(&mut self, address: u64) {
        let range = self.known.iter().position(|(at, size)| address.wrapping_sub(*at) < *size);
        match range.and_then(|index| Some((index, self.known.get(index)?.0))) {
            Some((index, at)) => {
                self.feed(index as u64 + 1);
                self.feed(address - at);
            }
            None => self.feed(0),
        }
    }

    /// A branch: within the function by its distance, out of it by nothing.
    fn feed_branch(&mut self, code: Code<'_>, target: u64) {
        let into = target.wrapping_sub(code.address);
        self.feed(if into < code.bytes.len() as u64 { into + 1 } else { 0 });
    }
}
