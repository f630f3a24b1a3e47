use super::*;

/// An ELF file of program headers alone: kind, offset, address, size in the file and in memory.
fn elf(headers: &[(u32, u64, u64, u64, u64)], len: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([0; 8]);
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend([0; 12]);
    for half in [64, 56, headers.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for (kind, offset, address, in_file, in_memory) in headers {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(6_u32.to_le_bytes());
        for word in [*offset, *address, *address, *in_file, *in_memory, 1] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.resize(len.max(bytes.len()), 0);
    bytes
}

fn refusal(headers: &[(u32, u64, u64, u64, u64)]) -> String {
    Image::parse(elf(headers, 1 << 16).into()).map(drop).unwrap_err().to_string()
}

#[test]
fn segments_that_hold_the_file_over_and_over_are_refused() {
    let once = |at: u64| (PT_LOAD.0, 0, at << 32, 1 << 16, 1 << 16);
    assert!(Image::parse(elf(&[once(1), once(2)], 1 << 16).into()).is_ok());
    assert!(refusal(&(1..60).map(once).collect::<Vec<_>>()).contains("overlap"));
    // One that was cut is told by that.
    let cut = |at: u64| (PT_LOAD.0, at << 16, at << 32, 1 << 16, 1 << 16);
    assert!(refusal(&(0..60).map(cut).collect::<Vec<_>>()).contains("cut short"));
}

#[test]
fn segments_beyond_the_address_space_are_refused() {
    for (offset, address) in [(u64::MAX, 0x40_0000), (0, u64::MAX)] {
        assert!(refusal(&[(PT_LOAD.0, offset, address, 4096, 4096)]).contains("address space"));
    }
    let last = [(PT_LOAD.0, 0, u64::MAX - 4096, 4096, 4096)];
    let image = Image::parse(elf(&last, 1 << 16).into()).unwrap();
    assert_eq!(image.read(u64::MAX - 4096, 4096).map(|bytes| bytes.len()), Some(4096));
    assert_eq!(image.read(u64::MAX - 4, 8), None);
    assert_eq!(image.file_offset(u64::MAX), None);
}

#[test]
fn a_build_id_of_any_length_is_not_believed() {
    for (len, expected) in [(20_u32, true), (4096, false)] {
        let mut bytes = elf(&[(PT_NOTE.0, 4096, 0, u64::from(len) + 16, 0)], 1 << 16);
        let note = [4_u32.to_le_bytes(), len.to_le_bytes(), 3_u32.to_le_bytes(), *b"GNU\0"].concat();
        bytes[4096..4112].copy_from_slice(&note);
        let image = Image::parse(bytes.into()).unwrap();
        assert_eq!(image.gnu_build_id().is_some(), expected, "{len}");
    }
}
