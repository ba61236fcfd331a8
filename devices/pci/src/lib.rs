//! What every PCI function needs: its configuration space, BARs, MSI-X and INTx; and the host bridge.
//!
//! A function is a device whose window 0 is its configuration space and whose other windows are its BARs. There
//! is no router: the configuration space of each function is on the bus like any other registers, and one that
//! is not there reads as ones because nothing answers.

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
pub mod config;
pub mod intx;
pub mod msix;
