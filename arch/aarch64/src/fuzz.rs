//! Kernels of any kind and shape as random bytes, each started on a small machine if it is one.
//!
//! The targets of `fuzz/` are these functions. Each returns for any bytes at all, and panics only over a broken
//! promise.

mod image;

use arbitrary::Unstructured;

pub use ambit_device_manager::fuzz::Target;

/// Every target.
pub const TARGETS: &[Target] = &[("arm64_image", arm64_image)];

/// An `Image`, mostly good: plain, in gzip, or in an EFI image that unpacks itself.
pub fn arm64_image(bytes: &[u8]) {
    let _end = image::body(&mut Unstructured::new(bytes));
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::{random_for_all, replay_all};

    use super::TARGETS;

    #[test]
    fn inputs_that_were_worth_keeping_harm_nothing() {
        replay_all(TARGETS);
    }

    #[test]
    fn random_bytes_harm_nothing() {
        random_for_all(TARGETS, if cfg!(miri) { 2 } else { 300 }, 300);
    }
}
