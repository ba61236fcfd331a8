//! Frames from a carrier into the guest's buffers.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_queue::QueueT;

use super::card::Card;
use super::header::{self, Header};
use super::{Carrier, ETHERNET, FRAME};
use crate::iov::Scatter;
use crate::ring::{Broken, Chain, Ring, Turn, cut, read_front, total, write_front};
use crate::worker::Next;

/// What a frame takes that is not a segment for the guest to split; a longer one waits for room.
const USUAL: u64 = 2048;
/// How long a carrier that fails is left alone.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a call that a signal interrupts is made again.
const INTERRUPTED: usize = 16;

/// The receiving half of a pair.
pub struct Receiver {
    features: u64,
    /// Bytes of the guest's header.
    header: usize,
    /// How much room is made before a frame is read.
    wanted: u64,
    /// The longest packet that is not to be split.
    mtu: Option<u16>,
    /// Buffers that the guest has made available and no frame has filled, in its order. The first is of use; one
    /// that is not goes back when all before it have, so that those that are left can be put back.
    posted: VecDeque<Posted>,
    /// Where they are.
    scatter: Scatter,
    /// How many bytes they have together.
    room: u64,
    /// What a frame had more than there was room for.
    spill: Box<[u8]>,
    /// Read, and not given to the guest yet: it has to make room, or the limit to recover.
    frame: Option<Frame>,
    /// Given to the guest with the next publication.
    used: Vec<(u16, u32)>,
    /// To be used again.
    spare: Vec<Chain>,
    /// The guest was asked for no kicks.
    quiet: bool,
    listening: bool,
    lost: bool,
}

struct Posted {
    chain: Chain,
    /// 0 if it is of no use.
    room: u64,
    /// How many entries of the scatter list it has.
    parts: usize,
}

impl Posted {
    /// Without what it says of itself, which may be long.
    fn useless(head: u16) -> Self {
        Self { chain: Chain { head, ..Chain::default() }, room: 0, parts: 0 }
    }
}

#[derive(Clone, Copy)]
struct Frame {
    header: Header,
    /// As long as it is for the guest.
    len: u64,
    /// How much of it has its place; the rest is in `spill`.
    placed: u64,
}

enum Read {
    Frame(Frame),
    Dropped,
    Nothing,
    Failed,
}

impl Receiver {
    pub fn new() -> Self {
        Self {
            features: 0,
            header: header::SIZE,
            wanted: 1,
            mtu: None,
            posted: VecDeque::new(),
            scatter: Scatter::default(),
            room: 0,
            spill: vec![0; FRAME].into(),
            frame: None,
            used: Vec::new(),
            spare: Vec::new(),
            quiet: false,
            listening: false,
            lost: false,
        }
    }

    /// As after a reset, with what the driver chose.
    pub fn begin(&mut self, features: u64, mtu: Option<u16>, memory: &GuestMemory) {
        let has = |bit: u32| features & 1 << bit != 0;
        let segments = has(VIRTIO_NET_F_GUEST_TSO4) || has(VIRTIO_NET_F_GUEST_TSO6);
        self.features = features;
        self.header = header::size(features);
        self.wanted = match (has(VIRTIO_NET_F_MRG_RXBUF), segments) {
            (true, true) => FRAME as u64,
            (true, false) => USUAL,
            (false, _) => 1,
        };
        self.mtu = mtu.filter(|_| has(VIRTIO_NET_F_MTU));
        self.forget();
        self.scatter.begin(memory);
        (self.quiet, self.listening, self.lost) = (false, false, false);
    }

    /// Buffers that no frame has filled are available again to whoever serves the ring next.
    pub fn end(&mut self, ring: Option<&mut Ring>) {
        if let Some(ring) = ring {
            ring.put_back(u16::try_from(self.posted.len()).unwrap_or(u16::MAX));
        }
        self.forget();
        self.spare.clear();
        self.scatter.end();
    }

    fn forget(&mut self) {
        self.posted.clear();
        self.used.clear();
        (self.room, self.frame) = (0, None);
    }

    /// Whether the carrier is to be waited for: only while a frame could be taken, since otherwise one that waits
    /// would wake us for ever.
    pub fn listens(&self) -> bool {
        self.listening && !self.lost
    }

