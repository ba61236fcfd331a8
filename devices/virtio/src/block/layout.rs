//! What the driver reads of a disk: `struct virtio_blk_config` (virtio 1.2, 5.2.4).

use super::disk::Disk;
use super::{Cache, Options, SECTOR};

/// Data buffers of a request: an indirect table of a full queue, less header and status.
pub fn seg_max(queue_size: u16) -> u16 {
    queue_size.saturating_sub(2)
}

/// Of one range. A gigabyte is let go in milliseconds.
pub const MAX_DISCARD_SECTORS: u32 = 1 << 21;
/// Where the file cannot do it, zeros are written, and nobody should wait long for that.
pub const MAX_ZEROES_SECTORS: u32 = (64 << 20) / 512;
/// Ranges of one request.
pub const MAX_DISCARD_RANGES: u32 = 32;
pub const MAX_ZEROES_RANGES: u32 = 1;

const LEN: usize = 60;

const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;
const PHYSICAL_BLOCK_EXP: usize = 24;
const MIN_IO_SIZE: usize = 26;
const WRITEBACK: usize = 32;
const NUM_QUEUES: usize = 34;
const DISCARD: usize = 36;
const WRITE_ZEROES: usize = 48;
const MAY_UNMAP: usize = 56;

/// As it is before any driver comes. Fields of what is not offered are zero.
pub fn config(disk: &Disk, options: &Options) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    let blocks = disk.blocks;
    let exponent = blocks.physical.checked_div(blocks.logical).and_then(u32::checked_ilog2).unwrap_or(0);
    let ratio = 1u16.checked_shl(exponent).unwrap_or(1);
    set_capacity(&mut bytes, disk.sectors());
    put(&mut bytes, SEG_MAX, &u32::from(seg_max(options.queue_size)).to_le_bytes());
    put(&mut bytes, BLK_SIZE, &blocks.logical.to_le_bytes());
    put(&mut bytes, PHYSICAL_BLOCK_EXP, &exponent.to_le_bytes()[..1]);
    put(&mut bytes, MIN_IO_SIZE, &ratio.to_le_bytes());
    set_writeback(&mut bytes, options.cache != Cache::Writethrough);
    if options.queues > 1 {
        put(&mut bytes, NUM_QUEUES, &options.queues.to_le_bytes());
    }
    if disk.discards() {
        let alignment = u32::try_from(u64::from(blocks.physical) / SECTOR).unwrap_or(1);
        put_words(&mut bytes, DISCARD, &[MAX_DISCARD_SECTORS, MAX_DISCARD_RANGES, alignment]);
    }
    if !disk.readonly {
        put_words(&mut bytes, WRITE_ZEROES, &[MAX_ZEROES_SECTORS, MAX_ZEROES_RANGES]);
        put(&mut bytes, MAY_UNMAP, &[u8::from(disk.discards())]);
    }
    bytes
}

pub fn set_capacity(bytes: &mut [u8], sectors: u64) {
    put(bytes, CAPACITY, &sectors.to_le_bytes());
}

pub fn set_writeback(bytes: &mut [u8], writeback: bool) {
    put(bytes, WRITEBACK, &[u8::from(writeback)]);
}

/// What the driver writes to the one field that it may: no other value than 0 and 1 means anything.
pub fn written_writeback(at: u64, data: &[u8]) -> Option<bool> {
    let place = (WRITEBACK as u64).checked_sub(at).and_then(|place| usize::try_from(place).ok())?;
    match data.get(place)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes.iter_mut().skip(at).zip(field).for_each(|(to, from)| *to = *from);
}

fn put_words(bytes: &mut [u8], at: usize, words: &[u32]) {
    let field: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    put(bytes, at, &field);
}
