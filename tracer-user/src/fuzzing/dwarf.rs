//! Small files with the DWARF of a real program: in a whole one it is compressed, and what is done to it would be
//! noticed by the decompression alone.

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSection as _};

/// An ELF file of sections and nothing else.
fn elf(machine: u16, sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    const HEADER: usize = 64;
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut body = vec![0; HEADER];
    let mut headers = vec![[0_u64; 10]];
    for (name, contents) in sections {
        headers.push([names.len() as u64, 1, 0, 0, body.len() as u64, contents.len() as u64, 0, 0, 1, 0]);
        names.extend(name.as_bytes());
        names.push(0);
        body.extend(contents);
    }
    headers.push([1, 3, 0, 0, body.len() as u64, names.len() as u64, 0, 0, 1, 0]);
    body.extend(&names);
    let table = body.len() as u64;
    for header in &headers {
        for (index, value) in header.iter().enumerate() {
            // The name, the type, the link and the info are half as wide as the rest.
            let width = if matches!(index, 0 | 1 | 6 | 7) { 4 } else { 8 };
            body.extend(value.to_le_bytes().iter().take(width));
        }
    }
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0".to_vec();
    header.extend(machine.to_le_bytes());
    header.extend([1, 0, 0, 0]);
    header.extend([0; 16]);
    header.extend(table.to_le_bytes());
    for half in [0, 0, 64, 56, 0, 64, headers.len() as u16, headers.len() as u16 - 1] {
        header.extend(half.to_le_bytes());
    }
    body.splice(..HEADER, header);
    body
}

/// The DWARF that types are declared in, decompressed, as a file of its own.
#[must_use]
pub fn dwarf_only(program: &[u8]) -> Option<Vec<u8>> {
    let file = ElfFile64::<LittleEndian>::parse(program).ok()?;
    let machine = file.elf_header().e_machine.get(LittleEndian);
    let sections: Vec<(&str, Vec<u8>)> = [".debug_info", ".debug_abbrev"]
        .into_iter()
        .filter_map(|name| Some((name, file.section_by_name(name)?.uncompressed_data().ok()?.into_owned())))
        .collect();
    (sections.len() == 2).then(|| elf(machine.0, &sections))
}
