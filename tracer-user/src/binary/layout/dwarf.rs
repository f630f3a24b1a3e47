//! The layout from a program's own DWARF.
//!
//! Go's linker puts the types of the whole program into one unit called `runtime`, beside other units of the
//! same name for that package's assembly files (cmd/link/internal/ld/dwarf.go); only these are read. A named
//! type is a structure with its fields and a typedef of the same name.
//!
//! The file is the target's and may be hostile: every loop is bounded by the file's size or by a constant below,
//! and nothing is allocated on the word of a header alone.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;

use gimli::{
    Abbreviation, Abbreviations, AttributeValue, DebugAbbrev, DebugInfo, EndianSlice, EntriesRaw,
    LittleEndian, UnitHeader, UnitOffset,
};
use object::elf::{EM_AARCH64, EM_X86_64, R_AARCH64_RELATIVE, R_X86_64_RELATIVE, SHT_RELA};
use object::read::elf::{ElfFile64, ElfSection64, FileHeader, SectionHeader, Sym};
use object::{
    CompressionFormat, LittleEndian as ElfEndian, Object, ObjectSection, ObjectSegment, SectionIndex,
};

use super::{FIELDS, Layout, LayoutError, SIZE};

type Bytes<'data> = EndianSlice<'data, LittleEndian>;
type Entries<'data, 'table> = EntriesRaw<'table, Bytes<'data>>;
type File<'data> = ElfFile64<'data, ElfEndian>;

/// A Go program has some 40 sections.
const MAX_SECTIONS: usize = 512;
/// The decompressed sections may have this size together: `.debug_info` of a program of 125 MB has a quarter of it.
const MAX_SECTION: u64 = 256 << 20;
/// DEFLATE can't do better than this, Zstandard hardly does on DWARF.
const MAX_RATIO: u64 = 1100;
/// A unit's table of abbreviations; Go's has some hundred bytes, those of C++ some thousand.
const MAX_ABBREVIATIONS: usize = 64 << 10;
/// Go's units share one table of abbreviations, each C unit of a cgo program has its own.
const MAX_TABLES: u32 = 4 << 10;
/// The entries and attributes that are looked at; a program of 125 MB has less than a tenth of it.
const MAX_STEPS: u64 = 1 << 28;
/// The entries below one structure.
const MAX_ENTRIES: usize = 16 << 10;
/// Longer than any name that is searched for.
const MAX_NAME: usize = 64;
/// Typedefs of typedefs.
const MAX_TYPEDEFS: usize = 16;
/// No field of ours is beyond this: `runtime.p`, the largest structure, has 16 KB.
const MAX_OFFSET: u64 = 1 << 20;
/// `runtime.g` has some 500 bytes; many are read at once.
const MAX_G: u32 = 4096;
/// `runtime.waitReasonStrings` has about 45 texts of at most 30 bytes.
const MAX_WAIT_REASONS: u64 = 255;
const MAX_WAIT_REASON: u64 = 256;
/// Words that the loader sets; a program of 125 MB has some million.
const MAX_RELOCATIONS: usize = 16 << 20;

/// Reads the layout from a program's DWARF, and the wait reasons where there is a symbol table as well.
///
/// # Errors
///
/// The file has no DWARF of a Go runtime, or not all of the fields are in it.
pub fn from_dwarf(elf: &[u8]) -> Result<Layout, LayoutError> {
    within(elf, MAX_STEPS)
}

fn within(elf: &[u8], steps: u64) -> Result<Layout, LayoutError> {
    let file = File::parse(elf).map_err(|error| malformed("ELF file", &error))?;
    let count = file.elf_section_table().len();
    if count > MAX_SECTIONS {
        let (size, limit) = (count as u64, MAX_SECTIONS as u64);
        return Err(LayoutError::TooLarge { what: "section table", size, limit });
    }
    let sections = Sections::load(&file)?;
    let offsets = sections.offsets(steps)?;
    let layout =
        Layout::from_offsets(|key| offsets.get(key).copied(), wait_reasons(&file).unwrap_or_default())?;
    if layout.g.size == 0 || layout.g.size > MAX_G {
        return Err(malformed("DWARF", &format!("it says that a runtime.g has {} bytes", layout.g.size)));
    }
    Ok(layout)
}

