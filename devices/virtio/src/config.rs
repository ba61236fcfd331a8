//! The configuration structure of a device, which may change while the driver reads it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes as the driver reads them, little-endian, and how often they changed under it.
#[derive(Debug)]
pub struct Config {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    generation: u8,
    /// The driver has read a byte of this generation.
    seen: bool,
}

impl Config {
    /// It keeps the length of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { state: Mutex::new(State { bytes, generation: 0, seen: false }) }
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Some devices have none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills all of `data` with what is there from `at` on; what is beyond reads as zero.
    pub fn read(&self, at: u64, data: &mut [u8]) {
        data.fill(0);
        let mut state = self.lock();
        let from = usize::try_from(at).ok().and_then(|at| state.bytes.get(at..)).unwrap_or_default();
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        state.seen = true;
    }

    /// Changes it, all at once for whoever reads. True if a byte is another now; then the driver is to be told
    /// (virtio 1.2, 3.2.1).
    pub fn update(&self, change: impl FnOnce(&mut [u8])) -> bool {
        let mut state = self.lock();
        let before = state.bytes.clone();
        change(&mut state.bytes);
        if state.bytes == before {
            return false;
        }
        // Another number only if what was read is not true any more (2.5.2, C-019).
        if std::mem::take(&mut state.seen) {
            state.generation = state.generation.wrapping_add(1);
        }
        true
    }

    /// Differs from what it was if a field has changed since it was last read.
    pub fn generation(&self) -> u8 {
        self.lock().generation
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has ended the program.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &Config, at: u64) -> [u8; 4] {
        let mut data = [0x55; 4];
        config.read(at, &mut data);
        data
    }

    #[test]
    fn what_is_beyond_the_structure_reads_as_zero() {
        let config = Config::new(vec![1, 2, 3, 4, 5, 6]);

        assert_eq!(
            [0, 4, 6, u64::MAX].map(|at| read(&config, at)),
            [[1, 2, 3, 4], [5, 6, 0, 0], [0; 4], [0; 4]]
        );
    }

    #[test]
    fn the_generation_differs_only_when_what_was_read_has_changed() {
        let config = Config::new(vec![0; 4]);
        let change = |to: u8| config.update(|bytes| bytes.fill(to));

        assert!(change(1), "nobody has read what it was");
        assert_eq!(config.generation(), 0);
        read(&config, 0);
        assert!(!change(1), "it is the same");
        assert_eq!(config.generation(), 0);
        assert!(change(2) && change(3));
        assert_eq!(config.generation(), 1);
    }
}
