//! Token buckets: how many bytes and operations a device may do in a time.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A bucket of `size` tokens that fills from empty to full in `refill`, continuously.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    pub size: NonZeroU64,
    /// Zero limits nothing.
    pub refill: Duration,
    /// Tokens on top that are there once, and are used first.
    pub burst: u64,
}

impl Rate {
    /// A second's worth at most is saved up.
    pub fn per_second(tokens: NonZeroU64) -> Self {
        Self { size: tokens, refill: Duration::from_secs(1), burst: 0 }
    }
}

/// What limits one direction of a device. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    pub bytes: Option<Rate>,
    pub operations: Option<Rate>,
}

/// The buckets of some [`Limits`]. All queues of a device share them.
#[derive(Debug)]
pub struct Limiter {
    // `None`: nothing is limited, and nobody waits for the lock.
    buckets: Option<Mutex<Buckets>>,
}

#[derive(Debug)]
struct Buckets {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Limiter {
    /// Both buckets are full at `now`. Time is given by the caller, and is never asked for here.
    pub fn new(limits: Limits, now: Instant) -> Self {
        let [bytes, operations] =
            [limits.bytes, limits.operations].map(|rate| rate.map(|rate| Bucket::full(rate, now)));
        let limited = bytes.is_some() || operations.is_some();
        Self { buckets: limited.then(|| Mutex::new(Buckets { bytes, operations })) }
    }

    /// Whether anything is limited at all.
    pub fn is_limited(&self) -> bool {
        self.buckets.is_some()
    }

    /// Takes one operation of `bytes` from both buckets. What is larger than a bucket passes when that is
    /// full, and leaves it in debt.
    ///
    /// # Errors
    /// How long to wait before it is worth asking again. Nothing was taken.
    pub fn take(&self, bytes: u64, now: Instant) -> Result<(), Duration> {
        let Some(buckets) = &self.buckets else { return Ok(()) };
        // A thread that panicked has ended the program.
        let mut both = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { bytes: first, operations: second } = &mut *both;
        let mut wants = [(first, bytes), (second, 1)];
        let missing = wants.iter_mut().filter_map(|(bucket, count)| {
            let bucket = bucket.as_mut()?;
            bucket.fill(now);
            bucket.missing(*count)
        });
        if let Some(wait) = missing.max() {
            return Err(wait);
        }
        for (bucket, count) in &mut wants {
            if let Some(bucket) = bucket {
                bucket.take(*count);
            }
        }
        Ok(())
    }
}

/// The level is counted in tokens times the nanoseconds of the refill time, so it is exact: in a nanosecond as
/// many units come in as the bucket has tokens.
#[derive(Debug)]
struct Bucket {
    /// Tokens that come in per refill time, so units per nanosecond.
    size: i128,
    /// Nanoseconds of the refill time, so units of one token.
    token: i128,
    /// Below zero it is in debt.
    level: i128,
    /// Whole tokens.
    burst: u64,
    filled: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        let size = i128::from(rate.size.get());
        let token = i128::try_from(rate.refill.as_nanos()).unwrap_or(i128::MAX);
        let level = size.saturating_mul(token);
        Self { size, token, level, burst: rate.burst, filled: now }
    }

    fn capacity(&self) -> i128 {
        self.size.saturating_mul(self.token)
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        let came = i128::try_from(passed.as_nanos()).unwrap_or(i128::MAX).saturating_mul(self.size);
        self.level = self.level.saturating_add(came).min(self.capacity());
        self.filled = now.max(self.filled);
    }

    /// What `count` tokens take from the level, after the burst.
    fn cost(&self, count: u64) -> i128 {
        i128::from(count.saturating_sub(self.burst)).saturating_mul(self.token)
    }

