//! Virtio devices (virtio 1.2), over virtio-mmio and PCI, of legacy drivers and modern ones.
//!
//! `transport` is the one state machine, `mmio` and `pci` are register maps over it. A device type implements
//! [`device::VirtioDevice`], and its backend `worker::Serve`, which serves rings on a thread of its own.
//! The guest writes every register and every byte of every ring: what it can reach neither panics, nor
//! allocates by its numbers, nor works without bound.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation))]

pub mod balloon;
mod bells;
pub mod block;
pub mod config;
pub mod console;
pub mod device;
pub mod interrupt;
mod iov;
pub mod limit;
pub mod mmio;
pub mod net;
pub mod pci;
mod queue;
mod ring;
pub mod rng;
mod rounds;
mod transport;
mod worker;

// Its mistakes are a test's.
#[cfg(any(test, feature = "bench"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub mod driver;
#[cfg(any(test, feature = "bench"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#[allow(clippy::arithmetic_side_effects, clippy::cast_possible_truncation)]
pub mod fuzz;
#[cfg(test)]
mod hostile;
