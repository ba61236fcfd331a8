//! One PCI function as its device holds it: configuration space, and the interrupts that it gates.

use std::sync::Arc;

use ambit_bus::{IrqLine, Offset};

use crate::{Change, ConfigSpace, Intx, Msix};

/// What all functions do alike. A device has one, and gives it what the guest does to window 0 and to the
/// window of the MSI-X table; its threads have the two kinds of interrupts.
///
/// ```text
/// read(at, data):  function.read(at, data) || my own registers
/// write(at, data): match function.write(at, data) {
///                      Some(change) if change.remap => Effect::Remap,
///                      Some(_) => Effect::None,
///                      None => my own registers,
///                  }
/// ```
#[derive(Debug)]
pub struct Function {
    pub config: ConfigSpace,
    pub intx: Arc<Intx>,
    /// `None` on a machine without messages, or if the function has none.
    pub msix: Option<Arc<Msix>>,
}

impl Function {
    /// `config` has its capabilities, MSI-X among them; `line` is its INTA, if it is wired to one.
    pub fn new(config: ConfigSpace, line: Option<IrqLine>, msix: Option<Msix>) -> Self {
        Self { config, intx: Arc::new(Intx::new(line)), msix: msix.map(Arc::new) }
    }

    /// Fills all of `data` and is true if it is of configuration space, the MSI-X table or its pending bits.
    pub fn read(&mut self, at: Offset, data: &mut [u8]) -> bool {
        if at.window != 0 {
            return self.msix.as_ref().is_some_and(|msix| msix.read(at, data));
        }
        self.config.show_interrupt(self.intx.is_wanted());
        self.config.read(at.byte, data);
        true
    }

    /// `None` if it is not of configuration space, the MSI-X table or its pending bits. A write to the latter
    /// two changes nothing that a [`Change`] tells.
    pub fn write(&mut self, at: Offset, data: &[u8]) -> Option<Change> {
        if at.window != 0 {
            let taken = self.msix.as_ref().is_some_and(|msix| msix.write(at, data));
            return taken.then(Change::none);
        }
        let change = self.config.write(at.byte, data);
        let control = self.msix.as_ref().is_some_and(|msix| change.touches(msix.control(), 2));
        if change.command || control {
            self.gate();
        }
        Some(change)
    }

    /// Makes interrupts follow the command register and message control. When MSI-X takes over, INTx has
    /// ended before the first message goes out.
    fn gate(&self) {
        let follow = |messages| self.intx.gate(self.config.is_intx_disabled(), messages);
        match &self.msix {
            None => follow(false),
            Some(msix) => {
                follow(msix.is_enabled_by(&self.config));
                msix.follow(&self.config);
            }
        }
    }

    /// See [`ambit_bus::Device::places`].
    pub fn places(&self) -> Vec<Option<u64>> {
        self.config.places()
    }

    /// As it was made. The device's threads have stopped: an interrupt that comes later is kept.
    pub fn reset(&mut self) {
        self.config.reset();
        if let Some(msix) = &self.msix {
            msix.reset();
        }
        self.intx.reset();
    }
}

#[cfg(test)]
mod tests;
