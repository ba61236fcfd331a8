//! The ruler beside the map, where every octave of addresses is equally long.

use ambit_resources::human_size;

use super::layout::Px;

/// Steps within an octave.
const OCTAVE: u64 = 1024;

#[derive(Clone, Debug)]
pub struct Scale {
    pub top: Px,
    pub bottom: Px,
    /// The octaves at its ends: 30 is 1 GiB.
    low: u32,
    high: u32,
}

impl Scale {
    /// Between `top` and `bottom`, and long enough for all `points`.
    pub fn new(points: impl Iterator<Item = u64>, top: Px, bottom: Px) -> Option<Self> {
        let (lowest, highest) = points
            .filter(|point| *point > 0)
            .fold((u64::MAX, 0), |(low, high), point| (low.min(point), high.max(point)));
        let low = lowest.ilog2();
        let above = highest.checked_ilog2()?;
        let high = if highest.is_power_of_two() { above } else { above + 1 };
        Some(Self { top, bottom, low: low.min(high.saturating_sub(1)), high: high.max(1) })
    }

    pub fn y(&self, address: u64) -> Px {
        let low = u64::from(self.low) * OCTAVE;
        let length = u64::from(self.high - self.low) * OCTAVE;
        let up = steps(address).saturating_sub(low).min(length);
        self.bottom - up * (self.bottom - self.top) / length
    }

    /// Where to write which address.
    pub fn ticks(&self, apart: Px) -> Vec<(Px, String)> {
        let octave = (self.bottom - self.top) / u64::from(self.high - self.low);
        let every =
            [1, 2, 5, 10, 20].into_iter().find(|every| octave * u64::from(*every) >= apart).unwrap_or(64);
        (self.low..=self.high)
            .filter(|bits| bits.is_multiple_of(every))
            .map(|bits| match 1_u64.checked_shl(bits) {
                Some(address) => (self.y(address), human_size(address)),
                None => (self.top, "16 EiB".to_owned()),
            })
            .collect()
    }
}

// Straight within an octave, so that it is the same on every machine.
fn steps(address: u64) -> u64 {
    let Some(bits) = address.checked_ilog2() else { return 0 };
    let fraction = (address ^ (1 << bits)).checked_shl(64 - bits).unwrap_or(0) >> 54;
    u64::from(bits) * OCTAVE + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octaves_are_equally_long() {
        let scale = Scale::new([1 << 24, 1 << 40].into_iter(), 100, 1700).unwrap();

        assert_eq!([24, 25, 32, 39, 40].map(|bits| scale.y(1 << bits)), [1700, 1600, 900, 200, 100]);
        assert_eq!(scale.y(3 << 31), 850);
    }

    #[test]
    fn any_address_is_on_it() {
        let scale = Scale::new([1 << 24, u64::MAX].into_iter(), 100, 1700).unwrap();

        assert_eq!([0, 1, 1 << 24, u64::MAX].map(|address| scale.y(address)), [1700, 1700, 1700, 101]);
    }

    #[test]
    fn ticks_are_as_far_apart_as_asked() {
        let scale = Scale::new([1 << 12, u64::MAX].into_iter(), 0, 300).unwrap();

        let ticks = scale.ticks(25);

        assert_eq!(ticks.first(), Some(&(283, "32 KiB".to_owned())));
        assert!(ticks.windows(2).all(|pair| pair[0].0 - pair[1].0 >= 25), "{ticks:?}");
    }
}
