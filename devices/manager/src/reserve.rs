//! What of the address space is kept free, for whom, and how things are drawn around it.

use std::fmt;

use ambit_resources::AddressRange;
use serde::{Deserialize, Serialize};

use crate::RegionKind;

/// A range that nothing of the machine is ever in: no RAM, no room for more of it, no window and no BAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// As a plan calls it: "reserved.ht".
    pub name: String,
    pub range: AddressRange,
    /// For people: "AMD's processors keep it for HyperTransport".
    pub why: String,
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} is kept free: {}", self.name, self.range, self.why)
    }
}

impl Reservation {
    /// What the names of all of them begin with; those that a board keeps itself have others.
    pub const NAMES: [&str; 3] = ["reserved.ht", "reserved.iommu", "reserved.user"];

    /// Whether a region is one, and so nothing's place. A device may have such a name, too.
    pub fn is(kind: RegionKind, name: &str) -> bool {
        kind == RegionKind::Reserved && Self::NAMES.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// What the user says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    pub policy: HolePolicy,
    /// Whose processors the machine is for. `None`: those of the host.
    pub vendor: Option<Vendor>,
    /// Without what the vendor's processors and IOMMUs keep for themselves.
    pub without_ht: bool,
    /// Also what single devices of the host keep for themselves or do not reach, in case one is passed through.
    pub of_devices: bool,
    /// And these.
    pub ranges: Vec<AddressRange>,
}

/// What is done where RAM above 4 GiB, or what comes above it, would be in a range that is kept free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HolePolicy {
    /// Everything is drawn around it.
    #[default]
    Split,
    /// All of that is put above it, as QEMU does.
    Relocate,
}

/// Who made a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    Intel,
    Amd,
    Hygon,
    Other,
}

/// The processor of an x86_64 host, and what its IOMMU keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Processor {
    pub vendor: Vendor,
    /// As CPUID has it, extended family and all: 0x17 for the first Zen.
    pub family: u32,
    /// Physical address bits, without those that memory encryption takes.
    pub pa_bits: u8,
    /// What the host says of each group of its IOMMU, all together, and what is beyond its reach. `None`: it has no
    /// group, so no IOMMU.
    pub iommu: Option<Vec<IommuRegion>>,
}

/// A line of `/sys/kernel/iommu_groups/*/reserved_regions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IommuRegion {
    #[serde(flatten)]
    pub range: AddressRange,
    pub kind: IommuKind,
}

/// Linux `Documentation/ABI/testing/sysfs-kernel-iommu_groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IommuKind {
    /// Mapped to itself for one device.
    Direct,
    /// The same, but not for a device that a guest has.
    DirectRelaxable,
    /// No memory for any device.
    Reserved,
    /// Where messages go.
    Msi,
    /// More address bits than it translates. No line of that file.
    Beyond,
}

/// Reservations, lowest first. They may overlap.
pub(crate) struct Holes(Vec<Reservation>);

impl Holes {
    pub fn new(mut all: Vec<Reservation>) -> Self {
        all.sort_by_key(|hole| (hole.range.first(), hole.range.last()));
        Self(all)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.0.iter()
    }

    /// The lowest one that shares a byte with `range`.
    pub fn at(&self, range: AddressRange) -> Option<&Reservation> {
        self.0.iter().find(|hole| hole.range.overlaps(range))
    }

    /// The lowest place for `size` bytes at or above `first`, at a multiple of `align`. `None`: there is none below
    /// 2^64.
    pub fn clear(&self, first: u64, size: u64, align: u64) -> Option<u64> {
        let mut at = first.checked_next_multiple_of(align)?;
        while let Some(hole) = self.at(AddressRange::new(at, size)?) {
            at = hole.range.last().checked_add(1)?.checked_next_multiple_of(align)?;
        }
        Some(at)
    }

    /// The lowest `size` bytes of `within` in as few pieces as can be, cut at multiples of `page`. What does not fit
    /// is left of `size`.
    pub fn fill(&self, within: AddressRange, page: u64, size: &mut u64) -> Vec<AddressRange> {
        let mut pieces: Vec<AddressRange> = Vec::new();
        let mut next = Some(within.first());
        while let Some(first) = next.filter(|first| *first <= within.last() && *size > 0) {
            let hole = self.0.iter().find(|hole| hole.range.last() >= first).map(|hole| hole.range);
            let hole = hole.filter(|hole| hole.first() <= within.last());
            let room = match hole {
                Some(hole) => (hole.first() / page * page).saturating_sub(first),
                // A window never spans all 2^64 bytes.
                None => within.last() - first + 1,
            };
            if let Some(piece) = AddressRange::new(first, room.min(*size)) {
                *size -= piece.size();
                push(&mut pieces, piece);
            }
            next = hole.and_then(|hole| hole.last().checked_add(1)?.checked_next_multiple_of(page));
        }
        pieces
    }
}

/// Pieces that touch are one.
fn push(pieces: &mut Vec<AddressRange>, piece: AddressRange) {
    match pieces.last_mut() {
        Some(before) if before.last().checked_add(1) == Some(piece.first()) => {
            *before = AddressRange::spanning(before.first(), piece.last()).unwrap_or(*before);
        }
        _ => pieces.push(piece),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn holes(ranges: &[(u64, u64)]) -> Holes {
        let named = |(first, size): &(u64, u64)| Reservation {
            name: "reserved.a".into(),
            range: AddressRange::fixed(*first, *size),
            why: "a test says so".into(),
        };
        Holes::new(ranges.iter().map(named).collect())
    }

    fn filled(ranges: &[(u64, u64)], within: (u64, u64), size: u64) -> (Vec<AddressRange>, u64) {
        let mut left = size;
        let within = AddressRange::fixed(within.0, within.1);
        (holes(ranges).fill(within, 0x1000, &mut left), left)
    }

    #[test]
    fn what_is_filled_goes_on_after_each_hole() {
        assert_eq!(
            filled(&[(4 * MIB, MIB), (2 * MIB, MIB)], (MIB, 8 * MIB), 4 * MIB),
            (
                vec![
                    AddressRange::fixed(MIB, MIB),
                    AddressRange::fixed(3 * MIB, MIB),
                    AddressRange::fixed(5 * MIB, 2 * MIB),
                ],
                0
            )
        );
    }

    #[test]
    fn holes_that_overlap_or_touch_an_end_leave_whole_pages() {
        assert_eq!(
            filled(&[(0, 0x800), (0x2800, 0x10), (0x2000, 0x3001)], (0, 0x8000), 0x8000),
            (vec![AddressRange::fixed(0x1000, 0x1000), AddressRange::fixed(0x6000, 0x2000)], 0x5000)
        );
    }

    #[test]
    fn a_place_that_ends_where_a_hole_begins_is_clear() {
        let holes = holes(&[(4 * MIB, MIB)]);

        assert_eq!(holes.clear(2 * MIB, 2 * MIB, MIB), Some(2 * MIB));
        assert_eq!(holes.clear(2 * MIB, 2 * MIB + 1, 2 * MIB), Some(6 * MIB));
        assert_eq!(holes.clear(u64::MAX - MIB, 2 * MIB, MIB), None);
    }
}
