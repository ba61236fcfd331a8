//! What the guest asks of a disk (virtio 1.2, 5.2.6).

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::{Address, GuestAddress};

use super::SECTOR;
use super::disk::Disk;
use super::layout::{MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ZEROES_RANGES, MAX_ZEROES_SECTORS};
use crate::ring::{Buffer, Chain, read_front, total};

/// Type, reserved word and sector.
const HEADER: u32 = 16;
/// Sector, number of sectors and flags of a range to discard or to zero.
const RANGE: u32 = 16;
/// What a legacy driver may say for FLUSH (5.2.6.4).
const FLUSH_OUT: u32 = VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_OUT;

/// One request, read once; the guest may change its buffers at any time.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub head: u16,
    /// Where the status byte goes: the last writable one, however they are split (2.7.4.1).
    pub status: GuestAddress,
    /// How many writable bytes come before it.
    pub room: u64,
    /// Or the status to refuse it with. Nothing has been done then.
    pub ask: Result<Ask, u32>,
}

/// It is wholly on the disk, and allowed.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    Read(Transfer),
    Write(Transfer),
    Flush,
    GetId(Vec<Buffer>),
    Discard(Vec<Range>),
    /// The flag: the ranges may be let go.
    WriteZeroes(Vec<(Range, bool)>),
}

/// As many bytes as `buffers` have, at `at` in the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Transfer {
    pub at: u64,
    pub len: u32,
    pub buffers: Vec<Buffer>,
}

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub at: u64,
    pub len: u64,
}

impl Request {
    /// `None` if there is no room for a status: nothing can be said then, and nothing is done.
    pub fn parse(chain: Chain, disk: &Disk, legacy: bool, memory: &GuestMemory) -> Option<Self> {
        let Chain { head, readable, mut writable } = chain;
        let room = total(&writable).checked_sub(1)?;
        let status = take_last(&mut writable)?;
        let ask = Ask::parse(readable, writable, disk, legacy, memory);
        Some(Self { head, status, room, ask })
    }

    /// What counts against a limit of bytes.
    pub fn bytes(&self) -> u64 {
        match &self.ask {
            Ok(Ask::Read(transfer) | Ask::Write(transfer)) => u64::from(transfer.len),
            Ok(Ask::WriteZeroes(ranges)) => {
                ranges.iter().map(|(range, _)| range.len).fold(0, u64::saturating_add)
            }
            Ok(Ask::Flush | Ask::GetId(_) | Ask::Discard(_)) | Err(_) => 0,
        }
    }

    /// What counts against a turn: discards, too, which a file may take its time for.
    pub fn work(&self) -> u64 {
        match &self.ask {
            Ok(Ask::Discard(ranges)) => ranges.iter().map(|range| range.len).fold(0, u64::saturating_add),
            _ => self.bytes(),
        }
    }
}

impl Ask {
    fn parse(
        mut readable: Vec<Buffer>,
        writable: Vec<Buffer>,
        disk: &Disk,
        legacy: bool,
        memory: &GuestMemory,
    ) -> Result<Self, u32> {
        let header = read_front::<16>(memory, &readable).ok_or(VIRTIO_BLK_S_IOERR)?;
        drop_front(&mut readable, HEADER);
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => transfer(sector, writable, disk).map(Self::Read),
            VIRTIO_BLK_T_OUT if disk.readonly => Err(VIRTIO_BLK_S_IOERR),
            VIRTIO_BLK_T_OUT => transfer(sector, readable, disk).map(Self::Write),
            VIRTIO_BLK_T_FLUSH => Ok(Self::Flush),
            FLUSH_OUT if legacy => Ok(Self::Flush),
            VIRTIO_BLK_T_GET_ID => Ok(Self::GetId(writable)),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if disk.readonly => Err(VIRTIO_BLK_S_IOERR),
            VIRTIO_BLK_T_DISCARD if disk.discards() => {
                let rules = Rules { most: MAX_DISCARD_RANGES, sectors: MAX_DISCARD_SECTORS, flags: 0 };
                let ranges = rules.read(readable, disk, memory)?;
                Ok(Self::Discard(ranges.into_iter().map(|(range, _)| range).collect()))
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
                let rules = Rules { most: MAX_ZEROES_RANGES, sectors: MAX_ZEROES_SECTORS, flags };
                rules.read(readable, disk, memory).map(Self::WriteZeroes)
            }
            _ => Err(VIRTIO_BLK_S_UNSUPP),
        }
    }
}

