//! One entry of an MSI-X table: what it says, whether it may be sent, and whether one is owed.

use ambit_bus::{Message, MsiVector};
use tracing::debug;

/// The size of an entry in bytes (PCI 3.0, 6.8.2).
pub const SIZE: usize = 16;

/// Vector control: the vector is masked (PCI 3.0, 6.8.2.9).
const MASKED: u8 = 1;

/// The state of one vector, of which everything else follows. Each method is one step; whoever has a vector
/// on several threads puts a lock around it and holds it for the step.
///
/// It is *open* when the function may send and the vector is not masked. Then `routed` is what its wire is set
/// to, and nothing is pending; otherwise the wire is set to nothing. Both hold between any two steps. So
///
/// * no message is lost: `fire` either pulses a wire that is routed, or leaves `pending`, which only the step
///   that opens the vector takes, and that pulses (after it has routed the wire);
/// * none is sent twice: a step pulses at most once, for the event that it is, or for all that were pending;
/// * none is sent while it is masked: the step that closes the vector takes the route away, and when that has
///   returned no earlier message is on its way ([`ambit_bus::MsiWire::route`]).
///
/// A message that the host refuses leaves an open vector without a route: it is dead, and its events are
/// dropped as a write to a wrong address would be, until the guest changes the entry.
#[derive(Debug)]
pub struct Vector {
    wire: MsiVector,
    message: Message,
    masked: bool,
    function: bool,
    pending: bool,
    routed: Option<Message>,
}

impl Vector {
    /// Masked, as after a reset (PCI 3.0, 6.8.2.9), of a function that may not send.
    pub fn new(wire: MsiVector) -> Self {
        Self {
            wire,
            message: Message { address: 0, data: 0 },
            masked: true,
            function: false,
            pending: false,
            routed: None,
        }
    }

    /// Sends the message, or leaves it pending.
    pub fn fire(&mut self) {
        if self.is_open() {
            self.send();
        } else {
            self.pending = true;
        }
    }

    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Whether the function may send: its half of being open.
    pub fn allow(&mut self, function: bool) {
        self.function = function;
        self.settle();
    }

    /// The entry, as the guest sees it (PCI 3.0, 6.8.2.6 to 6.8.2.9).
    pub fn bytes(&self) -> [u8; SIZE] {
        let address = self.message.address.to_le_bytes();
        let fields =
            address.into_iter().chain(self.message.data.to_le_bytes()).chain([u8::from(self.masked)]);
        let mut bytes = [0; SIZE];
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }

    /// Writes bytes of the entry, at once. The lowest two bits of the address and all of the vector control
    /// but the mask stay zero.
    pub fn write(&mut self, at: usize, new: &[u8]) {
        let mut bytes = self.bytes();
        for (byte, new) in bytes.iter_mut().skip(at).zip(new) {
            *byte = *new;
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, control, ..] = bytes;
        let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]) & !0b11;
        self.message = Message { address, data: u32::from_le_bytes([i, j, k, l]) };
        self.masked = control & MASKED != 0;
        self.settle();
    }

    /// As it was made.
    pub fn reset(&mut self) {
        self.message = Message { address: 0, data: 0 };
        (self.masked, self.function, self.pending) = (true, false, false);
        self.settle();
    }

    fn is_open(&self) -> bool {
        self.function && !self.masked
    }

    /// Makes what must hold between two steps hold again.
    fn settle(&mut self) {
        let wanted = self.is_open().then_some(self.message);
        if self.routed != wanted {
            self.routed = match self.wire.route(wanted) {
                Ok(()) => wanted,
                Err(error) => {
                    debug!("no message: {error}");
                    None
                }
            };
        }
        if wanted.is_some() && std::mem::take(&mut self.pending) {
            self.send();
        }
    }

    fn send(&self) {
        if self.routed.is_some() {
            self.wire.pulse();
        }
    }
}
