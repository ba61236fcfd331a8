//! PCI's configuration space behind the two ports that PCs have for it, besides where it is in memory.
//!
//! PCI Local Bus 3.0, 3.2.2.3.2. A system that has read no table yet reaches functions by these and by nothing else:
//! Linux believes in a configuration space in memory at its start only if it can ask the host bridge here first.

use std::sync::atomic::{AtomicU32, Ordering};

use ambit_resources::AddressRange;

use crate::pci::{CONFIG, ECAM};
use crate::{Plan, RegionKind};

/// Where a PC has them: 32 bits that say which register, then a window to it.
pub const PORTS: AddressRange = AddressRange::fixed(0xcf8, 8);
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
/// Of what is written to [`ADDRESS`]: that the window leads anywhere; bus, device and function; 32-bit register.
const ENABLE: u32 = 1 << 31;
const FUNCTION: u32 = 0x00ff_ff00;
const REGISTER: u32 = 0xfc;
/// Nothing else of it is kept: bits 30 to 24 are reserved, and bits 1 and 0 read as zero, as they do on PCs.
const KEPT: u32 = ENABLE | FUNCTION | REGISTER;

/// Both ports, and what the first one has.
pub struct ConfigPorts {
    ecam: AddressRange,
    address: AtomicU32,
}

/// What an access comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    Address,
    /// This address in memory.
    Function(u64),
    Nothing,
}

impl ConfigPorts {
    /// `None` where the plan has no such ports.
    pub fn of(plan: &Plan) -> Option<Self> {
        plan.ports.iter().find(|claim| claim.owner == CONFIG)?;
        let ecam = plan.part(RegionKind::Pci, ECAM)?;
        Some(Self { ecam, address: AtomicU32::new(0) })
    }

    /// `None` for ports that are not these. Only all 32 bits of the first one are a register.
    pub fn reached(&self, port: u16, length: usize) -> Option<Reached> {
        let whole = AddressRange::new(port.into(), length as u64)?;
        if !PORTS.overlaps(whole) {
            return None;
        }
        if port == ADDRESS && length == 4 {
            return Some(Reached::Address);
        }
        let within = PORTS.contains(whole).then(|| port.checked_sub(DATA)).flatten();
        let address = self.address();
        Some(match within {
            Some(byte) if address & ENABLE != 0 => self.function(address, byte),
            _ => Reached::Nothing,
        })
    }

    fn function(&self, address: u32, byte: u16) -> Reached {
        // Each function has 256 bytes here and 4096 there.
        let within = u64::from(address & FUNCTION) << 4 | u64::from(address & REGISTER) | u64::from(byte);
        match self.ecam.first().checked_add(within).filter(|at| *at <= self.ecam.last()) {
            Some(at) => Reached::Function(at),
            None => Reached::Nothing,
        }
    }

    pub fn address(&self) -> u32 {
        self.address.load(Ordering::Relaxed)
    }

    pub fn set_address(&self, bytes: &[u8]) {
        if let Ok(bytes) = bytes.try_into() {
            self.address.store(u32::from_le_bytes(bytes) & KEPT, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(buses: u64) -> ConfigPorts {
        ConfigPorts { ecam: AddressRange::fixed(0xe000_0000, buses << 20), address: AtomicU32::new(0) }
    }

    #[test]
    fn the_window_leads_to_the_register_of_the_function_that_was_said() {
        let ports = ports(256);
        ports.set_address(&0x8012_fe3d_u32.to_le_bytes());

        // Bus 0x12, device 31, function 6, register 0x3c: the lowest two bits are the window's to say.
        let expected = [0xe12f_e03c, 0xe12f_e03d, 0xe12f_e03e].map(|at| Some(Reached::Function(at)));
        assert_eq!(
            [(0xcfc, 4), (0xcfd, 1), (0xcfe, 2)].map(|(port, length)| ports.reached(port, length)),
            expected
        );
        assert_eq!((ports.reached(0xcf8, 4), ports.address()), (Some(Reached::Address), 0x8012_fe3c));
    }

    #[test]
    fn bits_of_the_address_that_mean_nothing_read_as_zero() {
        let ports = ports(256);
        let kept = |written: u32| {
            ports.set_address(&written.to_le_bytes());
            ports.address()
        };

        assert_eq!(kept(u32::MAX), 0x80ff_fffc);
        assert_eq!(kept(0x7f00_0003), 0);
    }

    #[test]
    fn what_is_no_register_leads_nowhere() {
        let ports = ports(1);
        let nothing = Some(Reached::Nothing);

        assert_eq!(ports.reached(0xcfc, 4), nothing);
        ports.set_address(&[0, 0, 0, 0x80]);
        assert_eq!(
            [(0xcfb, 1), (0xcf8, 2), (0xcfe, 4), (0xcf6, 4)].map(|(p, n)| ports.reached(p, n)),
            [nothing; 4]
        );
        assert_eq!(
            [(0xcf7, 1), (0xd00, 4), (0x3f8, 1)].map(|(port, length)| ports.reached(port, length)),
            [None; 3]
        );
        // Bus 1 of one.
        ports.set_address(&[0, 0, 1, 0x80]);
        assert_eq!(ports.reached(0xcfc, 4), nothing);
        ports.set_address(&[0, 0]);
        assert_eq!(ports.address(), 0x8001_0000);
    }
}
