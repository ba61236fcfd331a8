//! Message-signalled interrupts: an event that the kernel turns into a message, by its routing table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_bus::{HostError, Message, MsiVector, MsiWire};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irq_routing_msi,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::Step;
use super::host::{no_event, refused};
use super::routes::{Entry, Routes, Target};
use super::{Handle, arch};

/// All messages of one machine.
pub struct Messages {
    vm: Arc<Handle>,
    // Locked while a table is installed, so that the kernel's is always the one in here.
    routes: Mutex<Routes>,
}

impl Messages {
    /// Of a machine with something that takes messages, and so many `pins` beside it.
    pub fn new(vm: Arc<Handle>, pins: u32) -> Self {
        Self { vm, routes: Mutex::new(Routes::new(pins)) }
    }

    /// # Errors
    /// [`HostError`] if all GSIs are taken, or there are no more events.
    pub fn vector(self: &Arc<Self>, requester: u16) -> Result<MsiVector, HostError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(no_event)?;
        let gsi = lock(&self.routes).take();
        let full = || refused(Step::Message { requester }, kvm_ioctls::Error::new(libc::ENOSPC));
        let gsi = gsi.ok_or_else(full)?;
        let wired = Mutex::new(None);
        Ok(MsiVector::new(Vector { messages: Arc::clone(self), gsi, requester, event, wired }))
    }

    /// Replaces the kernel's table, and with it what each wired event signals.
    fn install(&self, table: &[Entry]) -> Result<(), kvm_ioctls::Error> {
        let entries: Vec<kvm_irq_routing_entry> = table.iter().flat_map(lines).collect();
        let table =
            KvmIrqRouting::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::ENOMEM))?;
        self.vm.fd.set_gsi_routing(&table)
    }
}

/// One GSI in the kernel's words (Linux `Documentation/virt/kvm/api.rst`, 4.52).
fn lines(entry: &Entry) -> Vec<kvm_irq_routing_entry> {
    let mut line = kvm_irq_routing_entry { gsi: entry.gsi, ..Default::default() };
    match entry.target {
        Target::Pin(pin) => {
            line.type_ = KVM_IRQ_ROUTING_IRQCHIP;
            let inputs = arch::pin_inputs(pin).into_iter();
            return inputs
                .map(|(irqchip, pin)| {
                    line.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
                    line
                })
                .collect();
        }
        Target::Message { message: Message { address, data }, requester } => {
            line.type_ = KVM_IRQ_ROUTING_MSI;
            line.flags = arch::MESSAGE_FLAGS;
            let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
            let mut msi = kvm_irq_routing_msi {
                address_lo: u32::from_le_bytes([a, b, c, d]),
                address_hi: u32::from_le_bytes([e, f, g, h]),
                data,
                ..Default::default()
            };
            msi.__bindgen_anon_1.devid = requester.into();
            line.u.msi = msi;
        }
    }
    vec![line]
}

/// One message-signalled interrupt of one function.
struct Vector {
    messages: Arc<Messages>,
    gsi: u32,
    requester: u16,
    event: EventFd,
    // What the event sends, if it signals the GSI. Lock order: this, then the table.
    wired: Mutex<Option<Message>>,
}

impl Vector {
    /// Makes the GSI `message` and wires the event to it.
    fn wire(&self, message: Message) -> Result<(), kvm_ioctls::Error> {
        let target = Target::Message { message, requester: self.requester };
        let messages = &self.messages;
        lock(&messages.routes).route(self.gsi, Some(target), |table| messages.install(table))?;
        messages.vm.fd.register_irqfd(&self.event, self.gsi)
    }

    /// When this returns, the kernel has sent what it had, and counts the event from zero.
    fn unwire(&self) {
        if let Err(error) = self.messages.vm.fd.unregister_irqfd(&self.event, self.gsi) {
            tracing::debug!("GSI {} could not be unwired: {error}", self.gsi);
        }
    }
}

impl MsiWire for Vector {
    /// Off and on again with the same message, as guests mask and unmask, leaves the table alone.
    fn route(&self, message: Option<Message>) -> Result<(), HostError> {
        let mut wired = lock(&self.wired);
        if *wired == message {
            return Ok(());
        }
        match wired.take() {
            Some(_) => self.unwire(),
            // What was sent while it went nowhere stays unsent: the kernel would send it now. What is sent
            // between two messages is sent as the second.
            None => drop(self.event.read()),
        }
        if let Some(message) = message {
            self.wire(message)
                .map_err(|errno| refused(Step::Message { requester: self.requester }, errno))?;
        }
        *wired = message;
        Ok(())
    }

    fn pulse(&self) {
        // Fails only if the counter is full, and then the interrupt is already on its way.
        let _already_signalled = self.event.write(1);
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if lock(&self.wired).take().is_some() {
            self.unwire();
        }
        let messages = &self.messages;
        let given_back = lock(&messages.routes).give_back(self.gsi, |table| messages.install(table));
        if let Err(error) = given_back {
            tracing::debug!("GSI {} could not be taken out of the table: {error}", self.gsi);
        }
    }
}

/// What is locked here is whole at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
