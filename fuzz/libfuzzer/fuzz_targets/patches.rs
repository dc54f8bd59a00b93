#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tulle_server::fuzzing::patches(input));
