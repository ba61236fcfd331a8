//! The wired interrupt of a function (PCI 3.0, 2.2.6 and 6.2.2).

use std::sync::{Mutex, MutexGuard, PoisonError};

use ambit_bus::IrqLine;

/// INTA: a level that is high while the function wants attention, unless the guest has turned it off.
#[derive(Debug)]
pub struct Intx {
    // `None` on a machine that has no wires for PCI.
    line: Option<IrqLine>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    wanted: bool,
    /// By the command register.
    disabled: bool,
    /// A function with MSI-X on does not use its wire (PCI 3.0, 6.8.2).
    msix: bool,
    high: bool,
}

impl Intx {
    pub fn new(line: Option<IrqLine>) -> Self {
        Self { line, state: Mutex::default() }
    }

    /// The function wants attention, or not any more. From any thread.
    pub fn set(&self, wanted: bool) {
        self.change(|state| state.wanted = wanted);
    }

    /// The guest's choice in the command register.
    pub fn disable(&self, disabled: bool) {
        self.change(|state| state.disabled = disabled);
    }

    /// Whether MSI-X is on.
    pub fn yield_to_msix(&self, msix: bool) {
        self.change(|state| state.msix = msix);
    }

    /// What the status register shows.
    pub fn is_pending(&self) -> bool {
        let state = self.lock();
        state.wanted && !state.msix
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let high = state.wanted && !state.disabled && !state.msix;
        // Under the lock, so that the line ends as the last change says.
        if std::mem::replace(&mut state.high, high) != high
            && let Some(line) = &self.line
        {
            line.set(high);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked has ended the program.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;
    use ambit_bus::{Host, Trigger};
    use ambit_resources::IrqPin;

    use super::*;

    #[test]
    fn the_wire_is_high_while_attention_is_wanted_and_nothing_turns_it_off() {
        let host = BenchHost::new(4096);
        let pin = host.pin(IrqPin(3));
        let intx = Intx::new(Some(host.irq(IrqPin(3), Trigger::Level).unwrap()));

        intx.set(true);
        assert_eq!((pin.is_high(), intx.is_pending()), (true, true));
        intx.disable(true);
        assert_eq!((pin.is_high(), intx.is_pending()), (false, true));
        intx.disable(false);
        assert!(pin.is_high());
        intx.yield_to_msix(true);
        assert_eq!((pin.is_high(), intx.is_pending()), (false, false));
        intx.yield_to_msix(false);
        intx.set(false);
        assert!(!pin.is_high());
    }
}
