//! Devices with a fixed place on a board. One file each.

#![forbid(unsafe_code)]
// The guest chooses every access, so nothing that an access reaches may have a way to panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod access;
pub mod endings;
pub mod pl011;
pub mod pl031;
pub mod receiver;
pub mod serial;
