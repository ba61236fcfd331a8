//! A machine for tests: records what devices do to it, holds RAM, needs no KVM.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, IrqPin, PaBits};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{Doorbell, Host, HostError, IrqLine, IrqWire, Trigger};

/// Where the RAM of a [`BenchHost`] begins.
pub const RAM_BASE: u64 = 0x4000_0000;

/// A [`Host`] of plain values.
pub struct BenchHost {
    memory: GuestMemory,
    pa_bits: PaBits,
    pins: Mutex<Vec<(IrqPin, Arc<PinLog>)>>,
    doorbells: Mutex<Vec<(Doorbell, EventFd)>>,
}

/// What happened on one pin.
#[derive(Debug, Default)]
pub struct PinLog {
    high: AtomicBool,
    pulses: AtomicUsize,
}

impl PinLog {
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }

    pub fn pulses(&self) -> usize {
        self.pulses.load(Ordering::SeqCst)
    }
}

struct PinWire(Arc<PinLog>);

impl IrqWire for PinWire {
    fn set(&self, high: bool) {
        self.0.high.store(high, Ordering::SeqCst);
    }

    fn pulse(&self) {
        self.0.pulses.fetch_add(1, Ordering::SeqCst);
    }
}

impl BenchHost {
    /// With `ram` bytes of RAM at [`RAM_BASE`]; a multiple of 4096.
    pub fn new(ram: u64) -> Self {
        Self::with_ram(&[AddressRange::fixed(RAM_BASE, ram)], PaBits::MAX)
    }

    pub fn with_ram(ranges: &[AddressRange], pa_bits: PaBits) -> Self {
        let memory = ambit_memory::map(ranges).expect("a test's RAM fits this host");
        Self { memory, pa_bits, pins: Mutex::default(), doorbells: Mutex::default() }
    }

    /// What happened on `pin`; nothing yet if no device has asked for it.
    pub fn pin(&self, pin: IrqPin) -> Arc<PinLog> {
        let mut pins = self.pins.lock().unwrap();
        if let Some((_, log)) = pins.iter().find(|(known, _)| *known == pin) {
            return Arc::clone(log);
        }
        let log = Arc::new(PinLog::default());
        pins.push((pin, Arc::clone(&log)));
        log
    }

    /// Signals the doorbell as the guest's write would. False if no device asked for it.
    pub fn ring(&self, at: Doorbell) -> bool {
        let doorbells = self.doorbells.lock().unwrap();
        let Some((_, event)) = doorbells.iter().find(|(known, _)| *known == at) else {
            return false;
        };
        event.write(1).is_ok()
    }
}

impl Host for BenchHost {
    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn pa_bits(&self) -> PaBits {
        self.pa_bits
    }

    fn irq(&self, pin: IrqPin, _: Trigger) -> Result<IrqLine, HostError> {
        Ok(IrqLine::new(PinWire(self.pin(pin))))
    }

    fn doorbell(&self, at: Doorbell) -> Result<EventFd, HostError> {
        let refused = |source| HostError { wanted: "a doorbell".into(), source };
        let event = EventFd::new(EFD_NONBLOCK).map_err(refused)?;
        let ours = event.try_clone().map_err(refused)?;
        self.doorbells.lock().unwrap().push((at, ours));
        Ok(event)
    }
}
