//! The arm64 machine: its boards, its interrupt controller, its device tree, and how Linux is started on it.
//!
//! Pure: builds and is tested on any host. [`native`], [`qemu_virt`] and [`kvmtool`] are the shipped boards;
//! the rest is what the program needs to say to KVM what the plan says to the guest, and what a board of
//! one's own is made of.

#![forbid(unsafe_code)]

pub mod board_file;
pub mod boot;
pub mod fdt;
#[cfg(any(test, feature = "bench"))]
#[allow(clippy::cast_possible_truncation)]
pub mod fuzz;
pub mod gic;
mod image;
mod kvmtool;
mod native;
mod qemu_virt;
pub mod spec;
pub mod stage2;
pub mod tree;

pub use kvmtool::kvmtool;
pub use native::native;
pub use qemu_virt::qemu_virt;
pub use spec::SpecBoard;