    /// The carrier never has anything any more.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Fills the guest's buffers with frames until either runs out, the limit is reached, or the turn is over. All
    /// of it is published together, and told once.
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    pub fn receive(
        &mut self,
        ring: &mut Ring,
        memory: &GuestMemory,
        carrier: &dyn Carrier,
        card: &Card,
    ) -> Result<Next, Broken> {
        self.listening = false;
        // What was done before a ring broke goes back all the same.
        let next = self.fill(ring, memory, carrier, card);
        ring.finish_all(memory, &self.used)?;
        self.used.clear();
        ring.tell(memory)?;
        next
    }

    fn fill(
        &mut self,
        ring: &mut Ring,
        memory: &GuestMemory,
        carrier: &dyn Carrier,
        card: &Card,
    ) -> Result<Next, Broken> {
        let mut turn = Turn::default();
        while !turn.is_over() {
            let wanted = self.frame.map_or(self.wanted, |frame| frame.len);
            let all = self.make_room(wanted, ring, memory, &mut turn)?;
            let Some(frame) = self.frame else {
                if self.room == 0 || self.lost {
                    return Ok(Next::again_if(turn.is_over()));
                }
                match self.read(memory, carrier, card) {
                    Read::Frame(frame) => self.frame = Some(frame),
                    Read::Dropped => turn.took(FRAME as u64),
                    Read::Nothing => {
                        self.listening = true;
                        return Ok(Next::Wait);
                    }
                    Read::Failed => return Ok(Next::After(PAUSE)),
                }
                continue;
            };
            if self.room < frame.len && all {
                card.not_received(&"one is longer than all of the guest's buffers");
                self.frame = None;
                turn.took(frame.len);
            } else if self.room < frame.len {
                return Ok(Next::again_if(turn.is_over()));
            } else if let Some(wait) = self.limit(frame, card) {
                return Ok(Next::After(wait));
            } else {
                turn.took(frame.len);
                self.deliver(frame, memory);
                card.received();
            }
        }
        Ok(Next::Again)
    }

    fn limit(&self, frame: Frame, card: &Card) -> Option<Duration> {
        if !card.rx.is_limited() {
            return None;
        }
        card.rx.take(frame.len.saturating_sub(self.header as u64), Instant::now()).err()
    }

    /// Takes buffers as they are needed and available. True if the guest can have no more of them.
    fn make_room(
        &mut self,
        wanted: u64,
        ring: &mut Ring,
        memory: &GuestMemory,
        turn: &mut Turn,
    ) -> Result<bool, Broken> {
        // An honest driver has no more buffers than the queue has entries.
        let full = usize::from(ring.queue.size());
        while self.room < wanted && self.posted.len() < full && !turn.is_over() {
            if !self.quiet {
                ring.quiet(memory)?;
                self.quiet = true;
            }
            let mut chain = self.spare.pop().unwrap_or_default();
            let Some((head, walked)) = ring.next_into(memory, &mut chain)? else {
                self.spare.push(chain);
                self.quiet = false;
                if ring.listen(memory)? {
                    turn.took(0);
                    continue;
                }
                break;
            };
            let parts =
                walked.ok().filter(|()| self.fits(&chain)).and_then(|()| self.scatter.push(&chain.writable));
            let Some(parts) = parts else {
                tracing::debug!("receive buffer {head} is of no use");
                turn.took(0);
                self.spare.push(chain);
                match self.posted.is_empty() {
                    true => self.used.push((head, 0)),
                    false => self.posted.push_back(Posted::useless(head)),
                }
                continue;
            };
            let room = total(&chain.writable);
            self.room = self.room.saturating_add(room);
            self.posted.push_back(Posted { chain, room, parts });
        }
        Ok(self.posted.len() >= full)
    }

    /// Room for at least the header, and nothing for us to read.
    fn fits(&self, chain: &Chain) -> bool {
        chain.readable.is_empty() && total(&chain.writable) >= self.header as u64
    }

