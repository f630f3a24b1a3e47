//! Core files that are made here.

use proptest::prelude::*;

use super::made::{AARCH64, Header, PT_LOAD, PT_NOTE, X86_64, core, note, status, with_notes};
use super::*;

fn refusal(bytes: Vec<u8>) -> String {
    CoreFile::parse(bytes).unwrap_err().to_string()
}

#[test]
fn segments_are_found_by_address_and_what_was_not_written_is_told() {
    let headers = [
        (PT_LOAD, 5, 8192, 0x50_0000, 0, 0x3000),
        (PT_LOAD, 6, 4096, 0x40_0000, 4096, 0x2000),
        (PT_LOAD, 6, 8192, 0x40_2000, 4096, 4096),
    ];
    let core = CoreFile::parse(core(X86_64, &headers, 12288)).unwrap();
    assert_eq!(core.machine(), Machine::X86_64);
    assert_eq!(core.segment(0x40_0fff).unwrap().file_size, 4096);
    assert_eq!(core.segment(0x40_1fff).unwrap().address, 0x40_0000);
    assert_eq!(core.segment(0x40_2000).unwrap().offset, 8192);
    let code = core.segment(0x50_2fff).unwrap();
    assert!(code.executable && !code.writable && code.file_size == 0);
    for outside in [0, 0x3f_ffff, 0x40_3000, 0x50_3000, u64::MAX] {
        assert_eq!(core.segment(outside), None, "{outside:#x}");
    }
    assert_eq!(core.cut(), None);
}

#[test]
fn registers_of_both_machines() {
    // The sizes of the kernel's structures, for 64 bits.
    let x86 = status(336, 7, 11, &[(16, 0x40_1234), (19, 0xc0_0000_1000)]);
    let read = CoreFile::parse(with_notes(X86_64, &[x86])).unwrap();
    let registers = Registers { pc: 0x40_1234, sp: 0xc0_0000_1000, link: None };
    assert_eq!(read.threads(), [CoreThread { id: 7, registers }]);
    assert_eq!(read.signal().unwrap().number, 11);

    let arm = status(392, 8, 6, &[(30, 0x1111), (31, 0x2000), (32, 0x3333)]);
    let other = status(392, 9, 6, &[(30, 1), (31, 2), (32, 3)]);
    let read = CoreFile::parse(with_notes(AARCH64, &[arm, other])).unwrap();
    assert_eq!(read.machine(), Machine::Aarch64);
    let registers = Registers { pc: 0x3333, sp: 0x2000, link: Some(0x1111) };
    assert_eq!(read.threads()[0], CoreThread { id: 8, registers });
    assert_eq!(read.threads()[1].id, 9);
}

#[test]
fn the_signal_of_the_first_thread_is_that_of_the_process() {
    let siginfo = |number: i32, code: i32, word: u64| {
        let mut desc = vec![0; 128];
        desc[..4].copy_from_slice(&number.to_le_bytes());
        desc[8..12].copy_from_slice(&code.to_le_bytes());
        desc[16..24].copy_from_slice(&word.to_le_bytes());
        note(0x5349_4749, &desc)
    };
    let threads = [status(336, 1, 11, &[]), siginfo(11, 1, 0xdead), status(336, 2, 5, &[]), siginfo(5, 1, 1)];
    let signal = CoreFile::parse(with_notes(X86_64, &threads)).unwrap().signal().unwrap();
    let expected = CoreSignal { number: 11, code: Some(1), address: Some(0xdead), sender: None };
    assert_eq!(signal, expected);
    // SI_TKILL.
    let sent = [status(336, 1, 6, &[]), siginfo(6, -6, 4711)];
    let signal = CoreFile::parse(with_notes(X86_64, &sent)).unwrap().signal().unwrap();
    assert_eq!((signal.address, signal.sender), (None, Some(4711)));
    // gcore's, of a process that goes on.
    assert_eq!(CoreFile::parse(with_notes(X86_64, &[status(336, 1, 0, &[])])).unwrap().signal(), None);
}

#[test]
fn the_executable_is_the_file_that_is_mapped_where_the_process_began() {
    let mut files = [2_u64, 4096].map(u64::to_le_bytes).concat();
    for word in [0x40_0000_u64, 0x48_0000, 1, 0x7f00_0000_0000, 0x7f00_0001_0000, 0] {
        files.extend(word.to_le_bytes());
    }
    files.extend(b"/srv/shop (deleted)\0/lib/libc.so\0");
    let auxv = [3_u64, 0x40_0040, 9, 0x46_1234, 0, 0].map(u64::to_le_bytes).concat();
    let core = CoreFile::parse(with_notes(X86_64, &[note(6, &auxv), note(0x4649_4c45, &files)])).unwrap();
    let executable = core.executable().unwrap();
    assert_eq!((executable.path.as_str(), executable.offset), ("/srv/shop (deleted)", 4096));
    assert_eq!(core.files().len(), 2);
}

