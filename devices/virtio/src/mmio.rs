//! virtio-mmio, version 2: a register map over the transport (virtio 1.2, 4.2.2).

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ambit_bus::{
    Description, Device, Doorbell, Effect, Host, HostError, Model, Needs, Offset, Property, Request, Shared,
    Slot, Trigger, share,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Interrupt, VirtioDevice};
use crate::queue::{QueueSetup, with_high, with_low};
use crate::transport::Transport;

/// Size of the register window in bytes: 256 of registers (virtio 1.2, 4.2.2) and as many of configuration.
/// Boards that have room give each device a page of its own.
pub const WINDOW: u64 = 0x200;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
// "AMBT" in memory order, as other monitors sign theirs.
const VENDOR: u32 = 0x5442_4d41;

const QUEUE_NOTIFY: u64 = 0x050;
const CONFIG: u64 = 0x100;

/// What one called `id` asks of the planner; `kind` is "virtio-blk" or the like.
pub fn request(id: &str, kind: &str) -> Request {
    Request {
        id: id.into(),
        kind: kind.into(),
        needs: Needs::Board { registers: WINDOW, irq: Some(Trigger::Edge) },
        description: Arc::new(Description {
            node: "virtio_mmio".into(),
            compatible: vec!["virtio,mmio".into()],
            properties: vec![("dma-coherent".into(), Property::Flag)],
        }),
    }
}

/// A virtio device as configured, to be reached over mmio.
pub struct MmioModel {
    id: String,
    kind: &'static str,
    // Its files and queues are its own, so a model builds one device.
    device: Mutex<Option<Box<dyn VirtioDevice>>>,
}

impl MmioModel {
    pub fn new(id: &str, kind: &'static str, device: impl VirtioDevice + 'static) -> Self {
        Self { id: id.into(), kind, device: Mutex::new(Some(Box::new(device))) }
    }
}

impl fmt::Debug for MmioModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MmioModel({}, {})", self.id, self.kind)
    }
}

impl Model for MmioModel {
    fn request(&self) -> Request {
        request(&self.id, self.kind)
    }

    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let refused = |source| HostError { wanted: format!("device {}", self.id), source };
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        let device = device.ok_or_else(|| refused(std::io::Error::other("it was built before")))?;
        let line = slot.irq.map(|(pin, trigger)| host.irq(pin, trigger)).transpose()?;
        let base = slot.windows.first().map(|window| window.first());
        let kicks = (0u32..)
            .zip(device.queue_sizes())
            .map(|(value, _)| kick(host, base, value))
            .collect::<Result<Vec<_>, _>>()?;
        let interrupt = Interrupt::new(line);
        Ok(share(Mmio {
            transport: Transport::new(device, host.memory(), host.pa_bits(), interrupt, kicks),
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
        }))
    }
}

/// The event behind one queue's doorbell. Without a doorbell the guest's write comes to us, and we
/// signal the same event.
fn kick(host: &dyn Host, base: Option<u64>, value: u32) -> Result<EventFd, HostError> {
    let Some(address) = base.and_then(|base| base.checked_add(QUEUE_NOTIFY)) else {
        return EventFd::new(EFD_NONBLOCK).map_err(|source| HostError { wanted: "an event".into(), source });
    };
    host.doorbell(Doorbell { address, value })
}

/// The registers. They are 4 bytes wide and reached only so: other accesses below the configuration
/// read as zero and write nothing. The configuration is reached in any width.
struct Mmio {
    transport: Transport,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
}

impl Mmio {
    fn read_register(&self, at: u64) -> u32 {
        let queue = self.transport.queue(self.queue_select);
        match at {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.transport.device().device_type(),
            0x00c => VENDOR,
            0x010 => word(self.transport.offered(), self.device_features_select),
            0x034 => queue.map_or(0, |queue| u32::from(queue.max)),
            0x044 => queue.map_or(0, |queue| u32::from(queue.ready)),
            0x060 => self.transport.interrupt().status(),
            0x070 => self.transport.status(),
            // No shared memory: length -1 and base all ones (4.2.2.1, C-089).
            0x0b0..=0x0bc => u32::MAX,
            // 0x0fc, the configuration's generation, stays 0: no field changes while a guest runs.
            _ => 0,
        }
    }

    fn write_register(&mut self, at: u64, value: u32) {
        match at {
            0x014 => self.device_features_select = value,
            0x020 => self.write_features(value),
            0x024 => self.driver_features_select = value,
            0x030 => self.queue_select = value,
            0x038 => self.set_up(|queue| queue.size = value),
            0x044 => self.transport.set_ready(self.queue_select, value == 1),
            QUEUE_NOTIFY => self.transport.kick(value),
            0x064 => self.transport.interrupt().acknowledge(value),
            0x070 => self.write_status(value),
            0x080 => self.set_up(|queue| queue.desc = with_low(queue.desc, value)),
            0x084 => self.set_up(|queue| queue.desc = with_high(queue.desc, value)),
            0x090 => self.set_up(|queue| queue.avail = with_low(queue.avail, value)),
            0x094 => self.set_up(|queue| queue.avail = with_high(queue.avail, value)),
            0x0a0 => self.set_up(|queue| queue.used = with_low(queue.used, value)),
            0x0a4 => self.set_up(|queue| queue.used = with_high(queue.used, value)),
            _ => {}
        }
    }

    fn set_up(&mut self, change: impl FnOnce(&mut QueueSetup)) {
        self.transport.set_up(self.queue_select, change);
    }

    fn write_features(&mut self, value: u32) {
        let before = self.transport.driver_features();
        match self.driver_features_select {
            0 => self.transport.set_driver_features(with_low(before, value)),
            1 => self.transport.set_driver_features(with_high(before, value)),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32) {
        self.transport.set_status(value);
        if value == 0 {
            self.clear_selectors();
        }
    }

    fn clear_selectors(&mut self) {
        (self.device_features_select, self.driver_features_select, self.queue_select) = (0, 0, 0);
    }
}

/// 32 bits of 64; there are no others.
fn word(features: u64, select: u32) -> u32 {
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
            return self.transport.device().read_config(config, data);
        }
        data.fill(0);
        if at.byte.is_multiple_of(4)
            && let Ok(register) = <&mut [u8; 4]>::try_from(data)
        {
            *register = self.read_register(at.byte).to_le_bytes();
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        // No device has a configuration field that the driver may write.
        if at.byte < CONFIG
            && at.byte.is_multiple_of(4)
            && let Ok(register) = <[u8; 4]>::try_from(data)
        {
            self.write_register(at.byte, u32::from_le_bytes(register));
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.clear_selectors();
    }
}

/// Copies what `config` has at `at` into `data`; what is beyond it reads as zero.
pub fn read_bytes(config: &[u8], at: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(at).ok().and_then(|at| config.get(at..)).unwrap_or_default();
    data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
#[path = "mmio/tests.rs"]
mod tests;
