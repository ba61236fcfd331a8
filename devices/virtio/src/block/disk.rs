//! What the lanes of one disk share: its file, what is known of that, and what became of it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{AtFlags, OFlags, StatxFlags};
use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use super::flushes::Flushes;
use super::{BlockError, Cache, Options, SECTOR, layout};
use crate::limit::Limiter;

pub const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// How much is copied or zeroed at once.
pub const PIECE: usize = 64 << 10;

/// The page size of every host there is, or less.
const PAGE: u32 = 4096;

pub struct Disk {
    pub file: File,
    pub name: String,
    pub id: [u8; ID_BYTES],
    pub readonly: bool,
    pub cache: Cache,
    discard: bool,
    pub seg_max: usize,
    pub blocks: Blocks,
    /// What the file wants of every request.
    pub direct: Option<Alignment>,
    pub limiter: Limiter,
    /// Written where zeros cannot be had otherwise.
    pub zeros: Aligned,
    sectors: AtomicU64,
    writeback: AtomicBool,
    /// A flush has failed. The kernel tells so once, and then takes for clean what it has not written.
    lost: AtomicBool,
    pub flushes: Flushes,
    punches: AtomicBool,
    zeroes: AtomicBool,
    errors: AtomicU64,
    failed_flushes: AtomicU64,
    #[cfg(test)]
    pub faults: Option<std::sync::Arc<dyn super::lane::Faults>>,
}

/// In bytes; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    pub logical: u32,
    pub physical: u32,
}

/// What direct I/O must be a multiple of, in bytes; powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Where buffers begin.
    pub memory: u32,
    /// Where in the file, and how much.
    pub offset: u32,
}

/// How often the host has failed a disk's guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that the guest was told have failed because the file did. Each flush is one.
    pub errors: u64,
    pub failed_flushes: u64,
}

impl Disk {
    /// # Errors
    /// [`BlockError`] if the file does not say what is needed, or refuses direct I/O.
    pub fn new(file: File, options: &Options) -> Result<Self, BlockError> {
        let id = || options.id.clone();
        let refused = |source| BlockError::Facts { id: id(), source };
        let length = (&file).seek(SeekFrom::End(0)).map_err(refused)?;
        let mut blocks = Blocks::of(&file).map_err(refused)?;
        let direct = match options.cache {
            Cache::Direct => Some(direct(&file).map_err(|source| BlockError::Direct { id: id(), source })?),
            Cache::Writeback | Cache::Writethrough | Cache::Unsafe => None,
        };
        if let Some(Alignment { offset, .. }) = direct {
            if !length.is_multiple_of(u64::from(offset)) {
                return Err(BlockError::Blocks { id: id(), length, block: offset });
            }
            blocks.logical = blocks.logical.max(offset);
            blocks.physical = blocks.physical.max(offset);
        }
        Ok(Self::with(file, options, length / SECTOR, blocks, direct))
    }

    pub fn with(
        file: File,
        options: &Options,
        sectors: u64,
        blocks: Blocks,
        direct: Option<Alignment>,
    ) -> Self {
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(options.id.bytes()).for_each(|(to, from)| *to = from);
        Self {
            file,
            name: options.id.clone(),
            id,
            readonly: options.readonly,
            cache: options.cache,
            discard: options.discard,
            seg_max: usize::from(layout::seg_max(options.queue_size)),
            blocks,
            direct,
            limiter: Limiter::new(options.limits, Instant::now()),
            zeros: Aligned::new(),
            sectors: AtomicU64::new(sectors),
            writeback: AtomicBool::new(options.cache != Cache::Writethrough),
            lost: AtomicBool::new(false),
            flushes: Flushes::default(),
            punches: AtomicBool::new(true),
            zeroes: AtomicBool::new(true),
            errors: AtomicU64::new(0),
            failed_flushes: AtomicU64::new(0),
            #[cfg(test)]
            faults: None,
        }
    }

