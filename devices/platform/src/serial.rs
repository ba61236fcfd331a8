//! One 16550, as a PC has it at its ports.
//!
//! The registers are those of `vm-superio`. Each port is a byte: an access of more is one of each byte in turn, as
//! the bus of a PC does it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{convert::Infallible, fmt};

use ambit_bus::{
    Device, Effect, Host, HostError, IrqLine, Model, Needs, Offset, Request, Shared, Slot, Trigger, share,
};
use vm_superio::Serial;
use vm_superio::serial::NoEvents;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::access;
use crate::pl011::Sink;
use crate::receiver::Receiver;

/// How many ports it has.
pub const PORTS: u64 = 8;
/// What the configuration calls one.
pub const KIND: &str = "uart16550";

/// How many typed bytes wait for the guest: the FIFO of the model.
const ROOM: usize = 64;

/// What a UART called `id` asks of the planner.
pub fn request(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: KIND.into(),
        needs: Needs::Ports { count: PORTS, irq: Some(Trigger::Edge) },
        description: Arc::default(),
        queue_reach: None,
    }
}

/// A UART as configured: what the guest transmits goes to the sink, what [`Input`] gets is received.
pub struct SerialModel {
    id: String,
    port: Arc<Port>,
}

impl SerialModel {
    /// # Errors
    /// If the host gives no event.
    pub fn new(id: &str, sink: Sink) -> io::Result<(Self, Input)> {
        let uart = Serial::new(Wire(None), Out(sink));
        let port =
            Arc::new(Port { line: Mutex::new(Line { uart, wanted: 0 }), room: EventFd::new(EFD_NONBLOCK)? });
        Ok((Self { id: id.into(), port: Arc::clone(&port) }, Input(port)))
    }
}

impl fmt::Debug for SerialModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SerialModel").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Model for SerialModel {
    fn request(&self) -> Request {
        request(&self.id)
    }

    /// Without an interrupt in `slot` the device can be polled.
    fn build(&self, slot: &Slot, host: &dyn Host) -> Result<Shared, HostError> {
        let irq = slot.irq.map(|(pin, trigger)| host.irq(pin, trigger)).transpose()?;
        self.port.lock().start_over(irq);
        Ok(share(Uart(Arc::clone(&self.port))))
    }
}

/// The end of the line that the user types into. Cheap to clone.
#[derive(Clone)]
pub struct Input(Arc<Port>);

impl Receiver for Input {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut line = self.0.lock();
        let taken = bytes.len().min(line.uart.fifo_capacity());
        let now = bytes.get(..taken).unwrap_or_default();
        // In loopback the line is cut, and what comes over it is lost.
        let _lost = line.uart.enqueue_raw_bytes(now);
        if taken < bytes.len() {
            line.wanted = ROOM / 2;
        }
        taken
    }

    fn room(&self, wanted: usize) -> usize {
        let mut line = self.0.lock();
        let room = line.uart.fifo_capacity();
        if room < wanted.min(ROOM / 2) {
            line.wanted = ROOM / 2;
        }
        room
    }

    fn room_event(&self) -> &EventFd {
        &self.0.room
    }
}

/// What the device and its input share. Lock order: this, then what the sink has.
struct Port {
    line: Mutex<Line>,
    room: EventFd,
}

struct Line {
    uart: Serial<Wire, NoEvents, Out>,
    /// Somebody waits for this much room; 0: nobody.
    wanted: usize,
}

impl Port {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// As it is when the power comes on, wired to `irq`.
    fn start_over(&mut self, irq: Option<IrqLine>) {
        let sink = std::mem::replace(&mut self.uart.writer_mut().0, Box::new(|_| {}));
        self.uart = Serial::new(Wire(irq), Out(sink));
    }
}

/// The UART in its ports.
struct Uart(Arc<Port>);

impl Device for Uart {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        let mut line = self.0.lock();
        for (index, byte) in (0..).zip(data) {
            *byte = access::byte_register(at, index).map_or(0, |register| line.uart.read(register));
        }
        if line.wanted > 0 && line.uart.fifo_capacity() >= line.wanted {
            line.wanted = 0;
            // Full means it is signalled already.
            let _full = self.0.room.write(1);
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        let mut line = self.0.lock();
        for (index, byte) in (0..).zip(data) {
            if let Some(register) = access::byte_register(at, index) {
                // Neither the wire nor the sink can fail.
                let _never = line.uart.write(register, *byte);
            }
        }
        Effect::None
    }

