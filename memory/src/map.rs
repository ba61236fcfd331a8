//! Ranges of guest RAM to anonymous host mappings.

use ambit_resources::{AddressRange, human_size};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};
use vm_memory::{GuestAddress, GuestRegionMmap};

use crate::GuestMemory;

/// Why the host gave no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error(
        "this host cannot map {} for {range}; give the guest less memory, or raise the limit that stops it \
         (ulimit -v, the memory cgroup)",
        human_size(range.size())
    )]
    Refused { range: AddressRange, source: MmapRegionError },
    #[error("{range} is more than this program can map")]
    TooLarge { range: AddressRange },
    #[error("guest RAM must be one or more ranges that do not overlap")]
    Overlap(#[source] vm_memory::GuestRegionCollectionError),
}

/// Maps every range, zero-filled, private to this process. The host commits a page when it is first
/// touched, so a guest costs what it uses.
///
/// Ranges are sorted, multiples of the host's page size, and do not overlap: the planner made them so.
///
/// # Errors
/// [`MapError::Refused`] with the host's reason, [`MapError::TooLarge`] past this host's `usize`,
/// [`MapError::Overlap`] if the ranges are not as promised.
pub fn map(ranges: &[AddressRange]) -> Result<GuestMemory, MapError> {
    let regions = ranges.iter().map(|range| map_one(*range)).collect::<Result<Vec<_>, _>>()?;
    GuestMemory::from_regions(regions).map_err(MapError::Overlap)
}

/// What the processor maps with one entry, on both architectures with 4 KiB pages.
const BLOCK: u64 = 2 << 20;

fn map_one(range: AddressRange) -> Result<GuestRegionMmap<()>, MapError> {
    let size = usize::try_from(range.size()).map_err(|_| MapError::TooLarge { range })?;
    let refused = |source| MapError::Refused { range, source };
    let mut mapping = anonymous(size).map_err(refused)?;
    // KVM uses blocks only where the host's address and the guest's have the same place in one. The
    // kernel puts a mapping right below the last one of its kind, so one in between of the right size
    // moves it there. If not, the guest runs as well and a little slower.
    if range.size() >= BLOCK && !is_in_step(&mapping, range) {
        let between = distance(&mapping, range)
            .and_then(|distance| size.checked_add(distance))
            .and_then(|size| anonymous(size).ok());
        if let Some(moved) = between.and_then(|_between| anonymous(size).ok()) {
            mapping = moved;
        }
    }
    GuestRegionMmap::new(mapping, GuestAddress(range.first())).ok_or(MapError::TooLarge { range })
}

fn anonymous(size: usize) -> Result<MmapRegion<()>, MmapRegionError> {
    MmapRegionBuilder::new(size)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
}

/// How far below its neighbour the next mapping of this size has to begin to be in step. `None` if the
/// address space ends there.
fn distance(mapping: &MmapRegion<()>, range: AddressRange) -> Option<usize> {
    // The first one stays, then comes the one in between, then the one we want: two sizes further down.
    let size = usize::try_from(range.size()).ok()?;
    let next = (mapping.as_ptr() as usize).checked_sub(size)?.checked_sub(size)?;
    let ahead = (next as u64).wrapping_sub(range.first()) % BLOCK;
    usize::try_from(ahead).ok()
}

fn is_in_step(mapping: &MmapRegion<()>, range: AddressRange) -> bool {
    (mapping.as_ptr() as u64).wrapping_sub(range.first()).is_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    #[test]
    fn ram_begins_as_zeroes_and_keeps_what_is_written() {
        let ram = map(&[AddressRange::fixed(0x4000_0000, 0x10000)]).unwrap();

        assert_eq!(ram.read_obj::<u64>(GuestAddress(0x4000_fff8)).unwrap(), 0);
        ram.write_obj(7u64, GuestAddress(0x4000_fff8)).unwrap();
        assert_eq!(ram.clone().read_obj::<u64>(GuestAddress(0x4000_fff8)).unwrap(), 7);
    }

    #[test]
    fn a_gap_between_two_ranges_is_not_ram() {
        let ram = map(&[AddressRange::fixed(0, 0x10000), AddressRange::fixed(0x20000, 0x10000)]).unwrap();

        assert!(!ram.address_in_range(GuestAddress(0x10000)));
        assert!(ram.address_in_range(GuestAddress(0x2ffff)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri keeps an account of each byte, and these are 64 MiB")]
    fn ram_has_the_same_place_in_a_block_for_the_host_and_the_guest() {
        // Another thread may map something in between, and then one is out of step; by chance one in
        // 512 is in step.
        let in_step = |odd: &u64| {
            let range = AddressRange::fixed(0x4000_0000, (64 << 20) + odd * 0x3000);
            let mapping = map_one(range).unwrap();
            let at = mapping.get_host_address(vm_memory::MemoryRegionAddress(0)).unwrap() as u64;
            at % BLOCK == range.first() % BLOCK
        };

        assert!((0..16).filter(in_step).count() > 8);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no more than there is")]
    fn more_than_the_host_can_map_is_refused_with_the_size_and_a_way_out() {
        let refused = map(&[AddressRange::fixed(0, 1 << 50)]).unwrap_err();

        assert!(refused.to_string().contains("cannot map 1 PiB"), "{refused}");
        assert!(refused.to_string().contains("less memory"), "{refused}");
    }
}
