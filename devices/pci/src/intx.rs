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
