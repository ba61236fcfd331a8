//! A network card on a tap (virtio 1.2, 5.1).

mod receive;
mod tap;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::iov::Iov;
use crate::ring::{Broken, Chain, Ring, total};
use crate::worker::{Next, Run, Serve, Service};

use receive::Receiver;
pub use tap::{Tap, TapError};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-net";

const RX: u16 = 0;
const QUEUE_SIZES: [u16; 2] = [256, 256];

/// Every frame begins with `struct virtio_net_hdr_v1` (5.1.6), on the tap too.
const HEADER: u64 = 12;
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
        Self {
            csum: has(VIRTIO_NET_F_GUEST_CSUM),
            tso4: has(VIRTIO_NET_F_GUEST_TSO4),
            tso6: has(VIRTIO_NET_F_GUEST_TSO6),
            ecn: has(VIRTIO_NET_F_GUEST_ECN),
        }
    }
}

/// A card as configured.
pub struct Net {
    service: Service<Card>,
    config: Arc<Config>,
}

struct Card {
    carrier: Box<dyn Carrier>,
    receiver: Receiver,
}

impl Net {
    pub fn new(id: &str, carrier: impl Carrier, mac: Mac) -> Self {
        let card = Card { carrier: Box::new(carrier), receiver: Receiver::new() };
        Self { service: Service::new(id, card), config: Arc::new(Config::new(mac.0.into())) }
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

    /// What requires what is in 5.1.3.1.
    fn accepts(&self, features: u64) -> bool {
        let has = |bit: u32| features & 1 << bit != 0;
        let host_tso = has(VIRTIO_NET_F_HOST_TSO4) || has(VIRTIO_NET_F_HOST_TSO6);
        let guest_tso = has(VIRTIO_NET_F_GUEST_TSO4) || has(VIRTIO_NET_F_GUEST_TSO6);
        (has(VIRTIO_NET_F_CSUM) || !host_tso)
            && (host_tso || !has(VIRTIO_NET_F_HOST_ECN))
            && (has(VIRTIO_NET_F_GUEST_CSUM) || !guest_tso)
            && (guest_tso || !has(VIRTIO_NET_F_GUEST_ECN))
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.service.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.service.stop()
    }
}

impl Serve for Card {
    const SOURCES: usize = 1;

    fn begin(&mut self, run: &Run) -> io::Result<()> {
        self.receiver.begin(run.features);
        match self.carrier.set_offloads(Offloads::of(run.features)) {
            // The interface was deleted: the card stays, with nothing at its other end.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                self.receiver.lose(&error);
                Ok(())
            }
            told => told,
        }
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let more = match ring.index {
            RX => self.receiver.receive(ring, memory, &*self.carrier),
            _ => ring.serve(memory, |chain| {
                self.transmit(chain, memory);
                0
            }),
        };
        more.map(Next::again_if)
    }

    fn source(&self, _: usize) -> Option<(BorrowedFd<'_>, u16)> {
        self.receiver.listens().then(|| (self.carrier.fd(), RX))
    }

    fn lost(&mut self, _: usize) {
        self.receiver.lose(&"its tap is gone");
    }

    fn end(&mut self, rings: &mut [Ring], _: &GuestMemory) {
        if let Some(ring) = rings.iter_mut().find(|ring| ring.index == RX) {
            self.receiver.end(ring);
        }
    }
}

impl Card {
    /// A frame that the carrier does not take is lost, as on a wire; the device goes on.
    fn transmit(&self, chain: &Chain, memory: &GuestMemory) {
        let len = total(&chain.readable);
        if len < SHORTEST || len > FRAME as u64 || !chain.writable.is_empty() {
            return tracing::debug!("what is no frame is dropped, {len} bytes");
        }
        let Some(iov) = Iov::new(memory, &chain.readable) else { return };
        while let Err(error) = iov.write(self.carrier.fd()) {
            if error.kind() != io::ErrorKind::Interrupted {
                return tracing::debug!("a frame is dropped: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