fn malformed(what: &'static str, why: &impl ToString) -> LayoutError {
    LayoutError::Malformed { what, why: why.to_string() }
}

fn dwarf_error(error: gimli::Error) -> LayoutError {
    malformed("DWARF", &error)
}

/// A section by its name, or by the name that it has when it is compressed in the old way. Names are compared in
/// place: to look for the end of each would take as long as the file says.
fn by_name<'data, 'file>(
    file: &'file File<'data>,
    name: &str,
) -> Option<ElfSection64<'data, 'file, ElfEndian>> {
    let names = usize::try_from(file.elf_header().shstrndx(ElfEndian, file.data()).ok()?).ok()?;
    let names = file.elf_section_table().section(SectionIndex(names)).ok()?;
    let names = names.data(ElfEndian, file.data()).ok()?;
    let is = |start: usize| {
        let rest = names.get(start..)?;
        let rest = rest.strip_prefix(b".z").or_else(|| rest.strip_prefix(b"."))?;
        let rest = rest.strip_prefix(name.strip_prefix('.')?.as_bytes())?;
        (rest.first() == Some(&0)).then_some(())
    };
    let mut sections = file.elf_section_table().enumerate();
    let (index, _) = sections
        .find(|(_, section)| usize::try_from(section.sh_name(ElfEndian)).ok().and_then(is).is_some())?;
    file.section_by_index(index).ok()
}

/// A section's contents, decompressed; `None` if there is no such section.
fn section<'data>(
    file: &File<'data>,
    name: &'static str,
    left: &mut u64,
) -> Result<Option<Cow<'data, [u8]>>, LayoutError> {
    let Some(section) = by_name(file, name) else { return Ok(None) };
    let compressed = section.compressed_data().map_err(|error| malformed(name, &error))?;
    if compressed.format != CompressionFormat::None {
        let ratio = (compressed.data.len() as u64).saturating_mul(MAX_RATIO);
        let limit = ratio.min(*left);
        if compressed.uncompressed_size > limit {
            return Err(LayoutError::TooLarge { what: name, size: compressed.uncompressed_size, limit });
        }
        *left -= compressed.uncompressed_size;
    }
    compressed.decompress().map(Some).map_err(|error| malformed(name, &error))
}

/// The sections that declare types.
struct Sections<'data> {
    info: Cow<'data, [u8]>,
    abbrev: Cow<'data, [u8]>,
    str: Cow<'data, [u8]>,
    line_str: Cow<'data, [u8]>,
}

impl<'data> Sections<'data> {
    fn load(file: &File<'data>) -> Result<Self, LayoutError> {
        let mut left = MAX_SECTION;
        let mut section = |name| section(file, name, &mut left);
        Ok(Self {
            info: section(".debug_info")?.ok_or(LayoutError::NoDwarf)?,
            abbrev: section(".debug_abbrev")?.ok_or(LayoutError::NoDwarf)?,
            // Go writes all names in place; only a file rewritten by other tools has these.
            str: section(".debug_str")?.unwrap_or_default(),
            line_str: section(".debug_line_str")?.unwrap_or_default(),
        })
    }

    /// Every field's offset that the runtime's units give.
    fn offsets(&self, limit: u64) -> Result<HashMap<&'static str, u32>, LayoutError> {
        let strings = Strings { str: &self.str, line_str: &self.line_str };
        let steps = Steps { limit, done: Cell::new(0) };
        let mut tables = Tables { section: &self.abbrev, last: None, parsed: 0 };
        let mut headers = DebugInfo::new(&self.info, LittleEndian).units();
        while let Some(header) = headers.next().map_err(dwarf_error)? {
            let Some(abbreviations) = tables.get(header.debug_abbrev_offset().0) else { continue };
            let unit = Unit { header, abbreviations, strings, steps: &steps };
            match unit.name() {
                Ok(Some(b"runtime")) => {}
                // Another compiler's unit may have what is not understood here; it does not matter.
                Ok(_) | Err(LayoutError::Malformed { .. }) => continue,
                Err(error) => return Err(error),
            }
            let structures = unit.structures()?;
            // Each of the units for assembly has the name too, but no types.
            if structures.contains_key("runtime.g") {
                return unit.offsets(&structures);
            }
        }
        Err(LayoutError::NoRuntime { strukt: "runtime.g" })
    }
}

