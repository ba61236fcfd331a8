//! A guest's RAM as plain bytes, and what a chain of descriptors in it says, read in the plainest way.

use ambit_memory::GuestMemory;
use ambit_resources::AddressRange;
use arbitrary::Result;
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use crate::driver::{NEXT, TABLE, WRITE};
use crate::ring::Buffer;

/// Where it begins.
pub const BASE: u64 = 0x4000_0000;
/// Two ranges that touch, a page that is none, and one more range.
const RANGES: [(u64, u64); 3] = [(BASE, 0x3000), (BASE + 0x3000, 0x1000), (BASE + 0x5000, 0x1000)];
const END: u64 = BASE + 0x6000;

/// RAM as the device has it, and beside it as the driver and the account have it.
pub struct Ram {
    pub memory: GuestMemory,
    bytes: Vec<u8>,
}

impl Ram {
    pub fn new() -> Self {
        let ranges = RANGES.map(|(first, size)| AddressRange::fixed(first, size));
        let memory = ambit_memory::map(&ranges).unwrap();
        Self { memory, bytes: vec![0; (END - BASE) as usize] }
    }

    /// Where in `bytes` a range is, if all of it is RAM.
    pub fn place(&self, at: u64, len: u64) -> Option<std::ops::Range<usize>> {
        let is_ram = |at: u64| RANGES.iter().any(|(first, size)| (*first..first + size).contains(&at));
        let end = at.checked_add(len)?;
        // All edges are at pages.
        let all = at >= BASE && end <= END && (at..end).step_by(0x1000).chain(end.checked_sub(1)).all(is_ram);
        all.then(|| (at - BASE) as usize..(end - BASE) as usize)
    }

    pub fn read<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        Some(self.bytes[self.place(at, N as u64)?].try_into().unwrap())
    }

    pub fn half(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at).expect("rings are in RAM"))
    }

    /// As the driver writes.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        if self.account(at, bytes) {
            self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        }
    }

    /// As the device must have written. False if that is not RAM.
    pub fn account(&mut self, at: u64, bytes: &[u8]) -> bool {
        let place = self.place(at, bytes.len() as u64);
        place.map(|place| self.bytes[place].copy_from_slice(bytes)).is_some()
    }

    /// Every byte is what the account says.
    pub fn check(&self) {
        for (first, size) in RANGES {
            let mut there = vec![0; size as usize];
            self.memory.read_slice(&mut there, GuestAddress(first)).unwrap();
            let place = self.place(first, size).unwrap();
            assert!(
                self.bytes[place.clone()] == there,
                "bytes of RAM from {first:#x} are not as they must be"
            );
        }
    }

    /// The bytes of some buffers, one behind the other.
    pub fn gather(&self, buffers: &[Buffer]) -> Vec<u8> {
        let bytes = |buffer: &Buffer| {
            let place = self.place(buffer.address.0, u64::from(buffer.len));
            self.bytes[place.expect("buffers are in RAM")].to_vec()
        };
        buffers.iter().flat_map(bytes).collect()
    }

    /// Fills buffers from the first, as the device must have done.
    pub fn scatter(&mut self, buffers: &[Buffer], mut bytes: &[u8]) {
        for buffer in buffers {
            let (now, later) = bytes.split_at(bytes.len().min(buffer.len as usize));
            assert!(now.is_empty() || self.account(buffer.address.0, now), "buffers are in RAM");
            bytes = later;
        }
    }
}

/// An address: usually in RAM and near an edge of it, sometimes wild.
pub fn address(input: &mut Input<'_>) -> Result<u64> {
    let near = u64::from(input.arbitrary::<u16>()?);
    Ok(match input.int_in_range(0..=15)? {
        0 => input.arbitrary()?,
        1 => u64::MAX - near % 64,
        2 => BASE + 0x3000 - near % 64,
        3 => BASE + 0x4000 - near % 64,
        4 => END - near % 64,
        5 => BASE + 0x5000 - near % 64,
        _ => BASE + near % (END - BASE),
    })
}

pub fn length(input: &mut Input<'_>) -> Result<u32> {
    Ok(match input.int_in_range(0..=9)? {
        0 => input.arbitrary()?,
        1 => u32::MAX - u32::from(input.arbitrary::<u8>()?),
        2 => u32::from(input.arbitrary::<u16>()?),
        3 => 0,
        4..=6 => 16 * u32::from(input.arbitrary::<u8>()? % 32),
        _ => u32::from(input.arbitrary::<u8>()?),
    })
}

/// A queue's descriptors.
pub struct Table {
    pub at: u64,
    pub size: u16,
    /// Of its largest size.
    pub max: u16,
    pub indirect: bool,
}

type Sides = (Vec<Buffer>, Vec<Buffer>);

impl Table {
    /// What the device reads and what it writes, or `None` if a rule is broken (virtio 1.2, 2.7.5).
    pub fn chain(&self, ram: &Ram, head: u16) -> Option<Sides> {
        let (mut table, mut entries, mut inside) = (self.at, u64::from(self.size), false);
        let (mut readable, mut writable) = (Vec::new(), Vec::new());
        let (mut index, mut seen, mut writing) = (u64::from(head), 0, false);
        loop {
            // A chain with an indirect table has that one's descriptor on top.
            seen += 1;
            if index >= entries || seen > u32::from(self.max) + 1 {
                return None;
            }
            let descriptor = u128::from_le_bytes(ram.read::<16>(table.checked_add(16 * index)?)?);
            let (at, len) = (descriptor as u64, (descriptor >> 64) as u32);
            let (flags, next) = ((descriptor >> 96) as u16, (descriptor >> 112) as u16);
            if flags & TABLE != 0 {
                let count = u64::from(len) / 16;
                let wrong = inside || !self.indirect || flags & NEXT != 0;
                if wrong || !len.is_multiple_of(16) || !(1..=u64::from(self.max)).contains(&count) {
                    return None;
                }
                (table, entries, inside, index) = (at, count, true, 0);
                continue;
            }
            if writing && flags & WRITE == 0 {
                return None;
            }
            writing = flags & WRITE != 0;
            if len > 0 {
                ram.place(at, u64::from(len))?;
                let side = if writing { &mut writable } else { &mut readable };
                side.push(Buffer { address: GuestAddress(at), len });
            }
            if flags & NEXT == 0 {
                return Some((readable, writable));
            }
            index = u64::from(next);
        }
    }
}
