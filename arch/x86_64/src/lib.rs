//! The x86_64 machine: its board, and how a 64-bit program is started on it.
//!
//! Pure: builds and is tested on any host. So far it starts static ELF programs by the 64-bit entry of Linux's boot
//! protocol, on a board without tables for an operating system to find its devices by.

#![forbid(unsafe_code)]

pub mod boot;
pub mod elf;
pub mod pc;
pub mod zero_page;

pub use pc::pc;
