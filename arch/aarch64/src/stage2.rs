//! How KVM translates a guest's addresses: the shape of the stage-2 tables for a width and a page size, and
//! what the guest is told of its width.
//!
//! The rules are KVM's (Linux `arch/arm64/include/asm/stage2_pgtable.h`, `arch/arm64/kvm/hyp/pgtable.c`).

use ambit_device_manager::PageTables;
use ambit_resources::PaBits;

/// At most so many tables lie side by side at the first level, so each level more is saved by 4 bits.
const CONCATENATED_BITS: u8 = 4;
const ENTRY_BITS: u8 = 3;
const LAST_LEVEL: u8 = 3;

/// `None` for a page size, in bytes, that arm64 does not have.
pub fn geometry(ipa_bits: PaBits, page_size: u64) -> Option<PageTables> {
    // SL0 counts down from this at level 0 (Arm ARM, VTCR_EL2.SL0).
    let (page_bits, sl0_base) = match page_size {
        0x1000 => (12_u8, 2),
        0x4000 => (14, 3),
        0x10000 => (16, 3),
        _ => return None,
    };
    let ipa = ipa_bits.get();
    let per_level = page_bits - ENTRY_BITS;
    // Two levels at least, so that a block of the host never has to be split.
    let levels = ((ipa - CONCATENATED_BITS - ENTRY_BITS - 1) / per_level).max(2);
    let start_level = LAST_LEVEL + 1 - levels;
    let extra = ipa.saturating_sub(per_level * levels + page_bits);
    let concatenated = 1 << extra;
    Some(PageTables {
        page_size,
        levels,
        start_level,
        concatenated,
        t0sz: 64 - ipa,
        sl0: sl0_base - start_level,
        root_size: u64::from(concatenated) * page_size,
    })
}

/// PARange encodings (Arm ARM, ID_AA64MMFR0_EL1), by bits.
const PARANGE: [u8; 7] = [32, 36, 40, 42, 44, 48, 52];

/// The smallest encoding of ID_AA64MMFR0_EL1.PARange that covers `ipa_bits`: rounding down would hide
/// addresses the guest has.
pub fn parange(ipa_bits: PaBits) -> u8 {
    let index = PARANGE.iter().position(|bits| *bits >= ipa_bits.get()).unwrap_or(PARANGE.len() - 1);
    u8::try_from(index).unwrap_or(u8::MAX)
}

