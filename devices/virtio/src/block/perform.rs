//! The engine `sync`: a step is done when the call returns.

use std::io;
use std::os::fd::AsFd;

use ambit_memory::GuestMemory;

use super::disk::Disk;
use super::job::{Act, Job, Place, Step};
use crate::iov::Iov;

/// Does a step of `job`; how many bytes of it.
///
/// # Errors
/// What the file says.
pub fn perform(step: &Step, job: &mut Job, disk: &Disk, memory: &GuestMemory) -> io::Result<usize> {
    let file = disk.file.as_fd();
    let Step { act, at, len } = *step;
    let nowhere = || io::Error::from_raw_os_error(libc::EFAULT);
    match act {
        Act::Read => match job.place(len, memory).ok_or_else(nowhere)? {
            Place::Guest(buffers) => Iov::new(memory, &buffers).ok_or_else(nowhere)?.read_at(file, at),
            Place::Copy(bytes) => Ok(rustix::io::pread(file, bytes, at)?),
        },
        Act::Write => match job.place(len, memory).ok_or_else(nowhere)? {
            Place::Guest(buffers) => Iov::new(memory, &buffers).ok_or_else(nowhere)?.write_at(file, at),
            Place::Copy(bytes) => Ok(rustix::io::pwrite(file, bytes, at)?),
        },
        Act::Zero => {
            let zeros = disk.zeros.bytes();
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
            Ok(rustix::io::pwrite(file, zeros.get(..len).unwrap_or(zeros), at)?)
        }
        Act::Allocate(flags) => Ok(rustix::fs::fallocate(file, flags, at, len).map(|()| 0)?),
        Act::Sync => disk.file.sync_data().map(|()| 0),
    }
}