    /// What was typed and not read is lost.
    fn reset(&mut self) {
        let mut line = self.0.lock();
        let irq = line.uart.interrupt_evt().0.clone();
        line.start_over(irq);
    }
}

struct Wire(Option<IrqLine>);

impl vm_superio::Trigger for Wire {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        if let Some(irq) = &self.0 {
            irq.pulse();
        }
        Ok(())
    }
}

struct Out(Sink);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;
    use ambit_resources::{AddressRange, IrqPin};

    use super::*;

    // Registers (PC16550D data sheet, table II).
    const DATA: u64 = 0;
    const INTERRUPT_ENABLE: u64 = 1;
    const SCRATCH: u64 = 7;
    const LINE_STATUS: u64 = 5;
    const PIN: IrqPin = IrqPin(4);

    struct Bench {
        host: BenchHost,
        device: Shared,
        input: Input,
        printed: Arc<Mutex<Vec<u8>>>,
    }

    fn bench() -> Bench {
        let printed = Arc::<Mutex<Vec<u8>>>::default();
        let sink = Arc::clone(&printed);
        let (model, input) =
            SerialModel::new("uart0", Box::new(move |bytes| sink.lock().unwrap().extend(bytes))).unwrap();
        let host = BenchHost::new(0x1000);
        let slot = Slot { windows: vec![AddressRange::fixed(0x3f8, PORTS)], irq: Some((PIN, Trigger::Edge)) };
        let device = model.build(&slot, &host).unwrap();
        Bench { host, device, input, printed }
    }

    impl Bench {
        fn read<const N: usize>(&self, byte: u64) -> [u8; N] {
            let mut data = [0x55; N];
            self.device.lock().unwrap().read(Offset { window: 0, byte }, &mut data);
            data
        }

        fn write(&self, byte: u64, data: &[u8]) {
            assert_eq!(self.device.lock().unwrap().write(Offset { window: 0, byte }, data), Effect::None);
        }
    }

    #[test]
    fn what_is_transmitted_is_printed() {
        let bench = bench();

        bench.write(DATA, b"h");
        bench.write(DATA, b"i");

        assert_eq!(*bench.printed.lock().unwrap(), b"hi");
    }

    //
    #[test]
    fn what_is_typed_is_received_in_order_with_one_interrupt() {
        let bench = bench();
        bench.write(INTERRUPT_ENABLE, &[1]);

        assert_eq!(bench.input.push(b"ab"), 2);

        assert_eq!(bench.host.pin(PIN).pulses(), 1);
        assert_eq!([bench.read(DATA), bench.read(DATA)], [[b'a'], [b'b']]);
        assert_eq!(bench.read(LINE_STATUS), [0x60]);
    }

    #[test]
    fn a_wide_access_is_one_of_each_register_in_turn() {
        let bench = bench();
        bench.write(3, &[0x1b, 0x08]);

        assert_eq!(bench.read::<4>(3), [0x1b, 0x08, 0x60, 0xb0]);
    }

    #[test]
    fn a_typist_without_room_is_told_when_half_of_it_is_free() {
        let bench = bench();
        let typed = [7; ROOM + 1];

        assert_eq!((bench.input.push(&typed), bench.input.room(1)), (ROOM, 0));
        for _ in 1..ROOM / 2 {
            bench.read::<1>(DATA);
        }
        assert!(bench.input.room_event().read().is_err());
        bench.read::<1>(DATA);

        assert_eq!(bench.input.room_event().read().unwrap(), 1);
        assert_eq!(bench.input.room(1), ROOM / 2);
    }

    #[test]
    fn a_reset_brings_back_the_registers_and_keeps_the_line() {
        let bench = bench();
        let before = bench.read::<8>(DATA);
        bench.write(SCRATCH, &[0x5a]);
        bench.write(INTERRUPT_ENABLE, &[3]);
        bench.input.push(b"x");

        bench.device.lock().unwrap().reset();

        assert_eq!(bench.read::<8>(DATA), before);
        bench.write(DATA, b"!");
        assert_eq!(*bench.printed.lock().unwrap(), b"!");
        bench.write(INTERRUPT_ENABLE, &[1]);
        let pulses = bench.host.pin(PIN).pulses();
        bench.input.push(b"y");
        assert_eq!(bench.host.pin(PIN).pulses(), pulses + 1);
    }

    //
    #[test]
    fn no_access_is_too_wide_or_too_far() {
        let bench = bench();

        for byte in [0, 6, 7, 8, 0xff, 0x100, u64::MAX - 3] {
            bench.write(byte, &[0xff; 8]);
            bench.read::<8>(byte);
        }
    }
}
