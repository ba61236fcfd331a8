//! Message-signalled interrupts of a function (PCI 3.0, 6.8.2).

use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_bus::{Message, MsiVector};

/// Its capability.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
const ENTRY: u64 = 16;
/// Where in the capability's body the message control is, and its bits in the upper byte.
const ENABLE: u8 = 1 << 7;
const MASK_ALL: u8 = 1 << 6;
/// A vector's own mask, in the last word of its entry.
const MASKED: u32 = 1;

/// The table, the pending bits and the vectors behind them.
///
/// All of it is under one lock, and a message goes out while the lock is held: so one that comes before a mask
/// is set is sent, one that comes after is pending, and the guest's write of the mask returns only when that is
/// decided. A pending bit is cleared where the message is sent, so it is sent once.
#[derive(Debug)]
pub struct Msix {
    vectors: Vec<MsiVector>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    enabled: bool,
    all_masked: bool,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
    pending: bool,
    /// What the vector sends now.
    routed: Option<Message>,
}

impl Entry {
    const AT_RESET: Self = Self { address: 0, data: 0, control: MASKED, pending: false, routed: None };

    fn word(&self, number: u64) -> u32 {
        let [a, b, c, d, e, f, g, h] = self.address.to_le_bytes();
        match number {
            0 => u32::from_le_bytes([a, b, c, d]),
            1 => u32::from_le_bytes([e, f, g, h]),
            2 => self.data,
            _ => self.control,
        }
    }

    fn set_word(&mut self, number: u64, value: u32) {
        match number {
            // Messages are 4 bytes, and aligned.
            0 => self.address = self.address & !0xffff_ffff | u64::from(value & !3),
            1 => self.address = self.address & 0xffff_ffff | u64::from(value) << 32,
            2 => self.data = value,
            _ => self.control = value & MASKED,
        }
    }
}

impl Msix {
    /// With a table entry for each of `vectors`, at most 2048. All are masked.
    pub fn new(mut vectors: Vec<MsiVector>) -> Self {
        vectors.truncate(2048);
        let entries = vec![Entry::AT_RESET; vectors.len()];
        Self { vectors, state: Mutex::new(State { enabled: false, all_masked: false, entries }) }
    }

    /// How many vectors there are.
    pub fn len(&self) -> u16 {
        u16::try_from(self.vectors.len()).unwrap_or(u16::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }

    /// The body of the capability and the bits of it that a guest may write. Table and pending bits are at these
    /// offsets, multiples of 8, of the BAR with this register number.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
        let [last, high] = self.len().saturating_sub(1).to_le_bytes();
        let place = |offset: u32| (offset & !7 | u32::from(bar & 7)).to_le_bytes();
        let ([a, b, c, d], [e, f, g, h]) = (place(table), place(pending));
        let mut writable = [0; 10];
        if let Some(control) = writable.get_mut(1) {
            *control = ENABLE | MASK_ALL;
        }
        ([last, high, a, b, c, d, e, f, g, h], writable)
    }

    /// The guest wrote the upper byte of the message control.
    pub fn set_control(&self, upper: u8) {
        let mut state = self.lock();
        state.enabled = upper & ENABLE != 0;
        state.all_masked = upper & MASK_ALL != 0;
        self.settle_all(&mut state);
    }

    pub fn is_enabled(&self) -> bool {
        self.lock().enabled
    }

    /// Sends the message of `vector`, or keeps it until it is not masked. False if MSI-X is off. One that is not
    /// in the table goes nowhere. From any thread.
    pub fn fire(&self, vector: u16) -> bool {
        let mut state = self.lock();
        if !state.enabled {
            return false;
        }
        let masked = state.all_masked;
        let index = usize::from(vector);
        if let (Some(entry), Some(vector)) = (state.entries.get_mut(index), self.vectors.get(index)) {
            if masked || entry.control & MASKED != 0 {
                entry.pending = true;
            } else {
                vector.pulse();
            }
        }
        true
    }

    /// Aligned words and pairs of them; anything else reads as zero (6.8.2: a driver must not).
    pub fn read_table(&self, at: u64, data: &mut [u8]) {
        let state = self.lock();
        words(at, data, |word| {
            let entry = usize::try_from(word / 4).ok().and_then(|index| state.entries.get(index));
            entry.map_or(0, |entry| entry.word(word % 4))
        });
    }

    /// See [`Msix::read_table`]; what is not read so cannot be written so.
    pub fn write_table(&self, at: u64, data: &[u8]) {
        let aligned = at.is_multiple_of(4) && matches!(data.len(), 4 | 8);
        if !aligned || at.checked_add(data.len() as u64).is_none() {
            return;
        }
        let mut state = self.lock();
        for (word, bytes) in (at / 4..).zip(data.chunks_exact(4)) {
            let Ok(value) = <[u8; 4]>::try_from(bytes) else { continue };
            let Ok(index) = usize::try_from(word / (ENTRY / 4)) else { continue };
            if let Some(entry) = state.entries.get_mut(index) {
                entry.set_word(word % 4, u32::from_le_bytes(value));
                self.settle(&mut state, index);
            }
        }
    }

    /// One bit for each vector, in words of 8 bytes; read only.
    pub fn read_pending(&self, at: u64, data: &mut [u8]) {
        let state = self.lock();
        words(at, data, |word| {
            let first = usize::try_from(word).ok().and_then(|word| word.checked_mul(32));
            let bits = first.and_then(|first| state.entries.get(first..)).unwrap_or_default();
            (0..32u32).zip(bits).filter(|(_, entry)| entry.pending).fold(0, |all, (bit, _)| all | 1 << bit)
        });
    }

    fn settle_all(&self, state: &mut State) {
        for index in 0..state.entries.len() {
            self.settle(state, index);
        }
    }

    /// Makes the vector send what the guest wants it to send. A route is slow to change, so a mask leaves it
    /// where it is, and only messages that are sent are routed.
    fn settle(&self, state: &mut State, index: usize) {
        let (enabled, masked) = (state.enabled, state.all_masked);
        let (Some(entry), Some(vector)) = (state.entries.get_mut(index), self.vectors.get(index)) else {
            return;
        };
        if !enabled {
            // The bits mean nothing then.
            entry.pending = false;
            return Self::route(entry, vector, None);
        }
        if masked || entry.control & MASKED != 0 {
            return;
        }
        Self::route(entry, vector, Some(Message { address: entry.address, data: entry.data }));
        if std::mem::take(&mut entry.pending) {
            vector.pulse();
        }
    }

    fn route(entry: &mut Entry, vector: &MsiVector, message: Option<Message>) {
        if entry.routed == message {
            return;
        }
        entry.routed = match vector.route(message) {
            Ok(()) => message,
            Err(error) => {
                tracing::debug!("a message goes nowhere: {error}");
                None
            }
        };
    }

    /// Back to power-on. No message is on its way when this returns.
    pub fn reset(&self) {
        let mut state = self.lock();
        (state.enabled, state.all_masked) = (false, false);
        self.settle_all(&mut state);
        state.entries.fill(Entry::AT_RESET);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has ended the program.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fills `data` with words by their number, if it is one or two aligned ones.
fn words(at: u64, data: &mut [u8], word: impl Fn(u64) -> u32) {
    let aligned = at.is_multiple_of(4) && matches!(data.len(), 4 | 8);
    data.fill(0);
    if aligned {
        for (number, bytes) in (at / 4..).zip(data.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word(number).to_le_bytes());
        }
    }
}

#[cfg(test)]
#[path = "msix/tests.rs"]
mod tests;
