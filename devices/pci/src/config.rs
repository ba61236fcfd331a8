//! The configuration space of a function, type 0 (PCI 3.0, 6.1 and 6.2).

use ambit_bus::{Bar, BarSpace};

/// Bytes of registers; the rest of the 4 KiB of a function reads as zero: there are no extended capabilities.
const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const FIRST_BAR: usize = 0x10;
const FIRST_CAPABILITY: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// Where capabilities may begin: behind the header.
const HEADER: usize = 0x40;

/// Bits of the command register.
const IO: u16 = 1 << 0;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
/// Bits of the status register.
const INTERRUPT: u8 = 1 << 3;
const HAS_CAPABILITIES: u8 = 1 << 4;

/// Who a function is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// 24 bits: class, subclass and interface.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
    /// It can raise INTA.
    pub has_intx: bool,
}

/// The registers. A guest may access any bytes of them in any width.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits that a write changes.
    writable: [u8; SIZE],
    power_on: [u8; SIZE],
    /// Register and what was asked for, in the order of the function's windows.
    bars: Vec<(usize, Bar)>,
    /// Where the next capability goes, and the byte that will point to it.
    next: usize,
    link: usize,
}

impl ConfigSpace {
    /// With registers for `bars` in their order; those of 64 bits take two of the six. Those for which there is
    /// no register left, or whose size is no power of two of at least 16 bytes, are not there.
    pub fn new(identity: &Identity, bars: &[Bar]) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            power_on: [0; SIZE],
            bars: Vec::new(),
            next: HEADER,
            link: FIRST_CAPABILITY,
        };
        space.set(0x00, &identity.vendor.to_le_bytes());
        space.set(0x02, &identity.device.to_le_bytes());
        space.set(0x08, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        space.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.set(0x2e, &identity.subsystem.to_le_bytes());
        space.set(INTERRUPT_PIN, &[u8::from(identity.has_intx)]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        let intx = if identity.has_intx { INTX_DISABLE } else { 0 };
        space.allow(COMMAND, &(MASTER | intx).to_le_bytes());
        let mut register = FIRST_BAR;
        for bar in bars {
            register = space.add_bar(register, *bar);
        }
        space.power_on = space.bytes;
        space
    }

    /// Gives the register after it.
    fn add_bar(&mut self, register: usize, bar: Bar) -> usize {
        let width = if bar.space == BarSpace::Mmio64 { 8 } else { 4 };
        let next = register.saturating_add(width);
        if next > FIRST_BAR + 24 || !bar.size.is_power_of_two() || bar.size < 16 {
            return register;
        }
        // The bits of the address; all below the size are zero, which is how a driver learns the size.
        let address = !bar.size.wrapping_sub(1);
        // Type, prefetchable, in the low bits (6.2.5.1).
        let (kind, decode) = match bar.space {
            BarSpace::Io => (0b0001, IO),
            BarSpace::Mmio32 => (0b0000, MEMORY),
            BarSpace::Mmio64 => (0b1100, MEMORY),
        };
        self.set(register, &[kind]);
        self.allow(register, address.to_le_bytes().get(..width).unwrap_or_default());
        let [low, high] = decode.to_le_bytes();
        self.writable.iter_mut().skip(COMMAND).zip([low, high]).for_each(|(to, bits)| *to |= bits);
        self.bars.push((register, bar));
        next
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable.iter_mut().skip(at).zip(bits).for_each(|(to, from)| *to = *from);
    }

    /// Adds a capability (6.7): `body` is what comes behind its id and its link, and `writable` has the bits of it
    /// that a guest may write. Gives its offset; `None` if there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u16> {
        let at = self.next;
        let end = at.checked_add(2)?.checked_add(body.len())?;
        if end > SIZE {
            return None;
        }
        let offset = u8::try_from(at).ok()?;
        self.set(self.link, &[offset]);
        self.set(at, &[id, 0]);
        self.set(at.saturating_add(2), body);
        self.allow(at.saturating_add(2), writable);
        self.set(STATUS, &[HAS_CAPABILITIES]);
        self.link = at.saturating_add(1);
        self.next = end.next_multiple_of(4);
        self.power_on = self.bytes;
        Some(u16::from(offset))
    }

    /// Fills all of `data`; what is not there reads as zero.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        let from = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default();
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    /// Changes the bits that may be. True if windows may be elsewhere now: see [`ConfigSpace::places`].
    pub fn write(&mut self, at: u64, data: &[u8]) -> bool {
        let Some(at) = usize::try_from(at).ok().filter(|at| *at < SIZE) else { return false };
        let before = self.places();
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(at);
        for ((byte, writable), new) in bytes.zip(data) {
            *byte = *byte & !writable | new & writable;
        }
        self.places() != before
    }

    /// Sets bytes whatever a guest may write.
    pub fn put(&mut self, at: u16, data: &[u8]) {
        self.set(usize::from(at), data);
    }

    fn half(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        self.read(at as u64, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Where each window is decoded: for [`BarSpace::Io`] a port, else a guest physical address. `None` where the
    /// command register has its kind off, and where there can be no window: at 0, and at the last place, which
    /// is where a BAR is while its size is asked.
    pub fn places(&self) -> Vec<Option<u64>> {
        self.bars.iter().map(|(register, bar)| self.place(*register, *bar)).collect()
    }

    fn place(&self, register: usize, bar: Bar) -> Option<u64> {
        let (decode, mask) = match bar.space {
            BarSpace::Io => (IO, 0xffff_ffff),
            BarSpace::Mmio32 => (MEMORY, 0xffff_ffff),
            BarSpace::Mmio64 => (MEMORY, u64::MAX),
        };
        let mut bytes = [0; 8];
        self.read(register as u64, &mut bytes);
        let bits = !bar.size.wrapping_sub(1) & mask;
        let place = u64::from_le_bytes(bytes) & bits;
        (self.half(COMMAND) & decode != 0 && place != 0 && place != bits).then_some(place)
    }

    /// Whether the function may reach memory.
    pub fn is_master(&self) -> bool {
        self.half(COMMAND) & MASTER != 0
    }

    /// Whether it may not raise INTx.
    pub fn intx_disabled(&self) -> bool {
        self.half(COMMAND) & INTX_DISABLE != 0
    }

    /// Shows whether the function wants attention (6.2.3, interrupt status).
    pub fn show_interrupt(&mut self, pending: bool) {
        if let Some(status) = self.bytes.get_mut(STATUS) {
            *status = if pending { *status | INTERRUPT } else { *status & !INTERRUPT };
        }
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        self.bytes = self.power_on;
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
