//! A core file's notes: threads with their registers, the signal, the process, its mapped files.
//!
//! As the kernel writes them (`fs/binfmt_elf.c`, include/uapi/linux/elfcore.h), and gcore after it.

use std::borrow::Cow;

use super::headers::Machine;
use super::store::Store;

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const AT_ENTRY: u64 = 9;

/// Most notes that are looked at; a thread has up to ten.
const MAX_NOTES: usize = 1 << 22;
/// Most threads; the kernel's own limit is `PID_MAX_LIMIT`, 2^22.
const MAX_THREADS: usize = 1 << 20;
/// Largest note that is read: the kernel's greatest list of files (`core_file_note_size_max`, kernel/sysctl.c).
const MAX_NOTE: u64 = 16 << 20;
/// Bytes read at once where many small notes follow each other.
const WINDOW: usize = 64 << 10;

/// The registers that unwinding begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// The instruction to be executed next.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The link register; none on x86-64.
    pub link: Option<u64>,
}

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreThread {
    /// Its number in the PID namespace of the process.
    pub id: u32,
    /// Its registers.
    pub registers: Registers,
}

/// The signal that ended a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSignal {
    /// Its number.
    pub number: i32,
    /// Why it was sent (`si_code`); `None` where the core does not say.
    pub code: Option<i32>,
    /// The faulting address, of a signal that has one.
    pub address: Option<u64>,
    /// The process that sent it, of a signal that was sent.
    pub sender: Option<u32>,
}

/// Who a process was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreProcess {
    /// Its number in its own PID namespace.
    pub pid: u32,
    /// Its name, at most 15 bytes. What is not UTF-8 is replaced.
    pub name: String,
    /// Its command line, at most 79 bytes.
    pub arguments: String,
}

/// A part of a file that was mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset in the file of `start`.
    pub offset: u64,
    /// The file, as the process saw it.
    pub path: String,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) threads: Vec<CoreThread>,
    pub(super) signal: Option<CoreSignal>,
    pub(super) process: Option<CoreProcess>,
    pub(super) files: Vec<FileMapping>,
    pub(super) entry: Option<u64>,
    /// They end before they should.
    pub(super) cut: bool,
}

pub(super) fn read(store: &Store, machine: Machine, parts: &[(u64, u64)]) -> Notes {
    let mut notes = Notes::default();
    let mut left = MAX_NOTES;
    for (offset, size) in parts {
        if !part(store, machine, *offset, *size, &mut left, &mut notes) {
            notes.cut = true;
        }
    }
    notes
}

/// Reads one part; whether it could be read to its end.
fn part(
    store: &Store,
    machine: Machine,
    offset: u64,
    size: u64,
    left: &mut usize,
    notes: &mut Notes,
) -> bool {
    let Some(end) = offset.checked_add(size) else { return false };
    let mut window = Window { store, start: offset, bytes: Vec::new() };
    let mut at = offset;
    while end.saturating_sub(at) >= 12 {
        let Some(header) = window.get(at, 12) else { return false };
        let word = |i: usize| u64::from(u32_at(&header, i * 4));
        let (name_len, len, kind) = (word(0), word(1), u32_at(&header, 8));
        let desc = at + 12 + name_len.next_multiple_of(4);
        let next = desc + len.next_multiple_of(4);
        if next > end || *left == 0 {
            return false;
        }
        *left -= 1;
        // All that is wanted is called CORE.
        let is_core = name_len == 5 && window.get(at + 12, 5).is_some_and(|name| *name == *b"CORE\0");
        let wanted = matches!(kind, NT_PRSTATUS | NT_PRPSINFO | NT_AUXV | NT_SIGINFO | NT_FILE);
        if is_core && wanted {
            let Some(desc) = (len <= MAX_NOTE).then(|| window.get(desc, len as usize)).flatten() else {
                return false;
            };
            note(machine, kind, &desc, notes);
        }
        at = next;
    }
    true
}

fn note(machine: Machine, kind: u32, desc: &[u8], notes: &mut Notes) {
    match kind {
        NT_PRSTATUS if notes.threads.len() < MAX_THREADS => {
            if let Some((thread, signal)) = status(machine, desc) {
                // Of the thread that the core was written for, which comes first. NT_SIGINFO says more.
                if notes.threads.is_empty() && notes.signal.is_none() && ends(signal) {
                    notes.signal =
                        Some(CoreSignal { number: signal, code: None, address: None, sender: None });
                }
                notes.threads.push(thread);
            }
        }
        NT_PRSTATUS => notes.cut = true,
        // gdb's gcore writes one for each thread; the first is that of the thread that the core is about.
        NT_SIGINFO if notes.threads.len() <= 1 => {
            if let Some(found) = signal(desc) {
                notes.signal = Some(found);
            }
        }
        NT_PRPSINFO => notes.process = process(desc).or(notes.process.take()),
        NT_AUXV => {
            let entry = desc.chunks_exact(16).find(|pair| u64_at(pair, 0) == AT_ENTRY);
            notes.entry = entry.map(|pair| u64_at(pair, 8)).or(notes.entry);
        }
        NT_FILE if notes.files.is_empty() => match files(desc) {
            Some(files) => notes.files = files,
            None => notes.cut = true,
        },
        _ => {}
    }
}

