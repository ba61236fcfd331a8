//! A device as configured, not yet built.

use std::fmt::Debug;
use std::sync::Arc;

use ambit_resources::{AddressRange, IrqPin};
use serde::{Deserialize, Serialize};

use crate::{Host, HostError, Shared};

/// What one device asks of the planner. Pure data: planning opens no file and asks no host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Unique in the machine; errors, the plan and the API speak of the device by it.
    pub id: String,
    /// What it is, in a word: "virtio-blk", "pl011".
    pub kind: String,
    pub needs: Needs,
    pub description: Arc<Description>,
    /// How many address bits its queues can name, if they are fewer than any guest has: no RAM may lie beyond.
    pub queue_reach: Option<u8>,
}

/// The room a device needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    /// One register window on the board's own bus.
    Board {
        /// Size in bytes of the window; a power of two, also its alignment. A board may give more.
        registers: u64,
        /// The interrupt it raises, if any.
        irq: Option<Trigger>,
    },
    /// One window of I/O ports, where a board has them; only what is at a fixed place can ask for one.
    Ports {
        /// How many ports.
        count: u64,
        /// The interrupt it raises, if any.
        irq: Option<Trigger>,
    },
    /// One function on PCI bus 0: 4 KiB of configuration space, and a window for each of these.
    Pci { bars: Vec<Bar> },
}

/// A base address register's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// In bytes; a power of two, also its alignment.
    pub size: u64,
    pub space: BarSpace,
}

/// The window that a BAR is planned in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BarSpace {
    /// Of I/O ports: a space of their own where the architecture has one, and elsewhere a window of memory.
    Io,
    /// The one below 4 GiB.
    Mmio32,
    /// The one above RAM.
    Mmio64,
}

/// What the address of a window is an address of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// Of guest physical memory.
    Memory,
    /// I/O ports, 16 bits of them, on architectures that have a space of their own for them.
    Ports,
}

/// How an interrupt pin is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// Each rising edge is one interrupt.
    Edge,
    /// Pending for as long as the line is high.
    Level,
}

/// What the guest is told of a device besides its room. Enough to write its device-tree node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Node name without the address: "virtio_mmio", "pl011". Empty: the guest is told nothing.
    pub node: String,
    /// Most specific first.
    pub compatible: Vec<String>,
    /// In the order they are written.
    pub properties: Vec<(String, Property)>,
}

/// A device-tree property value (Devicetree Specification 0.4, 2.2.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Property {
    /// Present, without a value.
    Flag,
    Cells(Vec<u32>),
    Strings(Vec<String>),
    /// A phandle of the board's fixed peripheral clock, once for each of the names, which become
    /// `clock-names`.
    Clocks(Vec<String>),
}

/// The room one device got. Of a PCI function, window 0 is its configuration space, the others are its BARs in
/// their order, where the planner has proven that there is room (the guest puts them there or elsewhere in the
/// same windows of the bus), and the pin is the one that its INTA reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub windows: Vec<AddressRange>,
    pub irq: Option<(IrqPin, Trigger)>,
}

/// A configured device. Only `build` has side effects.
pub trait Model: Debug + Send + Sync {
    /// The same answer every time: the plan is made from it.
    fn request(&self) -> Request;

    /// Makes the device where the planner put it.
    ///
    /// # Errors
    /// [`HostError`] if the host refuses an interrupt line, a doorbell or a thread.
    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError>;
}
