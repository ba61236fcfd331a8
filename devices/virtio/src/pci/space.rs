//! The configuration space of a virtio function and its capabilities (virtio 1.2, 4.1.2 and 4.1.4).

use ambit_bus::{Bar, Needs};
use ambit_pci::config::{ConfigSpace, Identity};
use ambit_pci::msix::{CAPABILITY, Msix};
use virtio_bindings::virtio_ids::{
    VIRTIO_ID_BALLOON, VIRTIO_ID_BLOCK, VIRTIO_ID_CONSOLE, VIRTIO_ID_NET, VIRTIO_ID_RNG,
};

use super::{
    COMMON, COMMON_AT, CONFIG_AT, ISR_AT, NOTIFY_AT, NOTIFY_STEP, PENDING_AT, TABLE_AT, memory_window,
    request,
};
use crate::device::{Interface, VirtioDevice};

/// Of every virtio function (4.1.2).
const VENDOR: u16 = 0x1af4;
/// A vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 0x09;
/// How long it is: id, link, length, kind, BAR, two bytes of padding and an id, offset and length (4.1.4).
const CAP_LEN: u8 = 16;

/// Which structure a capability names.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;

/// Configuration space, and where in it are the capabilities that do something.
pub struct Space {
    pub config: ConfigSpace,
    bars: Vec<Bar>,
    msix: Option<u16>,
    access: Option<u16>,
}

impl Space {
    pub fn new(device: &dyn VirtioDevice, interface: Interface, msix: Option<&Msix>) -> Self {
        let bars = match request("", "", interface).needs {
            Needs::Pci { bars } => bars,
            Needs::Board { .. } => Vec::new(),
        };
        let mut config = ConfigSpace::new(&identity(device.device_type(), interface), &bars);
        let bar = memory_window(interface).saturating_sub(1);
        let msix = msix.and_then(|msix| {
            let (body, writable) = msix.capability(bar, TABLE_AT as u32, PENDING_AT as u32);
            config.add_capability(CAPABILITY, &body, &writable)
        });
        let queues = device.queue_sizes().len() as u64;
        let mut add = |kind, at: u64, len: u64, more: &[u8]| {
            let mut body = structure(kind, bar, at, len).to_vec();
            body.extend_from_slice(more);
            if let (Some(first), Ok(more)) = (body.first_mut(), u8::try_from(more.len())) {
                *first = CAP_LEN.saturating_add(more);
            }
            config.add_capability(VENDOR_SPECIFIC, &body, &[])
        };
        add(COMMON_CFG, COMMON_AT, COMMON, &[]);
        add(ISR_CFG, ISR_AT, 1, &[]);
        if !device.config().is_empty() {
            add(DEVICE_CFG, CONFIG_AT, device.config().len() as u64, &[]);
        }
        let notify = NOTIFY_STEP.saturating_mul(queues);
        add(NOTIFY_CFG, NOTIFY_AT, notify, &(NOTIFY_STEP as u32).to_le_bytes());
        // BAR, offset and length are the guest's to write, and so is what goes through them (4.1.4.9).
        let mut body = structure(PCI_CFG, 0, 0, 0).to_vec();
        body.extend_from_slice(&[0; 4]);
        if let Some(len) = body.first_mut() {
            *len = CAP_LEN + 4;
        }
        let writable =
            [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let access = config.add_capability(VENDOR_SPECIFIC, &body, &writable);
        Self { config, bars, msix, access }
    }

    fn bytes<const N: usize>(&self, at: u16) -> [u8; N] {
        let mut bytes = [0; N];
        self.config.read(u64::from(at), &mut bytes);
        bytes
    }

    /// The upper byte of MSI-X's message control.
    pub fn msix_control(&self) -> Option<u8> {
        let [control] = self.bytes(self.msix?.checked_add(3)?);
        Some(control)
    }

    pub fn touches_msix(&self, at: u64, len: usize) -> bool {
        self.msix.is_some_and(|msix| overlaps(at, len, u64::from(msix).saturating_add(3), 1))
    }

    /// Where in the space the bytes are that stand for bytes of a BAR.
    fn data(&self) -> Option<u16> {
        self.access?.checked_add(u16::from(CAP_LEN))
    }

    pub fn touches_access_data(&self, at: u64, len: usize) -> bool {
        self.data().is_some_and(|data| overlaps(at, len, u64::from(data), 4))
    }

    /// Window, offset and length of what the guest reaches through the space: inside a BAR, aligned (4.1.4.9.2).
    pub fn access(&self) -> Option<(u8, u64, usize)> {
        let capability = self.access?;
        let [number] = self.bytes(capability.checked_add(4)?);
        let offset = u64::from(u32::from_le_bytes(self.bytes(capability.checked_add(8)?)));
        let len = u32::from_le_bytes(self.bytes(capability.checked_add(12)?));
        // Every BAR takes one register.
        let bar = self.bars.get(usize::from(number))?;
        let inside = matches!(len, 1 | 2 | 4)
            && offset.is_multiple_of(u64::from(len))
            && offset.checked_add(u64::from(len))? <= bar.size;
        let len = usize::try_from(len).ok()?;
        inside.then_some((number.checked_add(1)?, offset, len))
    }

    pub fn access_data(&self) -> [u8; 4] {
        self.data().map_or([0; 4], |at| self.bytes(at))
    }

    pub fn set_access_data(&mut self, data: [u8; 4]) {
        if let Some(at) = self.data() {
            self.config.put(at, &data);
        }
    }
}

fn overlaps(at: u64, len: usize, other: u64, other_len: u64) -> bool {
    at < other.saturating_add(other_len) && other < at.saturating_add(len as u64)
}

/// A capability from its length on.
fn structure(kind: u8, bar: u8, at: u64, len: u64) -> [u8; 14] {
    let [a, b, c, d, ..] = at.to_le_bytes();
    let [e, f, g, h, ..] = len.to_le_bytes();
    [CAP_LEN, kind, bar, 0, 0, 0, a, b, c, d, e, f, g, h]
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
        has_intx: true,
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
