//! What a program needs that is alone on board `pc`: a start, a console, ports, registers, PCI, interrupts, other
//! vCPUs, and an end.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! flat::program!(main);
//!
//! fn main() -> u8 {
//!     flat::println!("hello");
//!     0
//! }
//! ```
//!
//! The first vCPU is as the board starts it (`arch/x86_64/src/boot.rs`): in 64-bit mode, everything mapped to itself.
//! [`program!`] then gives it a stack, masks the 8259s, and takes every exception and interrupt: an exception
//! is printed and ends the machine as crashed. What `main` gives is the program's code: 0 switches the machine off,
//! so that `ambit run` ends with 0; anything else is printed as `exit N` and ends it as crashed, with 1.

#![no_std]

pub mod console;
pub mod ending;
pub mod interrupts;
mod memory;
pub mod paging;
pub mod patience;
pub mod pci;
pub mod port;
pub mod register;
pub mod smp;
pub mod start;
pub mod virtqueue;
pub mod zero_page;

pub use ending::exit;
pub use zero_page::{argument, cmdline};
