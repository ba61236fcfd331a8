#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ambit_x86_64::fuzz::pvh(bytes));