#[test]
fn more_segments_than_a_header_can_number_are_counted_in_a_section() {
    const SEGMENTS: u32 = 70_000;
    let header = |index: u32| (PT_LOAD, 6, 0, 0x1_0000 + u64::from(index) * 0x1000, 0, 0x1000);
    let mut bytes = core(X86_64, &(0..SEGMENTS).map(header).collect::<Vec<_>>(), 0);
    let section = bytes.len() as u64;
    bytes[40..48].copy_from_slice(&section.to_le_bytes());
    bytes[56..58].copy_from_slice(&0xffff_u16.to_le_bytes());
    let mut info = [0; 64];
    info[44..48].copy_from_slice(&SEGMENTS.to_le_bytes());
    bytes.extend(info);
    let core = CoreFile::parse(bytes.clone()).unwrap();
    assert_eq!(core.segments().len(), SEGMENTS as usize);
    assert!(core.segment(0x1_0000 + 69_999 * 0x1000).is_some());
    bytes.truncate(bytes.len() - 64);
    assert!(refusal(bytes).contains("number of segments"));
}

#[test]
fn a_core_that_is_cut_short_says_how_much_of_memory_is_missing() {
    let headers = [(PT_LOAD, 6, 4096, 0x40_0000, 8192, 8192), (PT_LOAD, 6, 12288, 0x50_0000, 4096, 4096)];
    let whole = core(X86_64, &headers, 16384);
    assert_eq!(CoreFile::parse(whole.clone()).unwrap().cut(), None);
    let cut = CoreFile::parse(whole[..8192].to_vec()).unwrap().cut();
    assert_eq!(cut, Some(Cut { size: 8192, expected: 16384, missing: 8192 }));
    assert!(refusal(whole[..100].to_vec()).contains("within the table of its 2 segments"));
    assert!(refusal(whole[..40].to_vec()).contains("first header"));
    assert!(refusal(whole[..3].to_vec()).contains("too short"));
}

#[test]
fn what_is_no_core_of_a_known_machine_is_refused_in_words() {
    let good = core(X86_64, &[(PT_LOAD, 6, 0, 0x40_0000, 64, 64)], 4096);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        refusal(bytes)
    };
    assert!(with(0, 0).contains("no ELF file"));
    assert!(with(4, 1).contains("32-bit"));
    assert!(with(5, 2).contains("big-endian"));
    assert!(with(16, 2).contains("gotrail inspect"));
    assert!(with(18, 8).contains("ELF machine 8"));
    assert!(with(54, 55).contains("55 bytes each"));
    let segment = |header: Header| refusal(core(X86_64, &[header, header], 4096));
    assert!(segment((PT_LOAD, 6, 0, u64::MAX, 64, 64)).contains("address space"));
    assert!(segment((PT_LOAD, 6, u64::MAX, 0x40_0000, 64, 64)).contains("address space"));
    assert!(segment((PT_LOAD, 6, 0, 0x40_0000, 64, 64)).contains("overlap"));
    assert!(segment((PT_NOTE, 6, 0, 0, 0, 0)).contains("no memory"));
}

#[test]
fn notes_that_end_before_they_should_are_told_and_the_rest_kept() {
    let whole = with_notes(X86_64, &[status(336, 1, 11, &[]), status(336, 2, 0, &[])]);
    let core = CoreFile::parse(whole[..512 + 400].to_vec()).unwrap();
    assert!(core.notes_cut() && core.threads().len() == 1);
    assert!(!CoreFile::parse(whole).unwrap().notes_cut());
}

proptest! {
    #[test]
    fn no_bytes_break_it(mut bytes in prop::collection::vec(any::<u8>(), 0..600), notes in any::<bool>()) {
        let kinds = [1_u32, 3, 6, 0x5349_4749, 0x4649_4c45];
        let good = with_notes(X86_64, &kinds.map(|kind| note(kind, &bytes)));
        let core = CoreFile::parse(good).unwrap();
        prop_assert!(core.threads().len() <= 1);
        if notes {
            bytes.splice(0..0, core_begin());
        }
        drop(CoreFile::parse(bytes));
    }
}

fn core_begin() -> Vec<u8> {
    core(X86_64, &[(PT_LOAD, 6, 0, 0x40_0000, 64, 64)], 64)[..60].to_vec()
}
