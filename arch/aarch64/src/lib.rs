//! The arm64 machine: the board `native`, its interrupt controller, its device tree, and how Linux
//! is started on it.
//!
//! Pure: builds and is tested on any host. [`Native`] is the way in; the rest is what the program needs
//! to say to KVM what the plan says to the guest.

#![forbid(unsafe_code)]

pub mod boot;
pub mod fdt;
pub mod gic;
mod image;
mod native;

pub use native::Native;
