//! A network card on a tap (virtio 1.2, 5.1).

mod tap;

use std::io;
use std::os::fd::BorrowedFd;

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use virtio_queue::QueueT;

use crate::device::{Start, StartError, VirtioDevice};
use crate::iov::Iov;
use crate::mmio::read_bytes;
use crate::ring::{Broken, Buffer, Chain, Ring, cut, total, write_front};
use crate::worker::{BUDGET, Serve, Service};

pub use tap::{Tap, TapError};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-net";

const RX: u16 = 0;
const QUEUE_SIZES: [u16; 2] = [256, 256];

/// Every frame begins with `struct virtio_net_hdr_v1` (5.1.6), on the tap too.
const HEADER: u64 = 12;
/// Where in the header the number of buffers is.
const NUM_BUFFERS: u64 = 10;
/// The longest frame: a header and a 64 KiB segment with its link header.
const FRAME: usize = 65562;
/// The shortest frame a tap takes has an Ethernet header.
const SHORTEST: u64 = HEADER + 14;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// One of our own for a card without one: locally administered, the same for the same id.
    pub fn for_id(id: &str) -> Self {
        // FNV-1a; it only has to differ between the cards of one network.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

/// What carries frames with their headers: a tap, or a socket in tests. Never blocks.
pub trait Carrier: Send + 'static {
    fn fd(&self) -> BorrowedFd<'_>;

    /// Tells what the guest can receive, out of CSUM, TSO4, TSO6 and ECN.
    ///
    /// # Errors
    /// If the carrier cannot do that.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;
}

/// What the guest takes as it is and completes itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    pub csum: bool,
    pub tso4: bool,
    pub tso6: bool,
    pub ecn: bool,
}

impl Offloads {
    fn of(features: u64) -> Self {
        let has = |bit: u32| features & 1 << bit != 0;
        let csum = has(VIRTIO_NET_F_GUEST_CSUM);
        // The others depend on the first (5.1.3.1).
        Self {
            csum,
            tso4: csum && has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: csum && has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: csum && has(VIRTIO_NET_F_GUEST_ECN),
        }
    }
}

/// A card as configured.
pub struct Net {
    service: Service<Card>,
    mac: Mac,
}

struct Card {
    carrier: Box<dyn Carrier>,
    /// The guest takes frames in several buffers.
    mergeable: bool,
    /// Buffers the guest has made available and no frame has filled.
    posted: Vec<Chain>,
    /// Frames may wait, and the guest has buffers for them.
    listening: bool,
    /// The carrier is gone.
    lost: bool,
}

impl Net {
    pub fn new(id: &str, carrier: impl Carrier, mac: Mac) -> Self {
        let carrier = Box::new(carrier);
        let card = Card { carrier, mergeable: false, posted: Vec::new(), listening: false, lost: false };
        Self { service: Service::new(id, card), mac }
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        [
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_MRG_RXBUF,
        ]
        .into_iter()
        .fold(0, |all, bit| all | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, at: u64, data: &mut [u8]) {
        read_bytes(&self.mac.0, at, data);
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.service.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.service.stop()
    }
}

impl Serve for Card {
    fn begin(&mut self, features: u64) -> io::Result<()> {
        self.mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        self.posted.clear();
        self.listening = false;
        self.carrier.set_offloads(Offloads::of(features))
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<bool, Broken> {
        match ring.index {
            RX => self.receive(ring, memory),
            _ => ring.serve(memory, BUDGET, |chain| {
                self.transmit(chain, memory);
                0
            }),
        }
    }

    /// Only while the guest has room for a frame: otherwise a frame that waits would wake us for ever.
    fn source(&self) -> Option<(BorrowedFd<'_>, u16)> {
        (self.listening && !self.lost).then(|| (self.carrier.fd(), RX))
    }

    /// The buffers that no frame has filled are available again to whoever serves the ring next.
    fn end(&mut self, rings: &mut [Ring]) {
        let held = u16::try_from(self.posted.len()).unwrap_or(u16::MAX);
        self.posted.clear();
        if let Some(ring) = rings.iter_mut().find(|ring| ring.index == RX) {
            ring.queue.set_next_avail(ring.queue.next_avail().wrapping_sub(held));
        }
    }

    fn lost_source(&mut self) {
        tracing::warn!("a tap is gone; its card hears nothing any more");
        self.lost = true;
    }
}

impl Card {
    /// A frame that the carrier does not take is lost, as on a wire; the device goes on.
    fn transmit(&self, chain: &Chain, memory: &GuestMemory) {
        let len = total(&chain.readable);
        if len < SHORTEST || len > FRAME as u64 {
            return tracing::debug!("a frame of {len} bytes is dropped");
        }
        let Some(iov) = Iov::new(memory, &chain.readable) else { return };
        while let Err(error) = iov.write(self.carrier.fd()) {
            if error.kind() != io::ErrorKind::Interrupted {
                return tracing::debug!("a frame is dropped: {error}");
            }
        }
    }

