//! Guest buffers as scatter lists, so that the kernel moves bytes between files and guest memory.

// The kernel is handed raw addresses of guest memory; each block says why they hold.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use ambit_memory::GuestMemory;
use vm_memory::GuestMemoryBackend;

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
        for buffer in buffers {
            let len = usize::try_from(buffer.len).ok()?;
            // A buffer may lie in two regions that touch.
            for slice in memory.get_slices(buffer.address, len) {
                let slice = slice.ok()?;
                let iov_base = slice.ptr_guard_mut().as_ptr().cast();
                parts.push(libc::iovec { iov_base, iov_len: slice.len() });
            }
        }
        Some(Self { parts, _memory: PhantomData })
    }

    /// Adds bytes of ours behind the guest's buffers, for what of a packet is longer than they. How many
    /// bytes come before ours: all that the buffers have, unless they are more than the kernel takes.
    pub fn spill(&mut self, bytes: &'a mut [u8]) -> usize {
        self.parts.truncate(MAX.saturating_sub(1));
        let before = self.len();
        self.parts.push(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        before
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.iov_len).fold(0, usize::saturating_add)
    }

    /// The addresses and lengths themselves, no more of them than the kernel takes.
    pub fn into_parts(mut self) -> Vec<libc::iovec> {
        self.parts.truncate(MAX);
        self.parts
    }

    fn count(&self) -> libc::c_int {
        // At most 1024.
        libc::c_int::try_from(self.parts.len().min(MAX)).unwrap_or(0)
    }

    /// Reads from `file` at `offset` into the buffers; may be short.
    ///
    /// # Errors
    /// What the file says.
    pub fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = offset_of(offset)?;
        // SAFETY: every part lies in a mapping that the borrow of guest memory keeps alive (or in the spill byte, borrowed too), and the
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

    /// Writes the buffers as one packet.
    ///
    /// # Errors
    /// What the file says.
    pub fn write(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: as for `read_at`; the kernel only reads.
        result(unsafe { libc::writev(file.as_raw_fd(), self.parts.as_ptr(), self.count()) })
    }
}

fn offset_of(offset: u64) -> io::Result<libc::off64_t> {
    libc::off64_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn result(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
