//! A network card on a tap (virtio 1.2, 5.1).
//!
//! `lane` serves one pair of queues on a thread of its own: `receive` and `transmit` move frames between the guest's
//! buffers and a [`Carrier`], behind a `header` of which only what was agreed on passes. `control` does what the driver
//! asks for. `card` is what the lanes share. `link` says whether the host's interface is up, and `tap` is that interface.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use crate::config::Config;
use crate::device::{Interface as Kind, Start, StartError, VirtioDevice};
use crate::limit::Limits;
use crate::ring::Ring;
use crate::worker::Service;

mod card;
mod control;
mod header;
mod lane;
mod link;
mod look;
mod receive;
mod tap;
mod transmit;

pub use card::Counts;
pub use link::Interface;
pub use tap::{Tap, TapError};

use card::Card;
use lane::Lane;
use link::{State, Watch};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-net";

const MOST_PAIRS: usize = 8;
/// Entries of a queue.
const SIZES: std::ops::RangeInclusive<u16> = 2..=1024;
const CONTROL_SIZE: u16 = 64;
/// What a packet may be (5.1.4.1).
const MTUS: std::ops::RangeInclusive<u16> = 68..=u16::MAX;

/// The link's own header: two addresses and a type.
const ETHERNET: usize = 14;
/// The longest frame: our header and a 64 KiB segment with its link header.
const FRAME: usize = header::SIZE + ETHERNET + (64 << 10);

/// What a guest may take as it is and complete itself.
const GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN;
/// What it may leave to the host.
const HOST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN;

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

/// What carries frames with a header of [`header::SIZE`] bytes: a queue of a tap, or a socket in tests. Never blocks.
pub trait Carrier: Send + Sync + 'static {
    fn fd(&self) -> BorrowedFd<'_>;

    /// Tells what the guest can receive, out of CSUM, TSO4, TSO6 and ECN.
    ///
    /// # Errors
    /// If the carrier cannot do that.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;

    /// Gets frames from now on, or none. Only asked of the second and those after it.
    ///
    /// # Errors
    /// If the carrier cannot do that.
    fn attach(&self, _attached: bool) -> io::Result<()> {
        Ok(())
    }

    /// After it hung up or failed: whether it will never carry anything any more.
    fn is_gone(&self) -> bool {
        true
    }

    /// The interface whose state is the state of the link; `None` if that is always up.
    fn interface(&self) -> Option<&Interface> {
        None
    }
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

/// A card as the user wants it. It has as many pairs of queues as it is given carriers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub mac: Mac,
    /// Entries of each queue: a power of two, 2 to 1024.
    pub queue_size: u16,
    /// Checksums and segmentation may be left to the other side.
    pub offloads: bool,
    /// A frame may take several of the guest's buffers.
    pub mergeable: bool,
    /// The longest packet; the guest is told, and gets no longer one. At least 68.
    pub mtu: Option<u16>,
    /// Of frames towards the guest, and their bytes.
    pub rx: Limits,
    /// Of frames from the guest.
    pub tx: Limits,
}

impl Options {
    /// Queues of 256, everything on and nothing limited.
    pub fn new(mac: Mac) -> Self {
        let (rx, tx) = (Limits::default(), Limits::default());
        Self { mac, queue_size: 256, offloads: true, mergeable: true, mtu: None, rx, tx }
    }
}

/// Why a card cannot be what the user wants it to be, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("net '{id}' wants {pairs} pairs of queues; give it 1 to {MOST_PAIRS}")]
    Pairs { id: String, pairs: usize },
    #[error(
        "net '{id}' wants queues of {size} entries; give it a power of two from {} to {}",
        SIZES.start(), SIZES.end()
    )]
    QueueSize { id: String, size: u16 },
    #[error("net '{id}' wants an MTU of {mtu}; give it one from {} to {}", MTUS.start(), MTUS.end())]
    Mtu { id: String, mtu: u16 },
    #[error("net '{id}' gets no events to wake its queues by: {source}; raise the limit of open files")]
    Events { id: String, source: io::Error },
}

/// A card as configured.
pub struct Net {
    service: Service<Lane>,
    card: Arc<Card>,
    queue_sizes: Vec<u16>,
    features: u64,
}

/// How many frames a card has moved and dropped, for whoever wants to know.
#[derive(Clone)]
pub struct Meter(Arc<Card>);

impl Meter {
    pub fn counts(&self) -> Counts {
        self.0.counts()
    }
}

