//! The bytes of an ELF file by virtual address.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use object::elf::{
    EM_AARCH64, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, NT_GNU_BUILD_ID, NoteType, PF_W, PF_X, PT_INTERP,
    PT_LOAD, PT_NOTE, ProgramHeader64, SectionHeader64,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _};
use object::{Endianness, LittleEndian};

use super::contents::{Contents, Reread};
use super::error::BinaryError;

/// What machine a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

impl Architecture {
    /// Go's name for it.
    #[must_use]
    pub const fn goarch(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The number, in the instruction set, of the register that holds the g of the current stack
    /// (cmd/compile/abi-internal.md).
    pub(super) const fn g_register(self) -> u8 {
        match self {
            Self::Amd64 => 14,
            Self::Arm64 => 28,
        }
    }
}

/// A loadable segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// First virtual address, as linked.
    pub address: u64,
    /// Bytes in memory.
    pub memory_size: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
}

/// An ELF file of a known architecture.
#[derive(Clone, Debug)]
pub struct Image {
    contents: Contents,
    entry: u64,
    segments: Vec<Segment>,
    architecture: Architecture,
    position_independent: bool,
    gnu_build_id: Option<String>,
    go_build_id: Option<String>,
    has_symbols: bool,
    interpreted: bool,
}

/// Most program headers that are looked at; real programs have about ten.
const MAX_SEGMENTS: usize = 256;
/// Longest build ID that is believed; the linker's has 20 bytes, Go's own 83.
const MAX_BUILD_ID: usize = 256;
/// Most bytes of notes that are looked at; real ones have some hundred.
const MAX_NOTES: u64 = 1 << 20;
/// Most sections whose names are looked at; Go programs have some forty.
const MAX_SECTIONS: usize = 512;
/// How often the segments may hold each byte of the file: those next to each other share a page with some linkers.
/// With this whatever goes through all segments goes through the file at most so often.
const MAX_OVERLAP: u64 = 2;

type Note<'data> = object::read::elf::Note<'data, FileHeader64<LittleEndian>>;

impl Image {
    /// Reads the headers.
    ///
    /// # Errors
    /// [`BinaryError`] for anything that is not a 64-bit little-endian ELF file for a known machine.
    pub fn parse(bytes: Arc<[u8]>) -> Result<Self, BinaryError> {
        let not_elf = |e: object::Error| BinaryError::NotElf(e.to_string());
        match bytes.get(4..6) {
            Some([1, _]) => return Err(BinaryError::Class("32-bit")),
            Some([_, 2]) => return Err(BinaryError::Class("big-endian")),
            _ => {}
        }
        let header = FileHeader64::<LittleEndian>::parse(&*bytes).map_err(not_elf)?;
        let endian = header.endian().map_err(not_elf)?;
        let architecture = match header.e_machine(endian) {
            EM_X86_64 => Architecture::Amd64,
            EM_AARCH64 => Architecture::Arm64,
            other => return Err(BinaryError::Architecture(format!("ELF machine {}", other.0))),
        };
        let headers = header.program_headers(endian, &*bytes).map_err(not_elf)?;
        let segments: Vec<Segment> = headers
            .iter()
            .take(MAX_SEGMENTS)
            .filter(|h| h.p_type(endian) == PT_LOAD)
            .map(|h| Segment {
                address: h.p_vaddr(endian),
                memory_size: h.p_memsz(endian),
                offset: h.p_offset(endian),
                file_size: h.p_filesz(endian),
                writable: h.p_flags(endian).0 & PF_W.0 != 0,
                executable: h.p_flags(endian).0 & PF_X.0 != 0,
            })
            .collect();
        check(&segments, bytes.len() as u64).map_err(|why| BinaryError::NotElf(why.to_owned()))?;
        // What a segment has in the file must be there.
        let end = headers
            .iter()
            .take(MAX_SEGMENTS)
            .filter(|h| h.p_type(endian) == PT_LOAD)
            .map(|h| h.p_offset(endian).saturating_add(h.p_filesz(endian)))
            .max();
        if let Some(end) = end.filter(|end| *end > bytes.len() as u64) {
            return Err(BinaryError::Cut { size: bytes.len() as u64, end });
        }
        let sections = header.sections(endian, &*bytes).ok();
        let has_symbols = sections.as_ref().is_some_and(|sections| {
            sections.symbols(endian, &*bytes, object::elf::SHT_SYMTAB).is_ok_and(|table| !table.is_empty())
        });
        // A file may have lost its section headers; and Go's linker lets the program header cover its own note only,
        // behind which the GNU one lies.
        let holds_notes = |h: &&ProgramHeader64<LittleEndian>| {
            h.p_type(endian) == PT_NOTE && h.p_filesz(endian) <= MAX_NOTES
        };
        let covered = || headers.iter().take(MAX_SEGMENTS).filter(holds_notes);
        let by_section = section_named(header, &bytes, ".note.gnu.build-id").and_then(|section| {
            (section.sh_size(endian) <= MAX_NOTES).then_some(())?;
            gnu_build_id(section.notes(endian, &*bytes).ok()??, endian)
        });
        let gnu_build_id = by_section.or_else(|| {
            covered().find_map(|h| {
                let notes = h.notes(endian, &*bytes).ok().flatten();
                notes.and_then(|notes| gnu_build_id(notes, endian)).or_else(|| {
                    let end = h.p_offset(endian).checked_add(h.p_filesz(endian))?;
                    note_at(bytes.get(usize::try_from(end).ok()?..)?)
                })
            })
        });
        let go_build_id = covered().find_map(|h| {
            // cmd/internal/buildid/note.go, `elfGoBuildIDTag`.
            let is_ours = |note: &Note<'_>| note.name() == b"Go" && note.n_type(endian) == NoteType(4);
            let id = note(h.notes(endian, &*bytes).ok()??, is_ours)?;
            String::from_utf8(id.to_vec()).ok()
        });
        let interpreted = headers.iter().take(MAX_SEGMENTS).any(|h| h.p_type(endian) == PT_INTERP);
        let e_type = header.e_type(endian);
        if e_type != ET_EXEC && e_type != ET_DYN {
            return Err(BinaryError::NotElf(format!("it is no executable (ELF type {})", e_type.0)));
        }
        let position_independent = e_type == ET_DYN;
        Ok(Self {
            segments,
            architecture,
            position_independent,
            gnu_build_id,
            go_build_id,
            has_symbols,
            interpreted,
            entry: header.e_entry(endian),
            contents: Contents::Whole(bytes),
        })
    }

