//! Guest buffers as scatter lists, so that the kernel moves bytes between files and guest memory.

// The kernel is handed raw addresses of guest memory; each block says why they hold.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use ambit_memory::GuestMemory;
use vm_memory::{GuestMemoryBackend, VolatileSlice};

use crate::ring::Buffer;

/// The most entries the kernel takes at once (`UIO_MAXIOV`).
const MAX: usize = 1024;

/// Addresses and lengths in this process of some guest buffers.
///
/// The guest may change the bytes at any time; nobody here makes a reference to them.
pub struct Iov<'a> {
    parts: Vec<libc::iovec>,
    _memory: PhantomData<&'a GuestMemory>,
}

impl<'a> Iov<'a> {
    /// `None` if a buffer is not in RAM.
    pub fn new(memory: &'a GuestMemory, buffers: &[Buffer]) -> Option<Self> {
        let mut parts = Vec::with_capacity(buffers.len());
        locate(memory, buffers, &mut parts)?;
        Some(Self { parts, _memory: PhantomData })
    }

    /// The addresses and lengths themselves, no more of them than the kernel takes.
    pub fn into_parts(mut self) -> Vec<libc::iovec> {
        self.parts.truncate(MAX);
        self.parts
    }

    fn count(&self) -> libc::c_int {
        count(&self.parts)
    }

    /// Reads from `file` at `offset` into the buffers; may be short.
    ///
    /// # Errors
    /// What the file says.
    pub fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = offset_of(offset)?;
        // SAFETY: every part lies in a mapping that the borrow of guest memory keeps alive, and the
        // count is no more than there are parts.
        result(unsafe { libc::preadv64(file.as_raw_fd(), self.parts.as_ptr(), self.count(), offset) })
    }

    /// Writes the buffers to `file` at `offset`; may be short.
    ///
    /// # Errors
    /// What the file says.
    pub fn write_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = offset_of(offset)?;
        // SAFETY: as for `read_at`; the kernel only reads.
        result(unsafe { libc::pwritev64(file.as_raw_fd(), self.parts.as_ptr(), self.count(), offset) })
    }

    /// Reads one packet into the buffers.
    ///
    /// # Errors
    /// What the file says.
    pub fn read(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as for `read_at`.
        result(unsafe { libc::readv(file.as_raw_fd(), self.parts.as_ptr(), self.count()) })
    }
}

/// Guest buffers of packets, and bytes of ours before and behind them. It is kept from one packet to the next, so that
/// nothing is allocated for each.
#[derive(Default)]
pub struct Scatter {
    /// Where `guest` is, and what keeps it mapped.
    memory: Option<GuestMemory>,
    guest: Vec<libc::iovec>,
    /// What the kernel is handed. Empty but during a call.
    list: Vec<libc::iovec>,
}

// SAFETY: the addresses are of guest memory, which any thread may use and which `memory` keeps mapped; those of
// anything else are in `list`, which is empty outside of a call.
unsafe impl Send for Scatter {}

impl Scatter {
    /// The most parts of the guest's that one call takes, with one of ours on both sides.
    const MOST: usize = MAX.saturating_sub(2);

    /// Forgets all buffers. Those to come are in `memory`.
    pub fn begin(&mut self, memory: &GuestMemory) {
        self.guest.clear();
        self.memory = Some(memory.clone());
    }

    /// Forgets all buffers, and the memory they were in.
    pub fn end(&mut self) {
        self.guest.clear();
        self.memory = None;
    }

    pub fn clear(&mut self) {
        self.guest.clear();
    }

    /// Adds buffers behind the others. How many parts they are; `None`, and nothing is added, if one is not in RAM.
    pub fn push(&mut self, buffers: &[Buffer]) -> Option<usize> {
        let before = self.guest.len();
        if locate(self.memory.as_ref()?, buffers, &mut self.guest).is_none() {
            self.guest.truncate(before);
            return None;
        }
        Some(self.guest.len().saturating_sub(before))
    }

    /// Forgets the first `parts`.
    pub fn drop_front(&mut self, parts: usize) {
        self.guest.drain(..parts.min(self.guest.len()));
    }

    /// Whether one call takes all of them.
    pub fn is_whole(&self) -> bool {
        self.guest.len() <= Self::MOST
    }

    /// Reads one packet: its first bytes to `front`, then to the guest's buffers behind their first `skip` bytes,
    /// and the rest to `spill`. How long it is, and how many bytes of the guest's it could have filled.
    ///
    /// # Errors
    /// What the file says.
    pub fn read(
        &mut self,
        file: BorrowedFd<'_>,
        front: &mut [u8],
        skip: usize,
        spill: &mut [u8],
    ) -> io::Result<(usize, usize)> {
        self.list.push(part(front.as_mut_ptr(), front.len()));
        let room = self.list_guest(skip);
        self.list.push(part(spill.as_mut_ptr(), spill.len()));
        // SAFETY: every part is in a mapping that `memory` keeps, or borrowed from the caller for this call; there are
        // as many as the list has.
        let read = result(unsafe { libc::readv(file.as_raw_fd(), self.list.as_ptr(), count(&self.list)) });
        self.list.clear();
        Ok((read?, room))
    }

    /// Writes one packet: `front`, and the guest's buffers behind their first `skip` bytes.
    ///
    /// # Errors
    /// What the file says.
    pub fn write(&mut self, file: BorrowedFd<'_>, front: &[u8], skip: usize) -> io::Result<usize> {
        self.list.push(part(front.as_ptr().cast_mut(), front.len()));
        self.list_guest(skip);
        // SAFETY: as for `read`, and the kernel only reads.
        let written =
            result(unsafe { libc::writev(file.as_raw_fd(), self.list.as_ptr(), count(&self.list)) });
        self.list.clear();
        written
    }

    /// Lists the guest's parts without their first `skip` bytes; how many bytes those are.
    fn list_guest(&mut self, skip: usize) -> usize {
        let (mut skip, mut room) = (skip, 0usize);
        for part in self.guest.iter().take(Self::MOST) {
            let gone = skip.min(part.iov_len);
            skip = skip.saturating_sub(gone);
            let left = part.iov_len.saturating_sub(gone);
            if left > 0 {
                // Stays inside the part.
                let iov_base = part.iov_base.wrapping_byte_add(gone);
                self.list.push(libc::iovec { iov_base, iov_len: left });
                room = room.saturating_add(left);
            }
        }
        room
    }
}

/// Adds the addresses of `buffers`. `None` if one is not in RAM; then some of them are added.
fn locate(memory: &GuestMemory, buffers: &[Buffer], to: &mut Vec<libc::iovec>) -> Option<()> {
    for buffer in buffers {
        let len = usize::try_from(buffer.len).ok()?;
        let mut add = |slice: VolatileSlice<'_>| to.push(part(slice.ptr_guard_mut().as_ptr(), slice.len()));
        if let Ok(whole) = memory.get_slice(buffer.address, len) {
            add(whole);
            continue;
        }
        // A buffer may lie in two regions that touch.
        for slice in memory.get_slices(buffer.address, len) {
            add(slice.ok()?);
        }
    }
    Some(())
}

fn part(base: *mut u8, iov_len: usize) -> libc::iovec {
    libc::iovec { iov_base: base.cast(), iov_len }
}

fn count(list: &[libc::iovec]) -> libc::c_int {
    // At most 1024.
    libc::c_int::try_from(list.len().min(MAX)).unwrap_or(0)
}

fn offset_of(offset: u64) -> io::Result<libc::off64_t> {
    libc::off64_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn result(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
