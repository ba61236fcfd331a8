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
use ambit_pci::intx::Intx;
use ambit_pci::msix::Msix;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{Interface, VirtioDevice};
use crate::interrupt::Interrupt;
use crate::transport::Transport;

use registers::{COMMON, Registers};
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
const TABLE_AT: u64 = 0x2000;
const PENDING_AT: u64 = 0x3000;
/// From one queue's notifications to the next's, in bytes (4.1.4.4).
const NOTIFY_STEP: u64 = 4;

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
        let queues = device.queue_sizes().len();
        // One for each queue and one for the configuration (4.1.5.1.2).
        let messages = (0..=queues).map(|_| host.message()).collect::<Result<Option<Vec<_>>, _>>()?;
        let msix = messages.map(|messages| Arc::new(Msix::new(messages)));
        let intx = Arc::new(Intx::new(line));
        let vectors = Arc::new(Vectors::new(queues, msix.as_ref().map_or(0, |msix| msix.len())));
        let space = Space::new(&*device, self.interface, msix.as_deref());
        let kicks = kicks(&*device, self.interface, host)?;
        let signal = Messages { vectors: Arc::clone(&vectors), msix: msix.clone(), intx: Arc::clone(&intx) };
        let interrupt = Arc::new(Interrupt::new(signal));
        let mut transport = Transport::new(device, host.memory(), host.pa_bits(), interrupt, kicks);
        transport.set_master(false);
        let (interface, selected) = (self.interface, Selected::default());
        Ok(share(Function { transport, interface, space, msix, intx, vectors, selected }))
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

/// The window of [`BAR`], which is also one more than the number of its register.
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
        let byte = NOTIFY_AT.saturating_add(NOTIFY_STEP.saturating_mul(u64::from(queue)));
        host.doorbell(Doorbell { window: memory_window(interface), byte, write: Match::Any }, &kick)?;
        if interface == Interface::Legacy {
            let at = Doorbell { window: PORTS, byte: registers::NOTIFY, write: Match::Half(queue) };
            host.doorbell(at, &kick)?;
        }
        Ok(kick)
    };
    (0u16..).zip(device.queue_sizes()).map(|(queue, _)| kick(queue)).collect()
}

/// The function behind its windows.
struct Function {
    transport: Transport,
    interface: Interface,
    space: Space,
    msix: Option<Arc<Msix>>,
    intx: Arc<Intx>,
    vectors: Arc<Vectors>,
    selected: Selected,
}

impl Function {
    fn registers(&mut self) -> Registers<'_> {
        Registers {
            transport: &mut self.transport,
            selected: &mut self.selected,
            vectors: &self.vectors,
            msix: self.msix.as_ref().is_some_and(|msix| msix.is_enabled()),
        }
    }

    /// Reads from a BAR, by its window.
    fn fetch(&mut self, window: u8, at: u64, data: &mut [u8]) {
        if window == PORTS && self.interface == Interface::Legacy {
            return self.registers().read_legacy(at, data);
        }
        data.fill(0);
        match at {
            COMMON_AT..ISR_AT if at < COMMON => self.registers().read_common(at, data),
            ISR_AT => {
                if let Some(status) = data.first_mut() {
                    *status = self.transport.interrupt().take_status();
                }
            }
            CONFIG_AT..NOTIFY_AT => {
                self.transport.device().config().read(at.saturating_sub(CONFIG_AT), data);
            }
            TABLE_AT..PENDING_AT => {
                if let Some(msix) = &self.msix {
                    msix.read_table(at.saturating_sub(TABLE_AT), data);
                }
            }
            PENDING_AT.. => {
                if let Some(msix) = &self.msix {
                    msix.read_pending(at.saturating_sub(PENDING_AT), data);
                }
            }
            _ => {}
        }
    }

    /// Writes to a BAR, by its window.
    fn store(&mut self, window: u8, at: u64, data: &[u8]) {
        if window == PORTS && self.interface == Interface::Legacy {
            return self.registers().write_legacy(at, data);
        }
        match at {
            COMMON_AT..ISR_AT => self.registers().write_common(at, data),
            CONFIG_AT..NOTIFY_AT => {
                self.transport.write_config(at.saturating_sub(CONFIG_AT), data, Interface::Modern);
            }
            NOTIFY_AT..TABLE_AT => {
                let queue = at.saturating_sub(NOTIFY_AT);
                if queue.is_multiple_of(NOTIFY_STEP) {
                    self.transport.kick(u32::try_from(queue / NOTIFY_STEP).unwrap_or(u32::MAX));
                }
            }
            TABLE_AT..PENDING_AT => {
                if let Some(msix) = &self.msix {
                    msix.write_table(at.saturating_sub(TABLE_AT), data);
                }
            }
            _ => {}
        }
    }

    /// Writes to the configuration space, and does what changed there.
    fn configure(&mut self, at: u64, data: &[u8]) -> Effect {
        let moved = self.space.config.write(at, data);
        self.intx.disable(self.space.config.intx_disabled());
        if let (Some(msix), Some(control)) = (&self.msix, self.space.msix_control()) {
            if self.space.touches_msix(at, data.len()) {
                msix.set_control(control);
            }
            self.intx.yield_to_msix(msix.is_enabled());
        }
        self.transport.set_master(self.space.config.is_master());
        if self.space.touches_access_data(at, data.len())
            && let Some((window, at, len)) = self.space.access()
        {
            let data = self.space.access_data();
            self.store(window, at, data.get(..len).unwrap_or_default());
        }
        if moved { Effect::Remap } else { Effect::None }
    }
}

impl Device for Function {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        if at.window != 0 {
            return self.fetch(at.window, at.byte, data);
        }
        if self.space.touches_access_data(at.byte, data.len())
            && let Some((window, at, len)) = self.space.access()
        {
            let mut there = [0; 4];
            if let Some(there) = there.get_mut(..len) {
                self.fetch(window, at, there);
            }
            self.space.set_access_data(there);
        }
        self.space.config.show_interrupt(self.intx.is_pending());
        self.space.config.read(at.byte, data);
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if at.window == 0 {
            return self.configure(at.byte, data);
        }
        self.store(at.window, at.byte, data);
        Effect::None
    }

    fn reset(&mut self) {
        self.transport.reset();
        self.vectors.unmap();
        self.selected = Selected::default();
        if let Some(msix) = &self.msix {
            msix.reset();
        }
        self.space.config.reset();
        self.intx.disable(false);
        self.intx.yield_to_msix(false);
        self.transport.set_master(false);
    }

    fn places(&self) -> Vec<Option<u64>> {
        self.space.config.places()
    }
}
