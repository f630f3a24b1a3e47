//! The sections that declare types, decompressed, and what is read in them beside the entries.

use std::borrow::Cow;

use gimli::{Abbreviations, AttributeValue, DebugAbbrev, LittleEndian};
use object::read::elf::{ElfSection64, FileHeader, SectionHeader};
use object::{CompressionFormat, LittleEndian as ElfEndian, Object, ObjectSection, SectionIndex};

use super::{Bytes, File, malformed};
use crate::binary::layout::LayoutError;

/// The decompressed sections may have this size together: `.debug_info` of a program of 125 MB has a quarter of it.
const MAX_SECTION: u64 = 256 << 20;
/// DEFLATE can't do better than this, Zstandard hardly does on DWARF.
const MAX_RATIO: u64 = 1100;
/// A unit's table of abbreviations; Go's has some hundred bytes, those of C++ some thousand.
const MAX_ABBREVIATIONS: usize = 64 << 10;
/// Go's units share one table of abbreviations, each C unit of a cgo program has its own.
const MAX_TABLES: u32 = 4 << 10;
/// Longer than any name that is searched for.
const MAX_NAME: usize = 64;

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
pub(super) struct Sections<'data> {
    pub(super) info: Cow<'data, [u8]>,
    pub(super) abbrev: Cow<'data, [u8]>,
    pub(super) str: Cow<'data, [u8]>,
    pub(super) line_str: Cow<'data, [u8]>,
}

impl<'data> Sections<'data> {
    pub(super) fn load(file: &File<'data>) -> Result<Self, LayoutError> {
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
}

/// The tables of abbreviations, one at a time as neighbouring units share theirs.
pub(super) struct Tables<'data> {
    pub(super) section: &'data [u8],
    pub(super) last: Option<(usize, Option<Abbreviations>)>,
    pub(super) parsed: u32,
}

impl Tables<'_> {
    pub(super) fn get(&mut self, offset: usize) -> Option<&Abbreviations> {
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
pub(super) struct Strings<'data> {
    pub(super) str: &'data [u8],
    pub(super) line_str: &'data [u8],
}

impl<'data> Strings<'data> {
    /// A name, unless it is longer than those that are searched for.
    pub(super) fn get(&self, value: &AttributeValue<Bytes<'data>>) -> Option<&'data [u8]> {
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
