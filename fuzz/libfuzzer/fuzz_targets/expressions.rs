#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tulle_model::fuzzing::expressions(input));
