//! Records of the ring.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gotrail::fuzzing::events(input));
