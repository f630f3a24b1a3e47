//! Core files that are made up, for tests and for fuzzing.

/// Where their notes are, and the room for them.
const AT: usize = 512;
const ROOM: usize = 65536;

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_NOTE: u32 = 4;
pub(crate) const X86_64: u16 = 62;
#[cfg(test)]
pub(crate) const AARCH64: u16 = 183;

/// A program header: kind, flags, offset, address, sizes in the file and in memory.
pub(crate) type Header = (u32, u32, u64, u64, u64, u64);

/// A core file of headers; what follows them is zero.
pub(crate) fn core(machine: u16, headers: &[Header], len: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend(4_u16.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for word in [0, 64, 0_u64] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [64, 56, headers.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for (kind, flags, offset, address, in_file, in_memory) in headers {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [*offset, *address, *address, *in_file, *in_memory, 4096] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.resize(len.max(bytes.len()), 0);
    bytes
}

pub(crate) fn note(kind: u32, desc: &[u8]) -> Vec<u8> {
    let mut bytes = [5, desc.len() as u32, kind].map(u32::to_le_bytes).concat();
    bytes.extend(b"CORE\0\0\0\0");
    bytes.extend(desc);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(crate) fn with_notes(machine: u16, notes: &[Vec<u8>]) -> Vec<u8> {
    let notes = notes.concat();
    let headers = [
        (PT_NOTE, 4, AT as u64, 0, notes.len() as u64, 0),
        (PT_LOAD, 6, (AT + ROOM) as u64, 0xc0_0000_0000, 4096, 4096),
    ];
    let mut bytes = core(machine, &headers, AT + ROOM + 4096);
    bytes[AT..AT + notes.len()].copy_from_slice(&notes);
    bytes
}

/// `struct elf_prstatus` with these registers.
pub(crate) fn status(len: usize, thread: u32, signal: u16, registers: &[(usize, u64)]) -> Vec<u8> {
    let mut desc = vec![0; len];
    desc[12..14].copy_from_slice(&signal.to_le_bytes());
    desc[32..36].copy_from_slice(&thread.to_le_bytes());
    for (index, value) in registers {
        desc[112 + index * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    note(1, &desc)
}

/// A core with a note of each kind: a thread, its signal, the process, where it began, and the file that is mapped there.
#[cfg(feature = "fuzzing")]
pub(crate) fn whole() -> Vec<u8> {
    let mut signal = vec![0; 128];
    signal[..4].copy_from_slice(&11_u32.to_le_bytes());
    signal[8] = 1;
    let mut process = vec![0; 136];
    process[24] = 7;
    process[40..44].copy_from_slice(b"shop");
    let mut files = [1_u64, 4096, 0x40_0000, 0x48_0000, 0].map(u64::to_le_bytes).concat();
    files.extend(b"/srv/shop\0");
    let auxv = [9_u64, 0x46_1234, 0, 0].map(u64::to_le_bytes).concat();
    let notes = [
        status(336, 7, 11, &[(16, 0x40_1234), (19, 0xc0_0000_1000)]),
        note(0x5349_4749, &signal),
        note(3, &process),
        note(6, &auxv),
        note(0x4649_4c45, &files),
        status(336, 8, 0, &[]),
    ];
    with_notes(X86_64, &notes)
}
