//! The texts of wait reasons, from the program's data.

use std::collections::HashMap;

use object::elf::{EM_AARCH64, EM_X86_64, R_AARCH64_RELATIVE, R_X86_64_RELATIVE, SHT_RELA};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{LittleEndian as ElfEndian, Object, ObjectSegment};

use super::File;

/// `runtime.waitReasonStrings` has about 45 texts of at most 30 bytes.
const MAX_WAIT_REASONS: u64 = 255;
const MAX_WAIT_REASON: u64 = 256;
/// Words that the loader sets; a program of 125 MB has some million.
const MAX_RELOCATIONS: usize = 16 << 20;

/// The texts of `runtime.waitReasonStrings`, an array of Go strings in the program's data (runtime2.go).
pub(super) fn read(file: &File<'_>) -> Option<Vec<String>> {
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
