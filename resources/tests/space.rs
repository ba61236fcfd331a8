//! What must hold of an address space whatever is asked of it, and an independent placer that agrees.

use ambit_resources::{AddressRange, AddressSpace, PaBits, SpaceError, bits_for};
use proptest::prelude::*;

/// One question to a space. Small numbers, so that questions meet.
#[derive(Clone, Debug)]
enum Ask {
    Claim { first: u64, size: u64 },
    Place { size: u64, align: u64, within: AddressRange },
    Release { nth: usize },
}

/// The highest address questions are about, and where the small space begins.
const SPAN: u64 = 96;

/// What AMD's processors keep.
const HT: AddressRange = AddressRange::fixed(0xfd_0000_0000, 12 << 30);

fn ask(base: u64) -> impl Strategy<Value = Ask> {
    let within = (0..SPAN, 1..=SPAN).prop_map(move |(first, size)| AddressRange::fixed(base + first, size));
    prop_oneof![
        (0..SPAN, 1..24_u64).prop_map(move |(first, size)| Ask::Claim { first: base + first, size }),
        (1..24_u64, 0..5_u32, within).prop_map(|(size, shift, within)| Ask::Place {
            size,
            align: 1 << shift,
            within
        }),
        (0..8_usize).prop_map(|nth| Ask::Release { nth }),
    ]
}

fn space(bits: u8) -> AddressSpace {
    AddressSpace::new(PaBits::new(bits).unwrap())
}

fn ranges(space: &AddressSpace) -> Vec<AddressRange> {
    space.claims().map(|claim| claim.range).collect()
}

fn answer(space: &mut AddressSpace, ask: &Ask, owner: &str) -> Result<Option<AddressRange>, SpaceError> {
    match ask {
        Ask::Claim { first, size } => space.claim(owner, AddressRange::fixed(*first, *size)).map(Some),
        Ask::Place { size, align, within } => space.place(owner, *size, *align, *within).map(Some),
        Ask::Release { nth } => {
            let range = space.claims().nth(*nth).map(|claim| claim.range);
            assert_eq!(range.is_some_and(|range| space.release(range)), range.is_some());
            Ok(None)
        }
    }
}

