//! INTx of one function: a level that the device, the command register and MSI-X hold together.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_bus::IrqLine;

/// A function's INTA (PCI 3.0, 2.2.6). Asserted while the device has a cause for it, the command register does
/// not disable it, and the function is not in MSI-X operation (PCI 3.0, 6.8.2).
///
/// Causes and gates are under one lock with the line, so the line always is what they say: a cause that
/// another thread raises is either taken with the others or asserts the line anew.
#[derive(Debug)]
pub struct Intx {
    line: Option<IrqLine>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    causes: u8,
    disabled: bool,
    messages: bool,
    asserted: bool,
}

impl Intx {
    /// Not asserted. Without a `line` there is nothing to assert, and all else is the same.
    pub fn new(line: Option<IrqLine>) -> Self {
        Self { line, state: Mutex::default() }
    }

    /// The device wants an interrupt, until these bits are taken. From any thread.
    pub fn raise(&self, causes: u8) {
        self.change(|state| state.causes |= causes);
    }

    /// Takes all causes, and lowers the line: what reading virtio's ISR status does (virtio 1.2, 4.1.4.5).
    pub fn take(&self) -> u8 {
        let mut taken = 0;
        self.change(|state| taken = std::mem::take(&mut state.causes));
        taken
    }

    /// Whether the device wants an interrupt, asserted or not: the interrupt status bit (PCI 3.0, 6.2.3).
    pub fn is_wanted(&self) -> bool {
        self.lock().causes != 0
    }

    /// Whether the command register disables it, and whether the function is in MSI-X operation.
    pub fn gate(&self, disabled: bool, messages: bool) {
        self.change(|state| (state.disabled, state.messages) = (disabled, messages));
    }

    /// As it was made.
    pub fn reset(&self) {
        self.change(|state| *state = State { asserted: state.asserted, ..State::default() });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let assert = state.causes != 0 && !state.disabled && !state.messages;
        if assert != state.asserted {
            state.asserted = assert;
            if let Some(line) = &self.line {
                line.set(assert);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ambit_bus::bench::{BenchHost, PinLog};
    use ambit_bus::{Host, Trigger};
    use ambit_resources::IrqPin;

    use super::*;

    fn intx() -> (Intx, Arc<PinLog>) {
        let host = BenchHost::new(0x1000);
        let line = host.irq(IrqPin(5), Trigger::Level).unwrap();
        (Intx::new(Some(line)), host.pin(IrqPin(5)))
    }

    #[test]
    fn the_line_is_high_from_a_cause_until_all_are_taken() {
        let (intx, pin) = intx();
        let mut seen = vec![pin.is_high()];
        intx.raise(1);
        seen.push(pin.is_high());
        intx.raise(2);
        seen.push(pin.is_high());
        let taken = [intx.take(), intx.take()];
        seen.push(pin.is_high());

        assert_eq!((seen, taken), (vec![false, true, true, false], [3, 0]));
    }

    // C-138.
    #[test]
    fn a_disabled_line_is_low_while_the_wish_stays() {
        let (intx, pin) = intx();
        let mut seen = Vec::new();
        for (disabled, messages) in [(true, false), (false, true), (true, true), (false, false)] {
            intx.gate(disabled, messages);
            intx.raise(1);
            seen.push((pin.is_high(), intx.is_wanted()));
        }

        assert_eq!(seen, [(false, true), (false, true), (false, true), (true, true)]);
    }

    #[test]
    fn gating_lowers_a_line_that_is_high() {
        let (intx, pin) = intx();
        intx.raise(1);

        intx.gate(true, false);

        assert!(!pin.is_high());
    }

    #[test]
    fn a_reset_takes_causes_and_gates_away() {
        let (intx, pin) = intx();
        intx.raise(1);
        intx.reset();
        let after = (pin.is_high(), intx.is_wanted());
        intx.gate(true, true);
        intx.reset();
        intx.raise(4);

        assert_eq!((after, pin.is_high()), ((false, false), true));
    }

    #[test]
    fn without_a_wire_causes_are_kept_all_the_same() {
        let intx = Intx::new(None);
        intx.raise(2);

        assert_eq!((intx.is_wanted(), intx.take(), intx.is_wanted()), (true, 2, false));
    }

    #[test]
    fn every_cause_is_taken_once_and_leaves_the_line_low() {
        let (intx, pin) = intx();

        std::thread::scope(|scope| {
            let device = scope.spawn(|| {
                let mut stuck = 0;
                for _ in 0..5_000 {
                    intx.raise(1);
                    while intx.is_wanted() {
                        std::thread::yield_now();
                    }
                    stuck += u32::from(pin.is_high());
                }
                stuck
            });
            let mut taken = 0;
            while !device.is_finished() {
                taken += u32::from(intx.take());
                std::thread::yield_now();
            }
            assert_eq!((taken, device.join().unwrap()), (5_000, 0));
        });
    }
}
