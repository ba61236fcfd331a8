//! The configuration structure of a device, which may change while the driver reads it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interrupt::Interrupt;

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
    /// How a driver that is running is told.
    listener: Option<Arc<Interrupt>>,
    /// The driver has read what is not true any more, and has not been told.
    untold: bool,
}

impl Config {
    /// It keeps the length of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        let state = State { bytes, generation: 0, seen: false, listener: None, untold: false };
        Self { state: Mutex::new(state) }
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

    /// What is there, for the device itself.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Changes it, all at once for whoever reads. True if a byte is another now; then the driver is to be told
    /// (virtio 1.2, 3.2.1).
    pub fn update(&self, change: impl FnOnce(&mut [u8])) -> bool {
        self.lock().update(change)
    }

    /// As [`Config::update`], and tells the driver if it runs, or else when it does.
    pub fn announce(&self, change: impl FnOnce(&mut [u8])) -> bool {
        // Lock order: the configuration, then the interrupt.
        let mut state = self.lock();
        let generation = state.generation;
        let changed = state.update(change);
        if let Some(listener) = state.listener.as_ref().filter(|_| changed) {
            listener.config_changed();
        } else {
            state.untold |= state.generation != generation;
        }
        changed
    }

    /// The driver runs, and hears of changes through `listener`.
    pub fn attach(&self, listener: &Arc<Interrupt>) {
        let mut state = self.lock();
        if std::mem::take(&mut state.untold) {
            listener.config_changed();
        }
        state.listener = Some(Arc::clone(listener));
    }

    /// The driver is not told of anything any more when this returns.
    pub fn detach(&self) {
        self.lock().listener = None;
    }

    /// What the driver wrote is undone by `change`, and nothing has been read.
    pub fn reset(&self, change: impl FnOnce(&mut [u8])) {
        let mut state = self.lock();
        change(&mut state.bytes);
        (state.generation, state.seen, state.untold) = (0, false, false);
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

impl State {
    fn update(&mut self, change: impl FnOnce(&mut [u8])) -> bool {
        let before = self.bytes.clone();
        change(&mut self.bytes);
        if self.bytes == before {
            return false;
        }
        // Another number only if what was read is not true any more (2.5.2, C-019).
        if std::mem::take(&mut self.seen) {
            self.generation = self.generation.wrapping_add(1);
        }
        true
    }
}

/// Bytes of a field that the driver wrote at `at`: those of `data` that fall on `field`, which begins at `first`.
pub fn overlay(field: &mut [u8], first: u64, at: u64, data: &[u8]) {
    for (place, byte) in (at..=u64::MAX).zip(data) {
        let to = place.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(to) = to.and_then(|to| field.get_mut(to)) {
            *to = *byte;
        }
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
    #[test]
    fn a_driver_hears_of_what_changes_while_it_runs_and_of_nothing_else() {
        let (config, listener) = (Config::new(vec![0; 4]), Arc::new(Interrupt::new(crate::driver::Silent)));
        let told = || listener.take_status() == crate::interrupt::CONFIG;
        let change = |to: u8| config.announce(|bytes| bytes.fill(to));

        config.attach(&listener);
        assert!(!told());
        assert!(change(1) && told());
        assert!(!change(1) && !told());
        config.detach();
        assert!(change(2) && !told());
    }

    #[test]
    fn a_driver_that_read_what_then_changed_is_told_once_it_runs() {
        let (config, listener) = (Config::new(vec![0; 4]), Arc::new(Interrupt::new(crate::driver::Silent)));
        let change = |to: u8| config.announce(|bytes| bytes.fill(to));
        let told = || {
            config.attach(&listener);
            config.detach();
            listener.take_status() == crate::interrupt::CONFIG
        };

        change(1);
        assert!(!told(), "nobody had read what it was");
        read(&config, 0);
        change(2);
        change(3);
        assert!(told());
        assert!(!told(), "it knows");
        read(&config, 0);
        change(4);
        config.reset(|_| ());
        assert!(!told(), "who had read it was reset");
    }

    #[test]
    fn a_reset_undoes_what_was_written_and_begins_to_count_anew() {
        let config = Config::new(vec![0; 4]);
        read(&config, 0);
        config.update(|bytes| bytes.fill(9));
        assert_eq!(config.generation(), 1);

        config.reset(|bytes| bytes[2..].fill(0));

        assert_eq!((config.generation(), read(&config, 0)), (0, [9, 9, 0, 0]));
    }

    #[test]
    fn a_field_is_written_in_any_pieces_and_not_beyond() {
        let mut field = [0; 4];
        let mut write = |at, data: &[u8]| {
            overlay(&mut field, 4, at, data);
            field
        };

        assert_eq!(write(4, &[1, 2]), [1, 2, 0, 0]);
        assert_eq!(write(7, &[3, 4, 5]), [1, 2, 0, 3]);
        assert_eq!(write(0, &[9, 9, 9, 9, 6]), [6, 2, 0, 3]);
        assert_eq!(write(0, &[7; 16]), [7; 4]);
        assert_eq!(write(8, &[8]), [7; 4]);
        assert_eq!(write(u64::MAX, &[8, 8]), [7; 4]);
    }
}
