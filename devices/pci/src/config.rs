//! Configuration space of one function with a type 0 header (PCI 3.0, 6.1).

use std::ops::Range;

use ambit_bus::{Bar, BarSpace};

use crate::LayoutError;

/// Bytes that hold registers. Those from here to 4096 are for extended capabilities, of which there are none:
/// they read as zero (PCIe 5.0, 7.6.2).
const SIZE: usize = 256;

const COMMAND: u8 = 0x04;
const STATUS: u8 = 0x06;
const CACHE_LINE_SIZE: u8 = 0x0c;
const BARS: u8 = 0x10;
const SUBSYSTEM: u8 = 0x2c;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT_LINE: u8 = 0x3c;
const INTERRUPT_PIN: u8 = 0x3d;
/// Where the header ends.
const HEADER: u8 = 0x40;

/// Command register (PCI 3.0, 6.2.2).
const IO: u16 = 1 << 0;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;

/// Status register (PCI 3.0, 6.2.3), its low byte.
const INTERRUPT: u8 = 1 << 3;
const CAPABILITIES_LIST: u8 = 1 << 4;

/// How many base address registers a function has.
const REGISTERS: u8 = 6;

/// Who a function says it is (PCI 3.0, 6.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class, sub-class and programming interface, in 24 bits from the top.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

/// Registers of 256 bytes, each bit of which the guest may write or not.
///
/// Any access of any length and alignment is one to its bytes; those past the end read as zero and are not
/// written. The guest can change the command register, BARs, the interrupt line, the cache line size (which
/// has no effect, PCIe 5.0, 7.5.1.1.7) and the bits that its capabilities say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    writable: [u8; SIZE],
    power_on: [u8; SIZE],
    bars: Vec<BarRegister>,
    /// The byte that the next capability's offset goes into.
    link: u8,
    /// Where the next capability would begin.
    free: usize,
}

/// The register of one window; its number counts from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BarRegister {
    number: u8,
    bar: Bar,
}

/// What a write to configuration space did.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// [`ConfigSpace::places`] are no longer the same.
    pub remap: bool,
    /// The command register is no longer the same.
    pub command: bool,
    written: Range<u64>,
}

impl Change {
    /// Of a write that did not go to configuration space.
    pub(crate) fn none() -> Self {
        Self { remap: false, command: false, written: 0..0 }
    }

    /// Whether the guest wrote any of the `len` bytes from `at` on, also if it wrote what was there.
    pub fn touches(&self, at: u8, len: u8) -> bool {
        let at = u64::from(at);
        self.written.start < at.saturating_add(len.into()) && at < self.written.end
    }
}

