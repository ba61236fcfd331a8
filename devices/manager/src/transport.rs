//! How the guest reaches a device.

use std::fmt;

use ambit_bus::Needs;
use serde::{Deserialize, Serialize};

/// A bus, and which of its drivers the guest has for it. A device that is not virtio is modern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Registers on the board's own bus.
    #[default]
    Mmio,
    /// The same for drivers from before virtio 1.0.
    MmioLegacy,
    /// A function on PCI bus 0.
    Pci,
    /// The same for drivers from before virtio 1.0, and for newer ones.
    PciLegacy,
}

impl Transport {
    /// In the order in which they are offered.
    pub const ALL: [Self; 4] = [Self::Mmio, Self::MmioLegacy, Self::Pci, Self::PciLegacy];

    /// That of a device that asks for this room, and whose queues reach everywhere or not.
    pub fn of(needs: &Needs, queue_reach: Option<u8>) -> Self {
        Self::new(matches!(needs, Needs::Pci { .. }), queue_reach.is_some())
    }

    pub const fn new(pci: bool, legacy: bool) -> Self {
        match (pci, legacy) {
            (false, false) => Self::Mmio,
            (false, true) => Self::MmioLegacy,
            (true, false) => Self::Pci,
            (true, true) => Self::PciLegacy,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmio => "mmio",
            Self::MmioLegacy => "mmio-legacy",
            Self::Pci => "pci",
            Self::PciLegacy => "pci-legacy",
        }
    }

    /// The one that the user calls so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|transport| transport.name() == name)
    }

    pub const fn is_pci(self) -> bool {
        matches!(self, Self::Pci | Self::PciLegacy)
    }

    pub const fn is_legacy(self) -> bool {
        matches!(self, Self::MmioLegacy | Self::PciLegacy)
    }

    /// The same without PCI.
    pub const fn off_pci(self) -> Self {
        Self::new(false, self.is_legacy())
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
