//! Guest RAM that the host gets back.

// The kernel is told by address which pages it may take; the block says why they are ours to give.
#![allow(unsafe_code)]

use std::io;

use ambit_resources::AddressRange;
use rustix::mm::{Advice, madvise};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress};

use crate::GuestMemory;

/// Gives the host what of `range` is RAM; those bytes read as zero until somebody writes them. How many they
/// were: only whole pages of the host, within one region of RAM each. The rest keeps its bytes, and so does RAM
/// that is mapped from a file, whose old bytes would come back.
///
/// # Errors
/// The host's reason. Some of `range` may have been given back then.
pub fn discard(memory: &GuestMemory, range: AddressRange) -> io::Result<u64> {
    let page = rustix::param::page_size() as u64;
    let mut given = 0;
    for region in memory.iter().filter(|region| region.file_offset().is_none()) {
        let (first, len) = (region.start_addr().0, region.len());
        let ram = AddressRange::new(first, len);
        let Some(part) = ram.and_then(|ram| common(ram, range)) else { continue };
        // Regions begin at pages of the host, so the guest's and the host's addresses have the same place
        // in one.
        if let Some(pages) = whole_pages(part, page) {
            give(region, pages)?;
            given += pages.size();
        }
    }
    Ok(given)
}

fn common(a: AddressRange, b: AddressRange) -> Option<AddressRange> {
    AddressRange::spanning(a.first().max(b.first()), a.last().min(b.last()))
}

/// The pages that lie in `range` from their first byte to their last.
fn whole_pages(range: AddressRange, page: u64) -> Option<AddressRange> {
    let first = range.first().checked_next_multiple_of(page)?;
    let last = range.last();
    // The first byte past the last page; a page that ends at 2^64 is left.
    let end = last.checked_add(1)? / page * page;
    AddressRange::new(first, end.checked_sub(first)?)
}

