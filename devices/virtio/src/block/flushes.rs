//! The flushes of one disk, one at a time.
//!
//! The kernel tells of data that it could not store only once for each open file, so of those who flush it at the
//! same time one hears of it and the others are told that all is well. Here the second begins when the outcome of
//! the first is known, and one that began after several were asked for stands for all of them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Flushes {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    running: bool,
    /// How many have begun.
    begun: u64,
    /// The number of the last one that worked.
    worked: u64,
    /// Rung when the one that runs is over.
    waiting: Vec<Arc<OwnedFd>>,
}

/// What is to become of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is done now, and [`Flushes::end`] follows.
    Now,
    /// Another one has stored all that this one is for, unless something was lost.
    Done,
    /// Another one runs.
    Later,
}

impl Flushes {
    /// How many have begun. A later one stores all that was written so far.
    pub fn begun(&self) -> u64 {
        self.lock().begun
    }

    /// Does not wait: `bell` rings when it is worth asking again.
    pub fn ask(&self, after: u64, bell: &Arc<OwnedFd>) -> Turn {
        let mut state = self.lock();
        let turn = state.turn(after);
        if turn == Turn::Later && !state.waiting.iter().any(|other| Arc::ptr_eq(other, bell)) {
            state.waiting.push(Arc::clone(bell));
        }
        turn
    }

    /// Waits while another one runs.
    pub fn wait(&self, after: u64) -> Turn {
        let mut state = self.lock();
        loop {
            match state.turn(after) {
                Turn::Later => state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner),
                turn => return turn,
            }
        }
    }

    /// The one that runs is over, and what it means is known to all.
    pub fn end(&self, worked: bool) {
        let mut state = self.lock();
        state.running = false;
        if worked {
            state.worked = state.begun;
        }
        for bell in state.waiting.drain(..) {
            // Full means that it rings already.
            let _full = rustix::io::write(&*bell, &1u64.to_ne_bytes());
        }
        self.over.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has ended the program.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self, after: u64) -> Turn {
        if self.worked > after {
            return Turn::Done;
        }
        if self.running {
            return Turn::Later;
        }
        self.running = true;
        self.begun = self.begun.saturating_add(1);
        Turn::Now
    }
}
