//! Status, features and queue set-up: the one state machine behind every transport (virtio 1.2, 3.1).

use std::sync::Arc;

use ambit_memory::GuestMemory;
use ambit_resources::PaBits;
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use crate::device::{Interrupt, Start, VirtioDevice};
use crate::queue::QueueSetup;
use crate::ring::Ring;

const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// The order in which a driver sets its bits, one at a time.
const STEPS: [u32; 4] = [VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, FEATURES_OK, DRIVER_OK];

/// Ring features that every device has through `Ring`.
const RING_FEATURES: u64 = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// One device and how far its driver has come with it.
pub struct Transport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    pa_bits: PaBits,
    interrupt: Arc<Interrupt>,
    // One for each queue, for as long as the device exists.
    kicks: Vec<EventFd>,
    status: u32,
    driver_features: u64,
    queues: Vec<QueueSetup>,
    live: bool,
}

impl Transport {
    /// `kicks` has an event for each of the device's queues.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        pa_bits: PaBits,
        interrupt: Interrupt,
        kicks: Vec<EventFd>,
    ) -> Self {
        let queues = power_on(&*device);
        let interrupt = Arc::new(interrupt);
        Self { device, memory, pa_bits, interrupt, kicks, status: 0, driver_features: 0, queues, live: false }
    }

    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    pub fn status(&self) -> u32 {
        let needs_reset = if self.interrupt.needs_reset() { NEEDS_RESET } else { 0 };
        self.status | needs_reset
    }

    /// Zero resets. Otherwise exactly the next bit may be added to those that are set, or FAILED at any
    /// time; anything else changes nothing.
    pub fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let has = self.status;
        let added = value & !NEEDS_RESET & !has;
        let next = STEPS.into_iter().find(|step| has & step == 0);
        if has & FAILED != 0 || value & has != has {
            return;
        }
        if added == FAILED {
            self.halt();
            self.status |= FAILED;
        } else if Some(added) == next {
            self.step(added);
        }
    }

    fn step(&mut self, bit: u32) {
        match bit {
            FEATURES_OK if !self.features_agree() => {
                tracing::debug!("the driver's features {:#x} are refused", self.driver_features);
            }
            DRIVER_OK => {
                self.status |= DRIVER_OK;
                self.activate();
            }
            _ => self.status |= bit,
        }
    }

    /// All 64 bits on offer.
    pub fn offered(&self) -> u64 {
        self.device.features() | RING_FEATURES | 1 << VIRTIO_F_VERSION_1
    }

    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// Ignored before DRIVER and after FEATURES_OK (virtio 1.2, 3.1.1).
    pub fn set_driver_features(&mut self, features: u64) {
        if self.status & VIRTIO_CONFIG_S_DRIVER != 0 && self.status & FEATURES_OK == 0 {
            self.driver_features = features;
        }
    }

    fn features_agree(&self) -> bool {
        self.driver_features & !self.offered() == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
            && self.device.accepts(self.driver_features)
    }

    /// `None` if there is no such queue.
    pub fn queue(&self, index: u32) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    /// Changes the set-up of a queue, while the driver may: before it is ready and before DRIVER_OK.
    pub fn set_up(&mut self, index: u32, change: impl FnOnce(&mut QueueSetup)) {
        let settled = self.status & (DRIVER_OK | FAILED) != 0;
        let queue = usize::try_from(index).ok().and_then(|index| self.queues.get_mut(index));
        if let Some(queue) = queue.filter(|queue| !queue.ready && !settled) {
            change(queue);
        }
    }

    /// The queue is checked here, so that the driver can read back whether it is taken; a bad one
    /// does not become ready and asks for a reset.
    pub fn set_ready(&mut self, index: u32, ready: bool) {
        if !ready {
            return self.withdraw(index);
        }
        let may = self.status & FEATURES_OK != 0 && self.status & (DRIVER_OK | FAILED) == 0;
        let Some(queue) = usize::try_from(index).ok().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        if !may || queue.ready {
            return;
        }
        match queue.check(&self.memory, self.pa_bits) {
            Ok(_) => queue.ready = true,
            Err(error) => {
                tracing::debug!("queue {index} refused: {error}");
                self.interrupt.ask_for_reset();
            }
        }
    }

    /// Takes a queue out of use; nothing of it is touched after this returns.
    fn withdraw(&mut self, index: u32) {
        let Some(queue) = usize::try_from(index).ok().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        if !std::mem::take(&mut queue.ready) || !self.live {
            return;
        }
        let mut rings = self.device.stop();
        rings.retain(|ring| u32::from(ring.index) != index);
        self.start(rings);
    }

    /// The driver has work in queue `index`, told by a register and not by the doorbell.
    pub fn kick(&self, index: u32) {
        let kick = usize::try_from(index).ok().and_then(|index| self.kicks.get(index));
        if let Some(kick) = kick.filter(|_| self.live) {
            // Full means it is signalled already.
            let _full = kick.write(1);
        }
    }

    /// Every queue that is ready becomes live. RAM cannot have changed since each was checked, but the
    /// check is what makes the queue, so a queue that was not checked cannot be had.
    fn activate(&mut self) {
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let indirect = self.driver_features & 1 << VIRTIO_RING_F_INDIRECT_DESC != 0;
        let mut rings = Vec::with_capacity(self.queues.len());
        for ((index, setup), kick) in (0u16..).zip(&self.queues).zip(&self.kicks) {
            if !setup.ready {
                continue;
            }
            let queue = setup.check(&self.memory, self.pa_bits);
            let (Ok(mut queue), Ok(kick)) = (queue, kick.try_clone()) else {
                return self.interrupt.ask_for_reset();
            };
            queue.set_event_idx(event_idx);
            let call = Arc::clone(&self.interrupt);
            rings.push(Ring { index, queue, indirect, told: 0, kick, call });
        }
        self.start(rings);
    }

    /// A device that has asked for a reset gets it before anything else.
    fn start(&mut self, rings: Vec<Ring>) {
        self.live = false;
        if self.interrupt.needs_reset() {
            return;
        }
        let start = Start {
            rings,
            memory: self.memory.clone(),
            features: self.driver_features,
            interrupt: Arc::clone(&self.interrupt),
        };
        self.live = match self.device.start(start) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!("a virtio device cannot start: {error}");
                self.interrupt.ask_for_reset();
                false
            }
        };
    }

    fn halt(&mut self) {
        if std::mem::take(&mut self.live) {
            drop(self.device.stop());
        }
    }

    /// Back to power-on. No request is in flight and no ring is touched when this returns.
    pub fn reset(&mut self) {
        self.halt();
        self.status = 0;
        self.driver_features = 0;
        self.queues = power_on(&*self.device);
        // A kick from before would otherwise be the first of the next driver.
        for kick in &self.kicks {
            let _empty = kick.read();
        }
        self.interrupt.clear();
    }
}

fn power_on(device: &dyn VirtioDevice) -> Vec<QueueSetup> {
    device.queue_sizes().iter().map(|max| QueueSetup::at_reset(*max)).collect()
}
