//! The rounds of a device's thread, and how it is stopped: over whatever it waits on and serves.

use std::time::{Duration, Instant};

use crate::worker::Next;

/// When a ring is served next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Now,
    At(Instant),
    Later,
    /// It broke, and waits for the driver's reset.
    Never,
}

impl Due {
    pub fn after(next: Next) -> Self {
        match next {
            Next::Wait => Self::Later,
            Next::Again => Self::Now,
            Next::After(time) => Instant::now().checked_add(time).map_or(Self::Later, Self::At),
        }
    }

    /// There is something for the ring. What limits a ring does not recover by a kick, but its source may have
    /// something else for it.
    pub fn wake(&mut self, kicked: bool) {
        match self {
            Self::Later => *self = Self::Now,
            Self::At(_) if !kicked => *self = Self::Now,
            _ => {}
        }
    }

    fn come(self) -> bool {
        match self {
            Self::Now => true,
            Self::At(time) => time <= Instant::now(),
            Self::Later | Self::Never => false,
        }
    }
}

/// How long nothing is due, in milliseconds; -1 is for ever.
pub fn timeout(due: &[Due]) -> i32 {
    let soonest = due.iter().filter_map(|due| match due {
        Due::Now => Some(Duration::ZERO),
        Due::At(time) => Some(time.saturating_duration_since(Instant::now())),
        Due::Later | Due::Never => None,
    });
    // Up to the next whole one: too early would only wait again.
    let millis = soonest.min().map(|time| i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    millis.unwrap_or(-1)
}

/// What a thread does for its rings.
pub trait Rounds {
    /// Waits until something is due, or only looks if something is anyway. False when it is time to stop.
    fn wait(&mut self, due: &mut [Due]) -> bool;

    /// Serves the ring at this place for one turn; when it is served again.
    fn serve(&mut self, place: usize) -> Due;

    /// No request is in flight, and memory is not touched, when this returns.
    fn end(&mut self);
}

/// Serves so many rings until it is time to stop. Nothing of them is in flight when this returns.
pub fn go(rounds: &mut impl Rounds, rings: usize) {
    // A kick may have come before anybody listened.
    let mut due = vec![Due::Now; rings];
    while rounds.wait(&mut due) {
        for (place, due) in due.iter_mut().enumerate().filter(|(_, due)| due.come()) {
            *due = rounds.serve(place);
        }
    }
    rounds.end();
}

/// A thread that goes its rounds.
pub trait Running {
    /// What it gives back.
    type Back;

    /// It is time to stop. Does not wait.
    fn ask_to_stop(&self);

    /// Waits until it has ended.
    fn join(self) -> Self::Back;
}

/// Stops all of `running`: they end at the same time, and all have ended when this returns.
pub fn stop<R: Running>(running: &mut Vec<R>) -> Vec<R::Back> {
    running.iter().for_each(R::ask_to_stop);
    running.drain(..).map(R::join).collect()
}

#[cfg(test)]
#[path = "rounds/tests.rs"]
mod tests;
