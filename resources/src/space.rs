//! Every claimed range and its owner, within the guest's reach.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{AddressRange, PaBits, bits_for, human_size};

/// A range and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub owner: String,
    pub range: AddressRange,
}

/// The guest physical address space of one machine. Claims never overlap and never pass 2^bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct AddressSpace {
    pa_bits: PaBits,
    // By first address.
    claims: BTreeMap<u64, Claim>,
}

/// How a space is written down. Read back, every claim is made again.
#[derive(Serialize, Deserialize)]
struct Written {
    pa_bits: PaBits,
    claims: Vec<Claim>,
}

/// Why a range cannot be had. Both sides are named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpaceError {
    #[error("{owner} wants {wanted}, but {holder} has {held}; move one of them")]
    Taken { owner: String, wanted: AddressRange, holder: String, held: AddressRange },
    #[error("{owner} at {wanted} needs {needed} physical address bits and there are {has}")]
    Beyond { owner: String, wanted: AddressRange, needed: u8, has: PaBits },
    #[error(
        "{owner} wants {} aligned to {} within {within}, and {}",
        human_size(*.size), human_size(*.align), room(*.largest)
    )]
    NoRoom { owner: String, size: u64, align: u64, within: AddressRange, largest: u64 },
    #[error(
        "{owner} wants {size} bytes aligned to {align}: a size is at least 1 and an alignment a power of two"
    )]
    Malformed { owner: String, size: u64, align: u64 },
}

fn room(largest: u64) -> String {
    match largest {
        0 => "nothing there is free".into(),
        _ => format!("the largest free run there is {}", human_size(largest)),
    }
}

impl AddressSpace {
    pub fn new(pa_bits: PaBits) -> Self {
        Self { pa_bits, claims: BTreeMap::new() }
    }

    pub fn pa_bits(&self) -> PaBits {
        self.pa_bits
    }

    /// Gives `owner` exactly `range`.
    ///
    /// # Errors
    /// [`SpaceError::Beyond`] if it ends past 2^bits, [`SpaceError::Taken`] if any byte has an owner.
    /// Nothing is claimed then.
    pub fn claim(&mut self, owner: &str, range: AddressRange) -> Result<AddressRange, SpaceError> {
        if range.last() >= self.pa_bits.ceiling() {
            return Err(SpaceError::Beyond {
                owner: owner.into(),
                wanted: range,
                needed: bits_for(range.last()),
                has: self.pa_bits,
            });
        }
        if let Some(other) = self.holder(range) {
            return Err(SpaceError::Taken {
                owner: owner.into(),
                wanted: range,
                holder: other.owner.clone(),
                held: other.range,
            });
        }
        self.claims.insert(range.first(), Claim { owner: owner.into(), range });
        Ok(range)
    }

    /// Gives `owner` the lowest free `size` bytes inside `within` that start at a multiple of `align`.
    ///
    /// The answer depends on the earlier claims alone, never on the width: the width only decides
    /// whether the answer is accepted.
    ///
    /// # Errors
    /// [`SpaceError::Malformed`] for size 0 or an alignment that is not a power of two,
    /// [`SpaceError::NoRoom`] if `within` has no such run, [`SpaceError::Beyond`] if the lowest one
    /// ends past 2^bits.
    pub fn place(
        &mut self,
        owner: &str,
        size: u64,
        align: u64,
        within: AddressRange,
    ) -> Result<AddressRange, SpaceError> {
        if size == 0 || !align.is_power_of_two() {
            return Err(SpaceError::Malformed { owner: owner.into(), size, align });
        }
        let aligned = |gap: AddressRange| {
            let first = gap.first().checked_next_multiple_of(align)?;
            AddressRange::new(first, size).filter(|range| gap.contains(*range))
        };
        let Some(range) = self.gaps(within).find_map(aligned) else {
            let largest = self.gaps(within).map(AddressRange::size).max().unwrap_or(0);
            return Err(SpaceError::NoRoom { owner: owner.into(), size, align, within, largest });
        };
        self.claim(owner, range)
    }

    /// Gives `range` back. False if no claim is exactly that range.
    pub fn release(&mut self, range: AddressRange) -> bool {
        match self.claims.get(&range.first()) {
            Some(claim) if claim.range == range => self.claims.remove(&range.first()).is_some(),
            _ => false,
        }
    }

    /// The lowest claim that shares a byte with `range`.
    pub fn holder(&self, range: AddressRange) -> Option<&Claim> {
        let before = self.claims.range(..range.first()).next_back().map(|(_, claim)| claim);
        let from = self.claims.range(range.first()..=range.last()).next().map(|(_, claim)| claim);
        before.filter(|claim| claim.range.overlaps(range)).or(from)
    }

