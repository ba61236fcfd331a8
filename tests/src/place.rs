//! Where this run finds the monitor and the images. `cargo xtask test` says so in the environment.

use std::path::PathBuf;

/// The monitor under test.
pub fn monitor() -> PathBuf {
    from_environment("AMBIT_BIN")
}

/// What a program that runs here was given besides.
pub fn payload(name: &str) -> PathBuf {
    from_environment("AMBIT_PAYLOAD").join(name)
}

/// The monitor with a vendor's board, from `examples/vendor-board`.
pub fn vendor() -> PathBuf {
    from_environment("AMBIT_PAYLOAD").join("acme-edge")
}

/// One of `Image`, `Image.gz`, `initrd.gz` and `root.ext4`.
pub fn image(name: &str) -> PathBuf {
    from_environment("AMBIT_IMAGES").join(name)
}

/// A program of `tests/payloads`.
pub fn flat(name: &str) -> PathBuf {
    from_environment("AMBIT_PAYLOADS").join(name)
}

/// A board of the checkout's `boards/`, by the name of its file.
pub fn board(file: &str) -> PathBuf {
    from_environment("AMBIT_PAYLOAD").join("boards").join(file)
}

/// A writable directory with room for disks.
pub fn scratch() -> PathBuf {
    from_environment("AMBIT_SCRATCH")
}

fn from_environment(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(value) => PathBuf::from(value),
        None => {
            panic!(
                "{variable} is not set; these tests boot guests, run them with: cargo xtask test --guest (or --flat)"
            )
        }
    }
}
