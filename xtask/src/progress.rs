//! What the person at the terminal sees while something is under way.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::failure::Result;

/// One line for work that shows its own progress.
pub fn say(what: &str) {
    eprintln!("==> {what}");
}

/// One line at the start, a sign of life while it lasts, and the time it took when that was noticeable.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(what);
    let begun = Instant::now();
    let (done, finished) = mpsc::channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut pause = Duration::from_secs(2);
            while finished.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                eprintln!("    … {} s, still at it", begun.elapsed().as_secs());
                pause = Duration::from_secs(8);
            }
        });
        let result = work();
        drop(done);
        result
    });
    if result.is_ok() && begun.elapsed() > Duration::from_secs(1) {
        eprintln!("    took {:.1} s", begun.elapsed().as_secs_f32());
    }
    result
}