/// The tables of abbreviations, one at a time as neighbouring units share theirs.
struct Tables<'data> {
    section: &'data [u8],
    last: Option<(usize, Option<Abbreviations>)>,
    parsed: u32,
}

impl Tables<'_> {
    fn get(&mut self, offset: usize) -> Option<&Abbreviations> {
        if self.last.as_ref().is_none_or(|(known, _)| *known != offset) {
            if self.parsed >= MAX_TABLES {
                return None;
            }
            self.parsed += 1;
            self.last = Some((offset, self.parse(offset)));
        }
        self.last.as_ref()?.1.as_ref()
    }

    fn parse(&self, offset: usize) -> Option<Abbreviations> {
        let rest = self.section.get(offset..)?;
        let table = &rest[..rest.len().min(MAX_ABBREVIATIONS)];
        DebugAbbrev::new(table, LittleEndian).abbreviations(gimli::DebugAbbrevOffset(0)).ok()
    }
}

/// Where names live that are not written in place.
#[derive(Clone, Copy)]
struct Strings<'data> {
    str: &'data [u8],
    line_str: &'data [u8],
}

impl<'data> Strings<'data> {
    /// A name, unless it is longer than those that are searched for.
    fn get(&self, value: &AttributeValue<Bytes<'data>>) -> Option<&'data [u8]> {
        let (section, offset) = match *value {
            AttributeValue::String(name) => return Some(name.slice()),
            AttributeValue::DebugStrRef(offset) => (self.str, offset.0),
            AttributeValue::DebugLineStrRef(offset) => (self.line_str, offset.0),
            _ => return None,
        };
        let rest = section.get(offset..)?;
        rest[..rest.len().min(MAX_NAME)].split(|byte| *byte == 0).next().filter(|name| name.len() < MAX_NAME)
    }
}

/// A field of a structure as DWARF has it.
struct Member<'data> {
    name: &'data [u8],
    offset: u64,
    target: Option<UnitOffset>,
}

/// What a typedef stands for.
enum Type<'data> {
    Structure { size: Option<u64>, members: Vec<Member<'data>> },
    Pointer,
    Other,
}

/// The entries and attributes that have been looked at in all units.
struct Steps {
    limit: u64,
    done: Cell<u64>,
}

impl Steps {
    fn take(&self, count: u64) -> Result<(), LayoutError> {
        self.done.set(self.done.get() + count);
        if self.done.get() <= self.limit {
            Ok(())
        } else {
            Err(LayoutError::TooComplex { limit: self.limit })
        }
    }
}

/// A unit whose name has not been looked at, or is `runtime`.
struct Unit<'data, 'table> {
    header: UnitHeader<Bytes<'data>>,
    abbreviations: &'table Abbreviations,
    strings: Strings<'data>,
    steps: &'table Steps,
}

impl<'data, 'table> Unit<'data, 'table> {
    fn entries(&self, at: Option<UnitOffset>) -> Result<Entries<'data, 'table>, LayoutError> {
        self.header.entries_raw(self.abbreviations, at).map_err(dwarf_error)
    }

