//! Kernels that are not quite what they were, what a board puts into RAM to start one, and what must hold of that.

use ambit_resources::AddressRange;
use arbitrary::{Result, Unstructured};

use crate::{BootImage, Plan};

/// The pieces of a boot image, each in RAM and apart from all others.
pub struct Start<'a> {
    ram: Vec<AddressRange>,
    pieces: Vec<(AddressRange, &'static str, &'a [u8])>,
}

impl<'a> Start<'a> {
    /// Panics over a piece that is not in one bank of RAM, or in what another one has.
    pub fn new(plan: &Plan, image: &'a BootImage<'_>) -> Self {
        let ram: Vec<AddressRange> = plan.ram().collect();
        let piece = |piece: &'a crate::Piece<'_>| {
            let range = AddressRange::new(piece.address, piece.bytes.len() as u64);
            (range.expect("a piece has bytes and an end"), piece.name, &*piece.bytes)
        };
        let mut pieces: Vec<_> = image.pieces.iter().map(piece).collect();
        pieces.sort_by_key(|(range, ..)| range.first());
        for (range, name, _) in &pieces {
            assert!(ram.iter().any(|bank| bank.contains(*range)), "{name} at {range} is not in {ram:?}");
        }
        for pair in pieces.windows(2) {
            assert!(pair[0].0.last() < pair[1].0.first(), "{image:?}");
        }
        // RAM is what the plan says, so nothing that is kept free is touched either.
        let others = plan.regions.iter().filter(|region| region.kind != crate::RegionKind::Ram);
        for other in others.filter_map(|region| region.range) {
            assert!(pieces.iter().all(|(range, ..)| !range.overlaps(other)), "{other}: {image:?}");
        }
        Self { ram, pieces }
    }

    /// Panics unless `range` is RAM that begins with `bytes` and has nothing else put into it.
    pub fn holds(&self, range: AddressRange, bytes: &[u8]) {
        assert!(self.ram.iter().any(|bank| bank.contains(range)), "{range} is not in {:?}", self.ram);
        let inside: Vec<_> = self.pieces.iter().filter(|(piece, ..)| piece.overlaps(range)).collect();
        match (inside.as_slice(), bytes) {
            ([], []) => {}
            ([(piece, _, there)], bytes) => {
                assert_eq!(piece.first(), range.first());
                assert!(*there == bytes, "other bytes are at {piece}");
            }
            _ => panic!("{} pieces are in {range}", inside.len()),
        }
    }

    /// Where the one piece of this name is.
    pub fn place(&self, name: &str) -> Option<AddressRange> {
        self.piece(name).map(|(range, _)| range)
    }

    /// Its bytes too.
    pub fn piece(&self, name: &str) -> Option<(AddressRange, &'a [u8])> {
        let found = self.pieces.iter().find(|(_, other, _)| *other == name);
        found.map(|(range, _, bytes)| (*range, *bytes))
    }
}

/// Mostly leaves `file` as it was made: some bytes changed, or the end cut off after at least `least` of them. It has more
/// than none. Whether it is as it was made.
pub fn damage(input: &mut Unstructured<'_>, file: &mut Vec<u8>, least: usize) -> Result<bool> {
    if input.ratio(1, 3)? {
        return Ok(true);
    }
    for _ in 0..input.int_in_range(0..=4)? {
        let at = usize::from(input.arbitrary::<u16>()?) % file.len();
        let bytes: [u8; 4] = input.arbitrary()?;
        let count = usize::from(input.int_in_range(1..=4_u8)?);
        file.iter_mut().skip(at).zip(bytes.iter().take(count)).for_each(|(old, new)| *old = *new);
    }
    if input.ratio(1, 4)? {
        file.truncate(least + usize::from(input.arbitrary::<u16>()?) % (file.len() + 1 - least));
    }
    Ok(false)
}
