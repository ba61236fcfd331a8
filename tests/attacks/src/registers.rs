//! The four ways in which a driver reaches a device: where each keeps what (virtio 1.2, 4.1 and 4.2).

use crate::layout::PAGE;
use crate::run::Machine;
use crate::step::Window;

/// A transport, and the interface that is used through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    Mmio,
    MmioLegacy,
    Pci,
    PciLegacy,
}

impl Face {
    pub const ALL: [Self; 4] = [Self::Mmio, Self::MmioLegacy, Self::Pci, Self::PciLegacy];

    pub fn is_legacy(self) -> bool {
        matches!(self, Self::MmioLegacy | Self::PciLegacy)
    }

    pub fn is_pci(self) -> bool {
        matches!(self, Self::Pci | Self::PciLegacy)
    }
}

/// A place in one of a device's windows: of a function, its configuration space and then each BAR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    pub window: u8,
    pub byte: u64,
}

/// Where a function's structures are. Of mmio only the configuration counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Windows {
    pub registers: Spot,
    pub notify: Spot,
    pub notify_step: u64,
    pub isr: Spot,
    pub config: Spot,
    pub vectors: Spot,
    pub pending: Spot,
    /// In the configuration space.
    pub msix: u64,
    pub access: u64,
}

/// Where `offset` in `window` is, if this face has it.
pub fn spot(machine: &impl Machine, window: Window, offset: u64) -> Option<Spot> {
    let (face, windows) = (machine.face(), machine.windows());
    let start = match window {
        Window::Registers => windows.registers,
        Window::Config => windows.config,
        _ if !face.is_pci() => return None,
        Window::Notify if face == Face::Pci => windows.notify,
        Window::Isr if face == Face::Pci => windows.isr,
        Window::Notify => plus(windows.registers, 16),
        Window::Isr => plus(windows.registers, 19),
        Window::Space => Spot::default(),
        Window::Msix => Spot { window: 0, byte: windows.msix },
        Window::Vectors => windows.vectors,
        Window::Pending => windows.pending,
        Window::Access if windows.access == 0 => return None,
        Window::Access => Spot { window: 0, byte: windows.access },
    };
    Some(plus(start, offset))
}

fn plus(spot: Spot, bytes: u64) -> Spot {
    Spot { byte: spot.byte + bytes, ..spot }
}

/// A register by where each face has it: offset and width, for mmio (both), modern and legacy PCI.
type Register = (u64, Option<(u64, u8)>, Option<(u64, u8)>);

const STATUS: Register = (0x70, Some((20, 1)), Some((18, 1)));
const SELECT: Register = (0x30, Some((22, 2)), Some((14, 2)));
const SIZE: Register = (0x38, Some((24, 2)), None);
const LARGEST: Register = (0x34, Some((24, 2)), Some((12, 2)));

fn find(machine: &impl Machine, (mmio, modern, legacy): Register) -> Option<(Spot, u8)> {
    let (offset, width) = match machine.face() {
        Face::Mmio | Face::MmioLegacy => (mmio, 4),
        Face::Pci => modern?,
        Face::PciLegacy => legacy?,
    };
    Some((plus(machine.windows().registers, offset), width))
}

fn get(machine: &mut impl Machine, register: Register) -> u64 {
    find(machine, register).map_or(0, |(spot, width)| machine.read(spot, width))
}

fn put(machine: &mut impl Machine, register: Register, value: u64) {
    if let Some((spot, width)) = find(machine, register) {
        machine.write(spot, width, value);
    }
}

pub fn status(machine: &mut impl Machine) -> u64 {
    get(machine, STATUS)
}

pub fn set_status(machine: &mut impl Machine, value: u32) {
    put(machine, STATUS, u64::from(value));
}

pub fn select(machine: &mut impl Machine, queue: u32) {
    put(machine, SELECT, u64::from(queue));
}

pub fn largest(machine: &mut impl Machine) -> u64 {
    get(machine, LARGEST)
}

pub fn set_size(machine: &mut impl Machine, size: u32) {
    put(machine, SIZE, u64::from(size));
}

pub fn choose(machine: &mut impl Machine, features: u64) {
    let halves = [(0, features & 0xffff_ffff), (1, features >> 32)];
    for (select, half) in halves {
        match machine.face() {
            Face::PciLegacy if select == 1 => {}
            Face::PciLegacy => put(machine, (0, None, Some((4, 4))), half),
            Face::Mmio | Face::MmioLegacy | Face::Pci => {
                put(machine, (0x24, Some((8, 4)), None), select);
                put(machine, (0x20, Some((12, 4)), None), half);
            }
        }
    }
}

/// Says where the queue that is selected is.
pub fn place(machine: &mut impl Machine, areas: [u64; 3]) {
    let page = (areas[0] / PAGE) & 0xffff_ffff;
    match machine.face() {
        Face::MmioLegacy => put(machine, (0x40, None, None), page),
        Face::PciLegacy => put(machine, (0, None, Some((8, 4))), page),
        Face::Mmio | Face::Pci => {
            for ((mmio, modern), at) in [(0x80, 32), (0x90, 40), (0xa0, 48)].into_iter().zip(areas) {
                put(machine, (mmio, Some((modern, 4)), None), at & 0xffff_ffff);
                put(machine, (mmio + 4, Some((modern + 4, 4)), None), at >> 32);
            }
        }
    }
}

/// A legacy queue is enabled since it has its page.
pub fn enable(machine: &mut impl Machine) {
    match machine.face() {
        Face::Mmio | Face::Pci => put(machine, (0x44, Some((28, 2)), None), 1),
        Face::MmioLegacy | Face::PciLegacy => {}
    }
}

/// Only legacy mmio has it.
pub fn set_page_size(machine: &mut impl Machine, bytes: u32) {
    if machine.face() == Face::MmioLegacy {
        put(machine, (0x28, None, None), u64::from(bytes));
    }
}

/// Only legacy mmio has it.
pub fn set_align(machine: &mut impl Machine, bytes: u32) {
    if machine.face() == Face::MmioLegacy {
        put(machine, (0x3c, None, None), u64::from(bytes));
    }
}

/// Writes any number where drivers write the number of a queue.
pub fn notify(machine: &mut impl Machine, queue: u32) {
    let (at, width) = match machine.face() {
        Face::Mmio | Face::MmioLegacy => (plus(machine.windows().registers, 0x50), 4),
        Face::PciLegacy => (plus(machine.windows().registers, 16), 2),
        Face::Pci => {
            let Windows { notify, notify_step, .. } = machine.windows();
            // A queue that is not there has no place in the window; its number still goes to the first.
            let step = if queue < 2 { notify_step * u64::from(queue) } else { 0 };
            (plus(notify, step), 2)
        }
    };
    machine.write(at, width, u64::from(queue));
}
