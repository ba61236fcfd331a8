//! A built device, behind its registers.

use std::sync::{Arc, Mutex};

/// A built device. It does not know where it is, and cannot reach anything but its [`crate::Host`].
///
/// The guest chooses every argument: any byte of any window, 1, 2, 4 or 8 bytes long, aligned or not.
/// An access the device does not define reads as its documentation says and changes nothing.
pub trait Device: Send {
    /// Fills all of `data`.
    fn read(&mut self, at: Offset, data: &mut [u8]);
    fn write(&mut self, at: Offset, data: &[u8]) -> Effect;
    /// Back to the state the device was built in. Work in flight has ended when this returns.
    fn reset(&mut self);

    /// Where the guest has put each window from number 1 on, in the addresses of the bus it is on; `None` for
    /// one that is not decoded. Asked after [`Effect::Remap`]; only PCI functions have such windows.
    fn places(&self) -> Vec<Option<u64>> {
        Vec::new()
    }
}

/// Which of the device's windows, and how far into it in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    pub window: u8,
    pub byte: u64,
}

/// What a register write wants from the machine.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    None,
    PowerOff,
    Reset,
    /// The guest says that it crashed.
    Crash,
    /// The guest has moved windows: see [`Device::places`]. The device manager does what can be done.
    Remap,
}

/// A device as the bus and its own worker share it.
pub type Shared = Arc<Mutex<dyn Device>>;

pub fn share(device: impl Device + 'static) -> Shared {
    Arc::new(Mutex::new(device))
}