    /// Begins the next entry; `None` at the end of some entry's children. Attributes count as they may take no
    /// space in the file.
    fn begin(
        &self,
        entries: &mut Entries<'data, 'table>,
    ) -> Result<Option<&'table Abbreviation>, LayoutError> {
        let abbreviation = entries.read_abbreviation().map_err(dwarf_error)?;
        self.steps.take(1 + abbreviation.map_or(0, |known| known.attributes().len() as u64))?;
        Ok(abbreviation)
    }

    /// The name that the unit's root carries.
    fn name(&self) -> Result<Option<&'data [u8]>, LayoutError> {
        let mut entries = self.entries(None)?;
        let Some(abbreviation) = self.begin(&mut entries)? else { return Ok(None) };
        for &specification in abbreviation.attributes() {
            let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
            if attribute.name() == gimli::DW_AT_name {
                return Ok(self.strings.get(&attribute.value()));
            }
        }
        Ok(None)
    }

    /// Where the structures that we want are declared, by name.
    fn structures(&self) -> Result<HashMap<&'static str, UnitOffset>, LayoutError> {
        let mut wanted: Vec<&'static str> = FIELDS.iter().map(|field| field.strukt).collect();
        wanted.dedup();
        let mut found = HashMap::new();
        let mut entries = self.entries(None)?;
        while !entries.is_empty() && found.len() < wanted.len() {
            let offset = entries.next_offset();
            let Some(abbreviation) = self.begin(&mut entries)? else { continue };
            if abbreviation.tag() != gimli::DW_TAG_structure_type {
                entries.skip_attributes(abbreviation.attributes()).map_err(dwarf_error)?;
                continue;
            }
            for &specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
                if attribute.name() != gimli::DW_AT_name {
                    continue;
                }
                let name = self.strings.get(&attribute.value());
                if let Some(strukt) = wanted.iter().find(|strukt| name == Some(strukt.as_bytes())) {
                    found.entry(*strukt).or_insert(offset);
                }
            }
        }
        Ok(found)
    }

    fn offsets(
        &self,
        structures: &HashMap<&'static str, UnitOffset>,
    ) -> Result<HashMap<&'static str, u32>, LayoutError> {
        let mut offsets = HashMap::new();
        // Many fields share a structure; each is read once.
        let mut types = HashMap::new();
        for field in FIELDS {
            let Some(&start) = structures.get(field.strukt) else { continue };
            for path in field.paths {
                if let Some(offset) = self.follow(&mut types, start, path)? {
                    offsets.insert(field.key, offset);
                    break;
                }
            }
        }
        Ok(offsets)
    }

    /// The offset of a path from a structure's start, if all of its names are there.
    fn follow(
        &self,
        types: &mut HashMap<UnitOffset, Type<'data>>,
        start: UnitOffset,
        path: &str,
    ) -> Result<Option<u32>, LayoutError> {
        let (path, pointer) = match path.strip_prefix('*') {
            Some(path) => (path, true),
            None => (path, false),
        };
        let mut at = Some(start);
        let mut total = 0u64;
        for name in path.split('.') {
            let Some(offset) = at else { return Ok(None) };
            let Type::Structure { size, members } = self.look(types, offset)? else { return Ok(None) };
            if name == SIZE {
                return Ok(size.and_then(believable));
            }
            let Some(member) = members.iter().find(|member| member.name == name.as_bytes()) else {
                return Ok(None);
            };
            total = total.saturating_add(member.offset);
            at = member.target;
        }
        if pointer {
            let Some(offset) = at else { return Ok(None) };
            if !matches!(self.look(types, offset)?, Type::Pointer) {
                return Ok(None);
            }
        }
        Ok(believable(total))
    }

    /// A type, read once.
    fn look<'known>(
        &self,
        types: &'known mut HashMap<UnitOffset, Type<'data>>,
        offset: UnitOffset,
    ) -> Result<&'known Type<'data>, LayoutError> {
        use std::collections::hash_map::Entry;
        match types.entry(offset) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(new) => Ok(new.insert(self.read_type(offset)?)),
        }
    }

    fn read_type(&self, mut offset: UnitOffset) -> Result<Type<'data>, LayoutError> {
        for _ in 0..MAX_TYPEDEFS {
            let mut entries = self.entries(Some(offset))?;
            let Some(abbreviation) = self.begin(&mut entries)? else { return Ok(Type::Other) };
            let (mut size, mut target) = (None, None);
            for &specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
                match attribute.name() {
                    gimli::DW_AT_byte_size => size = attribute.udata_value(),
                    gimli::DW_AT_type => target = self.reference(&attribute.value()),
                    _ => {}
                }
            }
            match (abbreviation.tag(), target) {
                (gimli::DW_TAG_structure_type, _) => {
                    let members =
                        if abbreviation.has_children() { self.members(&mut entries)? } else { Vec::new() };
                    return Ok(Type::Structure { size, members });
                }
                (gimli::DW_TAG_pointer_type, _) => return Ok(Type::Pointer),
                (gimli::DW_TAG_typedef, Some(next)) => offset = next,
                _ => return Ok(Type::Other),
            }
        }
        Ok(Type::Other)
    }

    /// The members that follow a structure's own attributes.
    fn members(&self, entries: &mut Entries<'data, 'table>) -> Result<Vec<Member<'data>>, LayoutError> {
        let depth = entries.next_depth();
        let mut members = Vec::new();
        for _ in 0..MAX_ENTRIES {
            if entries.is_empty() || entries.next_depth() < depth {
                break;
            }
            let direct = entries.next_depth() == depth;
            let Some(abbreviation) = self.begin(entries)? else { continue };
            if !direct || abbreviation.tag() != gimli::DW_TAG_member {
                entries.skip_attributes(abbreviation.attributes()).map_err(dwarf_error)?;
                continue;
            }
            let (mut name, mut offset, mut target) = (None, None, None);
            for &specification in abbreviation.attributes() {
                let attribute = entries.read_attribute(specification).map_err(dwarf_error)?;
                match attribute.name() {
                    gimli::DW_AT_name => name = self.strings.get(&attribute.value()),
                    gimli::DW_AT_data_member_location => offset = attribute.udata_value(),
                    gimli::DW_AT_type => target = self.reference(&attribute.value()),
                    _ => {}
                }
            }
            // A location that is an expression would have to be computed; Go's are constants.
            if let (Some(name), Some(offset)) = (name, offset) {
                members.push(Member { name, offset, target });
            }
        }
        Ok(members)
    }

    fn reference(&self, value: &AttributeValue<Bytes<'data>>) -> Option<UnitOffset> {
        match *value {
            AttributeValue::UnitRef(offset) => Some(offset),
            AttributeValue::DebugInfoRef(offset) => offset.to_unit_offset(&self.header),
            _ => None,
        }
    }
}

