//! The configuration space of a virtio function and its capabilities (virtio 1.2, 4.1.2 and 4.1.4).

use ambit_bus::{Bar, IrqLine, MsiVector, Needs, Offset};
use ambit_pci::{ConfigSpace, Function, Identity, LayoutError, Msix, Place};
use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BALLOON, VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_NET, VIRTIO_ID_RNG,
};

use super::registers::COMMON;
use super::{COMMON_AT, CONFIG_AT, ISR_AT, NOTIFY_AT, NOTIFY_STEP, PENDING, TABLE, memory_window, request};
use crate::device::{Interface, VirtioDevice};

/// Of every virtio function (4.1.2).
const VENDOR: u16 = 0x1af4;
/// A vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 0x09;
/// How long it is: id, link, length, kind, BAR, two bytes of padding and an id, offset and length (4.1.4).
const CAP_LEN: u8 = 16;
/// The same with 4 bytes more: of notifications, and of what reaches BARs.
const LONG_CAP_LEN: u8 = 20;

/// Which structure a capability names.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Where in a function's configuration space is what reaches its BARs (4.1.4.9).
pub struct Space {
    access: u8,
    bars: Vec<Bar>,
}

impl Space {
    /// The function of `device`, with MSI-X if there are `messages`, and this space of it.
    ///
    /// # Errors
    /// [`LayoutError`] if it does not fit, which no device of ours brings about.
    pub fn new(
        device: &dyn VirtioDevice,
        interface: Interface,
        messages: Option<Vec<MsiVector>>,
        line: Option<IrqLine>,
    ) -> Result<(Self, Function), LayoutError> {
        let bars = match request("", "", interface).needs {
            Needs::Pci { bars } => bars,
            Needs::Board { .. } | Needs::Ports { .. } => Vec::new(),
        };
        let window = memory_window(interface);
        let identity = identity(device.device_type(), interface);
        let mut config = ConfigSpace::new(identity, &bars, line.is_some())?;
        let place = Place { window, table: TABLE, pba: PENDING };
        let msix = messages.map(|wires| Msix::new(&mut config, place, wires)).transpose()?;
        let bar = config.register(window).unwrap_or(0);
        config.append(VENDOR_SPECIFIC, &structure(CAP_LEN, COMMON_CFG, bar, COMMON_AT, COMMON), &[])?;
        config.append(VENDOR_SPECIFIC, &structure(CAP_LEN, ISR_CFG, bar, ISR_AT, 1), &[])?;
        let len = device.config().len() as u64;
        if len > 0 {
            config.append(VENDOR_SPECIFIC, &structure(CAP_LEN, DEVICE_CFG, bar, CONFIG_AT, len), &[])?;
        }
        let len = u64::from(NOTIFY_STEP).saturating_mul(device.queue_sizes().len() as u64);
        let mut notify = structure(LONG_CAP_LEN, NOTIFY_CFG, bar, NOTIFY_AT, len).to_vec();
        notify.extend_from_slice(&NOTIFY_STEP.to_le_bytes());
        config.append(VENDOR_SPECIFIC, &notify, &[])?;
        // BAR, offset and length are the guest's to write, and so is what goes through them.
        let mut through = structure(LONG_CAP_LEN, PCI_CFG, 0, 0, 0).to_vec();
        through.extend_from_slice(&[0; 4]);
        let (no, all) = (0, 0xff);
        let writable = [no, no, all, no, no, no, all, all, all, all, all, all, all, all, all, all, all, all];
        let access = config.append(VENDOR_SPECIFIC, &through, &writable)?;
        Ok((Self { access, bars }, Function::new(config, line, msix)))
    }

    /// Where the bytes are that stand for bytes of a BAR.
    fn data_at(&self) -> u8 {
        self.access.saturating_add(CAP_LEN)
    }

    /// Whether an access to the space is to those bytes.
    pub fn touches_data(&self, at: u64, len: usize) -> bool {
        let data = u64::from(self.data_at());
        at < data.saturating_add(4) && data < at.saturating_add(len as u64)
    }

    /// Which bytes of a BAR they stand for, and how many: inside the BAR, and aligned (4.1.4.9.2).
    pub fn target(&self, config: &ConfigSpace) -> Option<(Offset, usize)> {
        let at = |byte| self.access.saturating_add(byte);
        let [number] = config.bytes(at(4));
        let byte = u64::from(u32::from_le_bytes(config.bytes(at(8))));
        let len = u32::from_le_bytes(config.bytes(at(12)));
        // Each BAR takes one register.
        let bar = self.bars.get(usize::from(number))?;
        let inside = matches!(len, 1 | 2 | 4)
            && byte.is_multiple_of(u64::from(len))
            && byte.checked_add(u64::from(len))? <= bar.size;
        let target = Offset { window: number.checked_add(1)?, byte };
        inside.then_some((target, usize::try_from(len).ok()?))
    }

    pub fn data(&self, config: &ConfigSpace) -> [u8; 4] {
        config.bytes(self.data_at())
    }

    pub fn set_data(&self, config: &mut ConfigSpace, data: [u8; 4]) {
        config.set(self.data_at(), &data);
    }
}

/// A capability from its length on.
fn structure(cap_len: u8, kind: u8, bar: u8, at: u64, len: u64) -> [u8; 14] {
    let [a, b, c, d, ..] = at.to_le_bytes();
    let [e, f, g, h, ..] = len.to_le_bytes();
    [cap_len, kind, bar, 0, 0, 0, a, b, c, d, e, f, g, h]
}

/// Ids of 4.1.2.1, and for a transitional function of 4.1.2.3.
fn identity(device_type: u32, interface: Interface) -> Identity {
    let id = u16::try_from(device_type).unwrap_or(0);
    // Class codes: PCI Code and ID Assignment 1.11.
    let (transitional, class) = match device_type {
        VIRTIO_ID_NET => (Some(0x1000), 0x02_0000),
        VIRTIO_ID_BLOCK => (Some(0x1001), 0x01_8000),
        VIRTIO_ID_BALLOON => (Some(0x1002), 0x00_ff00),
        VIRTIO_ID_CONSOLE => (Some(0x1003), 0x07_8000),
        VIRTIO_ID_RNG => (Some(0x1005), 0x00_ff00),
        _ => (None, 0x00_ff00),
    };
    let modern = Identity {
        vendor: VENDOR,
        device: id.saturating_add(0x1040),
        revision: 1,
        class,
        subsystem_vendor: VENDOR,
        // At least 0x40 (4.1.2.1).
        subsystem: id.saturating_add(0x1040),
    };
    match interface {
        Interface::Modern => modern,
        Interface::Legacy => Identity {
            // A type without one of its own has none of the range's (4.1.2.1); it is found by its subsystem.
            device: transitional.unwrap_or(0x103f),
            revision: 0,
            subsystem: id,
            ..modern
        },
    }
}
