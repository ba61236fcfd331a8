//! The PL011 as a console.

use core::fmt::{self, Write};

use crate::register::{read32, write32};

/// Where the board has it, whatever else is in the machine.
const UART: u64 = 0x0100_0000;
const FLAGS: u64 = UART + 0x18;
/// The receive FIFO is empty.
const EMPTY: u32 = 1 << 4;
const MASK: u64 = UART + 0x38;

/// Where [`println!`](crate::println) prints.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| write32(UART, byte.into()));
        Ok(())
    }
}

/// Waits for a byte that is typed.
pub fn typed() -> u8 {
    // The receive interrupt, which nobody takes: by it the board knows that somebody listens.
    write32(MASK, 1 << 4);
    while read32(FLAGS) & EMPTY != 0 {
        core::hint::spin_loop();
    }
    read32(UART) as u8
}

#[doc(hidden)]
pub fn put(text: fmt::Arguments<'_>) {
    // The console takes everything.
    let _ = Console.write_fmt(text);
}

#[macro_export]
macro_rules! println {
    ($($words:tt)*) => { $crate::console::put(format_args!("{}\n", format_args!($($words)*))) };
}