    /// The same file for who keeps it for long: nothing of it stays in memory, and what is asked for is read again.
    /// What looks at all of the file, or at code, finds nothing.
    #[must_use]
    pub(super) fn reread_from(&self, file: Box<Reread>) -> Self {
        Self { contents: Contents::reread(self.contents.len(), file), ..self.clone() }
    }

    /// The whole file; nothing where it is not in memory.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.contents.whole()
    }

    /// How often something that was asked for could not be read again: see [`super::GoBinary::reread_from`].
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.contents.unread()
    }

    /// The bytes from an offset in the file on, as many as are asked for or as there are; none behind its end.
    pub(super) fn part(&self, offset: usize, most: usize) -> Option<Cow<'_, [u8]>> {
        let rest = self.contents.len().checked_sub(offset).filter(|rest| *rest != 0)?;
        self.contents.get(offset..offset + rest.min(most))
    }

    /// The machine it is for.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The linked address at which it begins to run.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// Whether the kernel chooses where it is loaded.
    #[must_use]
    pub const fn position_independent(&self) -> bool {
        self.position_independent
    }

    /// Whether a dynamic loader starts it (or, for a library, whether it can be started at all).
    #[must_use]
    pub const fn has_interpreter(&self) -> bool {
        self.interpreted
    }

    /// Whether it was packed by UPX, which leaves its mark behind the program headers and at the end (`l_info`
    /// and `PackHeader`, UPX's src/stub/src/include/linux.h and src/packhead.cpp).
    #[must_use]
    pub fn is_upx(&self) -> bool {
        const MARK: &[u8] = b"UPX!";
        const WITHIN: usize = 1024;
        let bytes = self.bytes();
        let begin = bytes.get(..WITHIN).unwrap_or(bytes);
        let end = bytes.get(bytes.len().saturating_sub(WITHIN)..).unwrap_or_default();
        [begin, end].iter().any(|part| part.windows(MARK.len()).any(|window| window == MARK))
    }

    /// Whether it still has a symbol table.
    #[must_use]
    pub const fn has_symbols(&self) -> bool {
        self.has_symbols
    }

    /// The linker's build ID in hexadecimal, if there is one. Go's own is another.
    /// Go's linker writes one by itself since 1.24.
    #[must_use]
    pub fn gnu_build_id(&self) -> Option<&str> {
        self.gnu_build_id.as_deref()
    }

    /// Go's own build ID.
    #[must_use]
    pub fn go_build_id(&self) -> Option<&str> {
        self.go_build_id.as_deref()
    }

    /// Where a section is in the file. With RELRO, Go's linker puts `.data.rel.ro` before the names of its own.
    pub(super) fn section_range(&self, name: &str) -> Option<Range<usize>> {
        let header = FileHeader64::<LittleEndian>::parse(self.bytes()).ok()?;
        let section = section_named(header, self.bytes(), name)?;
        let (offset, size) = section.file_range(LittleEndian)?;
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?.min(self.bytes().len());
        (start < end).then_some(start..end)
    }

    /// The bytes of a section, as far as the file has them.
    pub(super) fn section(&self, name: &str) -> Option<&[u8]> {
        self.bytes().get(self.section_range(name)?)
    }

    /// The virtual address of a place of the file.
    pub(super) fn address(&self, offset: u64) -> Option<u64> {
        let segment = self.segments.iter().find(|s| offset >= s.offset && offset - s.offset < s.file_size)?;
        Some(segment.address + (offset - segment.offset))
    }

    /// The loadable segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where the bytes from a virtual address to the end of its segment are in the file.
    fn rest_of_segment(&self, address: u64) -> Option<Range<usize>> {
        let segment =
            self.segments.iter().find(|s| address >= s.address && address - s.address < s.file_size)?;
        let into = address - segment.address;
        let start = usize::try_from(segment.offset.checked_add(into)?).ok()?;
        let len = usize::try_from(segment.file_size - into).ok()?;
        Some(start..start.checked_add(len)?.min(self.contents.len()))
    }

    /// `len` bytes at a virtual address, if the file holds them all.
    #[must_use]
    pub fn read(&self, address: u64, len: usize) -> Option<Cow<'_, [u8]>> {
        let rest = self.rest_of_segment(address)?;
        (len <= rest.len()).then(|| self.contents.get(rest.start..rest.start + len))?
    }

    /// The bytes at a virtual address: `most`, or as many as its segment has.
    #[must_use]
    pub fn read_some(&self, address: u64, most: usize) -> Option<Cow<'_, [u8]>> {
        let rest = self.rest_of_segment(address)?;
        self.contents.get(rest.start..rest.start + rest.len().min(most))
    }

    /// The same as [`Self::read`] where the file is in memory; else nothing. For code, which is looked at when probes
    /// are planned, and all of it.
    pub(super) fn read_whole(&self, address: u64, len: usize) -> Option<&[u8]> {
        self.bytes().get(self.rest_of_segment(address)?)?.get(..len)
    }

    /// All bytes from a virtual address to the end of its segment, where the file is in memory.
    pub(super) fn read_to_segment_end(&self, address: u64) -> Option<&[u8]> {
        self.bytes().get(self.rest_of_segment(address)?)
    }

    /// Eight bytes at a virtual address, little-endian.
    #[must_use]
    pub fn read_u64(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(*self.read(address, 8)?.first_chunk()?))
    }

    /// A Go string header at a virtual address, followed. In a position-independent file the header may be
    /// written by a relocation; the linkers in use write the linked address into the file as well.
    #[must_use]
    pub fn read_go_string(&self, header: u64, limit: usize) -> Option<Cow<'_, [u8]>> {
        let data = self.read_u64(header)?;
        let len = usize::try_from(self.read_u64(header.checked_add(8)?)?).ok()?;
        self.read(data, len.min(limit))
    }

    /// The file offset of a virtual address: what the kernel's uprobes are placed by.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .find(|s| address >= s.address && address - s.address < s.file_size)
            .map(|s| s.offset + (address - s.address))
    }

    /// Whether a virtual address lies in an executable segment.
    #[must_use]
    pub fn is_executable(&self, address: u64) -> bool {
        self.segments
            .iter()
            .any(|s| s.executable && address >= s.address && address - s.address < s.memory_size)
    }

    /// The distance between where a mapping of the file is and where its bytes were linked to be.
    #[must_use]
    pub fn load_bias(&self, mapping_start: u64, mapping_offset: u64) -> Option<u64> {
        const PAGE: u64 = 4096;
        let segment = self
            .segments
            .iter()
            .find(|s| s.offset / PAGE * PAGE <= mapping_offset && mapping_offset < s.offset + s.file_size)?;
        let linked = segment.address.wrapping_sub(segment.offset).wrapping_add(mapping_offset);
        Some(mapping_start.wrapping_sub(linked))
    }

    /// The addresses of named symbols, in the order asked for, in one pass. All `None` in a stripped file.
    #[must_use]
    pub fn symbol_addresses<const N: usize>(&self, names: [&str; N]) -> [Option<u64>; N] {
        let mut found = [None; N];
        let Ok(header) = FileHeader64::<Endianness>::parse(self.bytes()) else { return found };
        let Ok(endian) = header.endian() else { return found };
        let Ok(sections) = header.sections(endian, self.bytes()) else { return found };
        let Ok(table) = sections.symbols(endian, self.bytes(), object::elf::SHT_SYMTAB) else { return found };
        let Ok(strings) = sections.section(table.string_section()) else { return found };
        let Ok(strings) = strings.data(endian, self.bytes()) else { return found };
        for symbol in table.iter() {
            let start = usize::try_from(symbol.st_name(endian)).unwrap_or(usize::MAX);
            let Some(rest) = strings.get(start..) else { continue };
            // Compared in place: to look for the end of each name would take as long as the file says.
            let is = |wanted: &&str| {
                rest.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            };
            if let Some(slot) = names.iter().position(is).and_then(|at| found.get_mut(at)) {
                *slot = Some(symbol.st_value(endian));
            }
        }
        found
    }
}

