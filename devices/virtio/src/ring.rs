//! A live queue with its two bells, and the chains of buffers in it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ambit_memory::GuestMemory;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use crate::bells::{self, By, Side, Words};
use crate::interrupt::Interrupt;

/// A virtqueue that is served by whoever has it.
pub struct Ring {
    /// Which of the device's queues it is.
    pub index: u16,
    pub queue: Queue,
    /// The driver may put a chain into a table of its own (`VIRTIO_F_INDIRECT_DESC`).
    pub indirect: bool,
    /// Where the used index was when the guest was last told of it.
    pub told: u16,
    /// Signalled by the guest when there is work.
    pub kick: EventFd,
    /// Tells the guest that work is done.
    pub call: Arc<Interrupt>,
}

/// The ring makes no sense any more; only a reset helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("queue {index} is broken: {why}")]
pub struct Broken {
    pub index: u16,
    pub why: String,
}

/// One buffer of the guest: wholly in RAM, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    pub address: GuestAddress,
    pub len: u32,
}

/// One request: buffers the device reads, then buffers it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    pub head: u16,
    pub readable: Vec<Buffer>,
    pub writable: Vec<Buffer>,
}

/// A chain that breaks the rules of virtio 1.2, 2.7.5. Its head goes back with nothing written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("it loops, or has more buffers than the queue may have entries")]
    Endless,
    #[error("it points outside its table")]
    Outside,
    #[error("a readable buffer comes after a writable one")]
    Order,
    #[error("a buffer or a table is not in RAM")]
    NotRam,
    #[error("it has 2^32 bytes or more")]
    TooLong,
    #[error("an indirect table is not allowed there, or its length is not one of a table")]
    Indirect,
}

/// A head, and the chain it names.
pub type Taken = (u16, Result<Chain, Malformed>);

/// The same where the chain went into a list of the caller's.
pub type Walked = (u16, Result<(), Malformed>);

impl Ring {
    /// The next request, or `None` if the driver has made no more available. A chain that breaks the
    /// rules comes as its head and what is wrong with it.
    ///
    /// # Errors
    /// [`Broken`] if the available ring itself makes no sense.
    pub fn next(&mut self, memory: &GuestMemory) -> Result<Option<Taken>, Broken> {
        let mut chain = Chain::default();
        let taken = self.next_into(memory, &mut chain)?;
        Ok(taken.map(|(head, walked)| (head, walked.map(|()| chain))))
    }

    /// As [`Ring::next`], into `chain`, whose lists keep the room they have.
    ///
    /// # Errors
    /// [`Broken`] if the available ring itself makes no sense.
    pub fn next_into(&mut self, memory: &GuestMemory, chain: &mut Chain) -> Result<Option<Walked>, Broken> {
        let size = self.queue.size();
        let mut available = self.queue.iter(memory).map_err(|error| broken(self.index, &error))?;
        let Some(head) = available.next().map(|chain| chain.head_index()) else { return Ok(None) };
        if head >= size {
            return Err(Broken { index: self.index, why: format!("head {head} of {size} descriptors") });
        }
        Ok(Some((head, chain.collect(head, self, memory))))
    }

    /// Makes the last `count` requests available again, which [`Ring::next`] gave and nobody finished.
    pub fn put_back(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Gives a request back: `written` bytes were written into its writable buffers.
    ///
    /// # Errors
    /// [`Broken`] if the used ring cannot be written.
    pub fn finish(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.queue.add_used(memory, head, written).map_err(|error| broken(self.index, &error))
    }

    /// Gives several requests back at once: the guest sees all of them or none (virtio 1.2, 5.1.6.4.1).
    ///
    /// # Errors
    /// [`Broken`] if the used ring cannot be written.
    pub fn finish_all(&mut self, memory: &GuestMemory, used: &[(u16, u32)]) -> Result<(), Broken> {
        let Some(((last, written), first)) = used.split_last() else { return Ok(()) };
        for (head, written) in first {
            let next = self.queue.next_used();
            let slot = u64::from(next.checked_rem(self.queue.size()).unwrap_or(0));
            let at = self.queue.used_ring().saturating_add(4).saturating_add(slot.saturating_mul(8));
            // The head, then how much was written, 4 bytes each.
            let element = u64::from(*head) | u64::from(*written) << 32;
            memory
                .write_obj(element.to_le(), GuestAddress(at))
                .map_err(|error| broken(self.index, &error))?;
            self.queue.set_next_used(next.wrapping_add(1));
        }
        // Publishes the index, past all of them.
        self.finish(memory, *last, *written)
    }

    /// Interrupts the guest if it wants to hear of what was finished since the last time.
    ///
    /// # Errors
    /// [`Broken`] if the available ring cannot be read.
    pub fn tell(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        let used = self.queue.next_used();
        let told = std::mem::replace(&mut self.told, used);
        let (words, by) = self.words(memory);
        if bells::wants_call(&words, by, told, used)? {
            self.call.used(self.index);
        }
        Ok(())
    }

    fn words<'a>(&'a self, memory: &'a GuestMemory) -> (InMemory<'a>, By) {
        let by = if self.queue.event_idx_enabled() { By::Index } else { By::Flags };
        (InMemory { index: self.index, queue: &self.queue, memory }, by)
    }