    /// As the driver knows it.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Relaxed)
    }

    /// The length of the file counts from now on.
    ///
    /// # Errors
    /// If the file does not say its length.
    pub fn measure(&self) -> io::Result<u64> {
        let block = u64::from(self.direct.map_or(1, |direct| direct.offset));
        let length = (&self.file).seek(SeekFrom::End(0))?;
        let sectors = length.saturating_sub(length.checked_rem(block).unwrap_or(0)) / SECTOR;
        self.sectors.store(sectors, Ordering::Relaxed);
        Ok(sectors)
    }

    pub fn discards(&self) -> bool {
        self.discard && !self.readonly
    }

    pub fn writeback(&self) -> bool {
        self.writeback.load(Ordering::Relaxed)
    }

    pub fn set_writeback(&self, writeback: bool) {
        self.writeback.store(writeback, Ordering::Relaxed);
    }

    /// Whether holes can be punched, as far as is known.
    pub fn punches(&self) -> bool {
        self.punches.load(Ordering::Relaxed)
    }

    pub fn does_not_punch(&self) {
        self.punches.store(false, Ordering::Relaxed);
    }

    /// Whether ranges can be zeroed without writing them, as far as is known.
    pub fn zeroes(&self) -> bool {
        self.zeroes.load(Ordering::Relaxed)
    }

    pub fn does_not_zero(&self) {
        self.zeroes.store(false, Ordering::Relaxed);
    }

    /// Whether something that was written may never reach stable storage. A flush that came after cannot be
    /// told to have worked.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// The driver begins anew, with what is on the disk.
    pub fn forget(&self) {
        self.lost.store(false, Ordering::SeqCst);
    }

    /// Nobody will know how a flush ended.
    pub fn doubt(&self) {
        self.lost.store(true, Ordering::SeqCst);
    }

    /// A flush has failed.
    pub fn lose(&self, error: &io::Error) {
        self.lost.store(true, Ordering::SeqCst);
        let count = self.failed_flushes.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            let name = &self.name;
            tracing::warn!("disk '{name}': what the guest has written may be lost: {error}");
        }
        self.fail(error);
    }

    /// A request has failed because of the host. Said ever more seldom: a guest may cause it at will.
    pub fn fail(&self, error: &io::Error) {
        let count = self.errors.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if count.is_power_of_two() {
            tracing::warn!("disk '{}': a request failed: {error} ({count} so far)", self.name);
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            errors: self.errors.load(Ordering::Relaxed),
            failed_flushes: self.failed_flushes.load(Ordering::Relaxed),
        }
    }
}

impl Blocks {
    fn of(file: &File) -> io::Result<Self> {
        let status = file.metadata()?;
        if status.file_type().is_block_device() {
            let logical = rustix::fs::ioctl_blksszget(file)?;
            return Ok(Self { logical, physical: rustix::fs::ioctl_blkpbszget(file)?.max(logical) });
        }
        // Some file systems say here what is best for large files; no guest needs to know.
        let physical = u32::try_from(status.blksize()).ok().filter(|size| size.is_power_of_two());
        let sector = u32::try_from(SECTOR).unwrap_or(PAGE);
        Ok(Self { logical: sector, physical: physical.unwrap_or(PAGE).clamp(sector, PAGE) })
    }
}

/// Switches `file` to direct I/O, and asks what that takes.
fn direct(file: &File) -> io::Result<Alignment> {
    rustix::fs::fcntl_setfl(file, rustix::fs::fcntl_getfl(file)? | OFlags::DIRECT)?;
    let known = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)
        .ok()
        .filter(|status| status.stx_mask & StatxFlags::DIOALIGN.bits() != 0)
        .map(|status| Alignment { memory: status.stx_dio_mem_align, offset: status.stx_dio_offset_align });
    let Some(Alignment { memory, offset }) = known else { return probe(file) };
    let possible = |align: u32| align.is_power_of_two() && align <= PAGE;
    if !possible(memory) || !possible(offset) {
        let why = format!("direct I/O wants memory aligned to {memory} and places aligned to {offset} bytes");
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(Alignment { memory, offset: offset.max(512) })
}

/// What kernels and file systems that do not say it take: the smallest read that works.
fn probe(file: &File) -> io::Result<Alignment> {
    let mut buffer = Aligned::new();
    let mut refused = io::Error::from(io::ErrorKind::Unsupported);
    for offset in [512, PAGE] {
        let len = usize::try_from(offset).unwrap_or(PIECE);
        let Some(into) = buffer.bytes_mut().get_mut(..len) else { break };
        match rustix::io::pread(file, into, 0) {
            Ok(_) => return Ok(Alignment { memory: PAGE, offset }),
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
}

/// [`PIECE`] bytes that begin at a page.
pub struct Aligned {
    bytes: Vec<u8>,
    from: usize,
}

impl Aligned {
    /// Zeros.
    pub fn new() -> Self {
        let page = usize::try_from(PAGE).unwrap_or(0);
        let bytes = vec![0u8; PIECE.saturating_add(page)];
        let from = bytes.as_ptr().addr().wrapping_neg().checked_rem(page).unwrap_or(0);
        Self { bytes, from }
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.from..self.from.saturating_add(PIECE)).unwrap_or_default()
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.from..self.from.saturating_add(PIECE)).unwrap_or_default()
    }
}
