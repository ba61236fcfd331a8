//! Waiting, with an end.

use core::arch::asm;

/// For what the host does when it comes to it; half a minute on most processors.
pub const LONG: u64 = 1 << 36;
/// For what has happened by then, or never will; a second or two.
pub const SHORT: u64 = 1 << 32;

/// The time stamp counter.
pub fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) }
    u64::from(high) << 32 | u64::from(low)
}

/// Waits until `done`, or for so many ticks; true if it was.
pub fn wait(most: u64, mut done: impl FnMut() -> bool) -> bool {
    let begun = ticks();
    while !done() {
        if ticks().wrapping_sub(begun) > most {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
