//! Machine code: what a probe plan, the search for globals and the search for calls ask of it, for both
//! architectures. Everything is decoded from a function's start, never guessed at (SAFE-2).

mod amd64;
mod arm64;
mod flow;
#[cfg(any(test, feature = "fuzzing"))]
mod holds;
mod lower;

use super::image::{Architecture, Image};
use super::symbols::Function;

pub(super) use flow::{Callee, Followed, NotFollowed};
pub use flow::{Holding, Operand};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use holds::code_holds;

/// A function larger than this is not decoded: the largest of real programs are a few MiB.
const MAX_FUNCTION: u64 = 1 << 24;
/// Distinct references that are told of one function; globals are among the first few.
const MAX_REFERENCES: usize = 64;
/// Calls that are told of one function; real ones have a few.
const MAX_SPOTS: usize = 1024;

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
        let bytes = image.read_whole(function.entry, usize::try_from(len).ok()?)?;
        Some(Self { bytes, address: function.entry, architecture: image.architecture() })
    }

    /// Where an address is in the code, counted from its begin.
    fn index(self, address: u64) -> Option<usize> {
        usize::try_from(address.wrapping_sub(self.address)).ok().filter(|at| *at < self.bytes.len())
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
    /// in a register; where there is none, the instruction that the call returns to, if it is a plain move.
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

    /// The calls of `taker`, if each call of `giver` is followed by one, and the function has no others: `argument` of
    /// `taker` is what `giver` returned, as the caller knows of its source.
    pub(super) fn handed_on(self, giver: u64, taker: u64, argument: usize) -> Option<Vec<Spot>> {
        let calls = self.calls(&[giver, taker]);
        let in_turn =
            calls.chunks(2).all(|pair| matches!(pair, [a, b] if (a.target, b.target) == (giver, taker)));
        let spots = self.at_calls(taker, argument);
        (in_turn && !spots.is_empty() && spots.len() * 2 == calls.len()).then_some(spots)
    }

    /// The last instruction of `runtime.gogo`, a jump to its second half, with the register that holds the
    /// goroutine that is about to run.
    pub(super) fn gogo(self, g_offset: u32) -> Result<Spot, String> {
        match self.architecture {
            Architecture::Amd64 => amd64::gogo(self, g_offset),
            Architecture::Arm64 => arm64::gogo(self, g_offset),
        }
    }

    /// Distinct addresses of data that the function refers to, the first few in the order of its instructions.
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
                self.feed(address.wrapping_sub(at));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(bytes: &[u8], architecture: Architecture) -> Code<'_> {
        Code { bytes, address: 0x1000, architecture }
    }

    #[test]
    fn safe_2_nothing_behind_what_can_not_be_decoded_is_a_place() {
        // call +0; an opcode that 64-bit mode lacks; push %rbp.
        let bytes = [0xe8, 0, 0, 0, 0, 0x06, 0x55];
        let spots = code(&bytes, Architecture::Amd64).behind_calls(0x1005);
        assert!(matches!(&spots[..], [Err(_)]), "{spots:?}");
        // mov 0x10(%rbx),%rdx; the same opcode; jmp.
        let bytes = [0x48, 0x8b, 0x53, 0x10, 0x06, 0xeb, 0xfe];
        assert!(code(&bytes, Architecture::Amd64).gogo(16).is_err());
    }

    #[test]
    fn without_inlining_the_result_is_seen_where_it_is_handed_on() {
        // newproc.func1 of Go 1.27 built with -gcflags=all=-l, from the call of newproc1 on: call of +0x1005;
        // mov %rax,0x20(%rsp); mov 0x30(%r14),%rdx; mov 0xd0(%rdx),%rax; call of 0x1020; mov 0x20(%rsp),%rbx;
        // mov $1,%ecx; call of 0x102e; ret.
        let bytes = [
            &[0xe8, 0, 0, 0, 0, 0x48, 0x89, 0x44, 0x24, 0x20, 0x49, 0x8b, 0x56, 0x30][..],
            &[0x48, 0x8b, 0x82, 0xd0, 0, 0, 0, 0xe8, 6, 0, 0, 0],
            &[0x48, 0x8b, 0x5c, 0x24, 0x20, 0xb9, 1, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xc3],
        ]
        .concat();
        let code = code(&bytes, Architecture::Amd64);
        let spots = code.handed_on(0x1005, 0x1029, 1).unwrap();
        let [Spot { address: 0x1024, len: 5, cost: Cost::Emulated, register: 3, .. }] = spots[..] else {
            panic!("{spots:x?}");
        };
        // Where nothing takes it, it is in its register when the call has returned: dearer, and right.
        let spots = code.behind_calls(0x1005);
        let [Ok(Spot { address: 0x1005, len: 5, cost: Cost::Stepped, register: 0, .. })] = spots[..] else {
            panic!("{spots:x?}");
        };
        // The accessor takes nothing of it, and is not called after each of them.
        assert_eq!(code.handed_on(0x1029, 0x1005, 1), None);
        assert_eq!(code.handed_on(0x1005, 0x1005, 1), None);
    }

    #[test]
    fn truth_1_no_result_is_looked_for_where_others_jump_to() {
        // call of +0x1005; mov %rax,0x20(%rsp); ret; jmp to the mov.
        let bytes = [0xe8, 0, 0, 0, 0, 0x48, 0x89, 0x44, 0x24, 0x20, 0xc3, 0xeb, 0xf8];
        let spots = code(&bytes, Architecture::Amd64).behind_calls(0x1005);
        assert!(matches!(&spots[..], [Err(_)]), "{spots:?}");
        // bl of +0x1004; str x0,[sp,#32]; ret; b to the str.
        let words =
            |last: u32| [0x9400_0001_u32, 0xf900_13e0, 0xd65f_03c0, last].map(u32::to_le_bytes).concat();
        let spots = code(&words(0x17ff_fffe), Architecture::Arm64).behind_calls(0x1004);
        assert!(matches!(&spots[..], [Err(_)]), "{spots:?}");
        let spots = code(&words(0xd503_201f), Architecture::Arm64).behind_calls(0x1004);
        let [Ok(Spot { address: 0x1004, len: 4, cost: Cost::Stepped, register: 0, .. })] = spots[..] else {
            panic!("{spots:x?}");
        };
    }

    #[test]
    fn truth_1_a_constant_does_not_outlive_what_may_change_it() {
        let argument = |between: &[u8]| {
            // mov $5,%eax; what is between; call of what follows.
            let bytes = [&[0xb8, 5, 0, 0, 0], between, &[0xe8, 0, 0, 0, 0], &[0x90]].concat();
            let next = 0x1000 + bytes.len() as u64 - 1;
            let calls = code(&bytes, Architecture::Amd64).calls(&[next]);
            assert_eq!(calls.len(), 1, "{between:x?}");
            calls[0].argument
        };
        assert_eq!(argument(&[]), Some(5));
        // nop; a conditional jump that is not taken.
        assert_eq!(argument(&[0x90, 0x75, 0x10]), Some(5));
        // call *%rcx; ret; jmp *%rcx; pop %rax.
        for between in [&[0xff, 0xd1][..], &[0xc3], &[0xff, 0xe1], &[0x58]] {
            assert_eq!(argument(between), None, "{between:x?}");
        }
    }

    #[test]
    fn code_at_the_end_of_the_address_space_is_decoded() {
        for architecture in [Architecture::Amd64, Architecture::Arm64] {
            code_holds(&[0x90; 64], u64::MAX - 63, architecture);
            code_holds(&[0xe8; 64], u64::MAX - 16, architecture);
        }
    }

    #[test]
    fn a_range_of_data_may_end_with_the_address_space() {
        // lea 0x10(%rip),%rax: an address behind the wrap.
        let shape = |known| code(&[0x48, 0x8d, 0x05, 0x10, 0, 0, 0], Architecture::Amd64).shape(known);
        assert_ne!(shape(&[(u64::MAX - 8, 1 << 20)]), shape(&[]));
    }

    #[test]
    fn what_is_told_of_a_function_is_bounded() {
        // lea i(%rip),%rax, each of another address; call of the begin.
        let references: Vec<u8> =
            (0..5000_u32).flat_map(|i| [&[0x48, 0x8d, 0x05][..], &(i * 16).to_le_bytes()].concat()).collect();
        assert_eq!(code(&references, Architecture::Amd64).references().len(), MAX_REFERENCES);
        let calls: Vec<u8> =
            (1..5000_i32).flat_map(|i| [&[0xe8][..], &(-5 * i).to_le_bytes()].concat()).collect();
        let calls = code(&calls, Architecture::Amd64);
        assert_eq!(calls.calls(&[0x1000]).len(), MAX_SPOTS);
        assert_eq!(calls.at_calls(0x1000, 0).len(), MAX_SPOTS);
        assert_eq!(calls.behind_calls(0x1000).len(), MAX_SPOTS);
        // bl of the begin.
        let calls: Vec<u8> =
            (0..5000_u32).flat_map(|i| (0x9400_0000 | (0x400_0000 - i) & 0x3ff_ffff).to_le_bytes()).collect();
        let calls = code(&calls, Architecture::Arm64);
        assert_eq!(calls.calls(&[0x1000]).len(), MAX_SPOTS);
        assert_eq!(calls.at_calls(0x1000, 0).len(), MAX_SPOTS);
    }

    /// Words that look like code more often than noise does: whole instructions of prologues and calls.
    fn amd64() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop_oneof![
            Just(vec![0x49, 0x3b, 0x66, 0x10]), // cmp 0x10(%r14),%rsp
            Just(vec![0x76, 0x20]),             // jbe
            Just(vec![0x55]),                   // push %rbp
            Just(vec![0x48, 0x89, 0xc1]),       // mov %rax,%rcx
            Just(vec![0x48, 0x8b, 0x53, 0x10]), // mov 0x10(%rbx),%rdx
            Just(vec![0xb8, 0x64, 0, 0, 0]),    // mov $100,%eax
            Just(vec![0x31, 0xc0]),             // xor %eax,%eax
            Just(vec![0xc3]),                   // ret
            Just(vec![0x06]),                   // none
            (-64_i32..64).prop_map(|to| [&[0xe8][..], &to.to_le_bytes()].concat()),
            any::<i8>().prop_map(|to| vec![0xeb, to as u8]),
            (0..4096_u32).prop_map(|to| [&[0x48, 0x8d, 0x05][..], &to.to_le_bytes()].concat()),
            prop::collection::vec(any::<u8>(), 0..8),
        ];
        prop::collection::vec(pieces, 0..48).prop_map(|pieces| pieces.concat())
    }

    fn arm64() -> impl Strategy<Value = Vec<u8>> {
        let words = prop_oneof![
            Just(0xf940_0b90_u32), // ldr x16,[x28,#16]
            Just(0xeb30_63ff),     // cmp sp,x16
            Just(0x5400_06a9),     // b.ls
            Just(0xaa00_03e1),     // mov x1,x0
            Just(0xd65f_03c0),     // ret
            (0..64_u32).prop_map(|to| 0x9400_0000 | to),
            (0x3ff_ffc0..0x400_0000_u32).prop_map(|to| 0x9400_0000 | to),
            (0..64_u32).prop_map(|to| 0x1400_0000 | to),
            any::<u32>().prop_map(|bits| bits & 0x60ff_ffff | 0x9000_0000), // adrp
            any::<u32>().prop_map(|bits| bits & 0x003f_ffff | 0x9100_0000), // add
            any::<u32>(),
        ];
        prop::collection::vec(words, 0..64)
            .prop_map(|words| words.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    proptest! {
        #[test]
        fn safe_2_whatever_the_bytes_a_place_is_an_instruction(
            bytes in prop_oneof![amd64(), arm64(), prop::collection::vec(any::<u8>(), 0..300)],
            address in prop_oneof![Just(0x40_1000), any::<u64>(), (0..512_u64).prop_map(|back| u64::MAX - back)],
        ) {
            code_holds(&bytes, address, Architecture::Amd64);
            code_holds(&bytes, address & !3, Architecture::Arm64);
        }
    }
}
