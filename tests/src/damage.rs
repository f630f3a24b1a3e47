//! Go executables that have been tampered with, alive: a damaged Go program would end itself at once, so its
//! entry point is made to wait in the kernel instead.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Position and length of fields of ELF64 headers (elf(5)).
const ENTRY: usize = 24;
const PROGRAM_HEADERS: usize = 32;
const SECTION_HEADERS: usize = 40;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;
const SECTION_HEADER_SIZE: usize = 58;
const SECTION_COUNT: usize = 60;
const NAME_SECTION: usize = 62;

/// `ppoll(0, 0, 0, 0)` for ever.
#[cfg(target_arch = "x86_64")]
const WAIT: &[u8] = &[
    0x31, 0xff, 0x31, 0xf6, 0x31, 0xd2, 0x4d, 0x31, 0xd2, // xor edi, edi; esi; edx; xor r10, r10
    0xb8, 0x0f, 0x01, 0x00, 0x00, // mov eax, 271
    0x0f, 0x05, // syscall
    0xeb, 0xee, // jmp to the begin
];
#[cfg(target_arch = "aarch64")]
const WAIT: &[u8] = &[
    0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, // mov x0, 0; mov x1, 0
    0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2, // mov x2, 0; mov x3, 0
    0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, // mov x8, 73; svc 0
    0xfa, 0xff, 0xff, 0x17, // b to the begin
];

/// `execve(path, 0, 0)`, with the path right behind.
#[cfg(target_arch = "x86_64")]
const EXECUTE: &[u8] = &[
    0x48, 0x8d, 0x3d, 0x0d, 0x00, 0x00, 0x00, // lea rdi, the end
    0x31, 0xf6, 0x31, 0xd2, // xor esi, esi; edx
    0xb8, 0x3b, 0x00, 0x00, 0x00, // mov eax, 59
    0x0f, 0x05, 0x0f, 0x0b, // syscall; ud2
];
#[cfg(target_arch = "aarch64")]
const EXECUTE: &[u8] = &[
    0xc0, 0x00, 0x00, 0x10, // adr x0, the end
    0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, // mov x1, 0; mov x2, 0
    0xa8, 0x1b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, // mov x8, 221; svc 0
    0x00, 0x00, 0x20, 0xd4, // brk
];

/// An executable in memory.
#[derive(Clone, Debug)]
pub struct Executable {
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Executable {
    /// Takes a 64-bit little-endian ELF file.
    ///
    /// # Errors
    /// It is none.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "no 64-bit little-endian ELF file");
        Ok(Self { bytes })
    }

    /// Makes it wait at its entry point, before anything of Go runs.
    ///
    /// # Errors
    /// It has no entry point in a segment.
    pub fn make_wait(&mut self) -> Result<()> {
        let entry = self.number(ENTRY, 8)?;
        for Segment { address, range, .. } in self.segments()? {
            if (address..address + range.len()).contains(&entry) {
                return self.overwrite(range.start + (entry - address), WAIT);
            }
        }
        bail!("no segment has the entry point")
    }

    /// Makes a function turn the process into another program, which keeps its pid: what Go's `syscall.Exec` does.
    /// Whatever is behind the function is overwritten too, if that is not room enough.
    ///
    /// # Errors
    /// The executable has no symbol of that name.
    pub fn make_execute(&mut self, function: &str, program: &Path) -> Result<()> {
        let address = self.symbol(function)?;
        let at = self.segments()?.into_iter().find_map(|segment| {
            let within = (segment.address..segment.address + segment.range.len()).contains(&address);
            within.then(|| segment.range.start + (address - segment.address))
        });
        let at = at.with_context(|| format!("{function} is in no segment"))?;
        self.overwrite(at, &[EXECUTE, program.as_os_str().as_bytes(), b"\0"].concat())
    }

