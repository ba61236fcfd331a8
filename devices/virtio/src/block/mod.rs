//! A disk: a raw file or block device (virtio 1.2, 5.2).
//!
//! `request` reads what the guest asks for, `job` cuts that into steps, and an engine does the steps: `perform`
//! one after the other, `uring` many at once. `lane` does so for one queue, on a thread of its own. `disk` is
//! what the lanes share, `flushes` whose turn it is to flush, and `layout` what the driver reads of it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::config::Config;
use crate::device::{Interface, Start, StartError, VirtioDevice};
use crate::limit::Limits;
use crate::ring::Ring;
use crate::worker::Service;

mod disk;
mod flushes;
mod job;
mod lane;
mod layout;
mod perform;
mod request;
mod uring;

pub use disk::Counts;

use disk::Disk;
pub(crate) use lane::Lane;

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-blk";

/// Sectors are 512 bytes in every request, whatever the file's own are (5.2.4).
pub const SECTOR: u64 = 512;

const MOST_QUEUES: u16 = 16;
/// A request takes three descriptors, and the kernel no more than 1024 buffers at once (`UIO_MAXIOV`).
const SIZES: std::ops::RangeInclusive<u16> = 4..=1024;

const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const CONFIG_WCE: u64 = 1 << VIRTIO_BLK_F_CONFIG_WCE;

/// When what the guest writes is on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cache {
    /// When the guest flushes; until then the host's page cache has it.
    #[default]
    Writeback,
    /// When the write completes, unless the guest chooses otherwise.
    Writethrough,
    /// When the guest flushes; the page cache has no part in it.
    Direct,
    /// When the host gets round to it, whatever the guest does.
    Unsafe,
}

/// How requests are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Engine {
    /// One after the other in each queue, by plain system calls.
    #[default]
    Sync,
    /// All of a queue at once, by io_uring.
    Uring,
}

/// A disk as the user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The guest sees it, cut to 20 bytes, as the disk's serial number.
    pub id: String,
    pub readonly: bool,
    /// 1 to 16, each with a thread of its own.
    pub queues: u16,
    /// Entries of each queue: a power of two, 4 to 1024.
    pub queue_size: u16,
    pub cache: Cache,
    pub engine: Engine,
    /// What the guest does not need is given back to the host.
    pub discard: bool,
    pub limits: Limits,
}

impl Options {
    /// One queue of 256, and the defaults for the rest.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.into(),
            readonly: false,
            queues: 1,
            queue_size: 256,
            cache: Cache::default(),
            engine: Engine::default(),
            discard: true,
            limits: Limits::default(),
        }
    }
}

/// Why a disk cannot be what the user wants it to be, and what to change.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error("disk '{id}' wants {queues} queues; give it 1 to {MOST_QUEUES}")]
    Queues { id: String, queues: u16 },
    #[error(
        "disk '{id}' wants queues of {size} entries; give it a power of two from {} to {}",
        SIZES.start(), SIZES.end()
    )]
    QueueSize { id: String, size: u16 },
    #[error("disk '{id}' does not say its size: {source}; give it a raw image or a block device")]
    Facts { id: String, source: io::Error },
    #[error("disk '{id}' cannot be reached past the page cache: {source}; use cache=writeback")]
    Direct { id: String, source: io::Error },
    #[error(
        "disk '{id}' has {length} bytes, and past the page cache it is reached only in blocks of {block}; \
         use cache=writeback, or make it a multiple of {block} bytes long"
    )]
    Blocks { id: String, length: u64, block: u32 },
    #[error("disk '{id}' is for io_uring, which this kernel refuses: {source}; use engine=sync")]
    Uring { id: String, source: io::Error },
}

/// A disk as configured.
pub struct Block {
    service: Service<Lane>,
    disk: Arc<Disk>,
    size: Arc<Size>,
    queue_sizes: Vec<u16>,
    /// What a modern driver has agreed to.
    settled: Option<u64>,
}

impl Block {
    /// Serves `file`, which was opened for writing unless `readonly`. For [`Cache::Direct`] it is switched to
    /// direct I/O here. What is left of its last sector is not part of the disk.
    ///
    /// # Errors
    /// [`BlockError`] for the first thing that this host, this file or the device does not do.
    pub fn new(file: File, options: &Options) -> Result<Self, BlockError> {
        let Options { queues, queue_size, .. } = *options;
        let id = || options.id.clone();
        if !(1..=MOST_QUEUES).contains(&queues) {
            return Err(BlockError::Queues { id: id(), queues });
        }
        if !queue_size.is_power_of_two() || !SIZES.contains(&queue_size) {
            return Err(BlockError::QueueSize { id: id(), size: queue_size });
        }
        let disk = Arc::new(Disk::new(file, options)?);
        Self::of(disk, options)
    }

