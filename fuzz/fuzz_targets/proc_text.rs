//! Files below /proc and /sys.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gotrail::fuzzing::proc_text(input));
