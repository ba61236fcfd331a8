//! One request on its way: cut into steps that an engine does one after the other.

use std::borrow::Cow;
use std::io;

use ambit_memory::GuestMemory;
use rustix::fs::FallocateFlags;
use virtio_bindings::bindings::virtio_blk::{VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK};
use vm_memory::{Address, GuestAddress};

use super::Cache;
use super::disk::{Aligned, Disk, ID_BYTES, PIECE};
use super::request::{Ask, Range, Request, Transfer, drop_front};
use crate::ring::{Buffer, cut, total, write_front};

/// How often a step that came to nothing is done again (host-faults F-11).
const PATIENCE: u8 = 100;

/// What an engine is to do next for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub act: Act,
    /// Bytes of the file, unless it is all of it.
    pub at: u64,
    pub len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
    /// Writes zeros.
    Zero,
    Allocate(FallocateFlags),
    Sync,
}

/// Where the bytes of a step are.
pub enum Place<'a> {
    Guest(Cow<'a, [Buffer]>),
    /// Copied, because direct I/O does not reach them where they are.
    Copy(&'a mut [u8]),
}

/// How a request ended: how many bytes of data were written to the guest, or the status.
type Outcome = Result<u32, u32>;

pub struct Job {
    head: u16,
    /// It takes memory of ours while it is on its way.
    pub copied: bool,
    status: GuestAddress,
    room: u64,
    /// What it writes must be on stable storage before it is over.
    stable: bool,
    stalls: u8,
    work: Work,
}

enum Work {
    Move(Move),
    Clear(Clear),
    /// What is left is a flush after so many others; then so many bytes were written to the guest.
    Sync {
        after: u64,
        written: u32,
    },
    Over(Outcome),
}

struct Move {
    writes: bool,
    len: u32,
    at: u64,
    /// What is still to be moved.
    left: Vec<Buffer>,
    through: Option<Box<Aligned>>,
}

struct Clear {
    /// It is a hint only, and what the range has then does not matter.
    discards: bool,
    /// What is left, the next one last.
    ranges: Vec<(Range, bool)>,
    way: Way,
}

/// How a range is cleared; each falls back on the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Punch,
    Zero,
    Write,
}

impl Job {
    /// `stable`: what was written is on stable storage when it completes.
    pub fn new(request: Request, stable: bool, disk: &Disk, memory: &GuestMemory) -> Self {
        let Request { head, status, room, ask } = request;
        let work = match ask {
            Err(code) => Work::Over(Err(code)),
            Ok(Ask::Read(transfer)) => Work::transfer(transfer, false, disk),
            Ok(Ask::Write(transfer)) => Work::transfer(transfer, true, disk),
            Ok(Ask::Flush) => Work::flush(0, disk),
            Ok(Ask::GetId(into)) => Work::Over(get_id(&into, disk, memory)),
            Ok(Ask::Discard(ranges)) => {
                Work::clear(ranges.into_iter().map(|range| (range, true)).collect(), true, disk)
            }
            Ok(Ask::WriteZeroes(ranges)) => Work::clear(ranges, false, disk),
        };
        let copied = matches!(&work, Work::Move(Move { through: Some(_), .. }));
        Self { head, copied, status, room, stable, stalls: 0, work }
    }

    /// `None` when it is over.
    pub fn step(&self) -> Option<Step> {
        match &self.work {
            Work::Move(Move { writes, at, left, through, .. }) => {
                let act = if *writes { Act::Write } else { Act::Read };
                let len = total(left);
                let len = if through.is_some() { len.min(PIECE as u64) } else { len };
                Some(Step { act, at: *at, len })
            }
            Work::Clear(clear) => clear.step(),
            Work::Sync { .. } => Some(Step { act: Act::Sync, at: 0, len: 0 }),
            Work::Over(_) => None,
        }
    }

    /// If its step is a flush: how many had begun when there was nothing else left to do.
    pub fn flush_after(&self) -> Option<u64> {
        match &self.work {
            Work::Sync { after, .. } => Some(*after),
            Work::Move(_) | Work::Clear(_) | Work::Over(_) => None,
        }
    }

