//! What a device may ask of the machine it is in.

use std::fmt;
use std::sync::Arc;

use ambit_memory::GuestMemory;
use ambit_resources::{IrqPin, PaBits};
use vmm_sys_util::eventfd::EventFd;

use crate::{Space, Trigger};

/// The whole world of a device, made for it by the device manager. Plain values in tests.
pub trait Host {
    fn memory(&self) -> GuestMemory;

    /// How many physical address bits the guest has: nothing it names may lie at or above 2^bits.
    fn pa_bits(&self) -> PaBits;

    /// The wire to one pin of the interrupt controller. Devices may share a pin that is a level: it is high
    /// while one of them holds it.
    ///
    /// # Errors
    /// [`HostError`] if the host has no more room for interrupt lines.
    fn irq(&self, pin: IrqPin, trigger: Trigger) -> Result<IrqLine, HostError>;

    /// One more message-signalled interrupt of a PCI function, which goes nowhere yet. `None` if this machine
    /// has nothing that takes messages.
    ///
    /// # Errors
    /// [`HostError`] if the host has no more room for interrupts.
    fn message(&self) -> Result<Option<MsiVector>, HostError>;

    /// Has `event` signalled when the guest writes at `at`, without the device being called, wherever the
    /// window is at the time. A write that `at` does not match still reaches the device, and all do on a host
    /// that has no more room for doorbells: so the device serves such writes too.
    ///
    /// # Errors
    /// [`HostError`] if there are no more events.
    fn doorbell(&self, at: Doorbell, event: &EventFd) -> Result<(), HostError>;
}

/// The machine as the device manager sees it, with addresses and pins as they are. KVM in the program.
pub trait Backplane: Send + Sync {
    fn memory(&self) -> GuestMemory;
    fn pa_bits(&self) -> PaBits;

    /// # Errors
    /// See [`Host::irq`].
    fn irq(&self, pin: IrqPin, trigger: Trigger) -> Result<IrqLine, HostError>;

    /// A message that comes from the PCI function `requester`: its bus in bits 15:8, its device in 7:3.
    ///
    /// # Errors
    /// See [`Host::message`].
    fn message(&self, requester: u16) -> Result<Option<MsiVector>, HostError>;

    /// Signals `event` for the guest's writes at `address` of `space` that match `write`, until the result is dropped.
    ///
    /// # Errors
    /// [`HostError`] if the host has no more room for doorbells.
    fn doorbell(
        &self,
        space: Space,
        address: u64,
        write: Match,
        event: &Arc<EventFd>,
    ) -> Result<Wired, HostError>;
}

/// A guest write that is only a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    pub window: u8,
    /// From the start of the window, in bytes.
    pub byte: u64,
    pub write: Match,
}

/// Which writes at an address signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Of any length and value.
    Any,
    /// 2 bytes with this value.
    Half(u16),
    /// 4 bytes with this value.
    Word(u32),
}

/// Something of the host's that lasts as long as this is kept.
pub struct Wired(Box<dyn Send + Sync>);

impl Wired {
    /// `undone` has a `Drop` that undoes it.
    pub fn new(undone: impl Send + Sync + 'static) -> Self {
        Self(Box::new(undone))
    }
}

impl fmt::Debug for Wired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.0;
        f.write_str("Wired")
    }
}

/// Why the host refused what a device asked for.
#[derive(Debug, thiserror::Error)]
#[error("{wanted}: {source}")]
pub struct HostError {
    pub wanted: String,
    pub source: std::io::Error,
}

/// How an interrupt gets to the guest over a wire. Implemented by the machine.
pub trait IrqWire: Send + Sync {
    /// Level-triggered lines only: holds the line high or low.
    fn set(&self, high: bool);
    /// Edge-triggered lines only: one interrupt.
    fn pulse(&self);
}

/// One interrupt of one device.
#[derive(Clone)]
pub struct IrqLine(Arc<dyn IrqWire>);

impl IrqLine {
    pub fn new(wire: impl IrqWire + 'static) -> Self {
        Self(Arc::new(wire))
    }

    pub fn set(&self, high: bool) {
        self.0.set(high);
    }

    pub fn pulse(&self) {
        self.0.pulse();
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IrqLine")
    }
}

/// What a function writes to where, to interrupt (PCI 3.0, 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// How a message gets to the guest. Implemented by the machine.
pub trait MsiWire: Send + Sync {
    /// From now on it is `message`, or nothing at all. When this returns, no earlier message is on its way.
    ///
    /// # Errors
    /// [`HostError`] if the host has no room, or takes no such message; then it is nothing at all.
    fn route(&self, message: Option<Message>) -> Result<(), HostError>;

    /// Sends it once. May be called from any thread; costs no exit.
    fn pulse(&self);
}

/// One message-signalled interrupt of one function.
#[derive(Clone)]
pub struct MsiVector(Arc<dyn MsiWire>);

impl MsiVector {
    pub fn new(wire: impl MsiWire + 'static) -> Self {
        Self(Arc::new(wire))
    }

    /// # Errors
    /// See [`MsiWire::route`].
    pub fn route(&self, message: Option<Message>) -> Result<(), HostError> {
        self.0.route(message)
    }

    pub fn pulse(&self) {
        self.0.pulse();
    }
}

impl fmt::Debug for MsiVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MsiVector")
    }
}