/// `struct elf_prstatus`: the signal at 12, the pid at 32, the registers at 112.
fn status(machine: Machine, desc: &[u8]) -> Option<(CoreThread, i32)> {
    const REGISTERS: usize = 112;
    let register = |index: usize| {
        let at = REGISTERS + index * 8;
        desc.get(at..at + 8).map(|_| u64_at(desc, at))
    };
    let registers = match machine {
        // `struct user_regs_struct`, arch/x86/include/asm/user_64.h.
        Machine::X86_64 => Registers { pc: register(16)?, sp: register(19)?, link: None },
        // `struct user_pt_regs`, arch/arm64/include/uapi/asm/ptrace.h.
        Machine::Aarch64 => Registers { pc: register(32)?, sp: register(31)?, link: Some(register(30)?) },
    };
    let signal = i32::from(u16_at(desc, 12).cast_signed());
    Some((CoreThread { id: u32_at(desc, 32), registers }, signal))
}

/// Whether a signal ended a process: SIGSTOP did not, with which gcore's gdb holds one.
const fn ends(signal: i32) -> bool {
    !matches!(signal, 0 | libc::SIGSTOP)
}

/// `siginfo_t`.
fn signal(desc: &[u8]) -> Option<CoreSignal> {
    desc.get(..24)?;
    let (number, code) = (u32_at(desc, 0).cast_signed(), u32_at(desc, 8).cast_signed());
    if !ends(number) {
        return None;
    }
    let faults = matches!(number, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP);
    // Positive codes are the kernel's own, SI_KERNEL (0x80) has no address; SI_USER, SI_TKILL and the like have a
    // sender.
    let by_kernel = code > 0;
    Some(CoreSignal {
        number,
        code: Some(code),
        address: (faults && by_kernel && code != 0x80).then(|| u64_at(desc, 16)),
        sender: (!by_kernel).then(|| u32_at(desc, 16)),
    })
}

/// `struct elf_prpsinfo`.
fn process(desc: &[u8]) -> Option<CoreProcess> {
    let text = |bytes: &[u8]| {
        let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..len]).trim_end().to_owned()
    };
    Some(CoreProcess {
        pid: u32_at(desc.get(..136)?, 24),
        name: text(desc.get(40..56)?),
        arguments: text(desc.get(56..136)?),
    })
}

/// The number of mappings and the size of a page, three words for each, then their names.
fn files(desc: &[u8]) -> Option<Vec<FileMapping>> {
    let count = usize::try_from(desc.get(..16).map(|_| u64_at(desc, 0))?).ok()?;
    let page = u64_at(desc, 8);
    let names = count.checked_mul(24)?.checked_add(16)?;
    let entries = desc.get(16..names)?;
    let mut names = desc.get(names..)?.split(|byte| *byte == 0);
    let mut files = Vec::new();
    for entry in entries.chunks_exact(24) {
        let path = String::from_utf8_lossy(names.next()?).into_owned();
        let (start, end) = (u64_at(entry, 0), u64_at(entry, 8));
        let offset = u64_at(entry, 16).checked_mul(page)?;
        if start < end && offset.checked_add(end - start).is_some() {
            files.push(FileMapping { start, end, offset, path });
        }
    }
    Some(files)
}

/// A part of the file that is held, since notes are small and follow each other.
struct Window<'a> {
    store: &'a Store,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// Exactly so many bytes; `None` if the file does not have them.
    fn get(&mut self, at: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        if len > WINDOW {
            return self.store.bytes(at, len).map(Cow::Owned);
        }
        let held = |window: &Self| {
            let from = usize::try_from(at.checked_sub(window.start)?).ok()?;
            let to = from.checked_add(len)?;
            (to <= window.bytes.len()).then_some(from..to)
        };
        if held(self).is_none() {
            let rest = usize::try_from(self.store.len().checked_sub(at)?).unwrap_or(usize::MAX);
            self.bytes = self.store.bytes(at, rest.min(WINDOW))?;
            self.start = at;
        }
        let range = held(self)?;
        self.bytes.get(range).map(Cow::Borrowed)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}
