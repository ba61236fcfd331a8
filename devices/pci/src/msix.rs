//! MSI-X of one function: the capability, the table and the pending bits (PCI 3.0, 6.8.2).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_bus::{BarSpace, Host, HostError, MsiVector, Offset};

use crate::vector::{SIZE, Vector};
use crate::{ConfigSpace, LayoutError};

const CAPABILITY: u8 = 0x11;

/// Message control (PCI 3.0, 6.8.2.3).
const FUNCTION_MASK: u16 = 1 << 14;
const ENABLE: u16 = 1 << 15;

const MOST_VECTORS: usize = 2048;

/// Where in which window the table and the pending bits are, in bytes from its start, both multiples of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub window: u8,
    /// 16 bytes for each vector.
    pub table: u32,
    /// 8 bytes for each 64 vectors, or part of them.
    pub pba: u32,
}

/// A function's vectors, as the guest writes them and the device's threads fire them.
///
/// Each vector is behind its own lock, which is held for one step of it ([`Vector`] says why that is enough):
/// a vector that is being routed, which takes long, holds up nobody but those who fire the same one. Lock
/// order: `open`, then one vector.
#[derive(Debug)]
pub struct Msix {
    place: Place,
    control: u8,
    enabled: AtomicBool,
    /// Enabled, not masked, and master of the bus: what every vector was told last.
    open: Mutex<bool>,
    vectors: Vec<Mutex<Vector>>,
}

impl Msix {
    /// `count` vectors that go nowhere yet. `None` if this machine has nothing that takes messages: then the
    /// function has no MSI-X.
    ///
    /// # Errors
    /// [`HostError`] if the host has no more room for interrupts.
    pub fn wires(host: &dyn Host, count: u16) -> Result<Option<Vec<MsiVector>>, HostError> {
        (0..count).map(|_| host.message()).collect()
    }

    /// Appends the capability to `config`. Disabled, all vectors masked.
    ///
    /// # Errors
    /// [`LayoutError`] if there is no such place, if it does not hold so many, or for no or too many vectors.
    pub fn new(config: &mut ConfigSpace, place: Place, wires: Vec<MsiVector>) -> Result<Self, LayoutError> {
        let count = wires.len();
        let wrong = LayoutError::Vectors(count);
        let last = count.checked_sub(1).filter(|_| count <= MOST_VECTORS).ok_or(wrong)?;
        let last = u16::try_from(last).map_err(|_| wrong)?;
        let vectors = wires.into_iter().map(|wire| Mutex::new(Vector::new(wire))).collect();
        let open = Mutex::new(false);
        let mut msix = Self { place, control: 0, enabled: AtomicBool::new(false), open, vectors };
        let bir = msix.bir(config).ok_or(LayoutError::Table {
            window: place.window,
            table: place.table,
            pba: place.pba,
        })?;
        let mut body = Vec::new();
        body.extend(last.to_le_bytes());
        body.extend((place.table | u32::from(bir)).to_le_bytes());
        body.extend((place.pba | u32::from(bir)).to_le_bytes());
        let at = config.append(CAPABILITY, &body, &(FUNCTION_MASK | ENABLE).to_le_bytes())?;
        msix.control = at.saturating_add(2);
        Ok(msix)
    }

    /// The register of the window, if table and pending bits have their places in it.
    fn bir(&self, config: &ConfigSpace) -> Option<u8> {
        let bar = config.bar(self.place.window).filter(|bar| bar.space != BarSpace::Io)?;
        let (table, pba) = (self.table(), self.pba());
        let aligned = table.start.is_multiple_of(8) && pba.start.is_multiple_of(8);
        let apart = table.end <= pba.start || pba.end <= table.start;
        let inside = table.end <= bar.size && pba.end <= bar.size;
        config.register(self.place.window).filter(|_| aligned && apart && inside)
    }

    /// How many vectors there are.
    pub fn count(&self) -> usize {
        self.vectors.len()
    }

