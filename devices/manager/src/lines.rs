//! One wire for all devices that share a level-triggered pin.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ambit_bus::{Backplane, HostError, IrqLine, IrqWire, Trigger};
use ambit_resources::IrqPin;

/// The pins that are levels. Each is high while one of its holders has it high, and its wire is the host's
/// for as long as there is a holder.
#[derive(Default)]
pub(crate) struct Levels {
    pins: Mutex<BTreeMap<IrqPin, Weak<Level>>>,
}

struct Level {
    wire: IrqLine,
    // How many have it high. Locked while the wire is set, so that the wire ends as the count says.
    high: Mutex<u64>,
}

/// What one device has of a pin.
struct Hold {
    level: Arc<Level>,
    high: Mutex<bool>,
}

impl Levels {
    /// # Errors
    /// What `host` says.
    pub fn line(&self, pin: IrqPin, host: &dyn Backplane) -> Result<IrqLine, HostError> {
        let mut pins = lock(&self.pins);
        let level = match pins.get(&pin).and_then(Weak::upgrade) {
            Some(level) => level,
            None => Arc::new(Level { wire: host.irq(pin, Trigger::Level)?, high: Mutex::new(0) }),
        };
        pins.insert(pin, Arc::downgrade(&level));
        Ok(IrqLine::new(Hold { level, high: Mutex::new(false) }))
    }
}

impl IrqWire for Hold {
    fn set(&self, high: bool) {
        let mut mine = lock(&self.high);
        if *mine == high {
            return;
        }
        *mine = high;
        let mut all = lock(&self.level.high);
        // Every hold is counted once, so neither end is ever passed.
        *all = if high { all.saturating_add(1) } else { all.saturating_sub(1) };
        match (high, *all) {
            (true, 1) => self.level.wire.set(true),
            (false, 0) => self.level.wire.set(false),
            _ => {}
        }
    }

    fn pulse(&self) {
        let all = lock(&self.level.high);
        // While it is high it cannot rise.
        if *all == 0 {
            self.level.wire.pulse();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.set(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;

    use super::*;

    const PIN: IrqPin = IrqPin(3);

    #[test]
    fn a_pin_is_high_while_one_of_its_holders_has_it_high() {
        let (levels, host) = (Levels::default(), BenchHost::new(4096));
        let [a, b] = [(); 2].map(|()| levels.line(PIN, &host).unwrap());
        let mut seen = Vec::new();

        for (line, high) in [(&a, true), (&b, true), (&a, true), (&a, false), (&a, false), (&b, false)] {
            line.set(high);
            seen.push(host.pin(PIN).is_high());
        }

        assert_eq!(seen, [true, true, true, true, true, false]);
    }

    #[test]
    fn a_holder_that_goes_lets_go_of_its_pin() {
        let (levels, host) = (Levels::default(), BenchHost::new(4096));
        let [a, b] = [(); 2].map(|()| levels.line(PIN, &host).unwrap());
        a.set(true);
        b.set(true);

        drop(a);
        let after_a = host.pin(PIN).is_high();
        drop(b);

        assert_eq!((after_a, host.pin(PIN).is_high()), (true, false));
    }

    #[test]
    fn a_pin_has_one_wire_and_that_goes_with_its_last_holder() {
        let (levels, host) = (Levels::default(), BenchHost::new(4096));
        let [a, b] = [(); 2].map(|()| levels.line(PIN, &host).unwrap());
        let other = levels.line(IrqPin(4), &host).unwrap();
        let mut lines = vec![host.held().lines];

        for line in [a, b, other] {
            drop(line);
            lines.push(host.held().lines);
        }
        let again = levels.line(PIN, &host).unwrap();
        lines.push(host.held().lines);

        assert_eq!(lines, [2, 2, 1, 0, 1]);
        again.set(true);
        assert!(host.pin(PIN).is_high());
    }
}