    /// How long it is until `count` can be taken; `None` if they can.
    fn missing(&self, count: u64) -> Option<Duration> {
        let cost = self.cost(count);
        if cost == 0 {
            return None;
        }
        let units = cost.min(self.capacity()).saturating_sub(self.level);
        if units <= 0 {
            return None;
        }
        let nanos = units.unsigned_abs().div_ceil(self.size.unsigned_abs());
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn take(&mut self, count: u64) {
        self.level = self.level.saturating_sub(self.cost(count));
        self.burst = self.burst.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn rate(tokens: u64) -> Option<Rate> {
        Some(Rate::per_second(NonZeroU64::new(tokens).unwrap()))
    }

    fn burst(tokens: u64, burst: u64) -> Option<Rate> {
        rate(tokens).map(|rate| Rate { burst, ..rate })
    }

    fn bytes(rate: Option<Rate>, now: Instant) -> Limiter {
        Limiter::new(Limits { bytes: rate, operations: None }, now)
    }

    #[test]
    fn without_limits_everything_passes() {
        let now = Instant::now();
        let limiter = Limiter::new(Limits::default(), now);

        assert!(!limiter.is_limited());
        assert!((0..1000).all(|_| limiter.take(u64::MAX, now).is_ok()));
    }

    #[test]
    fn a_full_bucket_gives_what_it_holds_and_then_says_how_long_to_wait() {
        let now = Instant::now();
        let limiter = bytes(rate(1000), now);

        assert_eq!(limiter.take(1000, now), Ok(()));
        assert_eq!(limiter.take(1, now), Err(MS));
        assert_eq!(limiter.take(500, now), Err(500 * MS));
        assert_eq!(limiter.take(500, now + 499 * MS), Err(MS));
        assert_eq!(limiter.take(500, now + 500 * MS), Ok(()));
    }

    #[test]
    fn no_more_is_saved_up_than_the_bucket_holds() {
        let now = Instant::now();
        let limiter = bytes(rate(1000), now);

        assert_eq!(limiter.take(1000, now + 100 * SECOND), Ok(()));
        assert_eq!(limiter.take(1, now + 100 * SECOND), Err(MS));
    }

    #[test]
    fn a_burst_is_used_first_and_never_comes_back() {
        let now = Instant::now();
        let limiter = bytes(burst(1000, 300), now);

        assert_eq!(limiter.take(1300, now), Ok(()));
        assert_eq!(limiter.take(1000, now), Err(SECOND));
        assert_eq!(limiter.take(1000, now + 100 * SECOND), Ok(()));
        assert_eq!(limiter.take(1, now + 100 * SECOND), Err(MS));
    }

    #[test]
    fn what_is_larger_than_the_bucket_passes_when_it_is_full_and_leaves_a_debt() {
        let now = Instant::now();
        let limiter = bytes(rate(1000), now);

        assert_eq!(limiter.take(1, now), Ok(()));
        assert_eq!(limiter.take(5000, now), Err(MS));
        assert_eq!(limiter.take(5000, now + MS), Ok(()));
        assert_eq!(limiter.take(1, now + MS), Err(4001 * MS));
        assert_eq!(limiter.take(1, now + 4002 * MS), Ok(()));
    }

    #[test]
    fn what_costs_nothing_passes_even_in_debt() {
        let now = Instant::now();
        let limiter = bytes(rate(10), now);

        assert_eq!(limiter.take(1000, now), Ok(()));
        assert_eq!(limiter.take(0, now), Ok(()));
    }

    #[test]
    fn bytes_and_operations_are_taken_together_or_not_at_all() {
        let now = Instant::now();
        let limiter = Limiter::new(Limits { bytes: rate(1000), operations: rate(2) }, now);

        assert_eq!(limiter.take(900, now), Ok(()));
        // One operation is left, and stays.
        assert_eq!(limiter.take(200, now), Err(100 * MS));
        assert_eq!(limiter.take(100, now), Ok(()));
        // The longer of both waits.
        assert_eq!(limiter.take(100, now), Err(500 * MS));
        assert_eq!(limiter.take(900, now), Err(900 * MS));
    }

    #[test]
    fn looking_often_lets_no_token_get_lost() {
        let start = Instant::now();
        // A token every 142857 and one seventh nanoseconds.
        let limiter = bytes(rate(7000), start);
        assert_eq!(limiter.take(7000, start), Ok(()));

        let (mut now, mut taken) = (start, 0);
        while taken < 21_000 {
            match limiter.take(1, now) {
                Ok(()) => taken += 1,
                // Half the way, so that there are as many looks that give nothing.
                Err(wait) => now += (wait / 2).max(Duration::from_nanos(1)),
            }
        }

        assert_eq!(now.duration_since(start), 3 * SECOND);
    }

    #[test]
    fn a_clock_that_goes_back_gives_and_takes_nothing() {
        let now = Instant::now() + SECOND;
        let limiter = bytes(rate(1000), now);
        assert_eq!(limiter.take(1000, now), Ok(()));

        assert_eq!(limiter.take(100, now - SECOND), Err(100 * MS));
        assert_eq!(limiter.take(100, now + 99 * MS), Err(MS));
    }

    #[test]
    fn the_largest_numbers_neither_wrap_nor_hang() {
        let now = Instant::now();
        let size = NonZeroU64::MAX;
        let slow = Rate { size, refill: Duration::MAX, burst: u64::MAX };
        let limiter = Limiter::new(Limits { bytes: Some(slow), operations: Some(slow) }, now);

        let waits: Vec<_> = (0..4).map(|_| limiter.take(u64::MAX, now)).collect();

        assert_eq!(waits[0], Ok(()));
        assert!(waits[3].is_err_and(|wait| wait > 100 * 365 * 86400 * SECOND));
        let free = Rate { size: NonZeroU64::MIN, refill: Duration::ZERO, burst: 0 };
        let limiter = bytes(Some(free), now);
        assert!((0..100).all(|_| limiter.take(u64::MAX, now).is_ok()));
    }
}
