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
