//! The 16550 as a console.

use core::fmt::{self, Write};

use crate::port::{in8, out8};

const DATA: u16 = 0x3f8;
const LINE_STATUS: u16 = DATA + 5;
const RECEIVED: u8 = 1;

/// Where [`print!`](crate::print) prints.
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out8(DATA, byte));
        Ok(())
    }
}

/// A byte that was typed, if there is one.
pub fn typed() -> Option<u8> {
    (in8(LINE_STATUS) & RECEIVED != 0).then(|| in8(DATA))
}

#[doc(hidden)]
pub fn put(text: fmt::Arguments<'_>) {
    // The console takes everything.
    let _ = Console.write_fmt(text);
}

#[macro_export]
macro_rules! print {
    ($($words:tt)*) => { $crate::console::put(format_args!($($words)*)) };
}

#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($words:tt)*) => { $crate::print!("{}\n", format_args!($($words)*)) };
}
