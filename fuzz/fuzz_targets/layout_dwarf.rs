//! The layout of the runtime's structures from DWARF.
#![no_main]

use gotrail_fuzz::{DWARF, file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(bytes) = file(&DWARF, input) {
        gotrail::fuzzing::layout_dwarf(&bytes);
    }
});