/// The build ID in a note at the begin of some bytes (elf(5), `Elf64_Nhdr`).
fn note_at(bytes: &[u8]) -> Option<String> {
    const HEADER: usize = 16;
    const LONGEST: u32 = 64;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (name, size, kind) = (word(0)?, word(4)?, word(8)?);
    let is_build_id =
        name == 4 && kind == NT_GNU_BUILD_ID.0 && size <= LONGEST && bytes.get(12..16)? == b"GNU\0";
    let id = bytes.get(HEADER..HEADER.checked_add(usize::try_from(size).ok()?)?)?;
    is_build_id.then(|| id.iter().map(|b| format!("{b:02x}")).collect())
}

/// The header of a section, by its name or by that behind `.data.rel.ro`.
fn section_named<'data>(
    header: &FileHeader64<LittleEndian>,
    bytes: &'data [u8],
    name: &str,
) -> Option<&'data SectionHeader64<LittleEndian>> {
    let sections = header.section_headers(LittleEndian, bytes).ok()?;
    let names = sections.get(usize::try_from(header.shstrndx(LittleEndian, bytes).ok()?).ok()?)?;
    let names = names.data(LittleEndian, bytes).ok()?;
    sections.iter().take(MAX_SECTIONS).find(|section| {
        // Compared in place: to look for the end of each name would take as long as the file says.
        let start = usize::try_from(section.sh_name(LittleEndian)).ok();
        let rest = start.and_then(|start| names.get(start..)).unwrap_or_default();
        let rest = rest.strip_prefix(b".data.rel.ro").unwrap_or(rest);
        rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    })
}

