//! The ports of a PC by which a guest ends itself: reset, power off, and that it crashed.

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;

use ambit_bus::{Device, Effect, Host, HostError, Model, Needs, Offset, Request, Shared, Slot, share};
use vm_superio::I8042Device;

use crate::access;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The keyboard controller: 0xfe, written to its command port, resets the processor. Nothing else of it is
    /// there.
    I8042,
    /// The sleep control register and the sleep status register (ACPI 6.5, 4.8.3.7), of a machine that can sleep
    /// only as state S5, off, whose type is [`S5`].
    Sleep,
    /// What a guest that crashed is to write (QEMU `docs/specs/pvpanic.rst`).
    Panic,
}

/// SLP_TYP of the state S5.
pub const S5: u8 = 5;
const SLEEP_TYPE: u8 = 7 << 2;
const SLEEP_ENABLE: u8 = 1 << 5;

/// The events of pvpanic that this one knows: the guest panicked.
const PANICKED: u8 = 1;

impl Port {
    /// What the configuration calls it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::I8042 => "i8042",
            Self::Sleep => "acpi-sleep",
            Self::Panic => "pvpanic",
        }
    }

    /// The one of this kind.
    pub fn of_kind(kind: &str) -> Option<Self> {
        [Self::I8042, Self::Sleep, Self::Panic].into_iter().find(|port| port.kind() == kind)
    }

    /// How many ports it has.
    const fn count(self) -> u64 {
        match self {
            // 0x60 to 0x64.
            Self::I8042 => 5,
            Self::Sleep => 2,
            Self::Panic => 1,
        }
    }

    /// What it asks of the planner when it is called `id`.
    pub fn request(self, id: &str) -> Request {
        Request {
            id: id.into(),
            kind: self.kind().into(),
            needs: Needs::Ports { count: self.count(), irq: None },
            description: Arc::default(),
            queue_reach: None,
        }
    }
}

/// One of them as configured.
#[derive(Debug)]
pub struct EndingModel {
    id: String,
    port: Port,
}

impl EndingModel {
    pub fn new(id: &str, port: Port) -> Self {
        Self { id: id.into(), port }
    }
}

impl Model for EndingModel {
    fn request(&self) -> Request {
        self.port.request(&self.id)
    }

    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        Ok(match self.port {
            Port::I8042 => share(Keyboard(I8042Device::new(Asked::default()))),
            Port::Sleep => share(Sleep),
            Port::Panic => share(Panic),
        })
    }
}

struct Keyboard(I8042Device<Asked>);

/// Whether a reset was asked for.
#[derive(Default)]
struct Asked(Cell<bool>);

impl vm_superio::Trigger for Asked {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.set(true);
        Ok(())
    }
}

impl Device for Keyboard {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        for (index, byte) in (0..).zip(data) {
            *byte = access::byte_register(at, index).map_or(0, |port| self.0.read(port));
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        for (index, byte) in (0..).zip(data) {
            if let Some(port) = access::byte_register(at, index) {
                let Ok(()) = self.0.write(port, *byte);
            }
        }
        if self.0.reset_evt().0.take() { Effect::Reset } else { Effect::None }
    }

    fn reset(&mut self) {
        *self = Self(I8042Device::new(Asked::default()));
    }
}

struct Sleep;

impl Device for Sleep {
    /// The control register reads as zero, and the status says that it never woke.
    fn read(&mut self, _: Offset, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        let control = (at.byte == 0).then(|| data.first().copied()).flatten().unwrap_or(0);
        let off = control & (SLEEP_TYPE | SLEEP_ENABLE) == SLEEP_ENABLE | S5 << 2;
        if off { Effect::PowerOff } else { Effect::None }
    }

    fn reset(&mut self) {}
}

struct Panic;

impl Device for Panic {
    fn read(&mut self, _: Offset, data: &mut [u8]) {
        data.fill(PANICKED);
    }

    fn write(&mut self, _: Offset, data: &[u8]) -> Effect {
        let events = data.first().copied().unwrap_or(0);
        if events & PANICKED != 0 { Effect::Crash } else { Effect::None }
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;
    use ambit_resources::AddressRange;

    use super::*;

    fn device(port: Port) -> Shared {
        let slot = Slot { windows: vec![AddressRange::fixed(0x60, port.count())], irq: None };
        EndingModel::new("it", port).build(&slot, &BenchHost::new(0x1000)).unwrap()
    }

    /// Every byte at every port that has an effect.
    fn effects(port: Port) -> Vec<(u64, u8, Effect)> {
        let device = device(port);
        let all = (0..port.count()).flat_map(|byte| (0..=u8::MAX).map(move |value| (byte, value)));
        let written = all.map(|(byte, value)| {
            (byte, value, device.lock().unwrap().write(Offset { window: 0, byte }, &[value]))
        });
        written.filter(|(_, _, effect)| *effect != Effect::None).collect()
    }

    #[test]
    fn the_keyboard_controller_resets_by_its_one_command() {
        assert_eq!(effects(Port::I8042), [(4, 0xfe, Effect::Reset)]);
    }

    #[test]
    fn only_sleep_that_is_enabled_and_of_the_type_of_off_ends_the_machine() {
        // Bits 0, 1, 6 and 7 are not of the sleep type.
        let off = (0..=u8::MAX).filter(|value| value & 0x3c == 0x34);
        let expected: Vec<_> = off.map(|value| (0, value, Effect::PowerOff)).collect();

        assert_eq!(effects(Port::Sleep), expected);
    }

    #[test]
    fn a_guest_that_says_it_panicked_has_crashed() {
        let panicked = (0..=u8::MAX).filter(|value| value & 1 == 1);
        let expected: Vec<_> = panicked.map(|value| (0, value, Effect::Crash)).collect();

        assert_eq!(effects(Port::Panic), expected);
    }

    #[test]
    fn they_read_the_same_after_a_reset_and_whatever_was_written() {
        for (port, expected) in [(Port::I8042, [0; 4]), (Port::Sleep, [0; 4]), (Port::Panic, [1; 4])] {
            let device = device(port);
            let mut device = device.lock().unwrap();
            let (mut before, mut after) = ([0x55; 4], [0x55; 4]);
            device.read(Offset { window: 0, byte: 0 }, &mut before);
            let _any = device.write(Offset { window: 0, byte: 0 }, &[0xff; 8]);
            device.reset();
            device.read(Offset { window: 0, byte: 0 }, &mut after);

            assert_eq!((before, after), (expected, expected), "{port:?}");
        }
    }

    #[test]
    fn each_is_found_by_its_kind() {
        for port in [Port::I8042, Port::Sleep, Port::Panic] {
            assert_eq!(Port::of_kind(port.kind()), Some(port));
        }
        assert_eq!(Port::of_kind("pl011"), None);
    }
}