    /// Where the bytes of its step are, which is a read or a write of `len` bytes. `None` if they cannot be
    /// reached.
    pub fn place(&mut self, len: u64, memory: &GuestMemory) -> Option<Place<'_>> {
        let Work::Move(Move { writes, left, through, .. }) = &mut self.work else { return None };
        let Some(through) = through else {
            let all = total(left) <= len;
            return Some(Place::Guest(if all { Cow::Borrowed(left) } else { Cow::Owned(cut(left, len).0) }));
        };
        let bytes = through.bytes_mut().get_mut(..usize::try_from(len).ok()?)?;
        if *writes {
            read_all(memory, left, bytes)?;
        }
        Some(Place::Copy(bytes))
    }

    /// Its step has ended so: `result` is how many bytes of it are done, if that means anything.
    pub fn advance(&mut self, step: &Step, result: io::Result<usize>, disk: &Disk, memory: &GuestMemory) {
        let result = match result {
            Err(error) if is_passing(&error) && self.stalls < PATIENCE => {
                self.stalls = self.stalls.saturating_add(1);
                return;
            }
            Ok(count) => Ok(u64::try_from(count).unwrap_or(u64::MAX).min(step.len)),
            Err(error) => Err(error),
        };
        self.stalls = 0;
        let done = match &mut self.work {
            Work::Move(transfer) => transfer.advance(result, memory),
            Work::Clear(clear) => clear.advance(step, result, disk),
            Work::Sync { written, .. } => match result {
                // Another queue may have been told what became of this one's data, too.
                Ok(_) if disk.is_lost() => return self.work = Work::Over(Err(VIRTIO_BLK_S_IOERR)),
                Ok(_) => return self.work = Work::Over(Ok(*written)),
                Err(error) => {
                    disk.lose(&error);
                    return self.work = Work::Over(Err(VIRTIO_BLK_S_IOERR));
                }
            },
            Work::Over(_) => return,
        };
        match done {
            Ok(false) => {}
            Ok(true) => self.work = self.work.done(self.stable, disk),
            Err(error) => {
                disk.fail(&error);
                self.work = Work::Over(Err(VIRTIO_BLK_S_IOERR));
            }
        }
    }

    /// Tells the guest how it ended. What goes into the used ring: head, and bytes written.
    pub fn finish(self, memory: &GuestMemory) -> (u16, u32) {
        let (code, written) = match self.work {
            Work::Over(Ok(written)) => (VIRTIO_BLK_S_OK, written),
            Work::Over(Err(code)) => (code, 0),
            Work::Move(_) | Work::Clear(_) | Work::Sync { .. } => (VIRTIO_BLK_S_IOERR, 0),
        };
        let [code, ..] = code.to_le_bytes();
        let told = write_front(memory, &[Buffer { address: self.status, len: 1 }], &[code]);
        // The used length counts from the front, so the status byte counts only if all before it was
        // written (2.7.8.2).
        let written = if u64::from(written) == self.room { written.saturating_add(told) } else { written };
        (self.head, written)
    }
}

/// Trying again may help.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

impl Work {
    fn transfer(transfer: Transfer, writes: bool, disk: &Disk) -> Self {
        let Transfer { at, len, buffers } = transfer;
        if len == 0 {
            return Self::Over(Ok(0));
        }
        let fits = |buffer: &Buffer| {
            // Guest and host addresses of a byte are at the same place of a page.
            disk.direct.is_none_or(|align| {
                buffer.address.raw_value().is_multiple_of(u64::from(align.memory))
                    && buffer.len.is_multiple_of(align.offset)
            })
        };
        let through = (!buffers.iter().all(fits)).then(|| Box::new(Aligned::new()));
        Self::Move(Move { writes, len, at, left: buffers, through })
    }

    fn clear(mut ranges: Vec<(Range, bool)>, discards: bool, disk: &Disk) -> Self {
        // An empty one has nothing to clear, and the kernel does not take it.
        ranges.retain(|(range, _)| range.len > 0);
        ranges.reverse();
        let mut clear = Clear { discards, ranges, way: Way::Punch };
        clear.begin(disk);
        if clear.ranges.is_empty() { Self::Over(Ok(0)) } else { Self::Clear(clear) }
    }

    fn flush(written: u32, disk: &Disk) -> Self {
        if disk.cache == Cache::Unsafe || disk.readonly {
            return Self::Over(Ok(written));
        }
        if disk.is_lost() {
            return Self::Over(Err(VIRTIO_BLK_S_IOERR));
        }
        Self::Sync { after: disk.flushes.begun(), written }
    }

