//! A queue as the driver sets it up, and the one check it must pass to become live.

use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, PaBits};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

/// What the driver wrote, unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSetup {
    /// The most entries it may have.
    pub max: u16,
    /// As written; registers are wider than valid sizes.
    pub size: u32,
    /// What a legacy driver aligns the used ring to, in bytes.
    pub align: u32,
    pub areas: Areas,
}

/// Guest physical addresses of a queue's three areas (virtio 1.2, 2.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Areas {
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

/// A queue that was checked: every byte of it is RAM the guest has. It does not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    max: u16,
    size: u16,
    areas: Areas,
}

/// How a legacy driver says where a queue is: one block, by its page (virtio 1.2, 4.2.4 and 4.1.5.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub pfn: u32,
    /// Bytes of a page; 0 if the driver has not said.
    pub page: u32,
    /// What the used ring is aligned to, in bytes.
    pub align: u32,
}

/// Why a queue cannot become live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error("a queue of {size} entries; it must be a power of two up to {max}")]
    Size { size: u32, max: u16 },
    #[error("pages of {0} bytes; they must be a power of two from 4096 up, and said before the queue is")]
    Page(u32),
    #[error("a used ring aligned to {0} bytes; it must be a power of two from 4 up")]
    UsedAlign(u32),
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

    fn size(&self) -> Result<u16, QueueError> {
        let size = u16::try_from(self.size).ok().filter(|size| size.is_power_of_two() && *size <= self.max);
        size.ok_or(QueueError::Size { size: self.size, max: self.max })
    }

    /// # Errors
    /// [`QueueError`] for the first thing that is wrong.
    pub fn check(&self, memory: &GuestMemory, bits: PaBits) -> Result<Checked, QueueError> {
        let size = self.size()?;
        let Areas { desc, avail, used } = self.areas;
        for (part, at) in PARTS.into_iter().zip([desc, avail, used]) {
            part.check(at, size, memory, bits)?;
        }
        Ok(Checked { max: self.max, size, areas: self.areas })
    }

    /// The queue at `block`; the areas that were written do not count.
    ///
    /// # Errors
    /// [`QueueError`] for the first thing that is wrong.
    pub fn check_block(
        &self,
        block: Block,
        memory: &GuestMemory,
        bits: PaBits,
    ) -> Result<Checked, QueueError> {
        let size = self.size()?;
        let Block { pfn, page, align } = block;
        if !page.is_power_of_two() || page < SMALLEST_PAGE {
            return Err(QueueError::Page(page));
        }
        if !align.is_power_of_two() || align < SMALLEST_ALIGN {
            return Err(QueueError::UsedAlign(align));
        }
        let part = "queue";
        let (n, align) = (u64::from(size), u64::from(align));
        let [table, ring, used] = PARTS.map(|part| (part.bytes)(n));
        let at = u64::from(pfn).saturating_mul(u64::from(page));
        // The offsets of the areas are small, the sums with the address need not be.
        let to_used = table.saturating_add(ring).checked_next_multiple_of(align);
        let len = to_used.and_then(|to_used| to_used.checked_add(used));
        let range = len.and_then(|len| AddressRange::new(at, len)).ok_or(QueueError::Wraps { part, at })?;
        in_ram(part, range, memory, bits)?;
        let after = |offset: Option<u64>| offset.and_then(|offset| at.checked_add(offset));
        match (after(Some(table)), after(to_used)) {
            (Some(avail), Some(used)) => {
                Ok(Checked { max: self.max, size, areas: Areas { desc: at, avail, used } })
            }
            _ => Err(QueueError::Wraps { part, at }),
        }
    }
}

/// No architecture has smaller pages.
const SMALLEST_PAGE: u32 = 4096;
/// That of a used ring (virtio 1.2, 2.7).
const SMALLEST_ALIGN: u32 = 4;

impl Checked {
    /// The live queue.
    pub fn queue(&self) -> Result<Queue, QueueError> {
        let Areas { desc, avail, used } = self.areas;
        let mut queue = Queue::new(self.max)
            .map_err(|_| QueueError::Size { size: u32::from(self.size), max: self.max })?;
        queue.set_size(self.size);
        queue.set_desc_table_address(Some(low(desc)), Some(high(desc)));
        queue.set_avail_ring_address(Some(low(avail)), Some(high(avail)));
        queue.set_used_ring_address(Some(low(used)), Some(high(used)));
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
        in_ram(part, range.ok_or(QueueError::Wraps { part, at })?, memory, bits)
    }
}

