#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ambit_aarch64::fuzz::arm64_image(bytes));