    /// What comes after all of it is done.
    fn done(&self, stable: bool, disk: &Disk) -> Self {
        match self {
            Self::Move(Move { writes: false, len, .. }) => Self::Over(Ok(*len)),
            Self::Clear(Clear { discards: true, .. }) => Self::Over(Ok(0)),
            Self::Move(_) | Self::Clear(_) if stable => Self::flush(0, disk),
            _ => Self::Over(Ok(0)),
        }
    }
}

impl Move {
    /// True when nothing is left.
    fn advance(&mut self, result: io::Result<u64>, memory: &GuestMemory) -> io::Result<bool> {
        let count = result?;
        if count == 0 {
            // The file has become shorter, or takes no more.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let short = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(through) = self.through.as_ref().filter(|_| !self.writes) {
            let bytes = through.bytes().get(..usize::try_from(count).unwrap_or(PIECE)).unwrap_or_default();
            write_front(memory, &self.left, bytes);
        }
        self.at = self.at.saturating_add(count);
        drop_front(&mut self.left, short);
        Ok(self.left.is_empty())
    }
}

impl Clear {
    fn step(&self) -> Option<Step> {
        let (Range { at, len }, _) = *self.ranges.last()?;
        Some(match self.way {
            Way::Punch => {
                Step { act: Act::Allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE), at, len }
            }
            // It keeps no size: what reads as zero afterwards has to be there.
            Way::Zero => Step { act: Act::Allocate(FallocateFlags::ZERO_RANGE), at, len },
            Way::Write => Step { act: Act::Zero, at, len: len.min(PIECE as u64) },
        })
    }

    /// Chooses the way for the next range; drops those there is none for.
    fn begin(&mut self, disk: &Disk) {
        if self.discards && !disk.punches() {
            self.ranges.clear();
        }
        let unmap = self.ranges.last().is_some_and(|(_, unmap)| *unmap);
        self.way = match (unmap && disk.discards() && disk.punches(), disk.zeroes()) {
            (true, _) => Way::Punch,
            (false, true) => Way::Zero,
            (false, false) => Way::Write,
        };
    }

    /// True when nothing is left.
    fn advance(&mut self, step: &Step, result: io::Result<u64>, disk: &Disk) -> io::Result<bool> {
        let count = match (result, self.way) {
            (Ok(0), Way::Write) => return Err(io::ErrorKind::WriteZero.into()),
            (Ok(count), Way::Write) => count,
            // All or nothing.
            (Ok(_), Way::Punch | Way::Zero) => step.len,
            (Err(error), way) => {
                let never = matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS));
                let not_so = error.raw_os_error() == Some(libc::EINVAL);
                match way {
                    Way::Punch if never => disk.does_not_punch(),
                    Way::Zero if never => disk.does_not_zero(),
                    Way::Punch | Way::Zero if not_so => {}
                    _ => return Err(error),
                }
                if !self.discards {
                    let zeroes = way == Way::Punch && disk.zeroes();
                    self.way = if zeroes { Way::Zero } else { Way::Write };
                    return Ok(false);
                }
                step.len
            }
        };
        if let Some((range, _)) = self.ranges.last_mut() {
            range.at = range.at.saturating_add(count);
            range.len = range.len.saturating_sub(count);
            if range.len == 0 {
                self.ranges.pop();
                self.begin(disk);
            }
        }
        Ok(self.ranges.is_empty())
    }
}

fn get_id(into: &[Buffer], disk: &Disk, memory: &GuestMemory) -> Outcome {
    if total(into) < ID_BYTES as u64 {
        return Err(VIRTIO_BLK_S_IOERR);
    }
    Ok(write_front(memory, into, &disk.id))
}

/// Fills `bytes` from the front of `buffers`. `None` if there are too few, or they are not RAM.
fn read_all(memory: &GuestMemory, buffers: &[Buffer], bytes: &mut [u8]) -> Option<()> {
    use vm_memory::Bytes;
    let mut rest = bytes;
    for buffer in buffers {
        let len = rest.len().min(usize::try_from(buffer.len).ok()?);
        let (now, later) = rest.split_at_mut_checked(len)?;
        memory.read_slice(now, buffer.address).ok()?;
        rest = later;
        if rest.is_empty() {
            return Some(());
        }
    }
    None
}