type Notes<'data> = object::read::elf::NoteIterator<'data, FileHeader64<LittleEndian>>;

/// What the first note of a kind says, if that can be believed.
fn note<'data>(mut notes: Notes<'data>, is: impl Fn(&Note<'data>) -> bool) -> Option<&'data [u8]> {
    // Real programs have a handful.
    let first = (0..64).map_while(|_| notes.next().ok()?).find(is)?;
    (first.desc().len() <= MAX_BUILD_ID).then(|| first.desc())
}

fn gnu_build_id(notes: Notes<'_>, endian: LittleEndian) -> Option<String> {
    let id = note(notes, |note| note.name() == b"GNU" && note.n_type(endian) == NT_GNU_BUILD_ID)?;
    Some(id.iter().map(|b| format!("{b:02x}")).collect())
}

/// The build ID in the notes of a file's first page, as far as that holds them: the linker's, else Go's own.
#[must_use]
pub fn build_id_in(page: &[u8]) -> Option<String> {
    let header = FileHeader64::<LittleEndian>::parse(page).ok()?;
    let endian = LittleEndian;
    let headers = header.program_headers(endian, page).ok()?;
    let notes = || {
        let covered = headers.iter().take(MAX_SEGMENTS).filter(|h| h.p_type(endian) == PT_NOTE);
        covered.filter_map(|h| h.notes(endian, page).ok().flatten())
    };
    notes().find_map(|notes| gnu_build_id(notes, endian)).or_else(|| {
        let is_ours = |note: &Note<'_>| note.name() == b"Go" && note.n_type(endian) == NoteType(4);
        notes().find_map(|notes| Some(String::from_utf8_lossy(note(notes, is_ours)?).into_owned()))
    })
}

/// Nothing that is computed from a segment overflows, and they do not hold the file over and over.
fn check(segments: &[Segment], len: u64) -> Result<(), &'static str> {
    let mut held = 0_u64;
    for segment in segments {
        let sane = segment.address.checked_add(segment.memory_size.max(segment.file_size)).is_some()
            && segment.offset.checked_add(segment.file_size).is_some();
        if !sane {
            return Err("a segment reaches beyond the address space");
        }
        held = held.saturating_add(segment.file_size.min(len.saturating_sub(segment.offset)));
    }
    if held > len.saturating_mul(MAX_OVERLAP) { Err("its segments overlap") } else { Ok(()) }
}

#[cfg(test)]
mod tests;
