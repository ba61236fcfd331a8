//! The engine `io_uring`: steps are handed to the kernel, and come back when they are done.

// The kernel is handed raw addresses of guest memory and of ours; each block says why they hold.
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use ambit_memory::GuestMemory;
use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode};
use rustix::event::EventfdFlags;

use super::disk::Disk;
use super::job::{Act, Job, Place, Step};
use crate::iov::Iov;

/// The steps of one lane that the kernel has or is about to get; a job has one at a time.
///
/// What the kernel reads and writes belongs to `flights`, `memory` and `disk`, and none of these is let go while
/// a flight is in the air.
pub struct Uring {
    ring: IoUring,
    /// Rings when something is done, or may be.
    bell: Arc<OwnedFd>,
    flights: Vec<Option<Flight>>,
    free: Vec<usize>,
    memory: Option<GuestMemory>,
    disk: Arc<Disk>,
}

struct Flight {
    job: Box<Job>,
    step: Step,
    parts: Parts,
}

/// Addresses that the kernel has been given, which stay where they are while this is moved.
struct Parts(Vec<libc::iovec>);

// SAFETY: the addresses are those of guest memory or of the job beside them, which may be sent themselves; nobody
// here reads or writes through them.
unsafe impl Send for Parts {}

impl Uring {
    /// For at most `size` jobs at a time.
    ///
    /// # Errors
    /// If the kernel refuses, or is older than 5.12 and so lets go of requests too early.
    pub fn new(size: u16, disk: Arc<Disk>) -> io::Result<Self> {
        let ring = IoUring::new(u32::from(size))?;
        if !ring.params().is_feature_native_workers() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is older than Linux 5.12"));
        }
        let bell = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(bell.as_raw_fd())?;
        let size = usize::from(size);
        let flights = (0..size).map(|_| None).collect();
        let bell = Arc::new(bell);
        Ok(Self { ring, bell, flights, free: (0..size).collect(), memory: None, disk })
    }

    /// `memory` is kept until [`Uring::end`].
    pub fn begin(&mut self, memory: GuestMemory) {
        self.memory = Some(memory);
    }

    pub fn bell(&self) -> &Arc<OwnedFd> {
        &self.bell
    }

    /// Forgets that it rang.
    pub fn hush(&self) {
        let mut count = [0; 8];
        // Silent means that it did not.
        let _silent = rustix::io::read(&self.bell, &mut count);
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len().saturating_sub(self.free.len())
    }

    /// Makes a step ready, which the kernel gets by the next [`Uring::submit`].
    ///
    /// # Errors
    /// The job comes back if its bytes cannot be reached, or there are too many.
    pub fn push(&mut self, step: Step, job: Job) -> Result<(), (Box<Job>, io::Error)> {
        let mut job = Box::new(job);
        let Some(memory) = &self.memory else { return Err((job, io::ErrorKind::NotConnected.into())) };
        let mut parts = Parts(Vec::new());
        let Some(entry) = entry(&step, &mut job, &mut parts, &self.disk, memory) else {
            return Err((job, io::Error::from_raw_os_error(libc::EFAULT)));
        };
        let Some(slot) = self.free.pop() else { return Err((job, io::ErrorKind::OutOfMemory.into())) };
        // SAFETY: what the entry points to is guest memory, which `memory` keeps mapped, the zeros of `disk`, or
        // belongs to the flight that is put down below; all of it stays until the kernel says that the step is
        // done, or for ever (see `abandon`).
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) };
        if pushed.is_err() {
            self.free.push(slot);
            return Err((job, io::ErrorKind::OutOfMemory.into()));
        }
        if let Some(flight) = self.flights.get_mut(slot) {
            *flight = Some(Flight { job, step, parts });
        }
        Ok(())
    }

    /// Hands over what was pushed. False if the kernel has no room for all of it now.
    ///
    /// # Errors
    /// If the kernel takes nothing any more.
    pub fn submit(&mut self) -> io::Result<bool> {
        while !self.ring.submission().is_empty() {
            match self.ring.submit() {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if is_full(&error) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Hands over what was pushed, and waits until something is done. There is something in flight.
    ///
    /// # Errors
    /// If the kernel does not let us wait.
    pub fn wait(&mut self) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted && !is_full(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// A job whose step is done, and how.
    pub fn reap(&mut self) -> Option<(Job, Step, io::Result<usize>)> {
        let done = self.ring.completion().next()?;
        let slot = usize::try_from(done.user_data()).ok()?;
        let Flight { job, step, parts } = self.flights.get_mut(slot)?.take()?;
        drop(parts);
        self.free.push(slot);
        let count = done.result();
        let result = usize::try_from(count).map_err(|_| io::Error::from_raw_os_error(count.saturating_neg()));
        Some((*job, step, result))
    }

    /// Lets go of the memory. Nothing is in flight, or the kernel does not say any more what is.
    pub fn end(&mut self) {
        if self.in_flight() > 0 {
            self.abandon();
        }
        self.memory = None;
    }

    /// What the kernel may still use can never be let go.
    fn abandon(&mut self) {
        for flight in self.flights.iter_mut().filter_map(Option::take) {
            mem::forget(flight);
        }
        mem::forget(self.memory.take());
        mem::forget(Arc::clone(&self.disk));
        // Their numbers must not come back for others.
        self.flights.clear();
        self.free.clear();
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.wait().is_err() {
                return self.abandon();
            }
            while self.reap().is_some() {}
        }
    }
}

/// What the kernel has no room for now it may have shortly.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
}

/// A step as the kernel takes it. `None` if its bytes cannot be reached.
fn entry(step: &Step, job: &mut Job, parts: &mut Parts, disk: &Disk, memory: &GuestMemory) -> Option<Entry> {
    let file = Fd(disk.file.as_raw_fd());
    let Step { act, at, len } = *step;
    Some(match act {
        Act::Read | Act::Write => {
            // Copies are small; buffers of the guest are cut at what the kernel takes, and the rest is another step.
            parts.0 = match job.place(len, memory)? {
                Place::Guest(buffers) => Iov::new(memory, &buffers)?.into_parts(),
                Place::Copy(bytes) => {
                    vec![libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }]
                }
            };
            let (list, count) = (parts.0.as_ptr(), u32::try_from(parts.0.len()).ok()?);
            if act == Act::Read {
                opcode::Readv::new(file, list, count).offset(at).build()
            } else {
                opcode::Writev::new(file, list, count).offset(at).build()
            }
        }
        Act::Zero => {
            let zeros = disk.zeros.bytes();
            let len = u32::try_from(len).ok()?.min(u32::try_from(zeros.len()).ok()?);
            opcode::Write::new(file, zeros.as_ptr(), len).offset(at).build()
        }
        Act::Allocate(flags) => {
            opcode::Fallocate::new(file, len).offset(at).mode(flags.bits().cast_signed()).build()
        }
        Act::Sync => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
    })
}
