//! The machine as its devices see it, over KVM.

use std::io;
use std::sync::Arc;

use ambit_bus::{Backplane, HostError, IrqLine, IrqWire, Match, MsiVector, Space, Trigger, Wired};
use ambit_memory::GuestMemory;
use ambit_resources::{IrqPin, PaBits};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::{KvmError, Step};
use super::messages::Messages;
use super::{Handle, arch};

/// A [`Backplane`] whose interrupts and doorbells are the kernel's.
pub struct KvmHost {
    vm: Arc<Handle>,
    pa_bits: PaBits,
    // `None` if nothing takes messages.
    messages: Option<Arc<Messages>>,
}

impl KvmHost {
    pub(super) fn new(vm: Arc<Handle>, pa_bits: PaBits, messages: Option<Arc<Messages>>) -> Self {
        Self { vm, pa_bits, messages }
    }
}

pub(super) fn refused(step: Step, errno: kvm_ioctls::Error) -> HostError {
    let error = KvmError::new(step, errno);
    HostError { wanted: error.to_string(), source: errno.into() }
}

pub(super) fn no_event(source: io::Error) -> HostError {
    HostError { wanted: "an event to signal with".into(), source }
}

impl Backplane for KvmHost {
    fn memory(&self) -> GuestMemory {
        self.vm.memory.clone()
    }

    fn pa_bits(&self) -> PaBits {
        self.pa_bits
    }

    fn irq(&self, pin: IrqPin, trigger: Trigger) -> Result<IrqLine, HostError> {
        let vm = Arc::clone(&self.vm);
        match trigger {
            Trigger::Level => {
                let step = Step::Irq { pin: pin.0 };
                let word =
                    arch::irq_line(pin).ok_or_else(|| refused(step, kvm_ioctls::Error::new(libc::EINVAL)))?;
                Ok(IrqLine::new(LevelWire { vm, word }))
            }
            Trigger::Edge => {
                let event = EventFd::new(EFD_NONBLOCK).map_err(no_event)?;
                vm.fd
                    .register_irqfd(&event, pin.0)
                    .map_err(|errno| refused(Step::Irq { pin: pin.0 }, errno))?;
                Ok(IrqLine::new(EdgeWire { vm, pin, event }))
            }
        }
    }

    fn message(&self, requester: u16) -> Result<Option<MsiVector>, HostError> {
        self.messages.as_ref().map(|messages| messages.vector(requester)).transpose()
    }

    fn doorbell(
        &self,
        space: Space,
        address: u64,
        write: Match,
        event: &Arc<EventFd>,
    ) -> Result<Wired, HostError> {
        let (fd, at) = (&self.vm.fd, io_address(space, address));
        let done = match write {
            Match::Any => fd.register_ioevent(event, &at, NoDatamatch),
            Match::Half(value) => fd.register_ioevent(event, &at, value),
            Match::Word(value) => fd.register_ioevent(event, &at, value),
        };
        done.map_err(|errno| refused(Step::Doorbell { space, address }, errno))?;
        Ok(Wired::new(Bell { vm: Arc::clone(&self.vm), space, address, write, event: Arc::clone(event) }))
    }
}

fn io_address(space: Space, address: u64) -> IoEventAddress {
    match space {
        Space::Memory => IoEventAddress::Mmio(address),
        Space::Ports => IoEventAddress::Pio(address),
    }
}

/// An event that the guest's writes signal in the kernel.
struct Bell {
    vm: Arc<Handle>,
    space: Space,
    address: u64,
    write: Match,
    event: Arc<EventFd>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        let (fd, at) = (&self.vm.fd, io_address(self.space, self.address));
        let done = match self.write {
            Match::Any => fd.unregister_ioevent(&self.event, &at, NoDatamatch),
            Match::Half(value) => fd.unregister_ioevent(&self.event, &at, value),
            Match::Word(value) => fd.unregister_ioevent(&self.event, &at, value),
        };
        if let Err(error) = done {
            tracing::debug!("the doorbell at {:#x} could not be unwired: {error}", self.address);
        }
    }
}

/// A line that we hold high or low, by a call into the kernel.
struct LevelWire {
    vm: Arc<Handle>,
    // The pin, as KVM_IRQ_LINE wants it.
    word: u32,
}

impl IrqWire for LevelWire {
    fn set(&self, high: bool) {
        // The pin was planned within the GIC's lines, so the kernel has no reason to refuse; if it
        // does the guest misses an interrupt and nothing else is harmed.
        if let Err(error) = self.vm.fd.set_irq_line(self.word, high) {
            tracing::debug!("interrupt line {:#x} could not be set: {error}", self.word);
        }
    }

    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// A line that the kernel pulses when its event is signalled: no exit, from any thread.
struct EdgeWire {
    vm: Arc<Handle>,
    pin: IrqPin,
    event: EventFd,
}

impl IrqWire for EdgeWire {
    fn set(&self, high: bool) {
        if high {
            self.pulse();
        }
    }

    fn pulse(&self) {
        // Fails only if the counter is full, and then the interrupt is already on its way.
        let _already_signalled = self.event.write(1);
    }
}

impl Drop for EdgeWire {
    fn drop(&mut self) {
        if let Err(error) = self.vm.fd.unregister_irqfd(&self.event, self.pin.0) {
            tracing::debug!("interrupt pin {} could not be unwired: {error}", self.pin);
        }
    }
}