    fn of(disk: Arc<Disk>, options: &Options) -> Result<Self, BlockError> {
        let refused = |source| BlockError::Uring { id: options.id.clone(), source };
        let lane = |queue| Ok((Lane::new(queue, Arc::clone(&disk), options)?, vec![queue]));
        let lanes = (0..options.queues).map(lane).collect::<io::Result<Vec<_>>>().map_err(refused)?;
        let config = Arc::new(Config::new(layout::config(&disk, options)));
        Ok(Self {
            service: Service::with_lanes(&options.id, lanes),
            size: Arc::new(Size { disk: Arc::clone(&disk), config }),
            disk,
            queue_sizes: vec![options.queue_size; usize::from(options.queues)],
            settled: None,
        })
    }

    /// To tell the driver of another size.
    pub fn size(&self) -> Arc<Size> {
        Arc::clone(&self.size)
    }

    fn set_writeback(&self, writeback: bool) {
        self.disk.set_writeback(writeback);
        self.size.config.update(|bytes| layout::set_writeback(bytes, writeback));
    }
}

/// What serves the first queue of a disk, without a thread.
#[cfg(any(test, feature = "bench"))]
pub(crate) fn lane(file: File, options: &Options) -> Result<Lane, BlockError> {
    let disk = Arc::new(Disk::new(file, options)?);
    Lane::new(0, disk, options).map_err(|source| BlockError::Uring { id: options.id.clone(), source })
}

/// How large a disk is, for whoever may change it.
pub struct Size {
    disk: Arc<Disk>,
    config: Arc<Config>,
}

impl Size {
    /// Asks the file for its length again and tells the driver of it, or the next one when it runs. In sectors. A file
    /// that becomes another length by itself stays as large as it was for the guest.
    ///
    /// # Errors
    /// If the file does not say its length.
    pub fn renew(&self) -> io::Result<u64> {
        let sectors = self.disk.measure()?;
        self.config.announce(|bytes| layout::set_capacity(bytes, sectors));
        Ok(sectors)
    }

    /// How often the host has failed the guest so far.
    pub fn counts(&self) -> Counts {
        self.disk.counts()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = [VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY];
        let some = [
            (VIRTIO_BLK_F_MQ, self.queue_sizes.len() > 1),
            (VIRTIO_BLK_F_RO, self.disk.readonly),
            (VIRTIO_BLK_F_DISCARD, self.disk.discards()),
            (VIRTIO_BLK_F_WRITE_ZEROES, !self.disk.readonly),
        ];
        let some = some.into_iter().filter(|(_, offered)| *offered).map(|(bit, _)| bit);
        always.into_iter().chain(some).fold(FLUSH | CONFIG_WCE, |all, bit| all | 1 << bit)
    }

    fn settled(&mut self, features: u64) {
        self.settled = Some(features);
        // Who cannot flush has no cache that would need it (5.2.5.2).
        if features & (FLUSH | CONFIG_WCE) == CONFIG_WCE {
            self.set_writeback(false);
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &Arc<Config> {
        &self.size.config
    }

    fn write_config(&mut self, at: u64, data: &[u8], from: Interface) {
        let can = match (self.settled, from) {
            (Some(features), Interface::Modern) => features & FLUSH != 0 && features & CONFIG_WCE != 0,
            (None, Interface::Modern) => false,
            // A legacy driver may do it at any time (5.2.5.3).
            (_, Interface::Legacy) => true,
        };
        if let Some(writeback) = layout::written_writeback(at, data).filter(|_| can) {
            self.set_writeback(writeback);
        }
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        let interrupt = Arc::clone(&start.interrupt);
        self.service.start(start)?;
        self.size.config.attach(&interrupt);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.size.config.detach();
        self.service.stop()
    }

    fn reset(&mut self) {
        self.settled = None;
        self.disk.forget();
        let writeback = self.disk.cache != Cache::Writethrough;
        self.disk.set_writeback(writeback);
        self.size.config.reset(|bytes| layout::set_writeback(bytes, writeback));
    }
}

#[cfg(test)]
mod tests;