    /// Asks for no kicks while the ring is being looked at anyway.
    ///
    /// # Errors
    /// [`Broken`] if the used ring cannot be written.
    pub fn quiet(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        let (words, by) = self.words(memory);
        bells::quiet(&words, by)
    }

    /// Asks for kicks again. True if something became available meanwhile, and must be looked at: its
    /// kick may never come.
    ///
    /// # Errors
    /// [`Broken`] if the rings cannot be reached.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        let (words, by) = self.words(memory);
        bells::listen(&words, by, self.queue.next_avail())
    }

    /// Serves requests until there are none, or a turn is over. True if there may be more.
    ///
    /// `serve` gives the number of bytes it wrote.
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        mut serve: impl FnMut(&Chain) -> u32,
    ) -> Result<bool, Broken> {
        self.serve_in_parts(memory, |chain| Some(serve(chain)))
    }

    /// As [`Ring::serve`]. `None` of `serve` ends the turn: there is more to do for this request than fits into one,
    /// and it comes again with the next.
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    pub fn serve_in_parts(
        &mut self,
        memory: &GuestMemory,
        serve: impl FnMut(&Chain) -> Option<u32>,
    ) -> Result<bool, Broken> {
        bells::serve(&mut Service { ring: self, memory, turn: Turn::default(), serve })
    }
}

/// A ring that is served for one turn.
struct Service<'a, F> {
    ring: &'a mut Ring,
    memory: &'a GuestMemory,
    turn: Turn,
    serve: F,
}

impl<F: FnMut(&Chain) -> Option<u32>> Side for Service<'_, F> {
    type Error = Broken;

    fn quiet(&mut self) -> Result<(), Broken> {
        self.ring.quiet(self.memory)
    }

    fn listen(&mut self) -> Result<bool, Broken> {
        // A guest that moves its index to and fro uses up the turn.
        self.turn.took(0);
        self.ring.listen(self.memory)
    }

    fn serve(&mut self) -> Result<bool, Broken> {
        let Some((head, chain)) = self.ring.next(self.memory)? else { return Ok(false) };
        let written = match chain {
            Ok(chain) => {
                self.turn.took(total(&chain.readable).saturating_add(total(&chain.writable)));
                let Some(written) = (self.serve)(&chain) else {
                    self.ring.put_back(1);
                    self.turn.end();
                    return Ok(true);
                };
                written
            }
            Err(malformed) => {
                self.turn.took(0);
                tracing::debug!("queue {}: chain {head} refused: {malformed}", self.ring.index);
                0
            }
        };
        self.ring.finish(self.memory, head, written)?;
        Ok(true)
    }

    fn is_over(&self) -> bool {
        self.turn.is_over()
    }

    fn tell(&mut self) -> Result<(), Broken> {
        self.ring.tell(self.memory)
    }
}

/// The words of a ring where the guest has them.
struct InMemory<'a> {
    index: u16,
    queue: &'a Queue,
    memory: &'a GuestMemory,
}

/// Flags, then an index, then the ring (virtio 1.2, 2.7.6 and 2.7.8).
const FLAGS: u64 = 0;
const INDEX: u64 = 2;
const ENTRIES: u64 = 4;

impl InMemory<'_> {
    fn load(&self, ring: u64, at: u64) -> Result<u16, Broken> {
        let at = GuestAddress(ring.saturating_add(at));
        let word = self.memory.load::<u16>(at, Ordering::Relaxed);
        word.map(u16::from_le).map_err(|error| broken(self.index, &error))
    }

    fn store(&self, ring: u64, at: u64, word: u16) -> Result<(), Broken> {
        let at = GuestAddress(ring.saturating_add(at));
        let stored = self.memory.store(word.to_le(), at, Ordering::Relaxed);
        stored.map_err(|error| broken(self.index, &error))
    }

    /// Behind a ring with entries of so many bytes.
    fn behind(&self, entry: u64) -> u64 {
        u64::from(self.queue.size()).saturating_mul(entry).saturating_add(ENTRIES)
    }
}