    /// Reads a frame: its header to us, the rest to the guest's buffers, and what is beyond them to us again.
    fn read(&mut self, memory: &GuestMemory, carrier: &dyn Carrier, card: &Card) -> Read {
        let mut front = [0; header::SIZE];
        let mut read = || self.scatter.read(carrier.fd(), &mut front, self.header, &mut self.spill);
        let mut result = read();
        for _ in 0..INTERRUPTED {
            if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
                result = read();
            }
        }
        let (len, room) = match result {
            Ok((0, _)) => return Read::Nothing,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Nothing,
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                self.lost = true;
                card.lose(&error);
                return Read::Nothing;
            }
            Err(error) => {
                card.not_received(&error);
                return Read::Failed;
            }
        };
        let Some(payload) = len.checked_sub(header::SIZE).filter(|_| len <= FRAME) else {
            card.not_received(&"one came that is none");
            return Read::Dropped;
        };
        let Some(header) = Header::of(front).to_guest(self.features) else {
            card.not_received(&"the guest has not agreed to offloads that one needs");
            return Read::Dropped;
        };
        let ours = self.header.saturating_add(payload) as u64;
        let frame = Frame { header, len: ours, placed: self.header.saturating_add(room.min(payload)) as u64 };
        if header.is_plain() && self.is_too_long(payload, memory) {
            card.not_received(&"one is longer than the guest's MTU");
            return Read::Dropped;
        }
        // A frame goes into one buffer unless they are mergeable (virtio 1.2, 5.1.6.3.2).
        let mergeable = self.features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        if frame.len > self.room && !mergeable {
            card.not_received(&"one is longer than the guest's buffers");
            return Read::Dropped;
        }
        Read::Frame(frame)
    }

    /// Whether a packet in a frame of `len` bytes is longer than the guest takes (5.1.4.1).
    fn is_too_long(&self, len: usize, memory: &GuestMemory) -> bool {
        let Some(mtu) = self.mtu else { return false };
        let longest = usize::from(mtu).saturating_add(ETHERNET);
        // The link's own header is four bytes longer where there is a VLAN; only then it is looked at.
        len > longest.saturating_add(4) || len > longest && !self.is_tagged(memory)
    }

    fn is_tagged(&self, memory: &GuestMemory) -> bool {
        let Some(first) = self.posted.front() else { return false };
        let at = self.header.saturating_add(ETHERNET).saturating_sub(2) as u64;
        let (_, rest) = cut(&first.chain.writable, at);
        read_front::<2>(memory, &rest).is_some_and(|kind| matches!(kind, [0x81, 0x00] | [0x88, 0xa8]))
    }

    /// Puts the rest of a frame and its header in their places, and hands over the buffers that it is in.
    fn deliver(&mut self, frame: Frame, memory: &GuestMemory) {
        self.frame = None;
        if frame.len > frame.placed {
            self.place_rest(frame, memory);
        }
        let (mut left, mut buffers, mut parts, mut gone) = (frame.len, 0u16, 0usize, 0usize);
        for posted in &self.posted {
            if left == 0 && posted.room > 0 {
                break;
            }
            gone = gone.saturating_add(1);
            if posted.room == 0 {
                continue;
            }
            let now = left.min(posted.room);
            self.used.push((posted.chain.head, u32::try_from(now).unwrap_or(u32::MAX)));
            (buffers, parts) = (buffers.saturating_add(1), parts.saturating_add(posted.parts));
            self.room = self.room.saturating_sub(posted.room);
            left = left.saturating_sub(now);
        }
        // Those of a frame come one after the other (5.1.6.4), so what is of no use comes behind them.
        let useless = self.posted.iter().take(gone).filter(|posted| posted.room == 0);
        self.used.extend(useless.map(|posted| (posted.chain.head, 0)));
        if let Some(first) = self.posted.front() {
            let header = Header { buffers, ..frame.header }.bytes();
            write_front(memory, &first.chain.writable, header.get(..self.header).unwrap_or_default());
        }
        self.scatter.drop_front(parts);
        self.spare.extend(self.posted.drain(..gone).map(|posted| posted.chain));
    }

    /// There is room now for what did not fit when the frame was read.
    fn place_rest(&self, frame: Frame, memory: &GuestMemory) {
        let len = usize::try_from(frame.len.saturating_sub(frame.placed)).unwrap_or(usize::MAX);
        let mut rest = self.spill.get(..len).unwrap_or_default();
        let mut before = frame.placed;
        for posted in &self.posted {
            if before >= posted.room {
                before = before.saturating_sub(posted.room);
                continue;
            }
            let (_, free) = cut(&posted.chain.writable, before);
            before = 0;
            let written = usize::try_from(write_front(memory, &free, rest)).unwrap_or(usize::MAX);
            rest = rest.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
        }
    }
}
