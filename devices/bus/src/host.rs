//! What a device may ask of the machine it is in.

use std::fmt;
use std::sync::Arc;

use ambit_memory::GuestMemory;
use ambit_resources::{IrqPin, PaBits};
use vmm_sys_util::eventfd::EventFd;

use crate::Trigger;

/// The whole world of a device. KVM in the program, plain values in tests.
pub trait Host {
    fn memory(&self) -> GuestMemory;

    /// How many physical address bits the guest has: nothing it names may lie at or above 2^bits.
    fn pa_bits(&self) -> PaBits;

    /// The wire to one pin of the interrupt controller.
    ///
    /// # Errors
    /// [`HostError`] if the host has no more room for interrupt lines.
    fn irq(&self, pin: IrqPin, trigger: Trigger) -> Result<IrqLine, HostError>;

    /// An event that is signalled when the guest writes at `at`, without the device being called.
    /// A write that the event does not match still reaches the device.
    ///
    /// # Errors
    /// [`HostError`] if the host has no more room for doorbells.
    fn doorbell(&self, at: Doorbell) -> Result<EventFd, HostError>;
}

/// A guest write that is only a signal: 4 bytes at this guest physical address with this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    pub address: u64,
    pub value: u32,
}

/// Why the host refused what a device asked for.
#[derive(Debug, thiserror::Error)]
#[error("{wanted}: {source}")]
pub struct HostError {
    pub wanted: String,
    pub source: std::io::Error,
}

/// How an interrupt gets to the guest. Implemented by the machine, once for wires and once for messages.
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