fn believable(offset: u64) -> Option<u32> {
    u32::try_from(offset).ok().filter(|_| offset <= MAX_OFFSET)
}

/// The texts of `runtime.waitReasonStrings`, an array of Go strings in the program's data (runtime2.go).
fn wait_reasons(file: &File<'_>) -> Option<Vec<String>> {
    const NAME: &[u8] = b"runtime.waitReasonStrings\0";
    let endian = ElfEndian;
    let symbols = file.elf_symbol_table();
    let names =
        file.elf_section_table().section(symbols.string_section()).ok()?.data(endian, file.data()).ok()?;
    // The array's size tells it from almost all others without looking at names.
    let sizes = 16..=16 * MAX_WAIT_REASONS;
    let symbol = symbols.iter().find(|symbol| {
        let size = symbol.st_size(endian);
        let name = usize::try_from(symbol.st_name(endian)).ok().and_then(|start| names.get(start..));
        sizes.contains(&size) && size % 16 == 0 && name.is_some_and(|name| name.starts_with(NAME))
    })?;
    let (address, size) = (symbol.st_value(endian), symbol.st_size(endian));
    let array = data(file, address, size)?;
    let relocations = relocations(file, address, size);
    let mut texts = Vec::new();
    for (index, entry) in array.as_chunks::<16>().0.iter().enumerate() {
        let (pointer, length) = entry.split_at(8);
        let place = address.wrapping_add(index as u64 * 16);
        let pointer = match relocations.get(&place) {
            Some(&address) => address,
            None => u64::from_le_bytes(pointer.try_into().ok()?),
        };
        let length = u64::from_le_bytes(length.try_into().ok()?);
        if length > MAX_WAIT_REASON {
            return None;
        }
        let text = if length == 0 { &[] } else { data(file, pointer, length)? };
        texts.push(str::from_utf8(text).ok()?.to_owned());
    }
    Some(texts)
}

/// Bytes of the file by the address that they are loaded at.
fn data<'data>(file: &File<'data>, address: u64, size: u64) -> Option<&'data [u8]> {
    file.segments().find_map(|segment| segment.data_range(address, size).ok().flatten())
}

