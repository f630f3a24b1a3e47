//! The decoders of both architectures.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gotrail::fuzzing::machine_code(input));
