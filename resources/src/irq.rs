//! Interrupt pins and who has them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// One input of the interrupt controller, counted from zero. On Arm, the SPI number (INTID - 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IrqPin(pub u32);

impl fmt::Display for IrqPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The pins of one interrupt controller. A pin has at most one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrqPool {
    count: u32,
    owners: BTreeMap<IrqPin, String>,
}

/// Why a pin cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    #[error("{owner} wants interrupt pin {wanted}, but {holder} has it; move one of them")]
    Taken { owner: String, wanted: IrqPin, holder: String },
    #[error("{owner} wants interrupt pin {wanted}, and the interrupt controller has pins 0 to {}", .count.saturating_sub(1))]
    Beyond { owner: String, wanted: IrqPin, count: u32 },
    #[error("{owner} wants an interrupt pin, and all {} from {first} to {last} have owners; give the guest fewer devices", u64::from(*.last) - u64::from(*.first) + 1)]
    NoneLeft { owner: String, first: u32, last: u32 },
}

impl IrqPool {
    /// Pins 0 to `count` - 1, all free.
    pub fn new(count: u32) -> Self {
        Self { count, owners: BTreeMap::new() }
    }

    /// Gives `owner` exactly `pin`.
    ///
    /// # Errors
    /// [`IrqError::Beyond`] if there is no such pin, [`IrqError::Taken`] if it has an owner.
    pub fn claim(&mut self, owner: &str, pin: IrqPin) -> Result<IrqPin, IrqError> {
        if pin.0 >= self.count {
            return Err(IrqError::Beyond { owner: owner.into(), wanted: pin, count: self.count });
        }
        if let Some(holder) = self.owners.get(&pin) {
            return Err(IrqError::Taken { owner: owner.into(), wanted: pin, holder: holder.clone() });
        }
        self.owners.insert(pin, owner.into());
        Ok(pin)
    }

    /// Gives `owner` the lowest free pin of `within`.
    ///
    /// # Errors
    /// [`IrqError::NoneLeft`] if every pin of `within` has an owner, [`IrqError::Beyond`] if the
    /// lowest free one is not a pin of this controller.
    pub fn place(&mut self, owner: &str, within: RangeInclusive<u32>) -> Result<IrqPin, IrqError> {
        let (first, last) = (*within.start(), *within.end());
        let mut free = within.map(IrqPin).filter(|pin| !self.owners.contains_key(pin));
        match free.next() {
            Some(pin) => self.claim(owner, pin),
            None => Err(IrqError::NoneLeft { owner: owner.into(), first, last }),
        }
    }

    /// Gives `pin` back. False if it had no owner.
    pub fn release(&mut self, pin: IrqPin) -> bool {
        self.owners.remove(&pin).is_some()
    }

    /// How many pins there are, free or not.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Every pin that has an owner, lowest first.
    pub fn owners(&self) -> impl Iterator<Item = (IrqPin, &str)> {
        self.owners.iter().map(|(pin, owner)| (*pin, owner.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_has_one_owner_and_the_refusal_names_it() {
        let mut pool = IrqPool::new(64);
        pool.claim("uart0", IrqPin(1)).unwrap();

        let refused = pool.claim("rtc0", IrqPin(1)).unwrap_err();

        assert_eq!(refused.to_string(), "rtc0 wants interrupt pin 1, but uart0 has it; move one of them");
    }

    #[test]
    fn place_takes_the_lowest_free_pin_and_release_gives_it_back() {
        let mut pool = IrqPool::new(64);
        pool.claim("a", IrqPin(16)).unwrap();
        assert_eq!(pool.place("b", 16..=17), Ok(IrqPin(17)));

        assert!(pool.release(IrqPin(16)));

        assert_eq!(pool.place("c", 16..=17), Ok(IrqPin(16)));
    }

    #[test]
    fn a_full_pool_says_how_many_pins_there_were() {
        let mut pool = IrqPool::new(64);
        pool.claim("a", IrqPin(16)).unwrap();

        let refused = pool.place("b", 16..=16).unwrap_err();

        assert_eq!(
            refused.to_string(),
            "b wants an interrupt pin, and all 1 from 16 to 16 have owners; give the guest fewer devices"
        );
    }

    #[test]
    fn a_pin_the_controller_does_not_have_is_refused() {
        let refused = IrqPool::new(32).claim("a", IrqPin(32)).unwrap_err();

        assert_eq!(
            refused.to_string(),
            "a wants interrupt pin 32, and the interrupt controller has pins 0 to 31"
        );
    }
}
