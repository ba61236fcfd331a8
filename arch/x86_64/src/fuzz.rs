//! Kernels of any kind and shape as random bytes, each started on a small machine if it is one.
//!
//! The targets of `fuzz/` are these functions. Each returns for any bytes at all, and panics only over a broken
//! promise.

mod bzimage;
mod elf;
mod machine;

use arbitrary::{Result, Unstructured};

type Input<'a> = Unstructured<'a>;

/// A name in `fuzz/`, and what runs one input.
pub type Target = (&'static str, fn(&[u8]));

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

/// Mostly as it was made: some bytes changed, or the end cut off. Whether it is as it was made.
fn damage(input: &mut Input<'_>, file: &mut Vec<u8>) -> Result<bool> {
    if input.ratio(1, 3)? {
        return Ok(true);
    }
    for _ in 0..input.int_in_range(0..=4)? {
        let at = usize::from(input.arbitrary::<u16>()?) % file.len();
        let bytes: [u8; 4] = input.arbitrary()?;
        let count = usize::from(input.int_in_range(1..=4_u8)?);
        file.iter_mut().skip(at).zip(bytes.iter().take(count)).for_each(|(old, new)| *old = *new);
    }
    if input.ratio(1, 4)? {
        file.truncate(usize::from(input.arbitrary::<u16>()?) % (file.len() + 1));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::{random, replay};

    use super::TARGETS;

    #[test]
    fn inputs_that_were_worth_keeping_harm_nothing() {
        for (name, target) in TARGETS {
            replay(name, *target);
        }
    }

    #[test]
    fn random_bytes_harm_nothing() {
        for (_, target) in TARGETS {
            random(if cfg!(miri) { 1 } else { 300 }, 300, *target);
        }
    }
}