impl Words for InMemory<'_> {
    type Error = Broken;

    fn available(&self) -> Result<u16, Broken> {
        self.load(self.queue.avail_ring(), INDEX)
    }

    fn flags(&self) -> Result<u16, Broken> {
        self.load(self.queue.avail_ring(), FLAGS)
    }

    fn used_event(&self) -> Result<u16, Broken> {
        self.load(self.queue.avail_ring(), self.behind(2))
    }

    fn set_flags(&self, flags: u16) -> Result<(), Broken> {
        self.store(self.queue.used_ring(), FLAGS, flags)
    }

    fn set_avail_event(&self, event: u16) -> Result<(), Broken> {
        self.store(self.queue.used_ring(), self.behind(8), event)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// How much was done for one ring before the others, and the wish to stop, are looked at.
#[derive(Default)]
pub struct Turn {
    requests: u32,
    bytes: u64,
}

impl Turn {
    const REQUESTS: u32 = 64;
    const BYTES: u64 = 16 << 20;

    pub fn took(&mut self, bytes: u64) {
        self.requests = self.requests.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn end(&mut self) {
        self.requests = Self::REQUESTS;
    }

    pub fn is_over(&self) -> bool {
        self.requests >= Self::REQUESTS || self.bytes >= Self::BYTES
    }
}

fn broken(index: u16, why: &dyn std::fmt::Display) -> Broken {
    Broken { index, why: why.to_string() }
}

impl Chain {
    /// Reads each descriptor once. `virtio-queue` walks chains too, but passes over indirect tables that
    /// were not negotiated or that have a successor, and ends a bad chain as if it were complete.
    fn collect(&mut self, head: u16, ring: &Ring, memory: &GuestMemory) -> Result<(), Malformed> {
        self.head = head;
        self.readable.clear();
        self.writable.clear();
        let mut table = Table::at(ring.queue.desc_table(), u32::from(ring.queue.size()), memory);
        let (mut index, mut inside, mut writing, mut bytes) = (head, false, false, 0u64);
        // An indirect table may have as many entries as the largest queue, whatever the driver chose; its
        // own descriptor comes on top.
        for _ in 0..=ring.queue.max_size() {
            let descriptor = table.entry(index)?;
            if descriptor.refers_to_indirect_table() {
                if inside || !ring.indirect || descriptor.has_next() {
                    return Err(Malformed::Indirect);
                }
                table = Table::of(&descriptor, ring.queue.max_size(), memory)?;
                (index, inside) = (0, true);
                continue;
            }
            if writing && !descriptor.is_write_only() {
                return Err(Malformed::Order);
            }
            writing = descriptor.is_write_only();
            bytes = bytes.saturating_add(u64::from(descriptor.len()));
            self.push(&descriptor, memory)?;
            if !descriptor.has_next() {
                return if bytes > u64::from(u32::MAX) { Err(Malformed::TooLong) } else { Ok(()) };
            }
            index = descriptor.next();
        }
        Err(Malformed::Endless)
    }

    fn push(&mut self, descriptor: &Descriptor, memory: &GuestMemory) -> Result<(), Malformed> {
        let buffer = Buffer { address: descriptor.addr(), len: descriptor.len() };
        if buffer.len == 0 {
            return Ok(());
        }
        if !buffer.is_ram(memory) {
            return Err(Malformed::NotRam);
        }
        let side = if descriptor.is_write_only() { &mut self.writable } else { &mut self.readable };
        side.push(buffer);
        Ok(())
    }
}

/// Where descriptors are: the queue's table, or an indirect one.
struct Table<'a> {
    at: u64,
    entries: u32,
    memory: &'a GuestMemory,
    /// All of it, where it lies in one region: looking for that once is most of what reading costs.
    whole: Option<VolatileSlice<'a>>,
}

const DESCRIPTOR: u32 = 16;

impl<'a> Table<'a> {
    fn at(at: u64, entries: u32, memory: &'a GuestMemory) -> Self {
        let len = usize::try_from(entries.saturating_mul(DESCRIPTOR)).unwrap_or(usize::MAX);
        Self { at, entries, memory, whole: memory.get_slice(GuestAddress(at), len).ok() }
    }

    /// The table an indirect descriptor names, of one to `max` entries. It needs no alignment, and
    /// whether it is for writing says nothing (virtio 1.2, 2.7.5.3.2).
    fn of(descriptor: &Descriptor, max: u16, memory: &'a GuestMemory) -> Result<Self, Malformed> {
        let (len, entries) = (descriptor.len(), descriptor.len() / DESCRIPTOR);
        if !len.is_multiple_of(DESCRIPTOR) || entries == 0 || entries > u32::from(max) {
            return Err(Malformed::Indirect);
        }
        Ok(Self::at(descriptor.addr().raw_value(), entries, memory))
    }

    fn entry(&self, index: u16) -> Result<Descriptor, Malformed> {
        if u32::from(index) >= self.entries {
            return Err(Malformed::Outside);
        }
        if let Some(descriptor) = self.aligned(index) {
            return Ok(descriptor);
        }
        let offset = u64::from(index).saturating_mul(u64::from(DESCRIPTOR));
        let at = self.at.checked_add(offset).ok_or(Malformed::NotRam)?;
        self.memory.read_obj(GuestAddress(at)).map_err(|_| Malformed::NotRam)
    }

    /// Two loads, where the table is in one region and aligned.
    fn aligned(&self, index: u16) -> Option<Descriptor> {
        let at = usize::from(index).checked_mul(16)?;
        let whole = self.whole.as_ref()?;
        let address: u64 = whole.load(at, Ordering::Relaxed).ok()?;
        let rest: u64 = whole.load(at.checked_add(8)?, Ordering::Relaxed).ok()?;
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest.to_ne_bytes();
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let (flags, next) = (u16::from_le_bytes([f0, f1]), u16::from_le_bytes([n0, n1]));
        Some(Descriptor::new(u64::from_le(address), len, flags, next))
    }
}

impl Buffer {
    /// The first `len` bytes, and the rest. `None` for a part that has no bytes.
    pub fn split(self, len: u32) -> (Option<Self>, Option<Self>) {
        let rest = self.len.checked_sub(len).filter(|rest| *rest > 0);
        let first = Self { len: len.min(self.len), ..self };
        let rest = rest.and_then(|rest| {
            let address = self.address.checked_add(u64::from(len))?;
            Some(Self { address, len: rest })
        });
        (Some(first).filter(|first| first.len > 0), rest)
    }

    fn is_ram(&self, memory: &GuestMemory) -> bool {
        let Ok(len) = usize::try_from(self.len) else { return false };
        // Regions may touch, and a buffer may lie in two of them.
        memory.get_slice(self.address, len).is_ok()
            || GuestMemoryBackend::check_range(memory, self.address, len)
    }
}

/// How many bytes `buffers` have together.
pub fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|buffer| u64::from(buffer.len)).fold(0, u64::saturating_add)
}