    /// Whether the function is in MSI-X operation, so that it must not use INTx; masked or not.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::SeqCst)
    }

    /// Sends the message of `vector`, or leaves it pending until it may be sent. From any thread. Nothing
    /// happens for one that there is not.
    pub fn fire(&self, vector: u16) {
        if let Some(vector) = self.vectors.get(usize::from(vector)) {
            lock(vector).fire();
        }
    }

    /// Where in configuration space message control is.
    pub(crate) fn control(&self) -> u8 {
        self.control
    }

    /// Whether `config` says that the function is in MSI-X operation, followed or not yet.
    pub(crate) fn is_enabled_by(&self, config: &ConfigSpace) -> bool {
        u16::from_le_bytes(config.bytes(self.control)) & ENABLE != 0
    }

    /// Does what `config` says. A function that is not master of the bus withholds its messages as one that is
    /// masked does: they are writes to memory (PCIe 5.0, 7.5.1.1.3).
    pub(crate) fn follow(&self, config: &ConfigSpace) {
        let masked = u16::from_le_bytes(config.bytes(self.control)) & FUNCTION_MASK != 0;
        let enabled = self.is_enabled_by(config);
        let now = enabled && !masked && config.is_master();
        let mut open = lock(&self.open);
        self.enabled.store(enabled, Ordering::SeqCst);
        if *open != now {
            *open = now;
            for vector in &self.vectors {
                lock(vector).allow(now);
            }
        }
    }

    /// As it was made. Nobody may be firing: an event that comes later is pending.
    pub fn reset(&self) {
        let mut open = lock(&self.open);
        self.enabled.store(false, Ordering::SeqCst);
        *open = false;
        for vector in &self.vectors {
            lock(vector).reset();
        }
    }

    /// Fills all of `data` if any of it is of the table or the pending bits; false if all is elsewhere.
    ///
    /// Aligned words of 4 or 8 bytes are read; anything else has no defined result (PCI 3.0, 6.8.2), and
    /// reads as zero.
    pub fn read(&self, at: Offset, data: &mut [u8]) -> bool {
        let Some(part) = self.part(at, data.len()) else { return false };
        data.fill(0);
        match part {
            Part::Table { entry, byte } => {
                let entry = self.vectors.get(entry).map(|vector| lock(vector).bytes());
                for (byte, value) in data.iter_mut().zip(entry.into_iter().flatten().skip(byte)) {
                    *byte = value;
                }
            }
            Part::Pending { byte } => {
                let vectors = self.vectors.get(byte.saturating_mul(8)..).unwrap_or_default();
                for (byte, eight) in data.iter_mut().zip(vectors.chunks(8)) {
                    *byte = (0..)
                        .zip(eight)
                        .fold(0, |all, (bit, one)| all | u8::from(lock(one).is_pending()) << bit);
                }
            }
            Part::Undefined => {}
        }
        true
    }

    /// True if any of it is of the table or the pending bits. The latter are not written, nor is anything by
    /// an access that [`Msix::read`] reads as zero.
    pub fn write(&self, at: Offset, data: &[u8]) -> bool {
        let Some(part) = self.part(at, data.len()) else { return false };
        if let Part::Table { entry, byte } = part
            && let Some(vector) = self.vectors.get(entry)
        {
            lock(vector).write(byte, data);
        }
        true
    }

    fn part(&self, at: Offset, len: usize) -> Option<Part> {
        let size = u64::try_from(len).unwrap_or(u64::MAX);
        let end = at.byte.saturating_add(size);
        let within = |range: &Range<u64>| {
            let inside = at.window == self.place.window && at.byte < range.end && range.start < end;
            inside.then(|| usize::try_from(at.byte.saturating_sub(range.start)).unwrap_or(usize::MAX))
        };
        let (table, pending) = (within(&self.table()), within(&self.pba()));
        // Both begin at multiples of 8 and are multiples of 8 long: an aligned word that touches one is inside.
        match (table, pending) {
            (None, None) => None,
            _ if !matches!(size, 4 | 8) || !at.byte.is_multiple_of(size) => Some(Part::Undefined),
            (Some(byte), _) => Some(Part::Table { entry: byte / SIZE, byte: byte % SIZE }),
            (None, Some(byte)) => Some(Part::Pending { byte }),
        }
    }

    fn table(&self) -> Range<u64> {
        span(self.place.table, self.vectors.len(), SIZE)
    }

    fn pba(&self) -> Range<u64> {
        span(self.place.pba, self.vectors.len().div_ceil(64), 8)
    }
}

/// What an access is to.
enum Part {
    Table { entry: usize, byte: usize },
    Pending { byte: usize },
    Undefined,
}

fn span(start: u32, count: usize, size: usize) -> Range<u64> {
    let start = u64::from(start);
    let len = u64::try_from(count.saturating_mul(size)).unwrap_or(u64::MAX);
    start..start.saturating_add(len)
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
