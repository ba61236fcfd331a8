//! From a board and a configuration to a plan, and from a plan to plugged devices.
//!
//! Planning touches no host and knows no device by name.

#![forbid(unsafe_code)]

mod board;
mod manager;
mod plan;

pub use board::{
    Arch, Board, BootError, BootImage, Fixture, HostFacts, MachineConfig, MemoryMap, Part, Payload, Piece,
    Place, RegionKind, Width, WidthSource,
};
pub use manager::{BuildError, DeviceManager};
pub use plan::{Diagnostic, Placed, Plan, PlanError, Region, Severity, Status, plan};
