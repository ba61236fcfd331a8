//! `cargo xtask soak`: what is too long for every day.

use crate::checks;
use crate::failure::{Failure, Result};
use crate::flat;
use crate::progress::say;
use crate::test;

pub const HELP: &str = "\
cargo xtask soak [CASES]

Holds the planner against its promises and against a placer that looks at every page, with CASES machines for each
promise. The default, 330000, makes more than a million plans; it takes minutes, and beside other work half an hour.
Then, where this machine has x86_64 KVM that runs programs without a system: a guest of 2 TiB, for whose tables some
KVM takes 6 GiB, and a thousand machines one after the other, which may leave nothing behind. That takes minutes, too,
and `cargo xtask test --flat soak::` does it alone. Then comes every attack on a running monitor, over each transport,
and last Debian as a PC on an emulated host of AMD's: cargo xtask test --guest --cpu amd does that alone.
A failure prints the number of its machine: AMBIT_SEED=N cargo test -p ambit-aarch64 --test properties runs it alone.
One of a PC prints the machine itself, the smallest that fails: PCs are chosen anew each time.
";

const CASES: u32 = 330_000;

pub fn main(mut words: impl Iterator<Item = String>) -> Result<i32> {
    let cases = match words.next() {
        None => CASES,
        Some(word) => {
            word.parse().map_err(|_| Failure::new(format!("'{word}' is not a number of machines")))?
        }
    };
    say(&format!("planning with {cases} machines for each promise"));
    checks::soak(cases)?;
    flat::soak()?;
    test::pcs(&[])?;
    Ok(0)
}