/// Within the guest's reach, and within one region of its RAM.
fn in_ram(
    part: &'static str,
    range: AddressRange,
    memory: &GuestMemory,
    bits: PaBits,
) -> Result<(), QueueError> {
    if range.last() >= bits.ceiling() {
        return Err(QueueError::Beyond { part, range, bits });
    }
    let in_one = memory
        .iter()
        .filter_map(|region| AddressRange::new(region.start_addr().raw_value(), region.len()))
        .any(|ram| ram.contains(range));
    if in_one { Ok(()) } else { Err(QueueError::NotRam { part, range }) }
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
        let setup = QueueSetup { max: 256, size: 256, align: 0, areas: Areas { desc, avail, used } };
        setup.check(&memory, PaBits::new(36).unwrap()).map(drop)
    }

    const AVAIL: u64 = 2 * GIB;
    const USED: u64 = 3 * GIB;

    //
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

    fn check_block(pfn: u32, page: u32, align: u32) -> Result<(), QueueError> {
        let memory = ambit_memory::map(&[AddressRange::fixed(GIB, 63 * GIB)]).unwrap();
        let setup = QueueSetup::at_reset(256);
        setup.check_block(Block { pfn, page, align }, &memory, PaBits::new(36).unwrap()).map(drop)
    }

    #[test]
    fn a_block_lies_in_ram_from_its_first_byte_to_its_last() {
        let pages = [0x4_0000, 0x3_ffff, 0xff_fffd, 0xff_fffe, 0x100_0000, u32::MAX];

        let taken = pages.map(|pfn| check_block(pfn, 4096, 4096).is_ok());

        assert_eq!(taken, [true, false, true, false, false, false]);
        let large = [0x4000, 0xf_fffe, 0xf_ffff].map(|pfn| check_block(pfn, 65536, 65536).is_ok());
        assert_eq!(large, [true, true, false]);
    }

    #[test]
    fn pages_and_alignments_that_are_no_powers_of_two_are_refused() {
        for wrong in [0, 1, 3, 2048, 4095, u32::MAX] {
            assert_eq!(check_block(0x4_0000, wrong, 4096), Err(QueueError::Page(wrong)));
        }
        for wrong in [0, 1, 2, 3, 4095, u32::MAX] {
            assert_eq!(check_block(0x4_0000, 4096, wrong), Err(QueueError::UsedAlign(wrong)));
        }
        assert!(matches!(check_block(0x4_0000, 1 << 31, 1 << 31), Err(QueueError::Beyond { .. })));
    }

    #[test]
    fn the_areas_of_a_block_are_where_a_legacy_driver_puts_them() {
        let memory = ambit_memory::map(&[AddressRange::fixed(GIB, GIB)]).unwrap();
        let block = Block { pfn: 0x4_0000, page: 4096, align: 4096 };
        let areas = |size| {
            let setup = QueueSetup { size, ..QueueSetup::at_reset(1024) };
            setup.check_block(block, &memory, PaBits::MAX).unwrap().areas
        };

        let at = |avail, used| Areas { desc: GIB, avail: GIB + avail, used: GIB + used };
        assert_eq!(
            [1, 128, 256, 1024].map(areas),
            [at(16, 4096), at(2048, 4096), at(4096, 8192), at(16384, 20480)]
        );
    }

    //
    #[test]
    fn sizes_are_powers_of_two_up_to_the_maximum_of_a_legacy_queue_too() {
        let memory = ambit_memory::map(&[AddressRange::fixed(GIB, 1 << 30)]).unwrap();
        let size = |size| {
            let setup = QueueSetup { size, ..QueueSetup::at_reset(256) };
            let block = Block { pfn: 0x4_0000, page: 4096, align: 4096 };
            setup.check_block(block, &memory, PaBits::MAX).is_ok()
        };

        assert_eq!([1, 2, 128, 256].map(size), [true; 4]);
        assert_eq!([0, 3, 257, 512, 0x8000, 0xffff, 0x1_0000, 0x1_0100, u32::MAX].map(size), [false; 9]);
    }

    #[test]
    fn sizes_are_powers_of_two_up_to_the_maximum() {
        let memory = ambit_memory::map(&[AddressRange::fixed(GIB, 1 << 20)]).unwrap();
        let size = |size| {
            let at = GIB;
            let setup =
                QueueSetup { max: 256, size, align: 0, areas: Areas { desc: at, avail: at, used: at } };
            setup.check(&memory, PaBits::MAX).is_ok()
        };

        assert_eq!([1, 2, 128, 256].map(size), [true; 4]);
        assert_eq!([0, 3, 257, 512, 0x8000, 0xffff, 0x1_0000, 0x1_0100, u32::MAX].map(size), [false; 9]);
    }
}
