//! A queue as the driver sets it up, and the one check it must pass to become live.

use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, PaBits};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// What the driver wrote, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSetup {
    /// The most entries it may have; 0 if there is no such queue.
    pub max: u16,
    /// As written; registers are wider than valid sizes.
    pub size: u32,
    pub ready: bool,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

/// Why a queue cannot become live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error("a queue of {size} entries; it must be a power of two up to {max}")]
    Size { size: u32, max: u16 },
    #[error("the {part} at {at:#x} is not a multiple of {align}")]
    Align { part: &'static str, at: u64, align: u64 },
    #[error("the {part} at {at:#x} wraps the address space")]
    Wraps { part: &'static str, at: u64 },
    #[error("the {part} at {range} ends past the {bits} physical address bits of the guest")]
    Beyond { part: &'static str, range: AddressRange, bits: PaBits },
    #[error("the {part} at {range} is not within one region of RAM")]
    NotRam { part: &'static str, range: AddressRange },
}

/// One area of a split queue (virtio 1.2, 2.7).
struct Part {
    name: &'static str,
    align: u64,
    bytes: fn(entries: u64) -> u64,
}

const PARTS: [Part; 3] = [
    Part { name: "descriptor table", align: 16, bytes: |n| 16 * n },
    Part { name: "available ring", align: 2, bytes: |n| 6 + 2 * n },
    Part { name: "used ring", align: 4, bytes: |n| 6 + 8 * n },
];

impl QueueSetup {
    /// As after reset, for a queue of at most `max` entries.
    pub fn at_reset(max: u16) -> Self {
        Self { max, size: u32::from(max), ..Self::default() }
    }

    /// The queue, if every byte of it is RAM the guest has; it is immutable from here on.
    ///
    /// # Errors
    /// [`QueueError`] for the first thing that is wrong.
    pub fn check(&self, memory: &GuestMemory, bits: PaBits) -> Result<Queue, QueueError> {
        let bad_size = || QueueError::Size { size: self.size, max: self.max };
        let size = u16::try_from(self.size).map_err(|_| bad_size())?;
        if !size.is_power_of_two() || size > self.max {
            return Err(bad_size());
        }
        for (part, at) in PARTS.into_iter().zip([self.desc, self.avail, self.used]) {
            part.check(at, size, memory, bits)?;
        }
        let mut queue = Queue::new(self.max).map_err(|_| bad_size())?;
        queue.set_size(size);
        queue.set_desc_table_address(Some(low(self.desc)), Some(high(self.desc)));
        queue.set_avail_ring_address(Some(low(self.avail)), Some(high(self.avail)));
        queue.set_used_ring_address(Some(low(self.used)), Some(high(self.used)));
        queue.set_ready(true);
        Ok(queue)
    }
}

impl Part {
    fn check(&self, at: u64, size: u16, memory: &GuestMemory, bits: PaBits) -> Result<(), QueueError> {
        let part = self.name;
        if !at.is_multiple_of(self.align) {
            return Err(QueueError::Align { part, at, align: self.align });
        }
        let range = AddressRange::new(at, (self.bytes)(u64::from(size)));
        let range = range.ok_or(QueueError::Wraps { part, at })?;
        if range.last() >= bits.ceiling() {
            return Err(QueueError::Beyond { part, range, bits });
        }
        let in_one = memory
            .iter()
            .filter_map(|region| AddressRange::new(region.start_addr().raw_value(), region.len()))
            .any(|ram| ram.contains(range));
        if in_one { Ok(()) } else { Err(QueueError::NotRam { part, range }) }
    }
}

fn low(address: u64) -> u32 {
    let [a, b, c, d, ..] = address.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(address: u64) -> u32 {
    let [.., e, f, g, h] = address.to_le_bytes();
    u32::from_le_bytes([e, f, g, h])
}

/// Puts `half` in place of the low or high 32 bits of `address`.
pub fn with_low(address: u64, half: u32) -> u64 {
    address & !0xffff_ffff | u64::from(half)
}

/// See [`with_low`].
pub fn with_high(address: u64, half: u32) -> u64 {
    address & 0xffff_ffff | u64::from(half) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// RAM from 1 GiB to 64 GiB, in two regions that touch at 32 GiB; 36 bits.
    fn check(desc: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        let ram = [AddressRange::fixed(GIB, 31 * GIB), AddressRange::fixed(32 * GIB, 32 * GIB)];
        let memory = ambit_memory::map(&ram).unwrap();
        let setup = QueueSetup { max: 256, size: 256, ready: false, desc, avail, used };
        setup.check(&memory, PaBits::new(36).unwrap()).map(drop)
    }

    const AVAIL: u64 = 2 * GIB;
    const USED: u64 = 3 * GIB;

    #[test]
    fn a_table_may_end_at_the_last_byte_and_not_one_entry_later() {
        assert_eq!(check(0xf_ffff_f000, AVAIL, USED), Ok(()));
        assert!(matches!(check(0xf_ffff_f010, AVAIL, USED), Err(QueueError::Beyond { .. })));
    }

    #[test]
    fn an_available_ring_that_wraps_is_refused() {
        let at = 0xffff_ffff_ffff_fffe;

        assert_eq!(check(GIB, at, USED), Err(QueueError::Wraps { part: "available ring", at }));
    }

    #[test]
    fn each_part_has_its_alignment() {
        assert!(matches!(check(GIB + 8, AVAIL, USED), Err(QueueError::Align { align: 16, .. })));
        assert!(matches!(check(GIB, AVAIL + 1, USED), Err(QueueError::Align { align: 2, .. })));
        assert!(matches!(check(GIB, AVAIL, USED + 2), Err(QueueError::Align { align: 4, .. })));
    }

    #[test]
    fn what_is_not_ram_is_refused_from_its_first_byte_to_its_last() {
        assert!(matches!(check(0, AVAIL, USED), Err(QueueError::NotRam { part: "descriptor table", .. })));
        assert!(matches!(check(GIB, GIB - 2, USED), Err(QueueError::NotRam { part: "available ring", .. })));
        assert!(matches!(check(GIB, AVAIL, GIB - 4), Err(QueueError::NotRam { part: "used ring", .. })));
    }

    #[test]
    fn a_part_in_two_regions_is_refused_even_where_they_touch() {
        assert!(matches!(check(32 * GIB - 16, AVAIL, USED), Err(QueueError::NotRam { .. })));
    }

    #[test]
    fn sizes_are_powers_of_two_up_to_the_maximum() {
        let memory = ambit_memory::map(&[AddressRange::fixed(GIB, 1 << 20)]).unwrap();
        let size = |size| {
            let at = GIB;
            let setup = QueueSetup { max: 256, size, ready: false, desc: at, avail: at, used: at };
            setup.check(&memory, PaBits::MAX).is_ok()
        };

        assert_eq!([1, 2, 128, 256].map(size), [true; 4]);
        assert_eq!([0, 3, 257, 512, 0x8000, 0xffff, 0x1_0000, 0x1_0100, u32::MAX].map(size), [false; 9]);
    }
}
