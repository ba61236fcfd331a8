//! A device as configured, not yet built.

use std::fmt::Debug;

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
    pub description: Description,
}

/// The room a device needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Size in bytes of its register window; a power of two, also its alignment.
    pub registers: u64,
    /// The interrupt it raises, if any.
    pub irq: Option<Trigger>,
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

/// The room one device got.
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