    /// Fills the guest's buffers with frames until either runs out.
    fn receive(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<bool, Broken> {
        let mut delivered = false;
        for _ in 0..BUDGET {
            if !self.collect(ring, memory)? {
                break;
            }
            match self.take_frame(ring, memory)? {
                Frame::Delivered => delivered = true,
                Frame::Dropped => {}
                Frame::None => {
                    self.finish(ring, memory, delivered)?;
                    return Ok(false);
                }
            }
        }
        self.finish(ring, memory, delivered)?;
        // If the guest has room, the carrier wakes us as long as it has frames.
        Ok(false)
    }

    fn finish(&self, ring: &mut Ring, memory: &GuestMemory, delivered: bool) -> Result<(), Broken> {
        if delivered { ring.tell(memory) } else { Ok(()) }
    }

    /// Takes posted buffers until the largest frame fits into them. False if the guest has to post more.
    fn collect(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<bool, Broken> {
        // Chains are held until a frame fills them, and a queue has only so many.
        let wanted = if self.mergeable { FRAME as u64 } else { 1 };
        loop {
            let room: u64 =
                self.posted.iter().map(|chain| total(&chain.writable)).fold(0, u64::saturating_add);
            self.listening = room >= wanted;
            if self.listening {
                return Ok(true);
            }
            // Held chains are not yet used, so an honest driver has no more than a queue of them.
            if self.posted.len() >= usize::from(ring.queue.size()) {
                return Err(Broken {
                    index: ring.index,
                    why: "more buffers than the queue has entries".into(),
                });
            }
            ring.quiet(memory)?;
            match ring.next(memory)? {
                Some((_, Ok(chain))) if fit_for_rx(&chain) => self.posted.push(chain),
                Some((head, _)) => {
                    tracing::debug!("receive buffer {head} is of no use");
                    ring.finish(memory, head, 0)?;
                    ring.tell(memory)?;
                }
                None => {
                    if !ring.listen(memory)? {
                        // Fewer than the largest frame, but what is there may do.
                        self.listening = room > 0;
                        return Ok(self.listening);
                    }
                }
            }
        }
    }

    fn take_frame(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Frame, Broken> {
        let buffers: Vec<Buffer> = match self.mergeable {
            true => self.posted.iter().flat_map(|chain| chain.writable.iter().copied()).collect(),
            false => self.posted.first().map(|chain| chain.writable.clone()).unwrap_or_default(),
        };
        let mut spilled = [0];
        let Some(mut iov) = Iov::new(memory, &buffers) else { return Ok(Frame::None) };
        iov.spill(&mut spilled);
        let len = match iov.read(self.carrier.fd()) {
            Ok(0) => return Ok(Frame::None),
            Ok(len) => len as u64,
            Err(error) => return Ok(self.no_frame(&error)),
        };
        if len > total(&buffers) {
            tracing::debug!("a frame longer than the guest's buffers is dropped");
            return Ok(Frame::Dropped);
        }
        self.deliver(ring, memory, len)?;
        Ok(Frame::Delivered)
    }

    fn no_frame(&mut self, error: &io::Error) -> Frame {
        match error.kind() {
            io::ErrorKind::WouldBlock => {}
            io::ErrorKind::Interrupted => return Frame::Dropped,
            _ => {
                // EIO while the tap is down comes again at once; it hears when it is up, by being polled.
                tracing::debug!("a tap cannot be read: {error}");
                self.lost = error.raw_os_error() == Some(libc::EBADFD);
            }
        }
        Frame::None
    }

    /// Gives back the chains that a frame of `len` bytes is in, all published before the guest is told.
    fn deliver(&mut self, ring: &mut Ring, memory: &GuestMemory, len: u64) -> Result<(), Broken> {
        let mut used = Vec::new();
        let mut left = len;
        for chain in &self.posted {
            let now = left.min(total(&chain.writable));
            used.push((chain.head, u32::try_from(now).unwrap_or(u32::MAX)));
            left = left.saturating_sub(now);
            if left == 0 || !self.mergeable {
                break;
            }
        }
        let count = u16::try_from(used.len()).unwrap_or(u16::MAX);
        if let Some(first) = self.posted.first() {
            let (_, from_count) = cut(&first.writable, NUM_BUFFERS);
            write_front(memory, &from_count, &count.to_le_bytes());
        }
        self.posted.drain(..used.len().min(self.posted.len()));
        used.into_iter().try_for_each(|(head, len)| ring.finish(memory, head, len))
    }
}

enum Frame {
    Delivered,
    Dropped,
    None,
}

/// Room for at least the header, and nothing for us to read.
fn fit_for_rx(chain: &Chain) -> bool {
    chain.readable.is_empty() && total(&chain.writable) >= HEADER
}

#[cfg(test)]
mod tests;