/// Cuts `buffers` after `len` bytes; the second list is short by what `buffers` lack.
pub fn cut(buffers: &[Buffer], len: u64) -> (Vec<Buffer>, Vec<Buffer>) {
    let mut left = len;
    let mut first = Vec::with_capacity(buffers.len());
    let mut second = Vec::with_capacity(buffers.len());
    for buffer in buffers {
        let take = u32::try_from(left).unwrap_or(u32::MAX);
        let (head, tail) = buffer.split(take);
        if let Some(head) = head.filter(|_| take > 0) {
            left = left.saturating_sub(u64::from(head.len));
            first.push(head);
        }
        second.extend(tail);
    }
    (first, second)
}

/// Reads the first bytes of `buffers`, however they are split. `None` if there are fewer than `N`.
pub fn read_front<const N: usize>(memory: &GuestMemory, buffers: &[Buffer]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (read_some(memory, buffers, &mut bytes) == N).then_some(bytes)
}

/// Reads from the front of `buffers` until `bytes` are full; how many that were.
pub fn read_some(memory: &GuestMemory, buffers: &[Buffer], bytes: &mut [u8]) -> usize {
    let mut rest = bytes;
    let mut count = 0usize;
    for buffer in buffers {
        let len = rest.len().min(usize::try_from(buffer.len).unwrap_or(usize::MAX));
        let Some((now, later)) = rest.split_at_mut_checked(len) else { break };
        if now.is_empty() || memory.read_slice(now, buffer.address).is_err() {
            break;
        }
        count = count.saturating_add(len);
        rest = later;
    }
    count
}

/// Writes `bytes` to the front of `buffers`, as far as they go; how many that were.
pub fn write_front(memory: &GuestMemory, buffers: &[Buffer], bytes: &[u8]) -> u32 {
    let mut rest = bytes;
    let mut written = 0u32;
    for buffer in buffers {
        let len = rest.len().min(usize::try_from(buffer.len).unwrap_or(usize::MAX));
        let Some((now, later)) = rest.split_at_checked(len) else { break };
        if memory.write_slice(now, buffer.address).is_err() {
            break;
        }
        written = written.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        rest = later;
    }
    written
}

#[cfg(test)]
#[path = "ring/tests.rs"]
mod tests;