    /// The address of a function.
    fn symbol(&self, wanted: &str) -> Result<usize> {
        /// Size of an entry of a symbol table.
        const ENTRY_SIZE: usize = 24;
        let (symbols, names) = (self.section(".symtab")?, self.section(".strtab")?);
        for entry in symbols.step_by(ENTRY_SIZE) {
            let name = self
                .bytes
                .get(names.start + self.number(entry, 4)?..names.end)
                .context("a name out of range")?;
            if name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0)) {
                return self.number(entry + 8, 8);
            }
        }
        bail!("no symbol {wanted}")
    }

    /// Cuts it to a length. Segments that reach beyond are dropped: the kernel would not start it with them.
    ///
    /// # Errors
    /// Its headers are damaged.
    pub fn cut(&mut self, length: usize) -> Result<()> {
        for segment in self.segments()?.into_iter().filter(|segment| segment.range.end > length) {
            // PT_NULL: to be passed over.
            self.overwrite(segment.header, &[0; 4])?;
        }
        self.bytes.truncate(length);
        Ok(())
    }

    /// The segments that are loaded.
    fn segments(&self) -> Result<Vec<Segment>> {
        let table = self.number(PROGRAM_HEADERS, 8)?;
        let (size, count) = (self.number(PROGRAM_HEADER_SIZE, 2)?, self.number(PROGRAM_HEADER_COUNT, 2)?);
        let mut segments = Vec::new();
        for header in (0..count).map(|i| table + i * size) {
            // p_type PT_LOAD; p_offset, p_vaddr, p_filesz.
            let (kind, offset) = (self.number(header, 4)?, self.number(header + 8, 8)?);
            let (address, length) = (self.number(header + 16, 8)?, self.number(header + 32, 8)?);
            if kind == 1 {
                segments.push(Segment { header, address, range: offset..offset + length });
            }
        }
        Ok(segments)
    }

    /// The bytes of a section in the file.
    ///
    /// # Errors
    /// It has no such section.
    pub fn section(&self, wanted: &str) -> Result<Range<usize>> {
        let count = self.number(SECTION_COUNT, 2)?;
        let names = self.header(self.number(NAME_SECTION, 2)?)?.range;
        for i in 0..count {
            let header = self.header(i)?;
            let name = self.bytes.get(names.start + header.name..names.end).context("a name out of range")?;
            if name.split(|byte| *byte == 0).next() == Some(wanted.as_bytes()) {
                return Ok(header.range);
            }
        }
        bail!("no section {wanted}")
    }

    /// Where the table of its section headers is in the file.
    ///
    /// # Errors
    /// Its own header is too short.
    pub fn section_headers(&self) -> Result<Range<usize>> {
        let begin = self.number(SECTION_HEADERS, 8)?;
        Ok(begin..begin + self.number(SECTION_HEADER_SIZE, 2)? * self.number(SECTION_COUNT, 2)?)
    }

    /// Overwrites a range with bytes that mean nothing, the same in each run.
    ///
    /// # Errors
    /// It is out of range.
    pub fn noise(&mut self, range: Range<usize>) -> Result<()> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for byte in self.bytes.get_mut(range).context("out of range")? {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        Ok(())
    }

    fn header(&self, index: usize) -> Result<Section> {
        let at = self.number(SECTION_HEADERS, 8)? + index * self.number(SECTION_HEADER_SIZE, 2)?;
        let (offset, length) = (self.number(at + 24, 8)?, self.number(at + 32, 8)?);
        Ok(Section { name: self.number(at, 4)?, range: offset..offset + length })
    }

    /// Overwrites bytes.
    ///
    /// # Errors
    /// They are not there.
    pub fn overwrite(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        self.bytes.get_mut(at..at + bytes.len()).context("out of range")?.copy_from_slice(bytes);
        Ok(())
    }

    /// Replaces each occurrence of some bytes by as many others; returns how often.
    #[must_use]
    pub fn replace(&mut self, old: &[u8], new: &[u8]) -> usize {
        let places: Vec<usize> = self
            .bytes
            .windows(old.len())
            .enumerate()
            .filter(|(_, window)| *window == old)
            .map(|(i, _)| i)
            .collect();
        for place in &places {
            self.bytes[*place..*place + new.len()].copy_from_slice(new);
        }
        places.len()
    }

    fn number(&self, at: usize, length: usize) -> Result<usize> {
        let bytes = self.bytes.get(at..at + length).context("the file is too short for its headers")?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }
}

/// A segment: where its header is, its address in memory, its bytes in the file.
struct Segment {
    header: usize,
    address: usize,
    range: Range<usize>,
}

struct Section {
    name: usize,
    range: Range<usize>,
}
