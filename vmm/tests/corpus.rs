//! The fuzz targets over the inputs that were worth keeping, and over random bytes.

use std::fs;
use std::path::Path;

use ambit_vmm::fuzz;
use proptest::prelude::*;

/// Every input in `fuzz/corpus/NAME`; there is at least one.
fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let inputs: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for input in inputs {
        println!("{}", input.display());
        target(&fs::read(input).unwrap());
    }
}

#[test]
fn board_files_of_the_corpus_harm_nothing() {
    replay("board_file", fuzz::board_file);
}

#[test]
fn host_profiles_of_the_corpus_harm_nothing() {
    replay("host_profile", fuzz::host_profile);
}

#[test]
fn configurations_of_the_corpus_harm_nothing() {
    replay("configuration", fuzz::configuration);
}

#[test]
fn requests_of_the_corpus_harm_nothing() {
    replay("request", fuzz::request);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn random_requests_harm_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz::request(&bytes);
    }
}
