#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ambit_virtio::fuzz::block(bytes));
