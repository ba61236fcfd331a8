//! virtio-mmio: register maps over the transport (virtio 1.2, 4.2).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ambit_bus::{
    Description, Device, Doorbell, Effect, Host, HostError, IrqLine, Match, Model, Needs, Offset, Property,
    Request, Shared, Slot, Trigger, share,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Interface, VirtioDevice};
use crate::interrupt::{Interrupt, Signal};
use crate::queue::{Areas, Block, QueueSetup, with_high, with_low};
use crate::transport::Transport;

/// Size of the register window in bytes: 256 of registers (virtio 1.2, 4.2.2) and as many of configuration.
/// Boards that have room give each device a page of its own.
pub const WINDOW: u64 = 0x200;

/// How many address bits the queues of a legacy device can name: a page number of 32 bits, and pages of
/// 4 KiB if no more is known of the guest (4.2.4).
pub const LEGACY_REACH: u8 = 44;

const MAGIC: u32 = 0x7472_6976;
// "AMBT" in memory order, as other monitors sign theirs.
const VENDOR: u32 = 0x5442_4d41;

const QUEUE_NOTIFY: u64 = 0x050;
const CONFIG: u64 = 0x100;

/// What one called `id` asks of the planner; `kind` is "virtio-blk" or the like.
pub fn request(id: &str, kind: &str, interface: Interface) -> Request {
    Request {
        id: id.into(),
        kind: kind.into(),
        needs: Needs::Board { registers: WINDOW, irq: Some(Trigger::Edge) },
        description: Arc::new(Description {
            node: "virtio_mmio".into(),
            compatible: vec!["virtio,mmio".into()],
            properties: vec![("dma-coherent".into(), Property::Flag)],
        }),
        queue_reach: (interface == Interface::Legacy).then_some(LEGACY_REACH),
    }
}

/// A virtio device as configured, to be reached over mmio.
pub struct MmioModel {
    id: String,
    kind: &'static str,
    interface: Interface,
    reach: Option<u8>,
    // Its files and queues are its own, so a model builds one device.
    device: Mutex<Option<Box<dyn VirtioDevice>>>,
}

impl MmioModel {
    pub fn new(
        id: &str,
        kind: &'static str,
        interface: Interface,
        device: impl VirtioDevice + 'static,
    ) -> Self {
        let reach = request(id, kind, interface).queue_reach;
        Self { id: id.into(), kind, interface, reach, device: Mutex::new(Some(Box::new(device))) }
    }

    /// Of a driver whose queues are named in this many address bits: a legacy one with larger pages than 4 KiB.
    #[must_use]
    pub fn reaching(self, bits: Option<u8>) -> Self {
        Self { reach: bits, ..self }
    }
}

impl fmt::Debug for MmioModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MmioModel({}, {}, {:?})", self.id, self.kind, self.interface)
    }
}

impl Model for MmioModel {
    fn request(&self) -> Request {
        Request { queue_reach: self.reach, ..request(&self.id, self.kind, self.interface) }
    }

    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let refused = |source| HostError { wanted: format!("device {}", self.id), source };
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        let device = device.ok_or_else(|| refused(std::io::Error::other("it was built before")))?;
        let line = slot.irq.map(|(pin, trigger)| host.irq(pin, trigger)).transpose()?;
        let kick = |queue| {
            let kick = EventFd::new(EFD_NONBLOCK).map_err(refused)?;
            let at = Doorbell { window: 0, byte: QUEUE_NOTIFY, write: Match::Word(queue) };
            host.doorbell(at, &kick)?;
            Ok(kick)
        };
        let kicks = (0u32..).zip(device.queue_sizes()).map(|(queue, _)| kick(queue));
        let kicks = kicks.collect::<Result<Vec<_>, HostError>>()?;
        let interrupt = Arc::new(Interrupt::new(Edge(line)));
        let transport = Transport::new(device, host.memory(), host.pa_bits(), interrupt, kicks);
        Ok(share(Mmio { transport, interface: self.interface, selected: Selected::default(), page_size: 0 }))
    }
}

/// The one line of a device: an edge for each bit of the status that was not set before.
///
/// The driver reads the status, acknowledges it, and only then looks at its rings (4.2.3.3). A bit that is set
/// between its read and its acknowledgement is a new edge if the bit was not set, and otherwise came before the
/// look: nothing is lost, and at worst one interrupt finds the status empty.
struct Edge(Option<IrqLine>);

impl Signal for Edge {
    fn status(&self, before: u8, now: u8) {
        if let Some(line) = self.0.as_ref().filter(|_| now & !before != 0) {
            line.pulse();
        }
    }
}

/// The registers. They are 4 bytes wide and reached only so: other accesses below the configuration
/// read as zero and write nothing. The configuration is reached in any width.
struct Mmio {
    transport: Transport,
    interface: Interface,
    selected: Selected,
    /// Of a legacy driver; 0 before it has said. It outlives a reset: Linux says it once, before its first.
    page_size: u32,
}

