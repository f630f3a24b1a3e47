//! The layout from a program's own DWARF.
//!
//! Go's linker puts the types of the whole program into one unit called `runtime`, beside other units of the
//! same name for that package's assembly files (cmd/link/internal/ld/dwarf.go); only these are read. A named
//! type is a structure with its fields and a typedef of the same name.
//!
//! The file is the target's and may be hostile: every loop is bounded by the file's size or by a constant below,
//! and nothing is allocated on the word of a header alone.

use std::cell::Cell;
use std::collections::HashMap;

use gimli::{DebugInfo, EndianSlice, EntriesRaw, LittleEndian};
use object::LittleEndian as ElfEndian;
use object::read::elf::ElfFile64;

use self::sections::{Sections, Strings, Tables};
use self::unit::{Steps, Unit};
use super::{Layout, LayoutError};

mod sections;
#[cfg(test)]
mod tests;
mod unit;
mod wait_reasons;

type Bytes<'data> = EndianSlice<'data, LittleEndian>;
type Entries<'data, 'table> = EntriesRaw<'table, Bytes<'data>>;
type File<'data> = ElfFile64<'data, ElfEndian>;

/// A Go program has some 40 sections.
const MAX_SECTIONS: usize = 512;
/// The entries and attributes that are looked at; a program of 125 MB has less than a tenth of it.
const MAX_STEPS: u64 = 1 << 28;
/// `runtime.g` has some 500 bytes; many are read at once.
const MAX_G: u32 = 4096;

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
        Layout::from_offsets(|key| offsets.get(key).copied(), wait_reasons::read(&file).unwrap_or_default())?;
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

impl Sections<'_> {
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
