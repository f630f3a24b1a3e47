//! Unwinding a goroutine that is not running, or a thread that does not run any more, from a copy of its stack.

use std::ops::Range;
use std::sync::Arc;

use super::hash::{Map, Set};
use super::reader::u64_at;
use crate::binary::{Architecture, GoBinary, Steps};
use crate::target::Registers;

/// Deepest stack that is unwound; the rest is left out and said so.
pub(super) const MAX_DEPTH: usize = 256;
/// Addresses in all distinct stacks of a snapshot together: a million of them with sixteen each. Where there are more,
/// the stacks behind them are cut, and say so.
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
    /// What it means on a stack that is not a goroutine's.
    role: Role,
    /// Bytes in the caller's frame that belong to it: arguments, and room to save those that come in registers.
    arguments: u64,
}

/// What a function does between the stacks of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing.
    None,
    /// It went from the goroutine's stack to the system stack.
    Switch,
    /// The kernel called it for a signal.
    SignalHandler,
}

impl Role {
    fn of(name: &str) -> Self {
        match name {
            "runtime.systemstack" | "runtime.mcall" | "runtime.morestack" => Self::Switch,
            "runtime.sigtramp" | "runtime.cgoSigtramp" => Self::SignalHandler,
            _ => Self::None,
        }
    }
}

/// Where the unwinding of a thread's stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// At a function that went there from the goroutine's stack.
    Switch,
    /// At the handler of a signal: where the kernel's frame is.
    SignalFrame {
        /// Its address.
        at: u64,
    },
    /// Elsewhere.
    Other,
}

