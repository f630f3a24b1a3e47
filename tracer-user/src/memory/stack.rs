//! Unwinding a goroutine that is not running, from a copy of its stack.

use std::collections::HashMap;
use std::ops::Range;

use super::reader::u64_at;
use crate::binary::{Architecture, GoBinary, Steps};

/// Deepest stack that is unwound; the rest is left out and said so.
pub(super) const MAX_DEPTH: usize = 256;
/// Addresses in all stacks of a snapshot together: a million goroutines with sixteen each. Where there are more, the
/// stacks behind them are cut, and say so.
const MAX_ADDRESSES: usize = 1 << 24;
/// Addresses of which is remembered what the unwinder needs to know; a program has far fewer call sites that block.
const MAX_KNOWN: usize = 1 << 17;
/// Steps through the function table's frame sizes in one snapshot: some seconds. A real one takes some hundred
/// thousand, as each address is looked up once.
const MAX_STEPS: u64 = 1 << 30;

/// One address of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pc {
    /// Linked address.
    pub address: u64,
    /// The instruction itself, not a return address behind a call.
    pub exact: bool,
}

/// A stack, innermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stack {
    /// The addresses.
    pub pcs: Vec<Pc>,
    /// Frames further out are missing.
    pub truncated: bool,
}

/// What the unwinder needs to know of an address.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Bytes that the function has taken of the stack (amd64: behind the return address).
    frame_size: u64,
    /// It is the function's first instruction.
    at_entry: bool,
    /// Nothing called this function.
    top: bool,
    /// The frame below was interrupted, not called: its address is exact.
    interrupts: bool,
    /// Bytes in the caller's frame that belong to it: arguments, and room to save those that come in registers.
    arguments: u64,
}

/// Unwinds by the function table's frame sizes, as the runtime's own tracebacks do; remembers each address.
pub(super) struct Unwinder<'a> {
    binary: &'a GoBinary,
    bias: u64,
    known: HashMap<u64, Option<Step>>,
    steps: Steps,
    /// Addresses that may be told yet.
    left: usize,
}

/// A copy of the used part of a goroutine's stack.
pub(super) struct StackCopy<'a> {
    pub(super) start: u64,
    pub(super) bytes: &'a [u8],
}

impl StackCopy<'_> {
    /// The address behind its last byte.
    pub(super) fn end(&self) -> u64 {
        self.start.wrapping_add(self.bytes.len() as u64)
    }

    /// The words from one address to another, both within the copy.
    pub(super) fn words(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        range.step_by(8).map_while(|address| self.word(address))
    }

    pub(super) fn word_at(&self, address: u64) -> Option<u64> {
        self.word(address)
    }

    fn word(&self, address: u64) -> Option<u64> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        (at.checked_add(8)? <= self.bytes.len()).then(|| u64_at(&self.bytes[at..], 0))
    }
}

/// A frame while unwinding.
struct Cursor {
    pc: u64,
    sp: u64,
    exact: bool,
    innermost: bool,
    /// The link register as the kernel's signal left it, where a frame was interrupted (arm64).
    link: Option<u64>,
}

impl Cursor {
    const fn new(pc: u64, sp: u64, exact: bool) -> Self {
        Self { pc, sp, exact, innermost: true, link: None }
    }
}

/// One frame, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameAt {
    pub(super) pc: Pc,
    /// From its lowest address to the frame of its caller.
    pub(super) range: Range<u64>,
    /// Bytes behind that, in its caller's frame, that are its own: arguments, and room to save those in registers.
    pub(super) arguments: u64,
}

/// How an unwinding ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the outermost frame.
    Complete,
    /// More of the stack is needed.
    NeedsMore,
    /// At an address that belongs to no Go function.
    Lost,
    /// At the depth limit.
    TooDeep,
}

impl<'a> Unwinder<'a> {
    pub(super) fn new(binary: &'a GoBinary, bias: u64) -> Self {
        Self { binary, bias, known: HashMap::new(), steps: Steps::new(MAX_STEPS), left: MAX_ADDRESSES }
    }

    /// Unwinds from `pc` and `sp` (addresses of the process).
    pub(super) fn unwind(&mut self, pc: u64, sp: u64, exact: bool, copy: &StackCopy<'_>) -> (Stack, End) {
        let mut stack = Stack::default();
        let mut cursor = Cursor::new(pc, sp, exact);
        loop {
            if stack.pcs.len() == MAX_DEPTH || self.left == 0 {
                stack.truncated = true;
                return (stack, End::TooDeep);
            }
            let (address, exact) = (cursor.pc.wrapping_sub(self.bias), cursor.exact);
            let end = self.advance(&mut cursor, copy);
            if end != Some(End::Lost) {
                stack.pcs.push(Pc { address, exact });
                self.left -= 1;
            }
            if let Some(end) = end {
                return (stack, end);
            }
        }
    }

