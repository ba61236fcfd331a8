//! A live queue with its two bells, and the chains of buffers in it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

use crate::device::Interrupt;

/// A virtqueue that is served by whoever has it.
pub struct Ring {
    /// Which of the device's queues it is.
    pub index: u16,
    pub queue: Queue,
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
    #[error("it has a loop, or does not end where it says")]
    Endless,
    #[error("a readable buffer comes after a writable one")]
    Order,
    #[error("a buffer is not in RAM")]
    NotRam,
    #[error("it has more than 2^32 bytes, or more buffers than the queue has entries")]
    TooLong,
}

impl Ring {
    /// The next request, or `None` if the driver has made no more available. A chain that breaks the
    /// rules comes as its head and what is wrong with it.
    ///
    /// # Errors
    /// [`Broken`] if the available ring itself makes no sense.
    pub fn next(&mut self, memory: &GuestMemory) -> Result<Option<(u16, Result<Chain, Malformed>)>, Broken> {
        let size = self.queue.size();
        let mut available = self.queue.iter(memory).map_err(|error| broken(self.index, &error))?;
        let Some(descriptors) = available.next() else { return Ok(None) };
        let head = descriptors.head_index();
        if head >= size {
            return Err(Broken { index: self.index, why: format!("head {head} of {size} descriptors") });
        }
        Ok(Some((head, Chain::collect(head, descriptors, size, memory))))
    }

    /// Gives a request back: `written` bytes were written into its writable buffers.
    ///
    /// # Errors
    /// [`Broken`] if the used ring cannot be written.
    pub fn finish(&mut self, memory: &GuestMemory, head: u16, written: u32) -> Result<(), Broken> {
        self.queue.add_used(memory, head, written).map_err(|error| broken(self.index, &error))
    }

    /// Interrupts the guest if it wants to hear of what was finished since the last time.
    ///
    /// # Errors
    /// [`Broken`] if the available ring cannot be read.
    pub fn tell(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        let wanted = if self.queue.event_idx_enabled() {
            self.queue.needs_notification(memory).map_err(|error| broken(self.index, &error))?
        } else {
            self.wants_interrupts(memory)?
        };
        if wanted {
            self.call.used();
        }
        Ok(())
    }

    /// Without event indices the driver says by a flag whether it wants interrupts (virtio 1.2, 2.7.7).
    fn wants_interrupts(&self, memory: &GuestMemory) -> Result<bool, Broken> {
        // The used index must be visible before the flag is read.
        fence(Ordering::SeqCst);
        let flags: u16 = memory
            .read_obj(GuestAddress(self.queue.avail_ring()))
            .map_err(|error| broken(self.index, &error))?;
        Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks for no kicks while the ring is being looked at anyway.
    ///
    /// # Errors
    /// [`Broken`] if the used ring cannot be written.
    pub fn quiet(&mut self, memory: &GuestMemory) -> Result<(), Broken> {
        self.queue.disable_notification(memory).map_err(|error| broken(self.index, &error))
    }

    /// Asks for kicks again. True if something became available meanwhile, and must be looked at: its
    /// kick may never come.
    ///
    /// # Errors
    /// [`Broken`] if the rings cannot be reached.
    pub fn listen(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        self.queue.enable_notification(memory).map_err(|error| broken(self.index, &error))
    }

    /// Serves requests until there are none, or `budget` of them were. True if there may be more.
    ///
    /// `serve` gives the number of bytes it wrote.
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    pub fn serve(
        &mut self,
        memory: &GuestMemory,
        budget: usize,
        mut serve: impl FnMut(&Chain) -> u32,
    ) -> Result<bool, Broken> {
        let mut left = budget;
        loop {
            self.quiet(memory)?;
            let mut any = false;
            while left > 0 {
                let Some((head, chain)) = self.next(memory)? else { break };
                left = left.saturating_sub(1);
                any = true;
                let written = match chain {
                    Ok(chain) => serve(&chain),
                    Err(malformed) => {
                        tracing::debug!("queue {}: chain {head} refused: {malformed}", self.index);
                        0
                    }
                };
                self.finish(memory, head, written)?;
            }
            if any {
                self.tell(memory)?;
            }
            if left == 0 {
                return Ok(true);
            }
            if !self.listen(memory)? {
                return Ok(false);
            }
        }
    }
}

fn broken(index: u16, why: &dyn std::fmt::Display) -> Broken {
    Broken { index, why: why.to_string() }
}

impl Chain {
    fn collect(
        head: u16,
        descriptors: impl Iterator<Item = virtio_queue::desc::split::Descriptor>,
        size: u16,
        memory: &GuestMemory,
    ) -> Result<Self, Malformed> {
        let mut chain = Self { head, ..Self::default() };
        let mut bytes = 0u64;
        // The walk ends early, without a word, where a chain loops, points outside its table or passes
        // 2^32 bytes; then the last descriptor still promises another one.
        let mut ended = false;
        for (count, descriptor) in (0u32..).zip(descriptors) {
            if count >= u32::from(size) {
                return Err(Malformed::TooLong);
            }
            ended = !descriptor.has_next();
            let buffer = Buffer { address: descriptor.addr(), len: descriptor.len() };
            bytes = bytes.saturating_add(u64::from(buffer.len));
            let writable = descriptor.is_write_only();
            if !writable && !chain.writable.is_empty() {
                return Err(Malformed::Order);
            }
            if buffer.len == 0 {
                continue;
            }
            if !buffer.is_ram(memory) {
                return Err(Malformed::NotRam);
            }
            if writable { chain.writable.push(buffer) } else { chain.readable.push(buffer) }
        }
        if !ended {
            return Err(Malformed::Endless);
        }
        if bytes > u64::from(u32::MAX) { Err(Malformed::TooLong) } else { Ok(chain) }
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
        // Regions may touch, and a buffer may lie in two of them.
        usize::try_from(self.len).is_ok_and(|len| GuestMemoryBackend::check_range(memory, self.address, len))
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
    let mut rest = bytes.as_mut_slice();
    for buffer in buffers {
        let len = rest.len().min(usize::try_from(buffer.len).ok()?);
        let (now, later) = rest.split_at_mut_checked(len)?;
        memory.read_slice(now, buffer.address).ok()?;
        rest = later;
        if rest.is_empty() {
            return Some(bytes);
        }
    }
    None
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