    /// Every claim, lowest first.
    pub fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.claims.values()
    }

    /// The free runs inside `within`, lowest first.
    pub fn gaps(&self, within: AddressRange) -> impl Iterator<Item = AddressRange> {
        let before = self.claims.range(..within.first()).next_back().map(|(_, claim)| claim.range);
        let inside = self.claims.range(within.first()..=within.last()).map(|(_, claim)| claim.range);
        // `None` once a claim reaches the last address there is.
        let mut next = Some(within.first());
        let mut claims = before.into_iter().chain(inside);
        std::iter::from_fn(move || {
            loop {
                let from = next.filter(|first| *first <= within.last())?;
                let Some(claim) = claims.next() else {
                    next = None;
                    return AddressRange::spanning(from, within.last());
                };
                next = claim.last().checked_add(1).map(|after| after.max(from));
                if let Some(gap) =
                    claim.first().checked_sub(1).and_then(|end| AddressRange::spanning(from, end))
                {
                    return Some(gap);
                }
            }
        })
    }
}

impl From<AddressSpace> for Written {
    fn from(space: AddressSpace) -> Self {
        Self { pa_bits: space.pa_bits, claims: space.claims.into_values().collect() }
    }
}

impl TryFrom<Written> for AddressSpace {
    type Error = SpaceError;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        let mut space = Self::new(written.pa_bits);
        for claim in written.claims {
            space.claim(&claim.owner, claim.range)?;
        }
        Ok(space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(bits: u8) -> AddressSpace {
        AddressSpace::new(PaBits::new(bits).unwrap())
    }

    #[test]
    fn a_claim_on_somebody_elses_range_names_both() {
        let mut space = space(36);
        space.claim("uart0", AddressRange::fixed(0x900_0000, 0x1000)).unwrap();

        let refused = space.claim("rtc0", AddressRange::fixed(0x900_0800, 0x1000)).unwrap_err();

        assert_eq!(
            refused.to_string(),
            "rtc0 wants [0x9000800-0x90017ff], but uart0 has [0x9000000-0x9000fff]; move one of them"
        );
    }

    #[test]
    fn a_claim_past_the_width_says_how_many_bits_it_takes() {
        let refused = space(36).claim("ram0", AddressRange::fixed(0x4000_0000, 64 << 30)).unwrap_err();

        assert_eq!(
            refused.to_string(),
            "ram0 at [0x40000000-0x103fffffff] needs 37 physical address bits and there are 36"
        );
    }

    #[test]
    fn a_refused_claim_leaves_nothing_behind() {
        let mut space = space(36);
        space.claim("a", AddressRange::fixed(0x1000, 0x1000)).unwrap();
        let before = space.clone();

        space.claim("b", AddressRange::fixed(0, 0x2000)).unwrap_err();

        assert_eq!(space, before);
    }

    #[test]
    fn place_takes_the_lowest_aligned_fit() {
        let mut space = space(36);
        space.claim("a", AddressRange::fixed(0x1000, 0x1000)).unwrap();

        let placed = space.place("b", 0x2000, 0x2000, AddressRange::fixed(0x800, 0x10000)).unwrap();

        assert_eq!(placed, AddressRange::fixed(0x2000, 0x2000));
    }

    #[test]
    fn place_says_how_much_room_there_is_when_there_is_too_little() {
        let mut space = space(36);
        space.claim("a", AddressRange::fixed(0x2000, 0x1000)).unwrap();

        let refused = space.place("b", 0x4000, 0x1000, AddressRange::fixed(0, 0x5000)).unwrap_err();

        assert_eq!(
            refused.to_string(),
            "b wants 16 KiB aligned to 4 KiB within [0x0-0x4fff], and the largest free run there is 8 KiB"
        );
    }

    #[test]
    fn a_claim_that_begins_below_a_window_still_counts_inside_it() {
        let mut space = space(36);
        space.claim("a", AddressRange::fixed(0, 0x3000)).unwrap();

        let placed = space.place("b", 0x1000, 0x1000, AddressRange::fixed(0x1000, 0x4000)).unwrap();

        assert_eq!(placed, AddressRange::fixed(0x3000, 0x1000));
    }

    #[test]
    fn only_the_exact_range_can_be_released() {
        let mut space = space(36);
        let range = space.claim("a", AddressRange::fixed(0x1000, 0x2000)).unwrap();

        assert!(!space.release(AddressRange::fixed(0x1000, 0x1000)));
        assert!(space.release(range));
        assert!(!space.release(range));
    }
}
