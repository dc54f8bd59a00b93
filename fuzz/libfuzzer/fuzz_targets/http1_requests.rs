#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tulle_proxy::fuzzing::http1_requests(input));
