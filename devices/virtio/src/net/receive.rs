//! Frames from a carrier into the guest's buffers.

use std::io;

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_queue::QueueT;

use super::{Carrier, FRAME, HEADER};
use crate::iov::Iov;
use crate::ring::{Broken, Buffer, Chain, Ring, Turn, cut, total, write_front};

/// Where in the header the number of buffers is; the flags are its first byte (virtio 1.2, 5.1.6).
const NUM_BUFFERS: u64 = 10;
/// What a frame takes that is not a segment for the guest to split; a longer one waits for room.
const USUAL: u64 = 2048;

/// The receiving half of a card.
pub struct Receiver {
    /// A frame may take several buffers.
    mergeable: bool,
    /// The guest completes checksums.
    checksums: bool,
    /// How much room is made before a frame is read.
    wanted: u64,
    /// Buffers the guest has made available and no frame has filled.
    posted: Vec<Chain>,
    /// How many bytes they have together.
    room: u64,
    /// What a frame had more than there was room for.
    spill: Box<[u8]>,
    /// A frame whose end is in `spill`: the guest has yet to make room for it.
    held: Option<Held>,
    listening: bool,
    lost: bool,
}

#[derive(Clone, Copy)]
struct Held {
    len: u64,
    /// What of it is in the guest's buffers.
    placed: u64,
}

enum Frame {
    Whole(u64),
    Dropped,
    Held,
    None,
}

impl Receiver {
    pub fn new() -> Self {
        let spill = vec![0; FRAME].into();
        Self {
            mergeable: false,
            checksums: false,
            wanted: 1,
            posted: Vec::new(),
            room: 0,
            spill,
            held: None,
            listening: false,
            lost: false,
        }
    }

    /// As after a reset, with what the driver chose.
    pub fn begin(&mut self, features: u64) {
        let has = |bit: u32| features & 1 << bit != 0;
        self.mergeable = has(VIRTIO_NET_F_MRG_RXBUF);
        self.checksums = has(VIRTIO_NET_F_GUEST_CSUM);
        self.wanted = match (self.mergeable, has(VIRTIO_NET_F_GUEST_TSO4) || has(VIRTIO_NET_F_GUEST_TSO6)) {
            (true, true) => FRAME as u64,
            (true, false) => USUAL,
            (false, _) => 1,
        };
        self.posted.clear();
        (self.room, self.held, self.listening, self.lost) = (0, None, false, false);
    }

    /// Buffers that no frame has filled are available again to whoever serves the ring next.
    pub fn end(&mut self, ring: &mut Ring) {
        ring.put_back(u16::try_from(self.posted.len()).unwrap_or(u16::MAX));
        self.posted.clear();
        (self.room, self.held) = (0, None);
    }

    /// Whether the carrier is to be waited for: only while the guest has room, since otherwise a frame
    /// that waits would wake us for ever.
    pub fn listens(&self) -> bool {
        self.listening && !self.lost
    }

    /// The carrier is gone until the driver resets the card.
    pub fn lose(&mut self, why: &dyn std::fmt::Display) {
        if !std::mem::replace(&mut self.lost, true) {
            tracing::warn!("a network card hears nothing any more: {why}");
        }
    }

    /// Fills the guest's buffers with frames until either runs out or the turn is over. True if there may
    /// be more.
    pub fn receive(
        &mut self,
        ring: &mut Ring,
        memory: &GuestMemory,
        carrier: &dyn Carrier,
    ) -> Result<bool, Broken> {
        let mut turn = Turn::default();
        let more = loop {
            let ready = self.make_room(ring, memory, &mut turn)?;
            self.listening = ready && self.held.is_none();
            if turn.is_over() {
                break true;
            }
            if !ready || self.lost {
                break false;
            }
            let frame = match self.held.take() {
                Some(held) => self.complete(held, memory),
                None => self.read(memory, carrier),
            };
            match frame {
                Frame::Whole(len) => {
                    turn.took(len);
                    self.deliver(ring, memory, len)?;
                }
                Frame::Held | Frame::Dropped => turn.took(FRAME as u64),
                Frame::None => break false,
            }
        };
        ring.tell(memory)?;
        Ok(more)
    }