/// How many bits that encoding stands for. `None` for one that Linux does not know.
pub fn parange_bits(encoding: u8) -> Option<u8> {
    PARANGE.get(usize::from(encoding)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(bits: u8) -> PaBits {
        PaBits::new(bits).unwrap()
    }

    /// IPA bits, levels, first level, tables side by side, T0SZ, SL0, bytes of the root.
    type Row = (u8, u8, u8, u8, u8, u8, u64);

    const PAGES_4K: [Row; 15] = [
        (32, 2, 2, 4, 32, 0, 16384),
        (33, 2, 2, 8, 31, 0, 32768),
        (34, 2, 2, 16, 30, 0, 65536),
        (35, 3, 1, 1, 29, 1, 4096),
        (36, 3, 1, 1, 28, 1, 4096),
        (39, 3, 1, 1, 25, 1, 4096),
        (40, 3, 1, 2, 24, 1, 8192),
        (42, 3, 1, 8, 22, 1, 32768),
        (43, 3, 1, 16, 21, 1, 65536),
        (44, 4, 0, 1, 20, 2, 4096),
        (46, 4, 0, 1, 18, 2, 4096),
        (47, 4, 0, 1, 17, 2, 4096),
        (48, 4, 0, 1, 16, 2, 4096),
        (51, 4, 0, 8, 13, 2, 32768),
        (52, 4, 0, 16, 12, 2, 65536),
    ];
    const PAGES_16K: [Row; 15] = [
        (32, 2, 2, 1, 32, 1, 16384),
        (33, 2, 2, 1, 31, 1, 16384),
        (34, 2, 2, 1, 30, 1, 16384),
        (35, 2, 2, 1, 29, 1, 16384),
        (36, 2, 2, 1, 28, 1, 16384),
        (39, 2, 2, 8, 25, 1, 131072),
        (40, 2, 2, 16, 24, 1, 262144),
        (42, 3, 1, 1, 22, 2, 16384),
        (43, 3, 1, 1, 21, 2, 16384),
        (44, 3, 1, 1, 20, 2, 16384),
        (46, 3, 1, 1, 18, 2, 16384),
        (47, 3, 1, 1, 17, 2, 16384),
        (48, 3, 1, 2, 16, 2, 32768),
        (51, 3, 1, 16, 13, 2, 262144),
        (52, 4, 0, 1, 12, 3, 16384),
    ];
    const PAGES_64K: [Row; 15] = [
        (32, 2, 2, 1, 32, 1, 65536),
        (33, 2, 2, 1, 31, 1, 65536),
        (34, 2, 2, 1, 30, 1, 65536),
        (35, 2, 2, 1, 29, 1, 65536),
        (36, 2, 2, 1, 28, 1, 65536),
        (39, 2, 2, 1, 25, 1, 65536),
        (40, 2, 2, 1, 24, 1, 65536),
        (42, 2, 2, 1, 22, 1, 65536),
        (43, 2, 2, 2, 21, 1, 131072),
        (44, 2, 2, 4, 20, 1, 262144),
        (46, 2, 2, 16, 18, 1, 1048576),
        (47, 3, 1, 1, 17, 2, 65536),
        (48, 3, 1, 1, 16, 2, 65536),
        (51, 3, 1, 1, 13, 2, 65536),
        (52, 3, 1, 1, 12, 2, 65536),
    ];

    #[test]
    fn the_tables_are_kvms_for_every_page_size() {
        let sizes = [(0x1000, PAGES_4K), (0x4000, PAGES_16K), (0x10000, PAGES_64K)];
        for (page_size, rows) in sizes {
            for row in rows {
                let found = geometry(bits(row.0), page_size).unwrap();
                let found = (
                    row.0,
                    found.levels,
                    found.start_level,
                    found.concatenated,
                    found.t0sz,
                    found.sl0,
                    found.root_size,
                );

                assert_eq!(found, row, "pages of {page_size:#x}");
            }
        }
    }

    #[test]
    fn a_page_size_that_arm64_does_not_have_has_no_tables() {
        assert_eq!(geometry(bits(40), 0x2000), None);
        assert_eq!(geometry(bits(40), 0), None);
    }

    /// Linux 4.20 to about 5.9 kept the guest's reach within what the host's own tables reached and 4 bits.
    #[test]
    fn the_support_matrix_of_the_2018_series_follows_from_concatenation() {
        let hosts = [
            (39, 12, 43),
            (48, 12, 52),
            (36, 14, 40),
            (47, 14, 51),
            (48, 14, 52),
            (42, 16, 46),
            (48, 16, 52),
        ];
        for (virtual_bits, page_bits, limit) in hosts {
            let per_level = page_bits - ENTRY_BITS;
            let levels = (virtual_bits - ENTRY_BITS - 1) / per_level;
            let reach = per_level * levels + page_bits + CONCATENATED_BITS;
            assert_eq!(reach.min(PaBits::MAX.get()), limit);

            // With that many levels the limit can still be mapped, and one bit more cannot.
            if let Some(limit) = PaBits::new(limit).filter(|limit| *limit < PaBits::MAX) {
                let needs = |bits: PaBits| geometry(bits, 1 << page_bits).unwrap().levels;
                assert_eq!(needs(limit), levels.max(2));
                assert_eq!(needs(bits(limit.get() + 1)), levels.max(2) + 1);
            }
        }
    }

    #[test]
    fn the_guest_is_told_the_smallest_range_that_covers_its_addresses() {
        let told = |given| parange_bits(parange(bits(given)));

        for (given, expected) in
            [(32, 32), (33, 36), (36, 36), (37, 40), (39, 40), (41, 42), (43, 44), (45, 48), (49, 52)]
        {
            assert_eq!(told(given), Some(expected), "{given} bits");
        }
        assert_eq!(parange_bits(7), None);
    }
}