/// Whole sectors, wholly on the disk, in no more buffers than were offered.
fn transfer(sector: u64, buffers: Vec<Buffer>, disk: &Disk) -> Result<Transfer, u32> {
    let len = total(&buffers);
    let block = u64::from(disk.direct.map_or(1, |direct| direct.offset));
    let count = len.checked_div(SECTOR).filter(|_| len.is_multiple_of(SECTOR));
    let range = count.and_then(|count| place(sector, count, disk)).ok_or(VIRTIO_BLK_S_IOERR)?;
    let whole = range.at.is_multiple_of(block) && len.is_multiple_of(block);
    match u32::try_from(len) {
        Ok(len) if whole && buffers.len() <= disk.seg_max => Ok(Transfer { at: range.at, len, buffers }),
        _ => Err(VIRTIO_BLK_S_IOERR),
    }
}

/// `None` if it is not wholly on the disk.
fn place(sector: u64, count: u64, disk: &Disk) -> Option<Range> {
    let end = sector.checked_add(count).filter(|end| *end <= disk.sectors())?;
    // The last byte has a place, too.
    end.checked_mul(SECTOR)?;
    Some(Range { at: sector.checked_mul(SECTOR)?, len: count.checked_mul(SECTOR)? })
}

/// What ranges to discard or to zero may be.
struct Rules {
    /// How many.
    most: u32,
    /// The largest.
    sectors: u32,
    flags: u32,
}

impl Rules {
    /// All of them, or none: what is wrong with one is found before anything is done for another. The flag is
    /// whether any is set.
    fn read(
        &self,
        mut data: Vec<Buffer>,
        disk: &Disk,
        memory: &GuestMemory,
    ) -> Result<Vec<(Range, bool)>, u32> {
        let len = total(&data);
        let most = u64::from(self.most).saturating_mul(u64::from(RANGE));
        if len == 0 || len > most || !len.is_multiple_of(u64::from(RANGE)) {
            return Err(VIRTIO_BLK_S_IOERR);
        }
        let mut ranges = Vec::new();
        while let Some(bytes) = read_front::<16>(memory, &data) {
            drop_front(&mut data, RANGE);
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
            let flags = u32::from_le_bytes(flags);
            if flags & !self.flags != 0 {
                return Err(VIRTIO_BLK_S_UNSUPP);
            }
            let count = u32::from_le_bytes([n0, n1, n2, n3]);
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let range = place(sector, u64::from(count), disk).filter(|_| count <= self.sectors);
            ranges.push((range.ok_or(VIRTIO_BLK_S_IOERR)?, flags != 0));
        }
        Ok(ranges)
    }
}

/// Drops the first `len` bytes.
pub fn drop_front(buffers: &mut Vec<Buffer>, len: u32) {
    let mut left = len;
    let whole = |buffer: &&Buffer| {
        let rest = left.checked_sub(buffer.len);
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    let count = buffers.iter().take_while(whole).count();
    buffers.drain(..count);
    if let Some(first) = buffers.first_mut()
        && let (_, Some(rest)) = first.split(left)
    {
        *first = rest;
    }
}

/// Drops the last byte and says where it was.
fn take_last(buffers: &mut Vec<Buffer>) -> Option<GuestAddress> {
    let last = buffers.last_mut()?;
    last.len = last.len.checked_sub(1)?;
    let at = last.address.checked_add(u64::from(last.len));
    if last.len == 0 {
        buffers.pop();
    }
    at
}