    /// Takes buffers as they are needed and available. False if the guest has to post more first.
    fn make_room(&mut self, ring: &mut Ring, memory: &GuestMemory, turn: &mut Turn) -> Result<bool, Broken> {
        let wanted = self.held.map_or(self.wanted, |held| held.len);
        // An honest driver has no more buffers than the queue has entries.
        let full = usize::from(ring.queue.size());
        while self.room < wanted && self.posted.len() < full && !turn.is_over() {
            ring.quiet(memory)?;
            match ring.next(memory)? {
                Some((_, Ok(chain))) if fits(&chain) => {
                    self.room = self.room.saturating_add(total(&chain.writable));
                    self.posted.push(chain);
                }
                Some((head, _)) => {
                    tracing::debug!("receive buffer {head} is of no use");
                    turn.took(0);
                    ring.finish(memory, head, 0)?;
                }
                None if ring.listen(memory)? => turn.took(0),
                None => break,
            }
        }
        if self.posted.len() >= full && self.held.is_some_and(|held| self.room < held.len) {
            tracing::debug!("a frame longer than all of the guest's buffers is dropped");
            self.held = None;
        }
        Ok(match self.held {
            Some(held) => self.room >= held.len,
            None => self.room > 0,
        })
    }

    fn buffers(&self) -> Vec<Buffer> {
        self.posted.iter().flat_map(|chain| chain.writable.iter().copied()).collect()
    }

    /// Reads a frame to the guest's buffers, and what is beyond them to ours.
    fn read(&mut self, memory: &GuestMemory, carrier: &dyn Carrier) -> Frame {
        let buffers = self.buffers();
        let Some(mut iov) = Iov::new(memory, &buffers) else { return Frame::None };
        let placed = iov.spill(&mut self.spill) as u64;
        let len = match iov.read(carrier.fd()) {
            Ok(0) => return Frame::None,
            Ok(len) => len as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Frame::None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Frame::Dropped,
            Err(error) => {
                self.lose(&error);
                return Frame::None;
            }
        };
        if len < HEADER {
            return Frame::Dropped;
        }
        if len <= placed {
            return Frame::Whole(len);
        }
        // A frame goes into one buffer unless they are mergeable (virtio 1.2, 5.1.6.3.2).
        if !self.mergeable {
            tracing::debug!("a frame of {len} bytes is longer than the guest's buffers and dropped");
            return Frame::Dropped;
        }
        self.held = Some(Held { len, placed });
        Frame::Held
    }

    /// There is room now for the rest of a frame.
    fn complete(&self, held: Held, memory: &GuestMemory) -> Frame {
        let (_, rest) = cut(&self.buffers(), held.placed);
        let len = usize::try_from(held.len.saturating_sub(held.placed)).unwrap_or(usize::MAX);
        write_front(memory, &rest, self.spill.get(..len).unwrap_or_default());
        Frame::Whole(held.len)
    }

    /// Gives back the buffers that a frame of `len` bytes is in, all of them at once.
    fn deliver(&mut self, ring: &mut Ring, memory: &GuestMemory, len: u64) -> Result<(), Broken> {
        let mut used = Vec::new();
        let mut left = len;
        for chain in &self.posted {
            let room = total(&chain.writable);
            let now = left.min(room);
            used.push((chain.head, u32::try_from(now).unwrap_or(u32::MAX)));
            self.room = self.room.saturating_sub(room);
            left = left.saturating_sub(now);
            if left == 0 {
                break;
            }
        }
        if let Some(first) = self.posted.first() {
            let count = u16::try_from(used.len()).unwrap_or(u16::MAX);
            let (_, from_count) = cut(&first.writable, NUM_BUFFERS);
            write_front(memory, &from_count, &count.to_le_bytes());
            if !self.checksums {
                // A tap says of some frames that their checksum is good; only a guest that negotiated
                // GUEST_CSUM may be told (5.1.6.4.1).
                write_front(memory, &first.writable, &[0]);
            }
        }
        self.posted.drain(..used.len().min(self.posted.len()));
        ring.finish_all(memory, &used)
    }
}

/// Room for at least the header, and nothing for us to read.
fn fits(chain: &Chain) -> bool {
    chain.readable.is_empty() && total(&chain.writable) >= HEADER
}
