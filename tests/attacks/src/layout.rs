//! Where in its room a case has what, as bytes from the start.

/// How much there has to be.
pub const ROOM: u64 = 0x28_0000;
/// From one queue to the next: a legacy queue of 1024 entries fits.
pub const QUEUE: u64 = 0x8000;
/// Of a modern queue.
pub const AVAIL: u64 = 0x5000;
pub const USED: u64 = 0x6000;
/// What a legacy function's page is, and what its driver says it is on mmio.
pub const PAGE: u64 = PAGE_BYTES as u64;
pub const PAGE_BYTES: u32 = 4096;

/// Of a disk's requests: the header, the status byte.
pub const HEADER: u64 = 0x2_0000;
pub const STATUS: u64 = 0x2_1000;
/// What a status byte is before the device writes it.
pub const UNTOUCHED: u8 = 0xa5;
/// Indirect tables.
pub const TABLE: u64 = 0x3_0000;
/// Bytes that nothing names, so nothing may write them.
pub const CANARY: u64 = 0x6_0000;
pub const CANARY_LEN: usize = 0x400;
pub const CANARY_BYTE: u8 = 0x3c;
/// A page that is put away.
pub const MARK: u64 = 0x8_0000;
/// Buffers.
pub const DATA: u64 = 0x10_0000;

pub const SECTOR: u64 = 512;
/// Of the disks.
pub const SECTORS: u64 = 64;

/// The byte of a disk at `at`, of those that no case writes.
pub fn on_disk(at: u64) -> u8 {
    (at / 7 % 251).to_le_bytes()[0]
}
