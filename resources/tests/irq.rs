//! What must hold of interrupt pins whatever is asked of them.

use ambit_resources::{IrqError, IrqPin, IrqPool};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Ask {
    Claim(u32),
    Place(u32, u32),
    Release(u32),
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (0..40_u32).prop_map(Ask::Claim),
        (0..40_u32, 0..40_u32).prop_map(|(first, last)| Ask::Place(first, last)),
        (0..40_u32).prop_map(Ask::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Against an array with one entry for each pin.
    #[test]
    fn the_pool_answers_as_an_array_of_owners_does(asks in prop::collection::vec(ask(), 0..60)) {
        let mut pool = IrqPool::new(32);
        let mut owned = [false; 40];

        for ask in asks {
            match ask {
                Ask::Claim(pin) => {
                    let free = pin < 32 && !owned[pin as usize];
                    prop_assert_eq!(pool.claim("me", IrqPin(pin)).is_ok(), free);
                    owned[pin as usize] |= free;
                }
                Ask::Place(first, last) => {
                    let expected = (first..=last).find(|pin| !owned[*pin as usize]).filter(|pin| *pin < 32);
                    prop_assert_eq!(pool.place("me", first..=last).ok(), expected.map(IrqPin));
                    if let Some(pin) = expected {
                        owned[pin as usize] = true;
                    }
                }
                Ask::Release(pin) => {
                    prop_assert_eq!(pool.release(IrqPin(pin)), owned[pin as usize]);
                    owned[pin as usize] = false;
                }
            }
        }

        let owners: Vec<u32> = pool.owners().map(|(pin, _)| pin.0).collect();
        let expected: Vec<u32> = (0..32).filter(|pin| owned[*pin as usize]).collect();
        prop_assert_eq!(owners, expected);
    }
}

#[test]
fn the_last_pin_there_can_be_is_answered_without_wrapping() {
    let mut pool = IrqPool::new(u32::MAX);

    assert_eq!(pool.claim("me", IrqPin(u32::MAX - 1)), Ok(IrqPin(u32::MAX - 1)));
    assert!(matches!(pool.place("me", u32::MAX - 1..=u32::MAX), Err(IrqError::Beyond { .. })));
}
