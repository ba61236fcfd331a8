//! Runs of guest physical addresses, and how many address bits there are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A non-empty run of guest physical addresses. The last address belongs to it.
///
/// It never covers the whole 64-bit space, so its size always fits a `u64`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct AddressRange {
    first: u64,
    last: u64,
}

/// How a range is written down: its two ends.
#[derive(Serialize, Deserialize)]
struct Bounds {
    first: u64,
    last: u64,
}

impl AddressRange {
    /// `None` if `size` is zero or the range would pass the end of the 64-bit space.
    pub const fn new(first: u64, size: u64) -> Option<Self> {
        if size == 0 {
            return None;
        }
        match first.checked_add(size - 1) {
            Some(last) => Some(Self { first, last }),
            None => None,
        }
    }

    /// For board tables: a range that is known when the program is compiled.
    ///
    /// # Panics
    /// At compile time (in a `const`), where [`AddressRange::new`] gives `None`.
    pub const fn fixed(first: u64, size: u64) -> Self {
        match Self::new(first, size) {
            Some(range) => range,
            None => panic!("a board's fixed range is empty or wraps"),
        }
    }

    /// Both ends belong to the range. `None` if they are the wrong way round or span all 2^64 bytes.
    pub const fn spanning(first: u64, last: u64) -> Option<Self> {
        if first > last || (first == 0 && last == u64::MAX) {
            return None;
        }
        Some(Self { first, last })
    }

    pub const fn first(self) -> u64 {
        self.first
    }

    pub const fn last(self) -> u64 {
        self.last
    }

    /// In bytes; never zero.
    pub const fn size(self) -> u64 {
        self.last - self.first + 1
    }

    pub const fn contains(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }

    pub const fn contains_address(self, address: u64) -> bool {
        self.first <= address && address <= self.last
    }

    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}-{:#x}]", self.first, self.last)
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<AddressRange> for Bounds {
    fn from(range: AddressRange) -> Self {
        Self { first: range.first, last: range.last }
    }
}

impl TryFrom<Bounds> for AddressRange {
    type Error = &'static str;

    fn try_from(bounds: Bounds) -> Result<Self, Self::Error> {
        Self::spanning(bounds.first, bounds.last).ok_or("a range is empty or spans the whole 64-bit space")
    }
}

/// How many physical address bits the guest may use: 32 to 52, as KVM accepts on arm64
/// (Linux `Documentation/virt/kvm/api.rst`, `KVM_CREATE_VM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PaBits(u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} physical address bits are not possible; use {min} to {max}", min = PaBits::MIN.get(), max = PaBits::MAX.get())]
pub struct PaBitsError(pub u8);

impl PaBits {
    pub const MIN: Self = Self(32);
    pub const MAX: Self = Self(52);

    /// `None` outside 32..=52.
    pub const fn new(bits: u8) -> Option<Self> {
        if bits < Self::MIN.0 || bits > Self::MAX.0 { None } else { Some(Self(bits)) }
    }

    pub const fn get(self) -> u8 {
        self.0
    }

    /// The first address out of reach, 2^bits.
    pub const fn ceiling(self) -> u64 {
        1 << self.0
    }

    /// Everything within reach.
    pub const fn reach(self) -> AddressRange {
        AddressRange { first: 0, last: self.ceiling() - 1 }
    }

    /// The fewest bits that reach `address`. `None` if that takes more than 52.
    pub const fn covering(address: u64) -> Option<Self> {
        let bits = bits_for(address);
        if bits < Self::MIN.0 { Some(Self::MIN) } else { Self::new(bits) }
    }
}

/// How many bits it takes to write `address`: 16 for 0xffff, 17 for 0x1_0000, 0 for 0.
pub const fn bits_for(address: u64) -> u8 {
    // At most 64, so it fits.
    #[allow(clippy::cast_possible_truncation)]
    let bits = (u64::BITS - address.leading_zeros()) as u8;
    bits
}

impl fmt::Display for PaBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<PaBits> for u8 {
    fn from(bits: PaBits) -> Self {
        bits.0
    }
}

impl TryFrom<u8> for PaBits {
    type Error = PaBitsError;

    fn try_from(bits: u8) -> Result<Self, Self::Error> {
        Self::new(bits).ok_or(PaBitsError(bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_never_empty() {
        assert_eq!(AddressRange::new(0x1000, 0), None);
    }

    #[test]
    fn a_range_may_end_at_the_last_address_but_not_pass_it() {
        assert_eq!(AddressRange::new(u64::MAX, 1).map(AddressRange::last), Some(u64::MAX));
        assert_eq!(AddressRange::new(u64::MAX, 2), None);
    }

    #[test]
    fn a_range_of_all_64_bits_is_refused_because_its_size_has_no_number() {
        assert_eq!(AddressRange::spanning(0, u64::MAX), None);
        assert_eq!(AddressRange::spanning(1, u64::MAX).map(AddressRange::size), Some(u64::MAX));
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let low = AddressRange::fixed(0, 0x1000);
        let high = AddressRange::fixed(0x1000, 0x1000);

        assert!(!low.overlaps(high));
        assert!(low.overlaps(AddressRange::fixed(0xfff, 1)));
    }

    #[test]
    fn widths_outside_32_to_52_are_refused_by_name() {
        assert_eq!(PaBits::try_from(31), Err(PaBitsError(31)));
        assert_eq!(
            PaBits::try_from(53).map_err(|e| e.to_string()),
            Err("53 physical address bits are not possible; use 32 to 52".into())
        );
    }

    #[test]
    fn covering_is_the_smallest_width_and_never_below_32() {
        assert_eq!(PaBits::covering(0), Some(PaBits::MIN));
        assert_eq!(PaBits::covering(0xf_ffff_ffff).map(PaBits::get), Some(36));
        assert_eq!(PaBits::covering(0x10_0000_0000).map(PaBits::get), Some(37));
        assert_eq!(PaBits::covering(1 << 52), None);
    }

    #[test]
    fn a_range_read_back_from_json_keeps_its_invariant() {
        let range = AddressRange::fixed(0x4000_0000, 0x1000);
        let text = serde_json::to_string(&range).unwrap();

        assert_eq!(serde_json::from_str::<AddressRange>(&text).unwrap(), range);
        assert!(serde_json::from_str::<AddressRange>(r#"{"first":2,"last":1}"#).is_err());
    }
}