/// Unwinds by the function table's frame sizes, as the runtime's own tracebacks do; remembers each address, and each
/// stack: most goroutines of a large program have one of few.
pub(super) struct Unwinder<'a> {
    binary: &'a GoBinary,
    bias: u64,
    known: Map<u64, Option<Step>>,
    steps: Steps,
    /// The stack that is being unwound.
    current: Stack,
    stacks: Set<Arc<Stack>>,
    /// The one without addresses.
    none: Arc<Stack>,
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
        Self {
            binary,
            bias,
            known: Map::default(),
            steps: Steps::new(MAX_STEPS),
            current: Stack::default(),
            stacks: Set::default(),
            none: Arc::default(),
            left: MAX_ADDRESSES,
        }
    }

    /// Begins anew with what may be told and looked up; what is known of addresses stays.
    pub(super) fn renew(&mut self) {
        self.steps = Steps::new(MAX_STEPS);
        self.left = MAX_ADDRESSES;
    }

    /// The stack as a chain of frame pointers has it, of a thread that was interrupted: all linked addresses. Where
    /// the second address is a return address only if the function has no frame, the function table decides.
    pub(super) fn chain(&mut self, pcs: &[u64], maybe_return: bool, truncated: bool) -> Stack {
        let frameless = |step: Option<Step>| step.is_some_and(|step| step.frame_size == 0 && !step.top);
        let skip = maybe_return && pcs.first().is_some_and(|pc| !frameless(self.step(*pc)));
        let kept = pcs.iter().enumerate().filter(|(index, pc)| !(*index == 1 && skip) && **pc != 0);
        let mut pcs = Vec::new();
        // Behind asyncPreempt and sigpanic comes what was interrupted, not what called.
        let mut exact = true;
        for (_, &address) in kept {
            pcs.push(Pc { address, exact });
            exact = self.step(address).is_some_and(|step| step.interrupts);
        }
        Stack { pcs, truncated }
    }

    /// Unwinds from `pc` and `sp` (addresses of the process). What has not begun to run is at its entry, and that is
    /// exact in any case. The stack is [`Unwinder::stack`] until the next one.
    pub(super) fn unwind(&mut self, pc: u64, sp: u64, exact: bool, copy: &StackCopy<'_>) -> End {
        self.current.pcs.clear();
        let mut cursor = Cursor::new(pc, sp, exact);
        let end = loop {
            if self.current.pcs.len() == MAX_DEPTH {
                break End::TooDeep;
            }
            let address = cursor.pc.wrapping_sub(self.bias);
            let exact = cursor.exact || cursor.innermost && self.step(address).is_some_and(|s| s.at_entry);
            let end = self.advance(&mut cursor, copy);
            if end != Some(End::Lost) {
                self.current.pcs.push(Pc { address, exact });
            }
            if let Some(end) = end {
                break end;
            }
        };
        self.current.truncated = end != End::Complete;
        end
    }

    /// A copy of the stack that was unwound last, for who keeps stacks himself.
    pub(super) fn copy(&self) -> Stack {
        self.current.clone()
    }

    /// The stack that was unwound last: the same one as before if it was there before.
    pub(super) fn stack(&mut self) -> Arc<Stack> {
        if let Some(known) = self.stacks.get(&self.current) {
            return Arc::clone(known);
        }
        if self.current.pcs.len() > self.left {
            self.current.pcs.truncate(self.left);
            self.current.truncated = true;
            return self.stack();
        }
        self.left -= self.current.pcs.len();
        let stack = Arc::new(self.current.clone());
        self.stacks.insert(Arc::clone(&stack));
        stack
    }

    /// A stack of which nothing is known.
    pub(super) fn no_stack(&self) -> Arc<Stack> {
        Arc::clone(&self.none)
    }

    /// Unwinds a thread from its registers, along one of its stacks. Only where that is none of a goroutine it may
    /// end between two of them.
    pub(super) fn unwind_thread(
        &mut self,
        registers: Registers,
        exact: bool,
        on_system: bool,
        copy: &StackCopy<'_>,
    ) -> (Stack, End, Reached) {
        let mut stack = Stack::default();
        let mut cursor = Cursor::new(registers.pc, registers.sp, exact);
        cursor.link = registers.link;
        loop {
            if stack.pcs.len() == MAX_DEPTH || self.left == 0 {
                stack.truncated = true;
                return (stack, End::TooDeep, Reached::Other);
            }
            let (address, exact) = (cursor.pc.wrapping_sub(self.bias), cursor.exact);
            let step = self.step(address).filter(|_| on_system);
            let reached = match step.map(|step| (step.role, step.frame_size)) {
                Some((Role::Switch, _)) => Some(Reached::Switch),
                Some((Role::SignalHandler, size)) => {
                    Some(Reached::SignalFrame { at: cursor.sp.wrapping_add(size) })
                }
                _ => None,
            };
            let end = if reached.is_some() { Some(End::Complete) } else { self.advance(&mut cursor, copy) };
            if end != Some(End::Lost) {
                stack.pcs.push(Pc { address, exact });
                self.left -= 1;
            }
            if let Some(end) = end {
                return (stack, end, reached.unwrap_or(Reached::Other));
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
            if wanted(&name) {
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
            // A thread's own link register, in a function that has not saved it.
            Architecture::Arm64 if cursor.innermost && cursor.link.is_some() && step.frame_size == 0 => {
                cursor.link
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
        if let Some(step) = self.known.get(&address) {
            return *step;
        }
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        let step = self.look_up(address);
        self.known.insert(address, step);
        step
    }

    fn look_up(&self, address: u64) -> Option<Step> {
        let (symbols, image) = (self.binary.symbols(), self.binary.image());
        let function = symbols.at(address)?;
        let name = symbols.name(image, function)?;
        Some(Step {
            frame_size: symbols.frame_size_within(image, address, &self.steps)?,
            at_entry: function.entry == address,
            top: symbols.is_top(image, function),
            role: Role::of(&name),
            arguments: symbols.argument_bytes(image, function),
            interrupts: matches!(&*name, "runtime.asyncPreempt" | "runtime.sigpanic"),
        })
    }
}
