//! The four ways in which a driver reaches its device.

use ambit_bus::{Bar, Doorbell, Match, Model, Needs};

use super::Machine;
use crate::device::{Interface, VirtioDevice};
use crate::mmio::MmioModel;
use crate::pci::PciModel;

/// A transport and the interface that is used through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Face {
    Mmio,
    MmioLegacy,
    Pci,
    /// The legacy half of a transitional function.
    PciLegacy,
}

impl Face {
    pub const ALL: [Self; 4] = [Self::Mmio, Self::MmioLegacy, Self::Pci, Self::PciLegacy];

    pub fn interface(self) -> Interface {
        match self {
            Self::Mmio | Self::Pci => Interface::Modern,
            Self::MmioLegacy | Self::PciLegacy => Interface::Legacy,
        }
    }

    pub fn is_pci(self) -> bool {
        matches!(self, Self::Pci | Self::PciLegacy)
    }

    pub fn is_legacy(self) -> bool {
        self.interface() == Interface::Legacy
    }

    pub(super) fn model(self, device: impl VirtioDevice + 'static) -> Box<dyn Model> {
        let (id, kind) = ("test0", "virtio-test");
        if self.is_pci() {
            Box::new(PciModel::new(id, kind, self.interface(), device))
        } else {
            Box::new(MmioModel::new(id, kind, self.interface(), device))
        }
    }
}

/// A place in one of the device's windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    pub window: u8,
    pub byte: u64,
}

impl Spot {
    pub fn plus(self, bytes: u64) -> Self {
        Self { byte: self.byte + bytes, ..self }
    }
}

/// Where a driver finds what, in the words of each transport.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spots {
    /// Of a modern function: common, notifications (and bytes from one queue to the next), interrupt status.
    pub common: Spot,
    pub notify: Spot,
    pub notify_step: u64,
    pub isr: Spot,
    /// The device's configuration, on every face.
    pub config: Spot,
    /// The MSI-X table.
    pub table: Spot,
    pub pending: Spot,
    /// Of the configuration space: the MSI-X capability, and the one that reaches BARs.
    pub msix: u64,
    pub access: u64,
}

/// The capabilities of a function: where in the configuration space, and which.
pub fn capabilities(machine: &Machine) -> Vec<(u64, u8)> {
    let mut all = Vec::new();
    let mut at = u64::from(machine.get::<1>(Spot { window: 0, byte: 0x34 })[0]);
    while at != 0 && all.len() < 64 {
        let [id, next] = machine.get::<2>(Spot { window: 0, byte: at });
        all.push((at, id));
        at = u64::from(next);
    }
    all
}

/// Reads the capability list as a driver does (virtio 1.2, 4.1.4). BARs are windows in the order of `needs`.
pub(super) fn find(machine: &Machine, needs: &Needs) -> Spots {
    let bars = bar_windows(needs);
    let window = |bar: u8| bars.iter().find(|(number, _)| *number == bar).map_or(0, |(_, window)| *window);
    let mut spots = Spots::default();
    for (at, id) in capabilities(machine) {
        let word = |byte| u32::from_le_bytes(machine.get::<4>(Spot { window: 0, byte: at + byte }));
        if id == 0x11 {
            spots.msix = at;
            let spot = |word: u32| Spot { window: window((word & 7) as u8), byte: u64::from(word & !7) };
            (spots.table, spots.pending) = (spot(word(4)), spot(word(8)));
        }
        if id != 0x09 {
            continue;
        }
        let [_, _, _, kind, bar] = machine.get::<5>(Spot { window: 0, byte: at });
        let spot = Spot { window: window(bar), byte: u64::from(word(8)) };
        match kind {
            1 => spots.common = spot,
            2 => (spots.notify, spots.notify_step) = (spot, u64::from(word(16))),
            3 => spots.isr = spot,
            4 => spots.config = spot,
            5 => spots.access = at,
            _ => {}
        }
    }
    spots
}

/// The register number of each BAR, and its window.
pub fn bar_windows(needs: &Needs) -> Vec<(u8, u8)> {
    let Needs::Pci { bars } = needs else { return Vec::new() };
    let mut number = 0;
    let mut all = Vec::new();
    for (window, Bar { space, .. }) in (1..).zip(bars) {
        all.push((number, window));
        number += if *space == ambit_bus::BarSpace::Mmio64 { 2 } else { 1 };
    }
    all
}

impl Machine {
    /// What the device takes for a notification of `queue` without being called.
    pub fn doorbell(&self, queue: u16) -> Doorbell {
        match self.face {
            Face::Mmio | Face::MmioLegacy => {
                Doorbell { window: 0, byte: 0x50, write: Match::Word(u32::from(queue)) }
            }
            Face::Pci => {
                let Spot { window, byte } = self.spots.notify.plus(self.spots.notify_step * u64::from(queue));
                Doorbell { window, byte, write: Match::Any }
            }
            Face::PciLegacy => Doorbell { window: 1, byte: 16, write: Match::Half(queue) },
        }
    }

    /// Writes the number of a queue where notifications go: what reaches the device if no doorbell takes it.
    pub fn notify(&self, queue: u32) {
        let half = u16::try_from(queue & 0xffff).unwrap().to_le_bytes();
        match self.face {
            Face::Mmio | Face::MmioLegacy => self.write(0x50, queue),
            Face::Pci => {
                self.put_at(self.spots.notify.plus(self.spots.notify_step * u64::from(queue)), &half)
            }
            Face::PciLegacy => self.put_at(Spot { window: 1, byte: 16 }, &half),
        }
    }