/// The words in a range that the loader sets, in a position-independent program, whose file has nothing there.
fn relocations(file: &File<'_>, address: u64, size: u64) -> HashMap<u64, u64> {
    let endian = ElfEndian;
    let relative = match file.elf_header().e_machine(endian) {
        EM_X86_64 => R_X86_64_RELATIVE,
        EM_AARCH64 => R_AARCH64_RELATIVE,
        _ => return HashMap::new(),
    };
    let mut found = HashMap::new();
    let mut left = MAX_RELOCATIONS;
    for section in file.elf_section_table().iter() {
        if section.sh_type(endian) != SHT_RELA {
            continue;
        }
        let Ok(Some((entries, _))) = section.rela(endian, file.data()) else { continue };
        for entry in entries.iter().take(left) {
            let place = entry.r_offset.get(endian);
            let inside = place.checked_sub(address).is_some_and(|distance| distance < size);
            if inside && entry.r_type(endian, false) == relative {
                found.insert(place, entry.r_addend.get(endian).cast_unsigned());
            }
        }
        left = left.saturating_sub(entries.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_elf_file_is_refused() {
        for bytes in [&b""[..], b"\x7fELF", b"\x7fELF\x02\x01\x01", &[0; 64], &[0xff; 4096]] {
            assert!(matches!(from_dwarf(bytes), Err(LayoutError::Malformed { .. })), "{bytes:?}");
        }
    }

    /// An ELF file with the given sections and nothing else.
    fn elf(sections: &[(&str, &[u8], u64)]) -> Vec<u8> {
        let mut names = b"\0.shstrtab\0".to_vec();
        let mut body = vec![0; 64];
        let mut headers = vec![[0u64; 10]];
        for (name, contents, flags) in sections {
            headers.push([
                names.len() as u64,
                1,
                *flags,
                0,
                body.len() as u64,
                contents.len() as u64,
                0,
                0,
                1,
                0,
            ]);
            names.extend(name.as_bytes());
            names.push(0);
            body.extend(*contents);
        }
        headers.push([1, 3, 0, 0, body.len() as u64, names.len() as u64, 0, 0, 1, 0]);
        body.extend(&names);
        let table = body.len() as u64;
        for header in &headers {
            for (index, value) in header.iter().enumerate() {
                // The name, the type, the link and the info are half as wide as the rest.
                let width = if matches!(index, 0 | 1 | 6 | 7) { 4 } else { 8 };
                body.extend(&value.to_le_bytes()[..width]);
            }
        }
        body[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
        body[20] = 1;
        body[40..48].copy_from_slice(&table.to_le_bytes());
        body[52..64].copy_from_slice(&[
            64,
            0,
            56,
            0,
            0,
            0,
            64,
            0,
            headers.len() as u8,
            0,
            headers.len() as u8 - 1,
            0,
        ]);
        body
    }

    /// A unit `runtime` of DWARF 4 with the given entries, and abbreviations for it.
    fn unit(entries: &[u8]) -> (Vec<u8>, &'static [u8]) {
        let abbreviations: &[u8] = &[
            1, 0x11, 1, 0x03, 0x08, 0, 0, // a unit: name
            2, 0x13, 1, 0x03, 0x08, 0x0b, 0x0b, 0, 0, // a structure: name, size
            3, 0x0d, 0, 0x03, 0x08, 0x38, 0x0f, 0x49, 0x13, 0, 0, // a member: name, location, type
            4, 0x16, 0, 0x03, 0x08, 0x49, 0x13, 0, 0, // a typedef: name, type
            0,
        ];
        let mut body = vec![4, 0, 0, 0, 0, 0, 8, 1];
        body.extend(b"runtime\0");
        body.extend(entries);
        body.push(0);
        let mut info = (body.len() as u32).to_le_bytes().to_vec();
        info.extend(body);
        (info, abbreviations)
    }

    fn read(entries: &[u8]) -> Result<Layout, LayoutError> {
        let (info, abbreviations) = unit(entries);
        from_dwarf(&elf(&[(".debug_info", &info, 0), (".debug_abbrev", abbreviations, 0)]))
    }

    /// `runtime.g` with one member at 7 whose type is at the given place of the unit.
    fn structure(member: &[u8], target: u32) -> Vec<u8> {
        let mut bytes = b"\x02runtime.g\0\x40\x03".to_vec();
        bytes.extend(member);
        bytes.extend([0, 7]);
        bytes.extend(target.to_le_bytes());
        bytes.push(0);
        bytes
    }

    fn missing(result: Result<Layout, LayoutError>) -> Vec<&'static str> {
        match result {
            Err(LayoutError::Incomplete { missing }) => missing,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_without_dwarf_says_so() {
        assert_eq!(from_dwarf(&elf(&[])), Err(LayoutError::NoDwarf));
        assert_eq!(from_dwarf(&elf(&[(".debug_info", b"", 0)])), Err(LayoutError::NoDwarf));
    }

    #[test]
    fn dwarf_of_something_else_says_so() {
        assert!(matches!(read(b""), Err(LayoutError::NoRuntime { .. })));
    }

    #[test]
    fn what_is_there_is_found_and_the_rest_is_named() {
        let missing = missing(read(&structure(b"goid", 0)));
        assert!(!missing.contains(&"g.goid") && !missing.contains(&"g.size"), "{missing:?}");
        assert!(missing.contains(&"g.m") && missing.contains(&"hchan.qcount"), "{missing:?}");
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        // `sched` is of the type that it is in, at byte 20 of the unit.
        let missing = missing(read(&structure(b"sched", 20)));
        assert!(missing.contains(&"g.sched_sp"), "{missing:?}");
    }

    #[test]
    fn a_typedef_of_itself_ends() {
        let mut entries = structure(b"sched", 0);
        let typedef = 20 + entries.len() as u32;
        let target = entries.len() - 5;
        entries[target..target + 4].copy_from_slice(&typedef.to_le_bytes());
        entries.extend(b"\x04runtime.gobuf\0");
        entries.extend(typedef.to_le_bytes());
        assert!(missing(read(&entries)).contains(&"g.sched_sp"));
    }

    #[test]
    fn a_type_outside_of_the_unit_is_an_error_or_missing() {
        for target in [0, 19, 0xffff, u32::MAX] {
            assert!(read(&structure(b"sched", target)).is_err());
        }
    }

    #[test]
    fn any_truncation_or_damage_is_an_error() {
        let (info, abbreviations) = unit(&structure(b"sched", 20));
        let whole = elf(&[(".debug_info", &info, 0), (".debug_abbrev", abbreviations, 0)]);
        for length in 0..whole.len() {
            assert!(from_dwarf(&whole[..length]).is_err());
        }
        for index in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[index] = value;
                assert!(from_dwarf(&damaged).is_err());
            }
        }
    }

    #[test]
    fn endless_work_is_refused() {
        // Every entry is one byte long and has a thousand attributes that take no space.
        let mut abbreviations = vec![1, 0x11, 1, 0x03, 0x08, 0, 0, 2, 0x24, 0];
        abbreviations.extend([0x3f, 0x19].repeat(1000));
        abbreviations.extend([0, 0, 0]);
        let (info, _) = unit(&[2; 100_000]);
        let file = elf(&[(".debug_info", &info, 0), (".debug_abbrev", &abbreviations, 0)]);
        assert_eq!(within(&file, 1 << 20), Err(LayoutError::TooComplex { limit: 1 << 20 }));
    }

    #[test]
    fn a_file_of_sections_is_refused() {
        let mut file = elf(&[]);
        file.resize(1 << 20, 0);
        file[60..62].copy_from_slice(&1000u16.to_le_bytes());
        let error = from_dwarf(&file);
        assert!(matches!(error, Err(LayoutError::TooLarge { what: "section table", .. })), "{error:?}");
    }

    #[test]
    fn a_compressed_section_is_not_believed_its_size() {
        let mut bomb = vec![1, 0, 0, 0, 0, 0, 0, 0];
        bomb.extend(u64::MAX.to_le_bytes());
        bomb.extend(1u64.to_le_bytes());
        bomb.extend([0; 32]);
        let error = from_dwarf(&elf(&[(".debug_info", &bomb, 0x800), (".debug_abbrev", b"\0", 0)]));
        assert!(matches!(error, Err(LayoutError::TooLarge { size: u64::MAX, .. })), "{error:?}");
    }
}
