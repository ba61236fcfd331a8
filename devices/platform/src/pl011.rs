//! One UART, as Linux's amba-pl011 driver expects it.

mod uart;

#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use ambit_bus::{
    Description, Device, Effect, Host, HostError, IrqLine, Model, Needs, Offset, Property, Request, Shared,
    Slot, Trigger, share,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::access;
use crate::receiver::Receiver;
use uart::Uart;

/// Size of the register window in bytes.
pub const WINDOW: u64 = access::WINDOW;

/// How many typed bytes wait for the guest besides those in its FIFO.
pub const INPUT_ROOM: usize = uart::LINE;

/// Where transmitted bytes go. Called on the vCPU's thread with the device locked: it must not wait,
/// must not fail, and must not use the [`Input`] of the same UART.
pub type Sink = Box<dyn FnMut(&[u8]) + Send>;

/// What a UART called `id` asks of the planner.
///
/// Linux `Documentation/devicetree/bindings/serial/pl011.yaml`.
pub fn request(id: &str) -> Request {
    let clocks = Property::Clocks(vec!["uartclk".into(), "apb_pclk".into()]);
    Request {
        id: id.into(),
        kind: "pl011".into(),
        needs: Needs::Board { registers: WINDOW, irq: Some(Trigger::Level) },
        description: Arc::new(Description {
            node: "pl011".into(),
            compatible: vec!["arm,pl011".into(), "arm,primecell".into()],
            properties: vec![("clocks".into(), clocks)],
        }),
        queue_reach: None,
    }
}

/// A UART as configured: what the guest transmits goes to the sink, what [`Input`] gets is received.
pub struct Pl011Model {
    id: String,
    port: Arc<Port>,
}

impl Pl011Model {
    /// The input works before the device is built, too: what is pushed then waits for the guest.
    ///
    /// # Errors
    /// If the host gives no event.
    pub fn new(id: &str, sink: Sink) -> io::Result<(Self, Input)> {
        let wiring = Wiring { uart: Uart::new(), sink, wanted: false, irq: None, high: false };
        let room = EventFd::new(EFD_NONBLOCK)?;
        let port = Arc::new(Port { wiring: Mutex::new(wiring), room });
        Ok((Self { id: id.into(), port: Arc::clone(&port) }, Input(port)))
    }
}

impl fmt::Debug for Pl011Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pl011Model").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Model for Pl011Model {
    fn request(&self) -> Request {
        request(&self.id)
    }

    /// Without an interrupt in `slot` the device can be polled.
    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let irq = slot.irq.map(|(pin, trigger)| host.irq(pin, trigger)).transpose()?;
        let mut wiring = self.port.lock();
        wiring.irq = irq;
        wiring.reset();
        drop(wiring);
        Ok(share(Pl011(Arc::clone(&self.port))))
    }
}

/// The end of the line that the user types into. It holds [`INPUT_ROOM`] bytes. Cheap to clone.
#[derive(Clone)]
pub struct Input(Arc<Port>);

impl Receiver for Input {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut wiring = self.0.lock();
        let taken = wiring.uart.push(bytes);
        wiring.wanted |= taken < bytes.len();
        wiring.drive();
        taken
    }

    fn room(&self, wanted: usize) -> usize {
        let mut wiring = self.0.lock();
        let room = wiring.uart.room();
        wiring.wanted |= room < wanted.min(INPUT_ROOM / 2);
        room
    }

    fn room_event(&self) -> &EventFd {
        &self.0.room
    }
}

impl AsRawFd for Input {
    fn as_raw_fd(&self) -> RawFd {
        self.0.room.as_raw_fd()
    }
}

/// What the guest's side and the host's side share.
// Lock order: the device as the bus has it, then the wiring, then whatever the sink and the wire take.
struct Port {
    wiring: Mutex<Wiring>,
    room: EventFd,
}

struct Wiring {
    uart: Uart,
    sink: Sink,
    /// Somebody found too little room and wants to hear when there is more.
    wanted: bool,
    irq: Option<IrqLine>,
    /// As the interrupt line was last set.
    high: bool,
}

impl Port {
    /// A panic has ended the program already: there is no half-changed state to protect.
    fn lock(&self) -> MutexGuard<'_, Wiring> {
        self.wiring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One access of the guest, and what follows from it.
    fn access<T>(&self, act: impl FnOnce(&mut Wiring) -> T) -> T {
        let mut wiring = self.lock();
        let result = act(&mut wiring);
        wiring.drive();
        // Half, so that a stream of input does not wake its reader for every byte.
        if wiring.wanted && wiring.uart.room() >= INPUT_ROOM / 2 {
            wiring.wanted = false;
            // Full means it is signalled already.
            let _full = self.room.write(1);
        }
        result
    }
}

impl Wiring {
    /// Sets the interrupt line if it has changed: setting it costs a system call.
    fn drive(&mut self) {
        let high = self.uart.interrupt();
        if high != self.high {
            self.high = high;
            if let Some(irq) = &self.irq {
                irq.set(high);
            }
        }
    }

    fn reset(&mut self) {
        self.uart.reset();
        self.high = false;
        if let Some(irq) = &self.irq {
            irq.set(false);
        }
    }
}

/// Accesses of every width and alignment are defined, by one rule for all registers: an access that
/// begins at a register reads its low bytes and then zeros, and writes its first four bytes, or zeros
/// where it has fewer. Everywhere else the window reads as zero and cannot be written.
struct Pl011(Arc<Port>);

impl Device for Pl011 {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        let value =
            access::register(at).map_or(0, |register| self.0.access(|wiring| wiring.uart.read(register)));
        access::answer(data, value);
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        if let Some(register) = access::register(at) {
            self.0.access(|wiring| {
                if let Some(byte) = wiring.uart.write(register, access::written(data)) {
                    (wiring.sink)(&[byte]);
                }
            });
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.0.lock().reset();
    }
}
