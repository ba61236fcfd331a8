//! virtio over PCI: a modern function, or a transitional one for legacy drivers too (virtio 1.2, 4.1).

mod registers;
mod space;
mod vectors;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ambit_bus::{
    Bar, BarSpace, Device, Doorbell, Effect, Host, HostError, Match, Model, Needs, Offset, Request, Shared,
    Slot, share,
};
use ambit_pci::{Function, Msix};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Interface, VirtioDevice};
use crate::interrupt::Interrupt;
use crate::transport::Transport;

use registers::Registers;
use space::Space;
use vectors::{Messages, Vectors};

pub use registers::LEGACY_REACH;
pub use vectors::NO_VECTOR;

/// The BAR with everything a modern driver and MSI-X need; in bytes. Below 4 GiB there is always room for it.
const BAR: u64 = 0x4000;
/// The BAR of I/O ports that a legacy driver finds at number 0 (4.1.4.10); in bytes.
const IO_BAR: u64 = 0x80;

/// Structures within [`BAR`].
const COMMON_AT: u64 = 0;
const ISR_AT: u64 = 0x400;
const CONFIG_AT: u64 = 0x800;
const NOTIFY_AT: u64 = 0x1000;
const TABLE_AT: u64 = TABLE as u64;
/// As the capability of MSI-X says them.
const TABLE: u32 = 0x2000;
const PENDING: u32 = 0x3000;
/// From one queue's notifications to the next's, in bytes (4.1.4.4).
const NOTIFY_STEP: u32 = 4;

/// What one called `id` asks of the planner; `kind` is "virtio-blk" or the like.
pub fn request(id: &str, kind: &str, interface: Interface) -> Request {
    let memory = Bar { size: BAR, space: BarSpace::Mmio32 };
    let ports = Bar { size: IO_BAR, space: BarSpace::Io };
    let bars = match interface {
        Interface::Modern => vec![memory],
        Interface::Legacy => vec![ports, memory],
    };
    Request {
        id: id.into(),
        kind: kind.into(),
        needs: Needs::Pci { bars },
        description: Arc::default(),
        queue_reach: (interface == Interface::Legacy).then_some(LEGACY_REACH),
    }
}

/// A virtio device as configured, to be reached over PCI.
pub struct PciModel {
    id: String,
    kind: &'static str,
    interface: Interface,
    // Its files and queues are its own, so a model builds one device.
    device: Mutex<Option<Box<dyn VirtioDevice>>>,
}

impl PciModel {
    /// A modern function, or with [`Interface::Legacy`] a transitional one: it serves both kinds of driver.
    pub fn new(
        id: &str,
        kind: &'static str,
        interface: Interface,
        device: impl VirtioDevice + 'static,
    ) -> Self {
        Self { id: id.into(), kind, interface, device: Mutex::new(Some(Box::new(device))) }
    }
}

impl fmt::Debug for PciModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciModel({}, {}, {:?})", self.id, self.kind, self.interface)
    }
}

impl Model for PciModel {
    fn request(&self) -> Request {
        request(&self.id, self.kind, self.interface)
    }

    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let refused = |source| HostError { wanted: format!("device {}", self.id), source };
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner).take();
        let device = device.ok_or_else(|| refused(std::io::Error::other("it was built before")))?;
        let line = slot.irq.map(|(pin, trigger)| host.irq(pin, trigger)).transpose()?;
        let queues = u16::try_from(device.queue_sizes().len()).unwrap_or(u16::MAX);
        // One for each queue and one for the configuration (4.1.5.1.2).
        let messages = Msix::wires(host, queues.saturating_add(1))?;
        let vectors = Arc::new(Vectors::new(queues, messages.as_ref().map_or(0, Vec::len)));
        let (space, function) = Space::new(&*device, self.interface, messages, line)?;
        let kicks = kicks(&*device, self.interface, host)?;
        let signal = Messages {
            vectors: Arc::clone(&vectors),
            msix: function.msix.clone(),
            intx: Arc::clone(&function.intx),
        };
        let interrupt = Arc::new(Interrupt::new(signal));
        let mut transport = Transport::new(device, host.memory(), host.pa_bits(), interrupt, kicks);
        transport.set_master(false);
        let (interface, selected) = (self.interface, Selected::default());
        Ok(share(Virtio { transport, interface, function, space, vectors, selected }))
    }
}

/// What the driver's next accesses are about.
#[derive(Clone, Copy, Default)]
struct Selected {
    device_features: u32,
    driver_features: u32,
    queue: u16,
}

/// The window of a transitional function's ports.
const PORTS: u8 = 1;

/// The window of [`BAR`].
fn memory_window(interface: Interface) -> u8 {
    match interface {
        Interface::Modern => 1,
        Interface::Legacy => 2,
    }
}

