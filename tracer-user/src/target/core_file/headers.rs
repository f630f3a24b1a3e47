//! A core file's ELF headers.

use std::path::Path;

use object::elf::{
    EM_AARCH64, EM_X86_64, ET_CORE, FileHeader64, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramHeader64,
    SectionHeader64,
};
use object::pod::{Pod, slice_from_bytes};
use object::read::elf::FileHeader as _;
use object::{LittleEndian, U32};

use super::Cut;
use super::error::CoreError;
use super::store::Store;

/// Most segments that are looked at: what `vm.max_map_count` is set to for processes with very many mappings.
const MAX_SEGMENTS: u64 = 1 << 20;
/// Most parts with notes; the kernel and gcore write one.
const MAX_NOTES: usize = 64;
/// The number of program headers that stands for "see the first section header" (`PN_XNUM`).
const IN_SECTION: u16 = 0xffff;

/// The machine that a process ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

/// A part of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSegment {
    /// First address.
    pub address: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// Where it is in the file.
    pub offset: u64,
    /// Bytes in the file. What is behind them is not zero but unknown: it was not written.
    pub file_size: u64,
    /// Could be written by the process.
    pub writable: bool,
    /// Could be executed.
    pub executable: bool,
}

/// What the headers say.
pub(super) struct Headers {
    pub(super) machine: Machine,
    /// In the order of their addresses; none reaches into the next.
    pub(super) segments: Vec<CoreSegment>,
    /// Offset and size of each part with notes.
    pub(super) notes: Vec<(u64, u64)>,
}

impl Headers {
    /// What is missing in a file of this size.
    pub(super) fn cut(&self, size: u64) -> Option<Cut> {
        let ends = self.segments.iter().map(|segment| segment.offset.saturating_add(segment.file_size));
        let notes = self.notes.iter().map(|(offset, len)| offset.saturating_add(*len));
        let expected = ends.chain(notes).max().unwrap_or(0);
        let missing = |segment: &CoreSegment| {
            segment.file_size - segment.file_size.min(size.saturating_sub(segment.offset))
        };
        let missing = self.segments.iter().map(missing).fold(0, u64::saturating_add);
        (expected > size).then_some(Cut { size, expected, missing })
    }
}

fn one<T: Pod + Copy>(store: &Store, offset: u64) -> Option<T> {
    let bytes = store.bytes(offset, size_of::<T>())?;
    Some(slice_from_bytes::<T>(&bytes, 1).ok()?.0[0])
}

pub(super) fn is_core(store: &Store) -> bool {
    one::<FileHeader64<LittleEndian>>(store, 0)
        .is_some_and(|header| header.is_supported() && header.e_type(LittleEndian) == ET_CORE)
}

pub(super) fn read(path: &Path, store: &Store) -> Result<Headers, CoreError> {
    let not_core = |why: &str| CoreError::NotCore { path: path.to_owned(), why: why.to_owned() };
    let damaged = |why: String| CoreError::Damaged { path: path.to_owned(), why };
    let machine = |machine: &str| CoreError::Machine { path: path.to_owned(), machine: machine.to_owned() };
    let begin = store.bytes(0, 6).ok_or_else(|| not_core("it is too short"))?;
    match begin.as_slice() {
        [0x7f, b'E', b'L', b'F', 2, 1] => {}
        [0x7f, b'E', b'L', b'F', 1, _] => return Err(machine("a 32-bit process")),
        [0x7f, b'E', b'L', b'F', ..] => return Err(machine("a big-endian process")),
        _ => return Err(not_core("it is no ELF file")),
    }
    let endian = LittleEndian;
    let header: FileHeader64<LittleEndian> =
        one(store, 0).ok_or_else(|| damaged("it ends within its first header".to_owned()))?;
    match header.e_type(endian) {
        ET_CORE => {}
        other => {
            return Err(not_core(match other.0 {
                2 | 3 => "it is an executable or library, which `gotrail inspect` reads",
                _ => "its ELF type is not that of a core file",
            }));
        }
    }
    let machine = match header.e_machine(endian) {
        EM_X86_64 => Machine::X86_64,
        EM_AARCH64 => Machine::Aarch64,
        other => return Err(machine(&format!("ELF machine {}", other.0))),
    };
    let size = size_of::<ProgramHeader64<LittleEndian>>();
    if usize::from(header.e_phentsize(endian)) != size {
        return Err(damaged(format!("its program headers have {} bytes each", header.e_phentsize(endian))));
    }
    let count = match header.e_phnum.get(endian) {
        IN_SECTION => {
            let section: SectionHeader64<LittleEndian> =
                one(store, header.e_shoff(endian)).ok_or_else(|| {
                    damaged("the section header with the number of segments is missing".to_owned())
                })?;
            let info: U32<LittleEndian> = section.sh_info;
            u64::from(info.get(endian))
        }
        count => u64::from(count),
    };
    if count > MAX_SEGMENTS {
        return Err(damaged(format!(
            "it claims {count} segments, more than the {MAX_SEGMENTS} that are read"
        )));
    }
    let count = usize::try_from(count).unwrap_or_default();
    let table = store.bytes(header.e_phoff(endian), count * size).ok_or_else(|| {
        damaged(format!("it ends within the table of its {count} segments, at {} bytes", store.len()))
    })?;
    let (table, _) = slice_from_bytes::<ProgramHeader64<LittleEndian>>(&table, count)
        .map_err(|()| damaged("the table of its segments can't be read".to_owned()))?;
    let mut segments = Vec::new();
    let mut notes = Vec::new();
    for entry in table {
        let (offset, file_size) = (entry.p_offset.get(endian), entry.p_filesz.get(endian));
        let kind = entry.p_type.get(endian);
        if kind == PT_NOTE && notes.len() < MAX_NOTES {
            notes.push((offset, file_size));
        }
        if kind != PT_LOAD {
            continue;
        }
        let flags = entry.p_flags.get(endian);
        let (address, memory_size) = (entry.p_vaddr.get(endian), entry.p_memsz.get(endian));
        // gcore of old has 0 for the size in memory of what it left out; the kernel never has.
        let memory_size = memory_size.max(file_size);
        if address.checked_add(memory_size).is_none() || offset.checked_add(file_size).is_none() {
            return Err(damaged("a segment reaches beyond the address space".to_owned()));
        }
        if memory_size != 0 {
            segments.push(CoreSegment {
                address,
                memory_size,
                offset,
                file_size,
                writable: flags.0 & PF_W.0 != 0,
                executable: flags.0 & PF_X.0 != 0,
            });
        }
    }
    segments.sort_by_key(|segment| segment.address);
    // What is looked up must be found in one step, whatever a file claims.
    if segments.windows(2).any(|pair| pair[1].address - pair[0].address < pair[0].memory_size) {
        return Err(damaged("its segments overlap".to_owned()));
    }
    if segments.is_empty() {
        return Err(damaged("it holds no memory".to_owned()));
    }
    Ok(Headers { machine, segments, notes })
}
