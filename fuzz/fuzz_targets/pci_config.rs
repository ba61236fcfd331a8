#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ambit_pci::fuzz::pci_config(bytes));