impl Net {
    /// With a pair of queues for each of `carriers`.
    ///
    /// # Errors
    /// [`NetError`] for the first thing that the device or this host does not do.
    pub fn new(id: &str, carriers: Vec<impl Carrier>, options: &Options) -> Result<Self, NetError> {
        let own = || id.to_owned();
        let (pairs, size) = (carriers.len(), options.queue_size);
        if !(1..=MOST_PAIRS).contains(&pairs) {
            return Err(NetError::Pairs { id: own(), pairs });
        }
        if !size.is_power_of_two() || !SIZES.contains(&size) {
            return Err(NetError::QueueSize { id: own(), size });
        }
        if let Some(mtu) = options.mtu.filter(|mtu| !MTUS.contains(mtu)) {
            return Err(NetError::Mtu { id: own(), mtu });
        }
        let carriers = carriers.into_iter().map(|carrier| Box::new(carrier) as Box<dyn Carrier>).collect();
        let card =
            Card::new(id, carriers, options).map_err(|source| NetError::Events { id: own(), source })?;
        let card = Arc::new(card);
        let mut queue_sizes = vec![size; pairs.saturating_mul(2)];
        queue_sizes.push(CONTROL_SIZE);
        let service = Service::with_lanes(id, lanes(id, &card));
        Ok(Self { service, features: features(options, pairs), card, queue_sizes })
    }

    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.card))
    }
}

/// A lane for each pair. The queue after the last pair is for control, or with one pair, the third.
fn lanes(id: &str, card: &Arc<Card>) -> Vec<(Lane, Vec<u16>)> {
    let pairs = u16::try_from(card.carriers.len()).unwrap_or(u16::MAX);
    let mut watch = watch(id, card);
    let lane = |number: u16| {
        let mut queues = Lane::queues(number).to_vec();
        if number == 0 {
            queues.push(pairs.saturating_mul(2));
        }
        (Lane::new(usize::from(number), Arc::clone(card), watch.take()), queues)
    };
    (0..pairs).map(lane).collect()
}

/// What follows the link, if it can be followed. The card shows its state from here on.
fn watch(id: &str, card: &Card) -> Option<Watch> {
    let interface = card.carriers.first()?.interface()?;
    match Watch::new(interface) {
        Ok(Some((watch, state))) => {
            card.set_link(state == State::Up);
            Some(watch)
        }
        Ok(None) => {
            tracing::debug!(
                "net '{id}': {} is in another network namespace, its link counts as up",
                interface.name
            );
            None
        }
        Err(error) => {
            tracing::debug!("net '{id}': the link of {} counts as up: {error}", interface.name);
            None
        }
    }
}

fn features(options: &Options, pairs: usize) -> u64 {
    let always = [VIRTIO_NET_F_MAC, VIRTIO_NET_F_STATUS, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_MAC_ADDR];
    let some = [
        (VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, options.offloads),
        (VIRTIO_NET_F_MRG_RXBUF, options.mergeable),
        (VIRTIO_NET_F_MTU, options.mtu.is_some()),
        (VIRTIO_NET_F_MQ, pairs > 1),
    ];
    let some = some.into_iter().filter(|(_, offered)| *offered).map(|(bit, _)| bit);
    let offloads = if options.offloads { HOST_OFFLOADS | GUEST_OFFLOADS } else { 0 };
    always.into_iter().chain(some).fold(offloads, |all, bit| all | 1 << bit)
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        self.features
    }

    /// What requires what is in 5.1.3.1.
    fn accepts(&self, features: u64) -> bool {
        let has = |bit: u32| features & 1 << bit != 0;
        let host_tso = has(VIRTIO_NET_F_HOST_TSO4) || has(VIRTIO_NET_F_HOST_TSO6);
        let guest_tso = has(VIRTIO_NET_F_GUEST_TSO4) || has(VIRTIO_NET_F_GUEST_TSO6);
        let controlled = has(VIRTIO_NET_F_MQ) || has(VIRTIO_NET_F_CTRL_MAC_ADDR);
        (has(VIRTIO_NET_F_CSUM) || !host_tso)
            && (host_tso || !has(VIRTIO_NET_F_HOST_ECN))
            && (has(VIRTIO_NET_F_GUEST_CSUM) || !guest_tso)
            && (guest_tso || !has(VIRTIO_NET_F_GUEST_ECN))
            && (has(VIRTIO_NET_F_CTRL_VQ) || !controlled)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &Arc<Config> {
        &self.card.config
    }

    /// A legacy driver sets its address here, byte by byte (5.1.4.3); a modern one by a command.
    fn write_config(&mut self, at: u64, data: &[u8], from: Kind) {
        if from != Kind::Legacy {
            return;
        }
        self.card.config.update(|bytes| {
            let own = bytes.get_mut(card::ADDRESS).unwrap_or_default();
            let own = usize::try_from(at).ok().and_then(|at| own.get_mut(at..)).unwrap_or_default();
            own.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        });
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        let has = |index: usize| start.rings.iter().any(|ring| usize::from(ring.index) == index);
        let refused = |source| StartError { wanted: "the carrier with these features", source };
        self.card.begin(start.features, has).map_err(refused)?;
        self.card.config.attach(&start.interrupt);
        self.service.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.card.config.detach();
        self.service.stop()
    }

    fn reset(&mut self) {
        self.card.reset();
    }
}

#[cfg(test)]
mod tests;
