//! From a board and a configuration to a plan, and from a plan to plugged devices.
//!
//! Planning touches no host and knows no device by name.

#![forbid(unsafe_code)]

// What is tested from outside is fuzzed from inside.
#[cfg(any(test, feature = "bench"))]
extern crate self as ambit_device_manager;

mod board;
mod config_ports;
mod decode;
mod draft;
mod error;
mod firmware;
#[cfg(any(test, feature = "bench"))]
#[allow(clippy::cast_possible_truncation)]
pub mod fuzz;
mod hotplug;
mod lines;
mod manager;
pub mod pci;
mod plan;
mod ram;
mod remedy;
mod reserve;
mod transport;
mod windows;

pub use board::{
    Above, Arch, Board, BoardOption, BootError, BootImage, CpuMode, DevicePlaces, Fit, Fixture, Frames,
    HighPart, HostFacts, Length, MachineConfig, MemoryHotplug, MemoryMap, OptionError, PageTables, Part,
    Payload, PciConfig, PciPlaces, Piece, Place, RamPlace, RegionKind, Tree, Width, WidthSource,
};
pub use draft::{RAM, RAM_HOTPLUG, attempt};
pub use error::{PlanError, limit_text};
pub use manager::{BuildError, Decoded, DeviceManager, NotThere, Outcome};
pub use plan::{Diagnostic, Placed, Plan, Refusal, Region, Severity, Shortfall, Status, plan};
pub use remedy::{Remedy, whole_pages};
pub use reserve::{HolePolicy, IommuKind, IommuRegion, Processor, Reservation, Reserve, Vendor};
pub use transport::Transport;
