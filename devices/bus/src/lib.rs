//! The contract between a device and the machine it is in.
//!
//! A device is three things in turn: a [`Request`] (what it needs, pure data), a [`Slot`] (what the
//! planner gave it) and a [`Device`] (registers that work). It never learns anything of the machine
//! except through [`Host`].

#![forbid(unsafe_code)]

#[cfg(feature = "bench")]
pub mod bench;
mod bus;
mod device;
mod host;
mod model;

pub use bus::{Bus, BusError, Owner, Window, Written};
pub use device::{Device, Effect, Offset, Shared, share};
pub use host::{
    Backplane, Doorbell, Host, HostError, IrqLine, IrqWire, Match, Message, MsiVector, MsiWire, Wired,
};
pub use model::{Bar, BarSpace, Description, Model, Needs, Property, Request, Slot, Space, Trigger};