    /// All frames from `pc` and `sp` on, innermost first, as far as the copy goes; and whether that is all of them.
    pub(super) fn frames(
        &mut self,
        pc: u64,
        sp: u64,
        exact: bool,
        copy: &StackCopy<'_>,
    ) -> (Vec<FrameAt>, bool) {
        let mut frames = Vec::new();
        let mut cursor = Cursor::new(pc, sp, exact);
        while frames.len() < MAX_DEPTH {
            let (pc, start) =
                (Pc { address: cursor.pc.wrapping_sub(self.bias), exact: cursor.exact }, cursor.sp);
            let end = self.advance(&mut cursor, copy);
            if end == Some(End::Lost) {
                return (frames, false);
            }
            let upto = if end.is_some() { copy.end() } else { cursor.sp.min(copy.end()) };
            let arguments = self.step(pc.address).map_or(0, |step| step.arguments);
            frames.push(FrameAt { pc, range: start..upto.max(start), arguments });
            match end {
                None => {}
                Some(End::Complete) => return (frames, true),
                Some(_) => return (frames, false),
            }
        }
        (frames, false)
    }

    /// The frames around the first one of a function that `wanted` accepts by name, among the `most` innermost:
    /// from its own lowest address to the end of the frame that called it, where its arguments are kept.
    pub(super) fn find(
        &mut self,
        pc: u64,
        sp: u64,
        copy: &StackCopy<'_>,
        most: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<Range<u64>> {
        let binary = self.binary;
        let mut cursor = Cursor::new(pc, sp, true);
        for _ in 0..most {
            let name = binary.function_name(cursor.pc.wrapping_sub(self.bias))?;
            let start = cursor.sp;
            if self.advance(&mut cursor, copy).is_some() {
                return None;
            }
            if wanted(name) {
                // The caller may be the outermost frame, or end beyond the copy.
                self.advance(&mut cursor, copy);
                return Some(start..cursor.sp.min(copy.end()));
            }
        }
        None
    }

    /// Goes from one frame to its caller; the reason if there is none that is known.
    fn advance(&mut self, cursor: &mut Cursor, copy: &StackCopy<'_>) -> Option<End> {
        let Some(step) = self.step(cursor.pc.wrapping_sub(self.bias)) else { return Some(End::Lost) };
        if step.top {
            return Some(End::Complete);
        }
        let returned = match self.binary.architecture() {
            Architecture::Amd64 => {
                let slot = cursor.sp.wrapping_add(step.frame_size);
                cursor.sp = slot.wrapping_add(8);
                copy.word(slot)
            }
            // Has not run yet: what it would return to is in g.sched.lr, and is goexit.
            Architecture::Arm64 if cursor.innermost && step.at_entry => Some(0),
            Architecture::Arm64 => {
                let saved = match cursor.link {
                    Some(link) if step.frame_size == 0 => Some(link),
                    _ => copy.word(cursor.sp),
                };
                cursor.sp = cursor.sp.wrapping_add(step.frame_size);
                saved
            }
        };
        let Some(return_address) = returned else { return Some(End::NeedsMore) };
        if return_address == 0 {
            return Some(End::Complete);
        }
        cursor.innermost = false;
        cursor.link = None;
        if step.interrupts && self.binary.architecture() == Architecture::Arm64 {
            // sigctxt.pushCall saved the link register on the stack (runtime/signal_arm64.go) and took 16 bytes.
            let Some(saved) = copy.word(cursor.sp) else { return Some(End::NeedsMore) };
            cursor.link = Some(saved);
            cursor.sp = cursor.sp.wrapping_add(16);
        }
        cursor.exact = step.interrupts;
        cursor.pc = return_address;
        None
    }

    fn step(&mut self, address: u64) -> Option<Step> {
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let (binary, steps) = (self.binary, &self.steps);
        *self.known.entry(address).or_insert_with(|| {
            let (symbols, image) = (binary.symbols(), binary.image());
            let function = symbols.at(address)?;
            let name = symbols.name(image, function)?;
            Some(Step {
                frame_size: symbols.frame_size_within(image, address, steps)?,
                at_entry: function.entry == address,
                top: symbols.is_top(image, function),
                interrupts: matches!(name, "runtime.asyncPreempt" | "runtime.sigpanic"),
                arguments: symbols.argument_bytes(image, function),
            })
        })
    }
}