/// An event for each queue, rung by the guest where its kind of driver notifies. A transitional function has
/// both places.
fn kicks(
    device: &dyn VirtioDevice,
    interface: Interface,
    host: &dyn Host,
) -> Result<Vec<EventFd>, HostError> {
    let kick = |queue: u16| {
        let kick = EventFd::new(EFD_NONBLOCK);
        let kick = kick.map_err(|source| HostError { wanted: "an event".into(), source })?;
        let byte = NOTIFY_AT.saturating_add(u64::from(NOTIFY_STEP).saturating_mul(queue.into()));
        host.doorbell(Doorbell { window: memory_window(interface), byte, write: Match::Any }, &kick)?;
        if interface == Interface::Legacy {
            let at = Doorbell { window: PORTS, byte: registers::NOTIFY, write: Match::Half(queue) };
            host.doorbell(at, &kick)?;
        }
        Ok(kick)
    };
    (0u16..).zip(device.queue_sizes()).map(|(queue, _)| kick(queue)).collect()
}

/// The device behind its windows.
struct Virtio {
    transport: Transport,
    interface: Interface,
    function: Function,
    space: Space,
    vectors: Arc<Vectors>,
    selected: Selected,
}

impl Virtio {
    fn registers(&mut self) -> Registers<'_> {
        Registers {
            transport: &mut self.transport,
            selected: &mut self.selected,
            vectors: &self.vectors,
            msix: self.function.msix.as_ref().is_some_and(|msix| msix.is_enabled()),
        }
    }

    /// Reads from a BAR.
    fn fetch(&mut self, at: Offset, data: &mut [u8]) {
        if self.function.read(at, data) {
            return;
        }
        if at.window == PORTS && self.interface == Interface::Legacy {
            return self.registers().read_legacy(at.byte, data);
        }
        data.fill(0);
        match at.byte {
            COMMON_AT..ISR_AT => self.registers().read_common(at.byte, data),
            ISR_AT => {
                if let Some(status) = data.first_mut() {
                    *status = self.transport.interrupt().take_status();
                }
            }
            CONFIG_AT..NOTIFY_AT => {
                self.transport.device().config().read(at.byte.saturating_sub(CONFIG_AT), data);
            }
            _ => {}
        }
    }

    /// Writes to a BAR.
    fn store(&mut self, at: Offset, data: &[u8]) {
        if self.function.write(at, data).is_some() {
            return;
        }
        if at.window == PORTS && self.interface == Interface::Legacy {
            return self.registers().write_legacy(at.byte, data);
        }
        match at.byte {
            COMMON_AT..ISR_AT => self.registers().write_common(at.byte, data),
            CONFIG_AT..NOTIFY_AT => {
                let at = at.byte.saturating_sub(CONFIG_AT);
                self.transport.write_config(at, data, Interface::Modern);
            }
            NOTIFY_AT..TABLE_AT => {
                let queue = u32::try_from(at.byte.saturating_sub(NOTIFY_AT)).unwrap_or(u32::MAX);
                if queue.is_multiple_of(NOTIFY_STEP) {
                    self.transport.kick(queue / NOTIFY_STEP);
                }
            }
            _ => {}
        }
    }

    /// Writes to the configuration space, and does what changed there.
    fn configure(&mut self, at: Offset, data: &[u8]) -> Effect {
        let Some(change) = self.function.write(at, data) else { return Effect::None };
        if change.command {
            self.transport.set_master(self.function.config.is_master());
        }
        if self.space.touches_data(at.byte, data.len())
            && let Some((at, len)) = self.space.target(&self.function.config)
        {
            let data = self.space.data(&self.function.config);
            self.store(at, data.get(..len).unwrap_or_default());
        }
        if change.remap { Effect::Remap } else { Effect::None }
    }
}

impl Device for Virtio {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        if at.window == 0
            && self.space.touches_data(at.byte, data.len())
            && let Some((target, len)) = self.space.target(&self.function.config)
        {
            let mut there = [0; 4];
            if let Some(there) = there.get_mut(..len) {
                self.fetch(target, there);
            }
            self.space.set_data(&mut self.function.config, there);
        }
        if at.window != 0 {
            self.fetch(at, data);
        } else if !self.function.read(at, data) {
            data.fill(0);
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if at.window == 0 {
            return self.configure(at, data);
        }
        self.store(at, data);
        Effect::None
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.vectors.unmap();
        self.selected = Selected::default();
        self.function.reset();
        self.transport.set_master(false);
    }

    fn places(&self) -> Vec<Option<u64>> {
        self.function.places()
    }
}

#[cfg(test)]
#[path = "pci/tests.rs"]
mod tests;