    pub fn status(&self) -> u32 {
        match self.face {
            Face::Mmio | Face::MmioLegacy => self.read(0x70),
            Face::Pci => u32::from(self.get::<1>(self.spots.common.plus(20))[0]),
            Face::PciLegacy => u32::from(self.get::<1>(Spot { window: 1, byte: 18 })[0]),
        }
    }

    pub fn set_status(&self, value: u32) {
        let byte = value.to_le_bytes()[0];
        match self.face {
            Face::Mmio | Face::MmioLegacy => self.write(0x70, value),
            Face::Pci => self.put_at(self.spots.common.plus(20), &[byte]),
            Face::PciLegacy => self.put_at(Spot { window: 1, byte: 18 }, &[byte]),
        }
    }

    /// One word of what is offered.
    pub fn offered_word(&self, select: u32) -> u32 {
        match self.face {
            Face::Mmio | Face::MmioLegacy => {
                self.write(0x14, select);
                self.read(0x10)
            }
            Face::Pci => {
                self.put_at(self.spots.common, &select.to_le_bytes());
                u32::from_le_bytes(self.get(self.spots.common.plus(4)))
            }
            Face::PciLegacy if select == 0 => u32::from_le_bytes(self.get(Spot { window: 1, byte: 0 })),
            Face::PciLegacy => 0,
        }
    }

    /// Writes one word of the driver's features.
    pub fn choose_word(&self, select: u32, word: u32) {
        match self.face {
            Face::Mmio | Face::MmioLegacy => {
                self.write(0x24, select);
                self.write(0x20, word);
            }
            Face::Pci => {
                self.put_at(self.spots.common.plus(8), &select.to_le_bytes());
                self.put_at(self.spots.common.plus(12), &word.to_le_bytes());
            }
            Face::PciLegacy if select == 0 => self.put_at(Spot { window: 1, byte: 4 }, &word.to_le_bytes()),
            Face::PciLegacy => {}
        }
    }

    pub fn select(&self, queue: u16) {
        match self.face {
            Face::Mmio | Face::MmioLegacy => self.write(0x30, u32::from(queue)),
            Face::Pci => self.put_at(self.spots.common.plus(22), &queue.to_le_bytes()),
            Face::PciLegacy => self.put_at(Spot { window: 1, byte: 14 }, &queue.to_le_bytes()),
        }
    }

    /// The most entries of the queue that is selected, before any size is written.
    pub fn largest(&self) -> u32 {
        match self.face {
            Face::Mmio | Face::MmioLegacy => self.read(0x34),
            Face::Pci => u32::from(u16::from_le_bytes(self.get(self.spots.common.plus(24)))),
            Face::PciLegacy => u32::from(u16::from_le_bytes(self.get(Spot { window: 1, byte: 12 }))),
        }
    }

    /// Says size and places of the queue that is selected: `[desc, avail, used]` of a modern one, of which a
    /// legacy one has only the first, in pages of 4096 bytes. Does not make a modern one ready.
    pub fn place(&self, size: u32, areas: [u64; 3]) {
        let half = u16::try_from(size & 0xffff).unwrap().to_le_bytes();
        match self.face {
            Face::Mmio => {
                self.write(0x38, size);
                for (register, at) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
                    self.write(register, u32::try_from(at & 0xffff_ffff).unwrap());
                    self.write(register + 4, u32::try_from(at >> 32).unwrap());
                }
            }
            Face::Pci => {
                self.put_at(self.spots.common.plus(24), &half);
                for (field, at) in [32, 40, 48].into_iter().zip(areas) {
                    self.put_at(self.spots.common.plus(field), &at.to_le_bytes()[..4]);
                    self.put_at(self.spots.common.plus(field + 4), &at.to_le_bytes()[4..]);
                }
            }
            Face::MmioLegacy => {
                self.write(0x28, 4096);
                self.write(0x38, size);
                self.write(0x3c, 4096);
                self.set_pfn(u32::try_from(areas[0] >> 12).unwrap());
            }
            Face::PciLegacy => self.set_pfn(u32::try_from(areas[0] >> 12).unwrap()),
        }
    }

    /// Legacy faces only.
    pub fn set_pfn(&self, pfn: u32) {
        match self.face {
            Face::MmioLegacy => self.write(0x40, pfn),
            Face::PciLegacy => self.put_at(Spot { window: 1, byte: 8 }, &pfn.to_le_bytes()),
            Face::Mmio | Face::Pci => panic!("a modern queue has no page"),
        }
    }

    /// Whether the queue that is selected is in use.
    pub fn is_ready(&self) -> bool {
        match self.face {
            Face::Mmio => self.read(0x44) == 1,
            Face::Pci => self.get(self.spots.common.plus(28)) == [1, 0],
            Face::MmioLegacy => self.read(0x40) != 0,
            Face::PciLegacy => self.get(Spot { window: 1, byte: 8 }) != [0; 4],
        }
    }

    /// Makes the queue that is selected ready; a legacy one is since it has its page.
    pub fn enable(&self) {
        match self.face {
            Face::Mmio => self.write(0x44, 1),
            Face::Pci => self.put_at(self.spots.common.plus(28), &[1, 0]),
            Face::MmioLegacy | Face::PciLegacy => {}
        }
    }

    /// As the driver's interrupt handler does before it looks at its rings.
    pub fn acknowledge(&self) -> u8 {
        match self.face {
            Face::Mmio | Face::MmioLegacy => {
                let status = self.read(0x60);
                self.write(0x64, status);
                status.to_le_bytes()[0]
            }
            Face::Pci => self.get::<1>(self.spots.isr)[0],
            Face::PciLegacy => self.get::<1>(Spot { window: 1, byte: 19 })[0],
        }
    }
}