fn give(region: &GuestRegionMmap<()>, pages: AddressRange) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let len = usize::try_from(pages.size()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let at = MemoryRegionAddress(pages.first() - region.start_addr().0);
    let host = region.get_host_address(at).map_err(invalid)?;
    // SAFETY: `pages` lie in `region`, whose mapping is private memory of the guest and lives while it is
    // borrowed. They stay mapped and become zero, as if the guest had written zeroes: nobody holds a Rust
    // reference to guest RAM.
    unsafe { madvise(host.cast(), len, Advice::LinuxDontNeed) }.map_err(io::Error::from)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const BASE: u64 = 0x4000_0000;

    fn page() -> u64 {
        rustix::param::page_size() as u64
    }

    /// RAM of 8 pages, a hole of 8, and 8 and 8 more in two regions that touch; nothing in it is zero.
    fn ram() -> GuestMemory {
        let size = 8 * page();
        let ranges = [0, 2, 3].map(|place| AddressRange::fixed(BASE + place * size, size));
        let memory = crate::map(&ranges).unwrap();
        for range in ranges {
            memory.write_slice(&vec![7; size as usize], GuestAddress(range.first())).unwrap();
        }
        memory
    }

    /// The bytes of RAM that are zero, from the first to the last of each run.
    fn zeroes(memory: &GuestMemory) -> Vec<AddressRange> {
        let mut runs: Vec<AddressRange> = Vec::new();
        for region in memory.iter() {
            let mut bytes = vec![1; region.len() as usize];
            memory.read_slice(&mut bytes, region.start_addr()).unwrap();
            for (at, _) in (region.start_addr().0..).zip(&bytes).filter(|(_, byte)| **byte == 0) {
                match runs.last_mut() {
                    Some(run) if run.last() + 1 == at => {
                        *run = AddressRange::spanning(run.first(), at).unwrap();
                    }
                    _ => runs.push(AddressRange::fixed(at, 1)),
                }
            }
        }
        runs
    }

    /// How many pages of all RAM the kernel holds memory for.
    fn resident(memory: &GuestMemory) -> usize {
        memory.iter().map(|region| mincore(region).iter().filter(|state| **state & 1 == 1).count()).sum()
    }

    fn mincore(region: &GuestRegionMmap<()>) -> Vec<u8> {
        let mut states = vec![0; (region.len() / page()) as usize];
        let at = region.get_host_address(MemoryRegionAddress(0)).unwrap();
        // SAFETY: the mapping is as long as the region, and `states` has a byte for each of its pages.
        let done = unsafe { libc::mincore(at.cast(), region.len() as usize, states.as_mut_ptr()) };
        assert_eq!(done, 0);
        states
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn what_is_given_back_reads_as_zeroes_and_the_host_has_it() {
        let (memory, page) = (ram(), page());
        let two = AddressRange::fixed(BASE + 3 * page, 2 * page);

        assert_eq!(discard(&memory, two).unwrap(), 2 * page);

        assert_eq!(resident(&memory), 22);
        assert_eq!(zeroes(&memory), [two]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn what_was_given_back_can_be_written_again() {
        let (memory, page) = (ram(), page());

        discard(&memory, AddressRange::fixed(BASE, 8 * page)).unwrap();
        memory.write_obj(0x1234_5678_u32, GuestAddress(BASE + page)).unwrap();

        assert_eq!(memory.read_obj::<u32>(GuestAddress(BASE + page)).unwrap(), 0x1234_5678);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn a_page_that_is_not_wholly_meant_keeps_all_its_bytes() {
        let (memory, page) = (ram(), page());

        let given = [
            AddressRange::fixed(BASE + 1, page - 1),
            AddressRange::fixed(BASE, page - 1),
            AddressRange::fixed(BASE + 1, 2 * page - 2),
            AddressRange::fixed(BASE + 4 * page - 1, page + 2),
        ]
        .map(|range| discard(&memory, range).unwrap());

        assert_eq!(given, [0, 0, 0, page]);
        assert_eq!(zeroes(&memory), [AddressRange::fixed(BASE + 4 * page, page)]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn holes_are_passed_over_and_regions_that_touch_are_both_given_back() {
        let (memory, page) = (ram(), page());
        let from_the_first_into_the_last = AddressRange::fixed(BASE + 7 * page, 18 * page);

        assert_eq!(discard(&memory, from_the_first_into_the_last).unwrap(), 10 * page);

        let (first, rest) = (BASE + 7 * page, BASE + 16 * page);
        assert_eq!(zeroes(&memory), [AddressRange::fixed(first, page), AddressRange::fixed(rest, 9 * page)]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no madvise")]
    fn what_is_no_ram_is_not_given_back() {
        let memory = ram();

        let given =
            [(0, BASE), (BASE + 8 * page(), 8 * page()), (u64::MAX - 0xffff, 0x1_0000), (1, u64::MAX - 1)]
                .map(|(first, size)| discard(&memory, AddressRange::fixed(first, size)).unwrap());

        assert_eq!(given, [0, 0, 0, 24 * page()], "the last one is all there is");
    }

    #[test]
    fn a_host_of_larger_pages_gets_them_only_when_all_of_one_is_meant() {
        for page in [16 << 10, 64 << 10] {
            let whole = |first, last| whole_pages(AddressRange::spanning(first, last).unwrap(), page);
            let two = AddressRange::fixed(BASE, 2 * page);

            assert_eq!(whole(BASE, BASE + 4095), None);
            assert_eq!(whole(BASE + 4096, BASE + page - 1), None);
            assert_eq!(whole(BASE + 4096, BASE + 2 * page - 4097), None);
            assert_eq!(whole(BASE, two.last()), Some(two));
            assert_eq!(whole(BASE - 4096, BASE + 2 * page + 4095), Some(two));
        }
    }

    #[test]
    fn the_ends_of_the_64_bit_space_have_whole_pages_too() {
        assert_eq!(whole_pages(AddressRange::fixed(0, 4096), 4096), AddressRange::new(0, 4096));
        assert_eq!(whole_pages(AddressRange::fixed(u64::MAX - 100, 101), 4096), None);
        assert_eq!(
            whole_pages(AddressRange::fixed(u64::MAX - 0x1fff, 0x1fff), 4096),
            AddressRange::new(u64::MAX - 0x1fff, 4096)
        );
    }
}
