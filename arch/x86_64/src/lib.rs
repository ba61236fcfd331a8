//! The x86_64 machine: its board, and how a kernel is started on it.
//!
//! Pure: builds and is tested on any host. Starts Linux as distributions ship it (bzImage), and static ELF programs by
//! PVH or by the 64-bit entry of Linux's boot protocol; ACPI says where devices are, and to systems without it a
//! table of processors and the command line do.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod boot;
pub mod bzimage;
mod dsdt;
pub mod e820;
pub mod elf;
#[cfg(any(test, feature = "bench"))]
#[allow(clippy::cast_possible_truncation)]
pub mod fuzz;
pub mod host;
mod intx;
pub mod kernel;
pub mod load;
pub mod mptable;
mod number;
pub mod pc;
pub mod pvh;
pub mod q35;
pub mod reserved;
pub mod zero_page;

pub use pc::pc;
pub use q35::q35;
