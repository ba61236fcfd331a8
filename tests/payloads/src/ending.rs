//! How a program ends its machine.

use core::arch::asm;

use crate::port::out8;
use crate::println;

/// The sleep control register: enable, type 5.
const SLEEP: (u16, u8) = (0x600, 0x34);
/// pvpanic: the guest panicked.
const PANIC: (u16, u8) = (0x505, 1);
/// The keyboard controller: reset the processor.
const RESET: (u16, u8) = (0x64, 0xfe);

/// Ends the machine: switched off with 0, crashed with any other code.
pub fn exit(code: u8) -> ! {
    if code == 0 {
        out8(SLEEP.0, SLEEP.1);
    }
    println!("exit {code}");
    out8(PANIC.0, PANIC.1);
    halt()
}

/// Ends the machine as a PC resets.
pub fn reset() -> ! {
    out8(RESET.0, RESET.1);
    halt()
}

/// Waits for ever.
pub fn halt() -> ! {
    loop {
        // SAFETY: the vCPU stops until an interrupt, which are off here.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

#[panic_handler]
fn panicked(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("{info}");
    exit(255)
}
