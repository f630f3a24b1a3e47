//! Tables whose parts are shared, so that a small file says far more than it holds.

use std::fs;
use std::ops::Range;

use gotrail::fuzzing;
use gotrail_tests::damage::Executable;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{OLDEST_AND_NEWEST, builds};
use gotrail_tests::needs;

use crate::limits::bounded;

/// Offsets in the header of the function table (`pcHeader`, runtime/symtab.go), and of it in a function's record.
const NUMBER: usize = 8;
const NAMES: usize = 8 + 3 * 8;
const UNITS: usize = 8 + 4 * 8;
const VALUES: usize = 8 + 6 * 8;
const FUNCTIONS: usize = 8 + 7 * 8;

struct Table {
    file: Executable,
    at: usize,
}

impl Table {
    fn word(&self, at: usize) -> usize {
        let bytes = self.file.bytes[self.at + at..][..8].try_into().unwrap();
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    }

    fn part(&self, from: usize, to: usize) -> Range<usize> {
        self.at + self.word(from)..self.at + self.word(to)
    }

    /// Where the records of all functions are.
    fn records(&self) -> Vec<usize> {
        let functions = self.at + self.word(FUNCTIONS);
        let offset = |entry: usize| {
            let bytes = self.file.bytes[functions + entry * 8 + 4..][..4].try_into().unwrap();
            functions + u32::from_le_bytes(bytes) as usize
        };
        (0..self.word(NUMBER)).map(offset).collect()
    }
}

fn each_table(change: impl Fn(&mut Table)) {
    for build in builds("spawn", &OLDEST_AND_NEWEST, &["stripped"]).unwrap() {
        let file = Executable::new(fs::read(&build.path).unwrap()).unwrap();
        let at = file.section(".gopclntab").unwrap().start;
        let mut table = Table { file, at };
        change(&mut table);
        let bytes = table.file.bytes;
        bounded(&build.to_string(), bytes.len(), || fuzzing::program(bytes.as_slice().into()));
    }
}

#[test]
fn fail_1_names_without_an_end_take_no_time() {
    needs!(Need::Fixtures);
    each_table(|table| {
        let names = table.part(NAMES, UNITS);
        table.file.bytes[names].fill(b'a');
    });
}

#[test]
fn fail_1_functions_that_share_a_name_take_no_time() {
    needs!(Need::Fixtures);
    each_table(|table| {
        let names = table.part(NAMES, UNITS);
        table.file.bytes[names.clone()].fill(b'a');
        table.file.bytes[names.start..names.start + 8].copy_from_slice(b"runtime.");
        table.file.bytes[names.start + 4000] = 0;
        for record in table.records() {
            table.file.overwrite(record + 4, &[0; 4]).unwrap();
        }
    });
}

#[test]
fn fail_1_tables_without_an_end_take_no_time() {
    needs!(Need::Fixtures);
    // An entry for each byte of code, with a value one higher each time, or the same back and forth.
    for entry in [[2, 1], [1, 1], [2, 0x7f], [0, 1]] {
        each_table(|table| {
            let values = table.part(VALUES, FUNCTIONS);
            for pair in table.file.bytes[values].as_chunks_mut::<2>().0 {
                *pair = entry;
            }
        });
    }
}
