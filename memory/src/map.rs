//! Ranges of guest RAM to anonymous host mappings.

use ambit_resources::{AddressRange, human_size};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
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

fn map_one(range: AddressRange) -> Result<GuestRegionMmap<()>, MapError> {
    let size = usize::try_from(range.size()).map_err(|_| MapError::TooLarge { range })?;
    let mapping = MmapRegionBuilder::new(size)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(|source| MapError::Refused { range, source })?;
    GuestRegionMmap::new(mapping, GuestAddress(range.first())).ok_or(MapError::TooLarge { range })
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend};

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
    fn more_than_the_host_can_map_is_refused_with_the_size_and_a_way_out() {
        let refused = map(&[AddressRange::fixed(0, 1 << 50)]).unwrap_err();

        assert!(refused.to_string().contains("cannot map 1 PiB"), "{refused}");
        assert!(refused.to_string().contains("less memory"), "{refused}");
    }
}
