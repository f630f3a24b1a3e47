//! The child: functions to be probed, and the loop that calls them.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

/// What the child is asked for: a function, and how often it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Function {
    /// Not probed; the probed instruction of the next two.
    Plain,
    /// Probed by the rare tier.
    Rare,
    /// Probed by the second tier.
    Lifetimes,
    /// Not probed; the instruction of the next one.
    PlainStepped,
    /// Probed by the rare tier at an instruction that is stepped over.
    Stepped,
}

impl Function {
    const ALL: [Self; 5] = [Self::Plain, Self::Rare, Self::Lifetimes, Self::PlainStepped, Self::Stepped];

    /// Its address in this process; its first instruction is what is probed.
    pub(super) fn address(self) -> u64 {
        let function: extern "C" fn() = match self {
            Self::Plain => asm::plain,
            Self::Rare => asm::rare,
            Self::Lifetimes => asm::lifetimes,
            Self::PlainStepped => asm::plain_stepped,
            Self::Stepped => asm::stepped,
        };
        function as usize as u64
    }
}

/// Bytes of a request: the function, and how often.
pub(super) const REQUEST: usize = 5;

/// Number of the register that holds the `*g` at the site of the second tier, as the attach cookie has it.
pub(super) const G_REGISTER: u8 = 0;

/// What the programs read of the child as if it were a Go process: offsets in the words below.
pub(super) mod layout {
    pub(in super::super) const G_M: u32 = 0;
    pub(in super::super) const G_GOID: u32 = 8;
    // Next to each other as in Go, with the ancestors before the last.
    pub(in super::super) const G_PARENT: u32 = 16;
    pub(in super::super) const G_GOPC: u32 = 24;
    pub(in super::super) const G_STARTPC: u32 = 40;
    pub(in super::super) const M_PROCID: u32 = 48;
    pub(in super::super) const M_CURG: u32 = 56;
    /// Where the frames begin, in words.
    pub(super) const FRAMES: usize = 8;
}

/// Frames of the stack: more than are captured.
const FRAMES: usize = tracer_ebpf::MAX_FRAMES + 2;
const WORDS: usize = layout::FRAMES + 2 * FRAMES;

/// Serves requests on standard input until it ends.
pub(in crate::probe) fn run(parent: Option<u32>) -> ExitCode {
    let armed = set_parent_process_death_signal(Some(Signal::KILL));
    let alive = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if armed.is_err() || parent.is_none() || alive != parent {
        return ExitCode::FAILURE;
    }
    let words = goroutine();
    let g = words.as_ptr();
    // SAFETY: both are inside the array.
    let frames = unsafe { g.add(layout::FRAMES) };
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut request = [0; REQUEST];
    while input.read_exact(&mut request).is_ok() {
        let [function, count @ ..] = request;
        let Some(function) = Function::ALL.into_iter().find(|f| *f as u8 == function) else { break };
        let count = u64::from(u32::from_le_bytes(count));
        let begun = cpu_ns();
        // SAFETY: the function is one of those below, which change nothing; the pointers are to live memory.
        unsafe { asm::repeat(function.address(), count.max(1), g, frames) };
        let took = cpu_ns().saturating_sub(begun);
        if output.write_all(&took.to_le_bytes()).and_then(|()| output.flush()).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// CPU time of this thread, ns: on a busy machine it is off the CPU for longer than what is measured.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(nanos.unwrap_or(0))
}

/// A goroutine that is its own M, with a deep stack, in one piece of memory.
fn goroutine() -> Box<[u64; WORDS]> {
    let mut words = Box::new([0; WORDS]);
    let base = words.as_ptr() as u64;
    let mut set = |offset: u32, value: u64| {
        if let Some(word) = words.get_mut(offset as usize / 8) {
            *word = value;
        }
    };
    set(layout::G_M, base);
    set(layout::M_CURG, base);
    set(layout::M_PROCID, u64::from(std::process::id()));
    set(layout::G_GOID, 1);
    set(layout::G_GOPC, 0x1000);
    set(layout::G_STARTPC, 0x2000);
    for i in 0..FRAMES {
        let at = layout::FRAMES + 2 * i;
        let next = if i + 1 < FRAMES { base + (at as u64 + 2) * 8 } else { 0 };
        if let Some(frame) = words.get_mut(at..at + 2) {
            frame.copy_from_slice(&[next, 0x3000 + i as u64]);
        }
    }
    words
}

/// The instructions. They differ in a number, so that no compiler makes one of two.
#[cfg(target_arch = "x86_64")]
mod asm {
    use core::arch::naked_asm;

    #[unsafe(naked)]
    pub(super) extern "C" fn plain() {
        naked_asm!("push rbp", "pop rbp", "mov r11d, 1", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn rare() {
        naked_asm!("push rbp", "pop rbp", "mov r11d, 2", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn lifetimes() {
        naked_asm!("push rbp", "pop rbp", "mov r11d, 3", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn plain_stepped() {
        naked_asm!("cmp rsp, [r14 + 16]", "mov r11d, 4", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn stepped() {
        naked_asm!("cmp rsp, [r14 + 16]", "mov r11d, 5", "ret")
    }

    /// Calls a function `count` times with Go's registers: g in r14 and rax, the frame pointer in rbp.
    ///
    /// # Safety
    /// `function` is one of those above, `count` is not 0, `g` and `frames` are live.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn repeat(function: u64, count: u64, g: *const u64, frames: *const u64) {
        naked_asm!(
            "push rbp",
            "push rbx",
            "push r12",
            "push r13",
            "push r14",
            "mov r12, rdi",
            "mov r13, rsi",
            "mov r14, rdx",
            "mov rbp, rcx",
            "2:",
            "mov rax, r14",
            "call r12",
            "dec r13",
            "jnz 2b",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "ret",
        )
    }
}

/// The instructions. They differ in a number, so that no compiler makes one of two.
#[cfg(target_arch = "aarch64")]
mod asm {
    use core::arch::naked_asm;

    #[unsafe(naked)]
    pub(super) extern "C" fn plain() {
        naked_asm!("b 2f", "2:", "mov x9, 1", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn rare() {
        naked_asm!("b 2f", "2:", "mov x9, 2", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn lifetimes() {
        naked_asm!("b 2f", "2:", "mov x9, 3", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn plain_stepped() {
        naked_asm!("add x10, x28, 16", "mov x9, 4", "ret")
    }

    #[unsafe(naked)]
    pub(super) extern "C" fn stepped() {
        naked_asm!("add x10, x28, 16", "mov x9, 5", "ret")
    }

    /// Calls a function `count` times with Go's registers: g in x28 and x0, the frame pointer in x29.
    ///
    /// # Safety
    /// `function` is one of those above, `count` is not 0, `g` and `frames` are live.
    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn repeat(function: u64, count: u64, g: *const u64, frames: *const u64) {
        naked_asm!(
            "stp x29, x30, [sp, -48]!",
            "stp x28, x19, [sp, 16]",
            "stp x20, x21, [sp, 32]",
            "mov x19, x0",
            "mov x20, x1",
            "mov x28, x2",
            "mov x29, x3",
            "2:",
            "mov x0, x28",
            "blr x19",
            "subs x20, x20, 1",
            "b.ne 2b",
            "ldp x20, x21, [sp, 32]",
            "ldp x28, x19, [sp, 16]",
            "ldp x29, x30, [sp], 48",
            "ret",
        )
    }
}
