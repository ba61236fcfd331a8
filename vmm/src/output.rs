//! What the guest prints, on its way to standard output.
//!
//! A thread writes, so that no vCPU ever waits for whoever reads. What does not fit while nobody reads
//! is dropped and counted; a guest prints one byte per exit, so a reader that reads never loses any.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much waits for a reader before bytes are dropped.
const ROOM: usize = 256 << 10;

/// The end that devices write to. Cheap to clone.
#[derive(Clone)]
pub struct Output {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<u8>,
    // Bytes the writer has taken and not yet written.
    in_flight: usize,
    dropped: u64,
    broken: bool,
}

impl Output {
    /// Starts the thread that writes to `to`.
    ///
    /// # Errors
    /// If the host makes no more threads.
    pub fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        thread::Builder::new().name("output".into()).spawn(move || ours.write_out(to))?;
        Ok(Self { shared })
    }

    /// Never waits.
    pub fn put(&self, bytes: &[u8]) {
        let mut state = self.shared.lock();
        let room = ROOM.saturating_sub(state.waiting.len());
        let (kept, lost) = bytes.split_at(room.min(bytes.len()));
        state.waiting.extend(kept);
        state.dropped += lost.len() as u64;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until all is written, or nobody has read for `patience`. How many bytes were lost.
    pub fn flush(&self, patience: Duration) -> u64 {
        let mut state = self.shared.lock();
        let mut left = state.unwritten();
        let mut deadline = Instant::now() + patience;
        while left > 0 && !state.broken {
            let Some(wait) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.shared.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            if state.unwritten() < left {
                left = state.unwritten();
                deadline = Instant::now() + patience;
            }
        }
        state.dropped + state.unwritten() as u64
    }
}

impl State {
    fn unwritten(&self) -> usize {
        self.waiting.len() + self.in_flight
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut to: impl Write) {
        let mut chunk = Vec::with_capacity(4096);
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let count = state.waiting.len().min(4096);
            chunk.clear();
            chunk.extend(state.waiting.drain(..count));
            state.in_flight = count;
            drop(state);
            let written = to.write_all(&chunk).and_then(|()| to.flush());
            let mut state = self.lock();
            state.in_flight = 0;
            if written.is_err() {
                // Nobody will ever read again. What comes from now on is dropped and counted.
                state.dropped += count as u64;
                state.broken = true;
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn all_that_was_put_is_written_in_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let output = Output::start(writer).unwrap();

        output.put(b"one ");
        output.put(b"two");

        assert_eq!(output.flush(LONG), 0);
        let mut got = [0; 7];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one two");
    }

    #[test]
    fn a_reader_that_does_not_read_costs_bytes_and_not_time_or_memory() {
        let (reader, writer) = io::pipe().unwrap();
        let output = Output::start(writer).unwrap();

        for _ in 0..16 {
            output.put(&[b'x'; ROOM]);
        }

        // A pipe holds 64 KiB and we hold ROOM and one chunk: at least the rest is lost, and counted.
        assert!(output.flush(Duration::from_millis(50)) > 14 * ROOM as u64);
        assert!(output.shared.lock().waiting.len() <= ROOM);
        drop(reader);
    }

    #[test]
    fn a_reader_that_went_away_does_not_hold_up_the_end() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let output = Output::start(writer).unwrap();

        output.put(b"nobody");

        assert_eq!(output.flush(LONG), 6);
    }
}
