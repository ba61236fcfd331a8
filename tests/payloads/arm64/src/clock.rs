//! Waiting.

use core::arch::asm;

fn now() -> u64 {
    let now;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) now, options(nomem, nostack, preserves_flags)) }
    now
}

/// Waits for so many parts of a second.
pub fn wait(parts: u64) {
    let frequency: u64;
    // SAFETY: reads a constant.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack, preserves_flags)) }
    let begun = now();
    while now().wrapping_sub(begun) < frequency / parts {
        core::hint::spin_loop();
    }
}