/// What the driver's next accesses are about.
#[derive(Clone, Copy, Default)]
struct Selected {
    device_features: u32,
    driver_features: u32,
    queue: u32,
}

impl Mmio {
    fn read_register(&self, at: u64) -> u32 {
        let queue = self.transport.queue(self.selected.queue);
        match at {
            0x000 => MAGIC,
            0x004 if self.interface == Interface::Legacy => 1,
            0x004 => 2,
            0x008 => self.transport.device().device_type(),
            0x00c => VENDOR,
            0x010 => word(self.transport.offered(self.interface), self.selected.device_features),
            0x034 => queue.map_or(0, |queue| u32::from(queue.max)),
            0x060 => u32::from(self.transport.interrupt().status()),
            0x070 => self.transport.status(),
            _ => match self.interface {
                Interface::Modern => self.read_modern(at),
                Interface::Legacy => self.read_legacy(at),
            },
        }
    }

    fn read_modern(&self, at: u64) -> u32 {
        match at {
            0x044 => u32::from(self.transport.is_ready(self.selected.queue)),
            // No shared memory: length -1 and base all ones (4.2.2.1, C-089).
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => u32::from(self.transport.device().config().generation()),
            _ => 0,
        }
    }

    fn read_legacy(&self, at: u64) -> u32 {
        match at {
            0x040 => self.transport.pfn(self.selected.queue),
            _ => 0,
        }
    }

    fn write_register(&mut self, at: u64, value: u32) {
        match at {
            0x014 => self.selected.device_features = value,
            0x020 => self.write_features(value),
            0x024 => self.selected.driver_features = value,
            0x030 => self.selected.queue = value,
            0x038 => self.set_up(|queue| queue.size = value),
            QUEUE_NOTIFY => self.transport.kick(value),
            // The bits there are.
            0x064 => self.transport.interrupt().acknowledge(value.to_le_bytes()[0]),
            0x070 => self.write_status(value),
            _ => match self.interface {
                Interface::Modern => self.write_modern(at, value),
                Interface::Legacy => self.write_legacy(at, value),
            },
        }
    }

    fn write_modern(&mut self, at: u64, value: u32) {
        let mut set = |change: fn(&mut Areas, u32)| self.set_up(|queue| change(&mut queue.areas, value));
        match at {
            0x044 if value == 1 => self.transport.enable(self.selected.queue),
            0x044 => self.transport.disable(self.selected.queue),
            0x080 => set(|areas, value| areas.desc = with_low(areas.desc, value)),
            0x084 => set(|areas, value| areas.desc = with_high(areas.desc, value)),
            0x090 => set(|areas, value| areas.avail = with_low(areas.avail, value)),
            0x094 => set(|areas, value| areas.avail = with_high(areas.avail, value)),
            0x0a0 => set(|areas, value| areas.used = with_low(areas.used, value)),
            0x0a4 => set(|areas, value| areas.used = with_high(areas.used, value)),
            _ => {}
        }
    }

    fn write_legacy(&mut self, at: u64, value: u32) {
        let queue = self.selected.queue;
        match at {
            0x028 => self.page_size = value,
            0x03c => self.set_up(|queue| queue.align = value),
            0x040 => {
                let align = self.transport.queue(queue).map_or(0, |queue| queue.align);
                self.transport.set_block(queue, Block { pfn: value, page: self.page_size, align });
            }
            _ => {}
        }
    }

    fn set_up(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        self.transport.set_up(self.selected.queue, self.interface, change);
    }

    fn write_features(&mut self, value: u32) {
        let before = self.transport.driver_features();
        let after = match (self.selected.driver_features, self.interface) {
            (0, _) => with_low(before, value),
            (1, Interface::Modern) => with_high(before, value),
            _ => return,
        };
        self.transport.set_driver_features(after, self.interface);
    }

    fn write_status(&mut self, value: u32) {
        self.transport.set_status(value, self.interface);
        if value == 0 {
            self.selected = Selected::default();
        }
    }
}

/// 32 bits of 64; there are no others.
pub fn word(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

impl Device for Mmio {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        if let Some(config) = at.byte.checked_sub(CONFIG) {
            return self.transport.device().config().read(config, data);
        }
        data.fill(0);
        if at.byte.is_multiple_of(4)
            && let Ok(register) = <&mut [u8; 4]>::try_from(data)
        {
            *register = self.read_register(at.byte).to_le_bytes();
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if let Some(config) = at.byte.checked_sub(CONFIG) {
            self.transport.write_config(config, data, self.interface);
        } else if at.byte.is_multiple_of(4)
            && let Ok(register) = <[u8; 4]>::try_from(data)
        {
            self.write_register(at.byte, u32::from_le_bytes(register));
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.selected = Selected::default();
        self.page_size = 0;
    }
}

#[cfg(test)]
#[path = "mmio/tests.rs"]
mod tests;
