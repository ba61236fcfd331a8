//! What a raw image needs that is alone on board `native`: a start, a console, registers, a clock, and an end.
//!
//! It begins as Linux would (`Documentation/arch/arm64/booting.rst`): at EL1 with the MMU off. Everything is then mapped
//! to itself: RAM as memory with caches, the rest as memory without, so that no access has to be aligned. An exception is
//! printed and ends the machine, as what `main` gives does: 0 switches it off, and anything else is printed first.

#![no_std]

pub mod clock;
pub mod console;
mod memory;
pub mod register;
mod start;

pub use start::exit;
