//! How long an empty ring is looked at before its driver is asked to kick: as long as more came soon of late.
//!
//! A driver that sends on and on makes its next frame while the last one is on its way, and each kick is an exit of the
//! guest. One that sends now and then must not cost a processor. KVM waits for halted vCPUs in the same way.

use std::time::{Duration, Instant};

/// What is worth looking for first.
const LEAST: Duration = Duration::from_micros(10);
/// What looking may cost after the last of many frames.
const MOST: Duration = Duration::from_micros(200);

#[derive(Default)]
pub struct Look {
    window: Duration,
    /// Since when the ring is empty.
    empty: Option<Instant>,
}

impl Look {
    /// Whether to look again before kicks are asked for, now that the ring is empty. Once it always is.
    pub fn again(&mut self, now: Instant) -> bool {
        match self.empty {
            None => {
                self.empty = Some(now);
                true
            }
            Some(since) => now.saturating_duration_since(since) < self.window,
        }
    }

    /// The ring is not empty. The clock is read if it was.
    pub fn found(&mut self, now: impl FnOnce() -> Instant) {
        let Some(since) = self.empty.take() else { return };
        self.window = if now().saturating_duration_since(since) <= MOST {
            self.window.saturating_mul(2).clamp(LEAST, MOST)
        } else {
            self.window.checked_div(2).unwrap_or_default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long it looks at a ring that stays empty, to the microsecond; then there is a frame after `gap`.
    fn looks(look: &mut Look, start: Instant, gap: Duration) -> u128 {
        let at = |micros: u64| start + Duration::from_micros(micros);
        let ends = (0..).find(|micros| !look.again(at(*micros))).unwrap();
        look.found(|| start + gap);
        u128::from(ends)
    }

    #[test]
    fn it_looks_longer_while_more_comes_soon_and_never_too_long() {
        let (mut look, start) = (Look::default(), Instant::now());

        let looked: Vec<u128> = (0..8).map(|_| looks(&mut look, start, Duration::from_micros(150))).collect();

        assert_eq!(looked, [1, 10, 20, 40, 80, 160, 200, 200]);
    }

    #[test]
    fn it_looks_once_where_frames_are_far_apart() {
        let (mut look, start) = (Look::default(), Instant::now());
        for _ in 0..8 {
            looks(&mut look, start, Duration::ZERO);
        }

        let looked: Vec<u128> = (0..5).map(|_| looks(&mut look, start, Duration::from_millis(1))).collect();

        assert_eq!(looked, [200, 100, 50, 25, 13]);
        for _ in 0..30 {
            looks(&mut look, start, Duration::from_millis(1));
        }
        assert_eq!(looks(&mut look, start, Duration::ZERO), 1);
    }

    #[test]
    fn the_clock_is_not_read_while_frames_come() {
        Look::default().found(|| unreachable!("the ring was never empty"));
    }
}
