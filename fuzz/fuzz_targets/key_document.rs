#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| triseal::fuzzing::key_document(octets));
