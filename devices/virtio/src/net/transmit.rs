//! Frames from the guest to a carrier.

use std::io;
use std::time::{Duration, Instant};

use ambit_memory::GuestMemory;
use vm_memory::Bytes;

use super::card::Card;
use super::header::{self, Header};
use super::look::Look;
use super::{Carrier, ETHERNET, FRAME};
use crate::iov::Scatter;
use crate::ring::{Broken, Chain, Ring, Turn, cut, read_front, total};
use crate::worker::Next;

/// How often in a row a carrier that has no room is asked again, and how long after.
const PATIENCE: u32 = 10;
const SHORTLY: Duration = Duration::from_millis(1);
/// How often a call that a signal interrupts is made again.
const INTERRUPTED: usize = 16;

/// The sending half of a pair.
pub struct Transmitter {
    features: u64,
    /// Bytes of the guest's header.
    header: usize,
    scatter: Scatter,
    chain: Chain,
    used: Vec<(u16, u32)>,
    /// A frame in more parts than the kernel takes at once. As long as any, once there was one.
    whole: Vec<u8>,
    /// How often the carrier may still be asked again. Once it has used that up, every frame has one attempt, until
    /// one succeeds.
    patience: u32,
    /// The next frame has passed the limit before.
    paid: bool,
    look: Look,
}

enum Sent {
    /// With the head back to the guest.
    Done,
    /// It stays in the ring for this long.
    Later(Duration),
}

impl Transmitter {
    pub fn new() -> Self {
        Self {
            features: 0,
            header: header::SIZE,
            scatter: Scatter::default(),
            chain: Chain::default(),
            used: Vec::new(),
            whole: Vec::new(),
            patience: PATIENCE,
            paid: false,
            look: Look::default(),
        }
    }

    pub fn begin(&mut self, features: u64, memory: &GuestMemory) {
        (self.features, self.header) = (features, header::size(features));
        (self.patience, self.paid, self.look) = (PATIENCE, false, Look::default());
        self.scatter.begin(memory);
        self.used.clear();
    }

    pub fn end(&mut self) {
        self.scatter.end();
    }

    /// Sends what the guest has made available, until there is no more, the limit is reached, or the turn is over.
    /// All heads go back together, and are told of once.
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    pub fn transmit(
        &mut self,
        ring: &mut Ring,
        memory: &GuestMemory,
        carrier: &dyn Carrier,
        card: &Card,
    ) -> Result<Next, Broken> {
        ring.quiet(memory)?;
        // What was done before a ring broke goes back all the same.
        let next = self.drain(ring, memory, carrier, card);
        ring.finish_all(memory, &self.used)?;
        self.used.clear();
        ring.tell(memory)?;
        next
    }

    fn drain(
        &mut self,
        ring: &mut Ring,
        memory: &GuestMemory,
        carrier: &dyn Carrier,
        card: &Card,
    ) -> Result<Next, Broken> {
        let mut turn = Turn::default();
        while !turn.is_over() {
            let Some((head, walked)) = ring.next_into(memory, &mut self.chain)? else {
                // What was sent goes back to the guest in between.
                if self.look.again(Instant::now()) {
                    return Ok(Next::Again);
                }
                if !ring.listen(memory)? {
                    return Ok(Next::Wait);
                }
                turn.took(0);
                ring.quiet(memory)?;
                continue;
            };
            let sent = match walked {
                Ok(()) => self.send(memory, carrier, card),
                Err(malformed) => {
                    card.not_sent(&malformed);
                    Sent::Done
                }
            };
            if let Sent::Later(wait) = sent {
                ring.put_back(1);
                return Ok(Next::After(wait));
            }
            turn.took(total(&self.chain.readable));
            self.used.push((head, 0));
            self.paid = false;
        }
        Ok(Next::Again)
    }

    /// A frame that the carrier does not take is lost, as on a wire; the device goes on.
    fn send(&mut self, memory: &GuestMemory, carrier: &dyn Carrier, card: &Card) -> Sent {
        let len = usize::try_from(total(&self.chain.readable)).unwrap_or(usize::MAX);
        let payload = len.saturating_sub(self.header);
        // Of 64 KiB at most behind the link's header, as a segment has it.
        if payload < ETHERNET || len > FRAME || !self.chain.writable.is_empty() {
            card.not_sent(&"one is none");
            return Sent::Done;
        }
        let Some(header) = self.read_header(memory).and_then(|header| header.to_host(self.features, payload))
        else {
            card.not_sent(&"one asks for offloads that were not agreed on");
            return Sent::Done;
        };
        if !self.paid && card.tx.is_limited() {
            if let Err(wait) = card.tx.take(payload as u64, Instant::now()) {
                return Sent::Later(wait);
            }
            self.paid = true;
        }
        match self.write(memory, carrier, &header.bytes()) {
            Ok(_) => {
                self.patience = PATIENCE;
                // What is not sent, and so passes no limit, is not worth looking for.
                self.look.found(Instant::now);
                card.sent();
            }
            Err(error) if self.patience > 0 && is_short_of_room(&error) => {
                self.patience = self.patience.saturating_sub(1);
                return Sent::Later(SHORTLY);
            }
            Err(error) => card.not_sent(&error),
        }
        Sent::Done
    }

    /// Read once: what the guest makes of it afterwards is nothing to anybody.
    fn read_header(&self, memory: &GuestMemory) -> Option<Header> {
        if let Some(bytes) = read_front(memory, &self.chain.readable).filter(|_| self.header == header::SIZE)
        {
            return Some(Header::of(bytes));
        }
        let [a, b, c, d, e, f, g, h, i, j] = read_front(memory, &self.chain.readable)?;
        Some(Header::of([a, b, c, d, e, f, g, h, i, j, 0, 0]))
    }

    fn write(&mut self, memory: &GuestMemory, carrier: &dyn Carrier, header: &[u8]) -> io::Result<usize> {
        self.scatter.clear();
        self.scatter.push(&self.chain.readable).ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        let whole = self.scatter.is_whole();
        if !whole {
            self.gather(header, memory);
        }
        for _ in 0..INTERRUPTED {
            let written = if whole {
                self.scatter.write(carrier.fd(), header, self.header)
            } else {
                rustix::io::write(carrier.fd(), &self.whole).map_err(io::Error::from)
            };
            if !written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
                return written;
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Copies a frame that has too many parts.
    fn gather(&mut self, header: &[u8], memory: &GuestMemory) {
        self.whole.clear();
        self.whole.extend_from_slice(header);
        let (_, payload) = cut(&self.chain.readable, self.header as u64);
        for buffer in payload {
            let from = self.whole.len();
            let len = usize::try_from(buffer.len).unwrap_or(usize::MAX);
            // Not longer than a frame, as all of them are not.
            self.whole.resize(from.saturating_add(len), 0);
            let to = self.whole.get_mut(from..).unwrap_or_default();
            if let Err(error) = memory.read_slice(to, buffer.address) {
                tracing::debug!("a buffer was in RAM: {error}");
            }
        }
    }
}

/// The carrier may take the frame when others have gone.
fn is_short_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM))
}
