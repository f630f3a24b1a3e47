//! A whole program: functions, calls, layout, globals, probe sites.
#![no_main]

use gotrail_fuzz::{PROGRAMS, file};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Some(bytes) = file(&PROGRAMS, input) {
        gotrail::fuzzing::program(bytes);
    }
});
