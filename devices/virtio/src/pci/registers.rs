//! The common configuration of a modern function (virtio 1.2, 4.1.4.3), and the header of a legacy one (4.1.4.10).

use super::{Selected, Vectors};
use crate::device::Interface;
use crate::mmio::word;
use crate::queue::{Areas, QueueSetup, with_high, with_low};
use crate::transport::Transport;

/// Bytes of the common configuration.
pub const COMMON: u64 = 56;
/// Bytes of the legacy header without MSI-X; the configuration is behind it.
const HEADER: u64 = 20;
/// As many as there are with MSI-X.
const HEADER_WITH_VECTORS: u64 = 24;
/// Where in the header notifications go.
pub const NOTIFY: u64 = 16;
/// The pages and the alignment of a legacy function's queues in bytes, whatever the guest's pages are.
const PAGE: u32 = 4096;

/// How many address bits the queues of a legacy function can name.
pub const LEGACY_REACH: u8 = 44;

/// What the registers are about, put together for one access.
pub struct Registers<'a> {
    pub transport: &'a mut Transport,
    pub selected: &'a mut Selected,
    pub vectors: &'a Vectors,
    /// MSI-X is enabled, so a legacy header has the fields of vectors.
    pub msix: bool,
}

impl Registers<'_> {
    fn queue(&self) -> u32 {
        u32::from(self.selected.queue)
    }

    /// Any bytes of the common configuration; what is beyond reads as zero. Reading changes nothing.
    pub fn read_common(&self, at: u64, data: &mut [u8]) {
        let queue = self.transport.queue(self.queue());
        let areas = queue.map(|queue| queue.areas).unwrap_or_default();
        let size = queue.map_or(0, |queue| u16::try_from(queue.size).unwrap_or(0));
        let offered = self.transport.offered(Interface::Modern);
        let mut image = Image::default();
        image.put(0, self.selected.device_features);
        image.put(4, word(offered, self.selected.device_features));
        image.put(8, self.selected.driver_features);
        image.put(12, word(self.transport.driver_features() & offered, self.selected.driver_features));
        image.put_half(16, self.vectors.config());
        image.put_half(18, u16::try_from(self.transport.device().queue_sizes().len()).unwrap_or(0));
        image.put_byte(20, self.transport.status());
        image.put_byte(21, u32::from(self.transport.device().config().generation()));
        image.put_half(22, self.selected.queue);
        image.put_half(24, size);
        image.put_half(26, self.vectors.queue(self.selected.queue));
        image.put_half(28, u16::from(self.transport.is_ready(self.queue())));
        image.put_half(30, if queue.is_some() { self.selected.queue } else { 0 });
        for (at, address) in [32, 40, 48].into_iter().zip([areas.desc, areas.avail, areas.used]) {
            image.put(at, word(address, 0));
            image.put(at.saturating_add(4), word(address, 1));
        }
        image.read(at, data);
    }

    /// Each field is written whole; addresses are two fields of 4 bytes. Anything else is ignored.
    pub fn write_common(&mut self, at: u64, data: &[u8]) {
        match *data {
            [a, b, c, d] => self.write_common_word(at, u32::from_le_bytes([a, b, c, d])),
            [a, b] => self.write_common_half(at, u16::from_le_bytes([a, b])),
            [status] if at == 20 => self.write_status(status, Interface::Modern),
            [a, b, c, d, e, f, g, h] if (32..COMMON).contains(&at) && at.is_multiple_of(8) => {
                self.write_common_word(at, u32::from_le_bytes([a, b, c, d]));
                self.write_common_word(at.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
    }

    fn write_common_word(&mut self, at: u64, value: u32) {
        let before = self.transport.driver_features();
        match at {
            0 => self.selected.device_features = value,
            8 => self.selected.driver_features = value,
            12 => match self.selected.driver_features {
                0 => self.transport.set_driver_features(with_low(before, value), Interface::Modern),
                1 => self.transport.set_driver_features(with_high(before, value), Interface::Modern),
                _ => {}
            },
            32 => self.set_area(|areas| areas.desc = with_low(areas.desc, value)),
            36 => self.set_area(|areas| areas.desc = with_high(areas.desc, value)),
            40 => self.set_area(|areas| areas.avail = with_low(areas.avail, value)),
            44 => self.set_area(|areas| areas.avail = with_high(areas.avail, value)),
            48 => self.set_area(|areas| areas.used = with_low(areas.used, value)),
            52 => self.set_area(|areas| areas.used = with_high(areas.used, value)),
            _ => {}
        }
    }

    fn write_common_half(&mut self, at: u64, value: u16) {
        match at {
            16 => self.vectors.set_config(value),
            22 => self.selected.queue = value,
            // What it may not be reads back as it was (4.1.4.3.1): 0 or a power of two.
            24 => self.set_up(|queue| {
                if value.is_power_of_two() && value <= queue.max {
                    queue.size = u32::from(value);
                }
            }),
            26 => self.vectors.set_queue(self.selected.queue, value),
            28 if value == 1 => self.transport.enable(self.queue()),
            _ => {}
        }
    }

    fn set_area(&mut self, change: impl FnOnce(&mut Areas)) {
        self.set_up(|queue| change(&mut queue.areas));
    }

    fn set_up(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        self.transport.set_up(u32::from(self.selected.queue), Interface::Modern, change);
    }

    fn write_status(&mut self, value: u8, from: Interface) {
        self.transport.set_status(u32::from(value), from);
        if value == 0 {
            *self.selected = Selected::default();
            self.vectors.unmap();
        }
    }

    /// Where the configuration begins behind a legacy header. It moves with MSI-X.
    fn legacy_config(&self) -> u64 {
        if self.msix { HEADER_WITH_VECTORS } else { HEADER }
    }

    /// Any bytes of the legacy header and the configuration behind it. The byte of the interrupt status is
    /// cleared by reading it.
    pub fn read_legacy(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        let config = self.legacy_config();
        let Some(in_header) = config.checked_sub(at).filter(|left| *left > 0) else {
            return self.transport.device().config().read(at.saturating_sub(config), data);
        };
        let in_header = usize::try_from(in_header).unwrap_or(usize::MAX).min(data.len());
        let Some((header, behind)) = data.split_at_mut_checked(in_header) else { return };
        self.read_header(at, header);
        if !behind.is_empty() {
            self.transport.device().config().read(0, behind);
        }
    }

    fn read_header(&self, at: u64, data: &mut [u8]) {
        let queue = self.transport.queue(self.queue());
        let mut image = Image::default();
        image.put(0, word(self.transport.offered(Interface::Legacy), 0));
        image.put(4, word(self.transport.driver_features(), 0));
        image.put(8, self.transport.pfn(self.queue()));
        image.put_half(12, queue.map_or(0, |queue| queue.max));
        image.put_half(14, self.selected.queue);
        image.put_byte(18, self.transport.status());
        let end = at.saturating_add(data.len() as u64);
        if (at..end).contains(&19) {
            image.put_byte(19, u32::from(self.transport.interrupt().take_status()));
        }
        image.put_half(20, self.vectors.config());
        image.put_half(22, self.vectors.queue(self.selected.queue));
        image.read(at, data);
    }

    pub fn write_legacy(&mut self, at: u64, data: &[u8]) {
        if let Some(config) = at.checked_sub(self.legacy_config()) {
            return self.transport.write_config(config, data, Interface::Legacy);
        }
        match (at, data) {
            (4, &[a, b, c, d]) => {
                let features = u64::from(u32::from_le_bytes([a, b, c, d]));
                self.transport.set_driver_features(features, Interface::Legacy);
            }
            (8, &[a, b, c, d]) => {
                let block =
                    crate::queue::Block { pfn: u32::from_le_bytes([a, b, c, d]), page: PAGE, align: PAGE };
                self.transport.set_block(self.queue(), block);
            }
            (14, &[a, b]) => self.selected.queue = u16::from_le_bytes([a, b]),
            (NOTIFY, &[a, b]) => self.transport.kick(u32::from(u16::from_le_bytes([a, b]))),
            (18, &[status]) => self.write_status(status, Interface::Legacy),
            (20, &[a, b]) => self.vectors.set_config(u16::from_le_bytes([a, b])),
            (22, &[a, b]) => self.vectors.set_queue(self.selected.queue, u16::from_le_bytes([a, b])),
            _ => {}
        }
    }
}

/// A structure as it reads now.
struct Image([u8; 64]);

impl Default for Image {
    fn default() -> Self {
        Self([0; 64])
    }
}

impl Image {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes(at, &value.to_le_bytes());
    }

    fn put_half(&mut self, at: usize, value: u16) {
        self.bytes(at, &value.to_le_bytes());
    }

    /// The low byte of `value`.
    fn put_byte(&mut self, at: usize, value: u32) {
        self.bytes(at, value.to_le_bytes().get(..1).unwrap_or_default());
    }

    fn read(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        let from = usize::try_from(at).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
}
