//! What hostile guests do to virtio devices, as data, and what it should come to.
//!
//! A case is a list of register writes, ring edits and kicks by their meaning, and an answer. [`run`] does one to any
//! [`Machine`]: a device in the same process, or the one under a freestanding guest. Nothing here allocates.

#![no_std]
#![forbid(unsafe_code)]

pub mod alone;
mod attack;
pub mod guest;
pub mod layout;
mod registers;
mod run;
pub mod step;
pub mod table;

pub use attack::{Answer, Attack, Device, Stage, Verdict};
pub use registers::{Face, Spot, Windows};
pub use run::{Counts, Ground, Machine, begin, run};