/// The lowest place by trying every address, byte by byte.
fn brute_force(taken: &[AddressRange], size: u64, align: u64, within: AddressRange) -> Option<AddressRange> {
    (within.first()..=within.last())
        .filter(|first| first % align == 0)
        .filter_map(|first| AddressRange::new(first, size))
        .find(|range| {
            within.contains(*range)
                && (range.first()..=range.last())
                    .all(|byte| taken.iter().all(|other| !other.contains_address(byte)))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn claims_never_overlap_never_pass_the_width_and_are_listed_lowest_first(
        asks in prop::collection::vec(ask((1 << 32) - SPAN / 2), 0..40),
    ) {
        let mut space = space(32);
        for ask in &asks {
            let _ = answer(&mut space, ask, "someone");
        }

        let claims = ranges(&space);
        for pair in claims.windows(2) {
            prop_assert!(pair[0].last() < pair[1].first(), "{pair:?}");
        }
        prop_assert!(claims.iter().all(|range| range.last() < 1 << 32));
    }

    #[test]
    fn place_answers_as_trying_every_address_does(
        asks in prop::collection::vec(ask(0), 0..20),
        (size, shift) in (1..32_u64, 0..6_u32),
        (first, length) in (0..SPAN, 1..=SPAN),
    ) {
        let mut space = space(32);
        for ask in &asks {
            let _ = answer(&mut space, ask, "someone");
        }
        let within = AddressRange::fixed(first, length);
        let expected = brute_force(&ranges(&space), size, 1 << shift, within);

        let placed = space.place("me", size, 1 << shift, within);

        match placed {
            Ok(range) => prop_assert_eq!(Some(range), expected),
            Err(error) => {
                prop_assert!(matches!(error, SpaceError::NoRoom { .. }), "{}", error);
                prop_assert_eq!(expected, None);
            }
        }
    }

    /// What AMD keeps is 12 GiB, so only what is near its ends is tried byte by byte: a place within it is none, and one
    /// that spans it is none either.
    #[test]
    fn place_answers_as_trying_every_address_around_a_large_reservation_does(
        low in prop::collection::vec(ask(HT.first() - SPAN), 0..10),
        high in prop::collection::vec(ask(HT.last() + 1), 0..10),
        (size, shift) in (1..32_u64, 0..6_u32),
        (below, above) in (0..=SPAN, 0..=SPAN),
    ) {
        let mut space = space(41);
        space.claim("reserved.ht", HT).unwrap();
        for ask in low.iter().chain(&high) {
            if !matches!(ask, Ask::Release { .. }) {
                let _ = answer(&mut space, ask, "someone");
            }
        }
        let taken = ranges(&space);
        let parts = [(HT.first() - below, below), (HT.last() + 1, above)];
        let parts = parts.into_iter().filter_map(|(first, size)| AddressRange::new(first, size));
        let expected = parts.filter_map(|part| brute_force(&taken, size, 1 << shift, part)).next();
        let within = AddressRange::fixed(HT.first() - below, below + HT.size() + above);

        let placed = space.place("me", size, 1 << shift, within);

        prop_assert_eq!(placed.ok(), expected);
    }

    #[test]
    fn what_is_released_can_be_had_again_and_nothing_else_has_changed(
        asks in prop::collection::vec(ask(0), 0..20),
        (size, shift) in (1..24_u64, 0..5_u32),
    ) {
        let mut space = space(32);
        for ask in &asks {
            let _ = answer(&mut space, ask, "someone");
        }
        let before = space.clone();
        let within = AddressRange::fixed(0, SPAN);

        if let Ok(first) = space.place("me", size, 1 << shift, within) {
            prop_assert!(space.release(first));
            prop_assert_eq!(&space, &before);
            prop_assert_eq!(space.place("me", size, 1 << shift, within), Ok(first));
        }
    }

    #[test]
    fn a_refusal_changes_nothing(
        asks in prop::collection::vec(ask((1 << 32) - SPAN / 2), 0..40),
    ) {
        let mut space = space(32);
        for ask in &asks {
            let before = space.clone();
            if answer(&mut space, ask, "someone").is_err() {
                prop_assert_eq!(&space, &before);
            }
        }
    }

    #[test]
    fn the_same_questions_get_the_same_answers(asks in prop::collection::vec(ask(0), 0..40)) {
        let (mut one, mut other) = (space(32), space(32));

        for ask in &asks {
            prop_assert_eq!(answer(&mut one, ask, "someone"), answer(&mut other, ask, "someone"));
        }
    }

    /// The width decides whether an answer is accepted, and never which it is.
    #[test]
    fn a_wider_space_gives_every_answer_that_a_narrower_gave(
        asks in prop::collection::vec(ask((1 << 32) - SPAN / 2), 0..40),
        bits in 33..=52_u8,
    ) {
        let (mut narrow, mut wide) = (space(32), space(bits));

        for ask in &asks {
            let given = answer(&mut narrow, ask, "someone");
            match given {
                // From here on the wide one has more claims than the narrow one.
                Err(SpaceError::Beyond { needed, .. }) => {
                    prop_assert_eq!(needed, 33);
                    break;
                }
                given => prop_assert_eq!(given, answer(&mut wide, ask, "someone")),
            }
        }
    }

    #[test]
    fn gaps_and_claims_together_are_every_address_once(asks in prop::collection::vec(ask(0), 0..30)) {
        let mut space = space(32);
        for ask in &asks {
            let _ = answer(&mut space, ask, "someone");
        }
        let within = AddressRange::fixed(0, 2 * SPAN);

        let mut all: Vec<AddressRange> = space.gaps(within).chain(ranges(&space)).collect();

        all.sort();
        prop_assert_eq!(all.first().map(|range| range.first()), Some(0));
        prop_assert_eq!(all.last().map(|range| range.last()), Some(within.last()));
        prop_assert!(all.windows(2).all(|pair| pair[0].last() + 1 == pair[1].first()), "{all:?}");
    }

    #[test]
    fn a_space_read_back_from_json_is_the_same(asks in prop::collection::vec(ask(0), 0..20)) {
        let mut space = space(36);
        for ask in &asks {
            let _ = answer(&mut space, ask, "someone");
        }

        let text = serde_json::to_string(&space).unwrap();

        prop_assert_eq!(serde_json::from_str::<AddressSpace>(&text).unwrap(), space);
    }

    #[test]
    fn ranges_near_the_end_of_64_bits_are_answered_without_wrapping(
        first in u64::MAX - 300..=u64::MAX,
        size in 1..400_u64,
        shift in 0..64_u32,
    ) {
        let mut space = space(52);

        if let Some(range) = AddressRange::new(first, size) {
            prop_assert!(space.claim("me", range).is_err());
            prop_assert!(space.place("me", size, 1 << shift, range).is_err());
            prop_assert_eq!(space.gaps(range).collect::<Vec<_>>(), vec![range]);
        }
    }

    #[test]
    fn covering_is_exact(address in 0..1_u64 << 52) {
        let bits = PaBits::covering(address).unwrap();

        prop_assert!(address < bits.ceiling());
        prop_assert!(bits == PaBits::MIN || address >= bits.ceiling() / 2);
        prop_assert_eq!(bits.get(), bits_for(address).max(32));
    }
}

#[test]
fn sizes_and_alignments_that_mean_nothing_are_refused() {
    let within = AddressRange::fixed(0, 0x1000);

    for (size, align) in [(0, 1), (16, 0), (16, 3), (0, 0)] {
        let refused = space(32).place("me", size, align, within).unwrap_err();
        assert_eq!(refused, SpaceError::Malformed { owner: "me".into(), size, align });
    }
    assert_eq!(
        space(32).place("me", 16, 3, within).unwrap_err().to_string(),
        "me wants 16 bytes aligned to 3: a size is at least 1 and an alignment a power of two"
    );
}

#[test]
fn a_space_with_two_owners_of_one_byte_cannot_be_read_back() {
    let text = r#"{"pa_bits":36,"claims":[
        {"owner":"a","range":{"first":0,"last":4095}},
        {"owner":"b","range":{"first":4095,"last":8191}}
    ]}"#;

    let refused = serde_json::from_str::<AddressSpace>(text).unwrap_err().to_string();

    assert_eq!(refused, "b wants [0xfff-0x1fff], but a has [0x0-0xfff]; move one of them");
}

#[test]
fn a_full_window_says_so() {
    let within = AddressRange::fixed(0x1000, 0x1000);
    let mut space = space(32);
    space.claim("all", within).unwrap();

    assert_eq!(
        space.place("me", 16, 16, within).unwrap_err().to_string(),
        "me wants 16 B aligned to 16 B within [0x1000-0x1fff], and nothing there is free"
    );
}
