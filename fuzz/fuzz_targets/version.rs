//! Versions of Go as programs state them.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gotrail::fuzzing::version(input));
