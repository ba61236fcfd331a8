//! Kernels of any kind and shape as random bytes, each started on a small machine if it is one.
//!
//! The targets of `fuzz/` are these functions. Each returns for any bytes at all, and panics only over a broken
//! promise.

mod bzimage;
mod elf;
mod machine;

use arbitrary::{Result, Unstructured};

type Input<'a> = Unstructured<'a>;

pub use ambit_device_manager::fuzz::Target;

/// Every target.
pub const TARGETS: &[Target] = &[("bzimage", bzimage), ("elf", elf), ("pvh", pvh)];

fn run(bytes: &[u8], body: impl FnOnce(&mut Input<'_>) -> Result<()>) {
    let _end = body(&mut Unstructured::new(bytes));
}

/// Linux as distributions ship it, mostly good.
pub fn bzimage(bytes: &[u8]) {
    run(bytes, bzimage::body);
}

/// Static programs that begin in 64-bit mode, mostly good.
pub fn elf(bytes: &[u8]) {
    run(bytes, |input| elf::body(input, false));
}

/// Programs with notes, most of which ask to begin by PVH.
pub fn pvh(bytes: &[u8]) {
    run(bytes, |input| elf::body(input, true));
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
        random_for_all(TARGETS, if cfg!(miri) { 1 } else { 300 }, 300);
    }
}
