//! The configuration space of PCI, and where the board has room for BARs.

use crate::register::{read8, read16, read32, write8, write16, write32};

/// Where the board has them, whatever else is in the machine (`arch/x86_64/src/pc.rs`).
pub const ECAM: u64 = 0xe000_0000;
pub const MMIO32: u64 = 0xc000_0000;
pub const MMIO64: u64 = 0x1_0000_0000;
pub const IO: u16 = 0xc000;

/// One function of bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    pub device: u8,
    pub function: u8,
}

/// Function 0 of a device.
pub const fn device(device: u8) -> Function {
    Function { device, function: 0 }
}

impl Function {
    /// Address of a byte of its configuration space.
    pub fn at(self, offset: u16) -> u64 {
        ECAM | u64::from(self.device) << 15 | u64::from(self.function) << 12 | u64::from(offset)
    }

    pub fn read8(self, offset: u16) -> u8 {
        read8(self.at(offset))
    }

    pub fn read16(self, offset: u16) -> u16 {
        read16(self.at(offset))
    }

    pub fn read32(self, offset: u16) -> u32 {
        read32(self.at(offset))
    }

    pub fn write8(self, offset: u16, value: u8) {
        write8(self.at(offset), value);
    }

    pub fn write16(self, offset: u16, value: u16) {
        write16(self.at(offset), value);
    }

    pub fn write32(self, offset: u16, value: u32) {
        write32(self.at(offset), value);
    }

    /// Vendor in the low half, device in the high. All ones where there is nothing.
    pub fn id(self) -> u32 {
        self.read32(0)
    }

    /// Where its capability of this kind is (PCI 3.0, 6.7).
    pub fn capability(self, kind: u8) -> Option<u16> {
        self.capabilities().find(|at| self.read8(*at) == kind)
    }

    /// All of its capabilities; as many as there can be at most.
    pub fn capabilities(self) -> impl Iterator<Item = u16> {
        let mut next = if self.read16(6) & 1 << 4 == 0 { 0 } else { self.read8(0x34) };
        core::iter::from_fn(move || {
            let at = u16::from(next & !3);
            next = if at == 0 { 0 } else { self.read8(at + 1) };
            (at != 0).then_some(at)
        })
        .take(48)
    }
}

/// All functions 0 of bus 0 that are there.
pub fn devices() -> impl Iterator<Item = Function> {
    (0..32).map(device).filter(|function| function.id() != u32::MAX)
}
