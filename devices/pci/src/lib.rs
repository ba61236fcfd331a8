//! What every PCI function has: configuration space, BARs, MSI-X and INTx; and the host bridge.
//!
//! [`Function`] joins them behind window 0, the function's 4 KiB of configuration space; windows from 1 on are
//! its BARs. A device of its own kind puts its registers beside it. "PCI 3.0" is the PCI Local Bus
//! Specification, revision 3.0; "PCIe 5.0" is the PCI Express Base Specification, revision 5.0.
//! The guest writes every register: what it can reach neither panics, nor allocates by its numbers, nor works
//! without bound.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation))]

pub mod bridge;
mod config;
mod function;
#[cfg(any(test, feature = "bench"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub mod fuzz;
mod intx;
mod layout;
mod msix;
mod vector;

pub use config::{Change, ConfigSpace, Identity};
pub use function::Function;
pub use intx::Intx;
pub use layout::LayoutError;
pub use msix::{Msix, Place};
