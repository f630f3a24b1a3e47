//! The headers of an ELF file, and what the linker recorded of the build.
#![no_main]

use gotrail_fuzz::{PROGRAMS, file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(bytes) = file(&PROGRAMS, input) {
        gotrail::fuzzing::build_info(&bytes);
        gotrail::fuzzing::image(bytes);
    }
});