impl ConfigSpace {
    /// With a base address register for each of `bars`, which are windows 1 and on. The function has an
    /// interrupt pin, INTA, if it is `wired` to one.
    ///
    /// # Errors
    /// [`LayoutError`] for a BAR that no register can decode, and if there are too many.
    pub fn new(identity: Identity, bars: &[Bar], wired: bool) -> Result<Self, LayoutError> {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            power_on: [0; SIZE],
            bars: Vec::new(),
            link: CAPABILITIES,
            free: HEADER.into(),
        };
        let [prog_if, sub, base, _] = identity.class.to_le_bytes();
        space.define(0x00, &identity.vendor.to_le_bytes(), &[]);
        space.define(0x02, &identity.device.to_le_bytes(), &[]);
        space.define(COMMAND, &[], &(IO | MEMORY | MASTER | INTX_DISABLE).to_le_bytes());
        space.define(0x08, &[identity.revision, prog_if, sub, base], &[]);
        space.define(CACHE_LINE_SIZE, &[], &[0xff]);
        space.define(SUBSYSTEM, &identity.subsystem_vendor.to_le_bytes(), &[]);
        space.define(SUBSYSTEM.saturating_add(2), &identity.subsystem.to_le_bytes(), &[]);
        space.define(INTERRUPT_LINE, &[], &[0xff]);
        space.define(INTERRUPT_PIN, &[u8::from(wired)], &[]);
        space.add_bars(bars)?;
        Ok(space)
    }

    /// PCI 3.0, 6.2.5.1. The bits that a size covers are zero whatever is written, which is how it is told.
    fn add_bars(&mut self, bars: &[Bar]) -> Result<(), LayoutError> {
        let mut number = 0u8;
        for (window, bar) in (1..).zip(bars) {
            let Bar { size, space } = *bar;
            let (kind, registers, least, most) = match space {
                BarSpace::Io => (0b01, 1u8, 4, 256),
                BarSpace::Mmio32 => (0b0000, 1, 16, 1 << 31),
                // Prefetchable, or Linux would keep it below 4 GiB.
                BarSpace::Mmio64 => (0b1100, 2, 16, 1 << 63),
            };
            if !size.is_power_of_two() || !(least..=most).contains(&size) {
                return Err(LayoutError::Size { window, size, space, least, most });
            }
            let end = number.saturating_add(registers);
            if end > REGISTERS {
                return Err(LayoutError::Registers { window });
            }
            let mask = size.wrapping_neg().to_le_bytes();
            let width = usize::from(registers).saturating_mul(4);
            self.define(register(number), &[kind], mask.get(..width).unwrap_or(&mask));
            self.bars.push(BarRegister { number, bar: *bar });
            number = end;
        }
        Ok(())
    }

    /// Adds a capability to the end of the list: `id`, the link to the next one, and `body`, of which the
    /// guest may write the bits that are set in `writable`, and none beyond its end. Gives the place of `id`,
    /// a multiple of 4 (PCI 3.0, 6.7). Before the guest runs.
    ///
    /// # Errors
    /// [`LayoutError::Capability`] if there is no room.
    pub fn append(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, LayoutError> {
        let (begin, size) = (self.free, body.len().saturating_add(2));
        let full = LayoutError::Capability { id, at: begin, size };
        let end = begin.checked_add(size).filter(|end| *end <= SIZE).ok_or(full)?;
        let at = u8::try_from(begin).map_err(|_| full)?;
        let list = self.byte(STATUS.into()) | CAPABILITIES_LIST;
        self.define(STATUS, &[list], &[]);
        self.define(self.link, &[at], &[]);
        self.define(at, &[id, 0], &[]);
        let written = writable.get(..body.len()).unwrap_or(writable);
        // A capability of 2 bytes at 0xfc has no body, and none at 0xfe is aligned.
        self.define(at.saturating_add(2), body, written);
        self.link = at.saturating_add(1);
        self.free = end.next_multiple_of(4);
        Ok(at)
    }

    /// Fills all of `data`.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        for (index, byte) in (0..).zip(data) {
            *byte = at.checked_add(index).map_or(0, |at| self.byte(at));
        }
    }

    pub fn write(&mut self, at: u64, data: &[u8]) -> Change {
        let (places, command) = (self.decoded(), self.command());
        let from = usize::try_from(at).unwrap_or(usize::MAX);
        let registers = self.bytes.iter_mut().zip(&self.writable).skip(from);
        for ((byte, writable), new) in registers.zip(data) {
            *byte = (*byte & !writable) | (new & writable);
        }
        let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
        Change {
            remap: self.decoded() != places,
            command: self.command() != command,
            written: at..at.saturating_add(len),
        }
    }

    /// What the device itself puts into one of its capabilities, where the guest may write or not.
    pub fn set(&mut self, at: u8, data: &[u8]) {
        put(&mut self.bytes, at, data);
    }

    /// `N` bytes from `at` on, as the guest would read them.
    pub fn bytes<const N: usize>(&self, at: u8) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(at.into(), &mut bytes);
        bytes
    }

    /// Where the guest has put the window of each BAR, in the order they were asked for. `None` if it has
    /// turned off decoding of that space, and for a register that was never set, or is as sizing leaves it:
    /// at zero, or with all of its bits set.
    pub fn places(&self) -> Vec<Option<u64>> {
        self.bars.iter().map(|bar| self.place(bar)).collect()
    }

    /// The same without allocating: each write asks.
    fn decoded(&self) -> [Option<u64>; REGISTERS as usize] {
        let mut places = [None; REGISTERS as usize];
        for (place, bar) in places.iter_mut().zip(&self.bars) {
            *place = self.place(bar);
        }
        places
    }

    fn place(&self, register_of: &BarRegister) -> Option<u64> {
        let BarRegister { number, bar } = register_of;
        let at = register(*number);
        let (enable, width, value) = match bar.space {
            BarSpace::Io => (IO, u32::MAX.into(), u32::from_le_bytes(self.bytes(at)).into()),
            BarSpace::Mmio32 => (MEMORY, u32::MAX.into(), u32::from_le_bytes(self.bytes(at)).into()),
            BarSpace::Mmio64 => (MEMORY, u64::MAX, u64::from_le_bytes(self.bytes(at))),
        };
        // Aligned to its size, so it ends at or below the highest address that the register can name.
        let mask = bar.size.wrapping_neg() & width;
        let address = value & mask;
        (self.command() & enable != 0 && address != 0 && address != mask).then_some(address)
    }

    /// Which register, 0 to 5, has the window `window`: the BIR of MSI-X, the `bar` of virtio's capabilities.
    /// `None` if the function has no such window.
    pub fn register(&self, window: u8) -> Option<u8> {
        self.window(window).map(|bar| bar.number)
    }

    /// The BAR that was asked for as `window`.
    pub fn bar(&self, window: u8) -> Option<Bar> {
        self.window(window).map(|bar| bar.bar)
    }

    fn window(&self, window: u8) -> Option<&BarRegister> {
        self.bars.get(usize::from(window.checked_sub(1)?))
    }

    /// Whether the function may read and write memory, which includes sending messages (PCIe 5.0, 7.5.1.1.3).
    pub fn is_master(&self) -> bool {
        self.command() & MASTER != 0
    }

    /// Whether the guest has forbidden INTx.
    pub fn is_intx_disabled(&self) -> bool {
        self.command() & INTX_DISABLE != 0
    }

    /// Shows in the status register whether the function wants an interrupt, asserted or not.
    pub fn show_interrupt(&mut self, wanted: bool) {
        let others = self.byte(STATUS.into()) & !INTERRUPT;
        self.set(STATUS, &[if wanted { others | INTERRUPT } else { others }]);
    }

    /// As it was when the guest began.
    pub fn reset(&mut self) {
        self.bytes = self.power_on;
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes(self.bytes(COMMAND))
    }

    fn byte(&self, at: u64) -> u8 {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// What is there at power-on, and which bits of it the guest may write.
    fn define(&mut self, at: u8, value: &[u8], writable: &[u8]) {
        put(&mut self.bytes, at, value);
        put(&mut self.power_on, at, value);
        put(&mut self.writable, at, writable);
    }
}

/// Where BAR `number` is.
fn register(number: u8) -> u8 {
    BARS.saturating_add(number.saturating_mul(4))
}

fn put(into: &mut [u8; SIZE], at: u8, bytes: &[u8]) {
    for (byte, new) in into.iter_mut().skip(at.into()).zip(bytes) {
        *byte = *new;
    }
}

#[cfg(test)]
mod tests;
