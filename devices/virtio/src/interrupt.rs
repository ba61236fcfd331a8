//! How a device's notifications reach its driver.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::Interface;

/// Status bit: the device used a buffer (virtio 1.2, 4.1.4.5 and 4.2.2).
pub const USED: u8 = 1;
/// Status bit: the configuration changed.
pub const CONFIG: u8 = 2;

/// What the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Buffers of this queue were used.
    Used(u16),
    Config,
}

/// What carries notifications on one transport.
pub trait Signal: Send + Sync {
    /// Sends a message for `event`. False if the transport, or its driver, goes by the status.
    fn message(&self, _event: Event) -> bool {
        false
    }

    /// The status is `now`, and was `before`. It is locked meanwhile, so calls come in order.
    fn status(&self, before: u8, now: u8);
}

/// A device's notifications, as the transport and the device's workers share them.
///
/// The used entry is visible before the status bit is set, and the driver clears the bit before it looks at
/// its rings. So if the bit is set already when there is news, the look that finds the news is still to come.
pub struct Interrupt {
    signal: Box<dyn Signal>,
    status: Mutex<u8>,
    needs_reset: AtomicBool,
    legacy: AtomicBool,
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Interrupt({:#x})", self.status())
    }
}

impl Interrupt {
    pub fn new(signal: impl Signal + 'static) -> Self {
        Self {
            signal: Box::new(signal),
            status: Mutex::new(0),
            needs_reset: AtomicBool::new(false),
            legacy: AtomicBool::new(false),
        }
    }

    /// Tells the driver that buffers of `queue` were used.
    pub fn used(&self, queue: u16) {
        if !self.signal.message(Event::Used(queue)) {
            self.set(|status| status | USED);
        }
    }

    /// Tells the driver that the configuration changed.
    pub fn config_changed(&self) {
        // Before the message, if there is one (4.1.4.5.1).
        self.set(|status| status | CONFIG);
        self.signal.message(Event::Config);
    }

    /// The device cannot go on until the driver resets it (2.1.2). A legacy driver knows no such thing.
    pub fn ask_for_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        if !self.legacy.load(Ordering::SeqCst) {
            self.config_changed();
        }
    }

    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Who drives the device from now on.
    pub fn serve(&self, interface: Interface) {
        self.legacy.store(interface == Interface::Legacy, Ordering::SeqCst);
    }

    /// What the driver has not acknowledged.
    pub fn status(&self) -> u8 {
        *self.lock()
    }

    pub fn acknowledge(&self, bits: u8) {
        self.set(|status| status & !bits);
    }

    /// Gives the status and clears it.
    pub fn take_status(&self) -> u8 {
        self.set(|_| 0)
    }

    pub fn clear(&self) {
        self.needs_reset.store(false, Ordering::SeqCst);
        self.serve(Interface::default());
        self.set(|_| 0);
    }

    /// Gives what it was.
    fn set(&self, change: impl FnOnce(u8) -> u8) -> u8 {
        let mut status = self.lock();
        let before = *status;
        *status = change(before);
        self.signal.status(before, *status);
        before
    }

    fn lock(&self) -> MutexGuard<'_, u8> {
        // A thread that panicked has ended the program.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
