//! Core files: headers, notes, registers, mapped files.
#![no_main]

use gotrail_fuzz::{CORES, file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(bytes) = file(&CORES, input) {
        gotrail::fuzzing::core_file(&bytes);
    }
});
