//! Status, features and queue set-up: the one state machine behind every transport (virtio 1.2, 3.1).

use std::sync::Arc;

use ambit_memory::GuestMemory;
use ambit_resources::PaBits;
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_ANY_LAYOUT, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::EventFd;

use crate::device::{Interface, Start, VirtioDevice};
use crate::interrupt::Interrupt;
use crate::queue::{Block, Checked, QueueError, QueueSetup};
use crate::ring::Ring;

const ACKNOWLEDGE: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = VIRTIO_CONFIG_S_DRIVER;
const DRIVER_OK: u32 = VIRTIO_CONFIG_S_DRIVER_OK;
const FEATURES_OK: u32 = VIRTIO_CONFIG_S_FEATURES_OK;
const NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = VIRTIO_CONFIG_S_FAILED;

/// Ring features that every device has through `Ring`.
const RING_FEATURES: u64 = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Of any framing (virtio 1.2, 6.3); a modern driver takes it for granted.
const ANY_LAYOUT: u64 = 1 << VIRTIO_F_ANY_LAYOUT;
/// A legacy driver knows no others.
const LEGACY_FEATURES: u64 = 0xffff_ffff;

/// One device and how far its driver has come with it.
///
/// A driver's session is from one reset to the next. It is a modern or a legacy one by the registers through
/// which the first status was written, and what comes through the others is then ignored.
pub struct Transport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    pa_bits: PaBits,
    interrupt: Arc<Interrupt>,
    // One for each queue, for as long as the device exists.
    kicks: Vec<EventFd>,
    interface: Interface,
    status: u32,
    driver_features: u64,
    queues: Vec<QueueState>,
    live: bool,
    /// It may reach memory. Of a device that may not, everything is as if it could, but nothing happens.
    master: bool,
    /// What it goes on with when it may again.
    parked: Vec<Ring>,
}

/// A queue: as the driver sets it up, and as it was when it became ready.
struct QueueState {
    setup: QueueSetup,
    ready: Option<Checked>,
    /// Where a legacy driver said it is; 0 if it is not in use.
    pfn: u32,
}

impl Transport {
    /// `kicks` has an event for each of the device's queues.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        pa_bits: PaBits,
        interrupt: Arc<Interrupt>,
        kicks: Vec<EventFd>,
    ) -> Self {
        let queues = power_on(&*device);
        Self {
            device,
            memory,
            pa_bits,
            interrupt,
            kicks,
            interface: Interface::default(),
            status: 0,
            driver_features: 0,
            queues,
            live: false,
            master: true,
            parked: Vec::new(),
        }
    }

    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    pub fn status(&self) -> u32 {
        let tells = self.interface == Interface::Modern && self.interrupt.needs_reset();
        self.status | if tells { NEEDS_RESET } else { 0 }
    }

    /// Whether registers of this kind count: there is no session yet, or it is one of theirs.
    fn is_of(&self, interface: Interface) -> bool {
        self.status == 0 || self.interface == interface
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    /// Zero resets. Otherwise exactly the next bit may be added to those that are set, or FAILED at any
    /// time; anything else changes nothing. A legacy driver may say at once that it has seen the device and can drive
    /// it, as some of firmware do.
    pub fn set_status(&mut self, value: u32, from: Interface) {
        if value == 0 {
            return self.reset();
        }
        let has = self.status;
        let added = value & !NEEDS_RESET & !has;
        if !self.is_of(from) || has & FAILED != 0 || value & has != has {
            return;
        }
        if added == FAILED {
            self.halt();
            self.settle(FAILED, from);
        } else if added == ACKNOWLEDGE | DRIVER && from == Interface::Legacy {
            self.step(ACKNOWLEDGE, from);
            self.step(DRIVER, from);
        } else if self.may_add(added, from) {
            self.step(added, from);
        }
    }

    /// A legacy driver has no FEATURES_OK, but may write it (virtio 1.2, 3.1.2).
    fn may_add(&self, bit: u32, from: Interface) -> bool {
        let needed = match (bit, from) {
            (ACKNOWLEDGE, _) => 0,
            (DRIVER, _) => ACKNOWLEDGE,
            (FEATURES_OK, _) | (DRIVER_OK, Interface::Legacy) => ACKNOWLEDGE | DRIVER,
            (DRIVER_OK, Interface::Modern) => ACKNOWLEDGE | DRIVER | FEATURES_OK,
            _ => return false,
        };
        self.has(needed) && !self.has(DRIVER_OK)
    }

    fn settle(&mut self, bit: u32, from: Interface) {
        if self.status == 0 {
            self.interface = from;
            self.interrupt.serve(from);
        }
        self.status |= bit;
    }

    fn step(&mut self, bit: u32, from: Interface) {
        if bit == FEATURES_OK && !self.features_agree() {
            return tracing::debug!("the driver's features {:#x} are refused", self.driver_features);
        }
        self.settle(bit, from);
        if bit == FEATURES_OK && from == Interface::Modern {
            self.device.settled(self.driver_features);
        }
        // A legacy device runs since its first queue.
        if bit == DRIVER_OK && !self.live {
            self.start_with(Vec::new());
        }
    }

    /// All 64 bits on offer to a driver of this kind.
    pub fn offered(&self, to: Interface) -> u64 {
        let both = self.device.features() | RING_FEATURES;
        match to {
            Interface::Modern => both | VERSION_1,
            Interface::Legacy => (both | ANY_LAYOUT) & LEGACY_FEATURES,
        }
    }

    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// Ignored before DRIVER and once they are settled: by FEATURES_OK (virtio 1.2, 3.1.1), or for a legacy
    /// driver by the first queue. Bits that a legacy driver was not offered are dropped, as it cannot be told.
    pub fn set_driver_features(&mut self, features: u64, from: Interface) {
        let settled = self.has(FEATURES_OK) || self.has(DRIVER_OK) || self.has(FAILED) || self.live;
        if !self.has(DRIVER) || !self.is_of(from) || settled {
            return;
        }
        self.driver_features = match from {
            Interface::Modern => features,
            Interface::Legacy => features & self.offered(from),
        };
    }

    fn features_agree(&self) -> bool {
        let needed = if self.interface == Interface::Modern { VERSION_1 } else { 0 };
        let device = self.driver_features & !ANY_LAYOUT;
        self.driver_features & !self.offered(self.interface) == 0
            && self.driver_features & needed == needed
            && self.device.accepts(device)
    }

    /// The driver writes to the configuration. A modern one has nothing to say before it is DRIVER.
    pub fn write_config(&mut self, at: u64, data: &[u8], from: Interface) {
        let hears = (from == Interface::Legacy || self.has(DRIVER)) && !self.has(FAILED);
        if self.is_of(from) && (hears || self.device.listens_always()) {
            self.device.write_config(at, data, from);
        }
    }

    fn state(&self, index: u32) -> Option<&QueueState> {
        self.queues.get(usize::try_from(index).ok()?)
    }

    fn state_mut(&mut self, index: u32) -> Option<&mut QueueState> {
        self.queues.get_mut(usize::try_from(index).ok()?)
    }

    /// `None` if there is no such queue.
    pub fn queue(&self, index: u32) -> Option<&QueueSetup> {
        self.state(index).map(|queue| &queue.setup)
    }

    pub fn is_ready(&self, index: u32) -> bool {
        self.state(index).is_some_and(|queue| queue.ready.is_some())
    }

    /// Whether queues may be set up now.
    fn may_set_up(&self, from: Interface) -> bool {
        let from_here = match from {
            Interface::Modern => FEATURES_OK,
            Interface::Legacy => DRIVER,
        };
        // A legacy driver may add queues to a running device (3.1.2); nobody says that it may not.
        let until = if from == Interface::Modern { DRIVER_OK | FAILED } else { FAILED };
        self.is_of(from) && self.has(from_here) && self.status & until == 0
    }

    /// Changes the set-up of a queue, while the driver may and it is not ready.
    pub fn set_up(&mut self, index: u32, from: Interface, change: impl FnOnce(&mut QueueSetup)) {
        if !self.may_set_up(from) {
            return;
        }
        if let Some(queue) = self.state_mut(index).filter(|queue| queue.ready.is_none()) {
            change(&mut queue.setup);
        }
    }

    /// The queue is checked here, so that the driver can read back whether it is taken; a bad one
    /// does not become ready and asks for a reset.
    pub fn enable(&mut self, index: u32) {
        if !self.may_set_up(Interface::Modern) || self.is_ready(index) {
            return;
        }
        let Some(setup) = self.queue(index) else { return };
        match setup.check(&self.memory, self.pa_bits) {
            Ok(checked) => self.accept(index, checked, 0),
            Err(error) => {
                refused(index, &error);
                self.interrupt.ask_for_reset();
            }
        }
    }

    fn accept(&mut self, index: u32, checked: Checked, pfn: u32) {
        if let Some(queue) = self.state_mut(index) {
            (queue.ready, queue.pfn) = (Some(checked), pfn);
        }
    }

    /// Takes a queue out of use; nothing of it is touched after this returns.
    pub fn disable(&mut self, index: u32) {
        let Some(queue) = self.state_mut(index) else { return };
        queue.pfn = 0;
        let was_ready = queue.ready.take().is_some();
        self.parked.retain(|ring| u32::from(ring.index) != index);
        if !was_ready || !self.live {
            return;
        }
        let mut rings = self.device.stop();
        rings.retain(|ring| u32::from(ring.index) != index);
        self.go_on_with(rings);
    }

    /// The page of a legacy driver's queue; 0 if it is not in use.
    pub fn pfn(&self, index: u32) -> u32 {
        self.state(index).map_or(0, |queue| queue.pfn)
    }

    /// A legacy driver says where a queue is: the queue lives from here on. Page 0 takes it out of use. A bad
    /// one stays out of use, and its page reads as 0.
    pub fn set_block(&mut self, index: u32, block: Block) {
        if self.interface != Interface::Legacy {
            return;
        }
        if block.pfn == 0 {
            return self.disable(index);
        }
        // Page 0 is all that tells a legacy driver of a device that will serve nothing before its reset.
        let broken = self.interrupt.needs_reset();
        if broken || !self.may_set_up(Interface::Legacy) || self.is_ready(index) {
            return;
        }
        let Some(setup) = self.queue(index) else { return };
        match setup.check_block(block, &self.memory, self.pa_bits) {
            Ok(checked) => {
                self.accept(index, checked, block.pfn);
                // Its driver may use a queue before it says DRIVER_OK (3.1.2).
                let rings = self.device.stop();
                self.go_on_with(rings);
            }
            Err(error) => refused(index, &error),
        }
    }

    /// Whether the device may reach memory (the bus-master bit of a PCI function). It stops where it is when it
    /// may not, and goes on from there. Legacy drivers forget to allow it, so theirs always may.
    pub fn set_master(&mut self, master: bool) {
        if std::mem::replace(&mut self.master, master) == master || self.interface == Interface::Legacy {
            return;
        }
        if master && self.has(DRIVER_OK) && !self.has(FAILED) {
            let rings = std::mem::take(&mut self.parked);
            self.start_with(rings);
        } else if std::mem::take(&mut self.live) {
            self.parked = self.device.stop();
        }
    }

    /// The driver has work in queue `index`, told by a register and not by the doorbell.
    pub fn kick(&self, index: u32) {
        let kick = usize::try_from(index).ok().and_then(|index| self.kicks.get(index));
        if let Some(kick) = kick.filter(|_| self.live) {
            // Full means it is signalled already.
            let _full = kick.write(1);
        }
    }

    /// As [`Transport::start_with`], of a device whose queues are others now. If it does not start none of them is
    /// served before the reset, and a legacy driver can read that.
    fn go_on_with(&mut self, rings: Vec<Ring>) {
        self.start_with(rings);
        if !self.live && self.interface == Interface::Legacy {
            self.queues.iter_mut().for_each(|queue| (queue.ready, queue.pfn) = (None, 0));
        }
    }

    /// Starts the device with `rings`, which lived before, and every other queue that is ready.
    fn start_with(&mut self, mut rings: Vec<Ring>) {
        self.live = false;
        if !self.master && self.interface == Interface::Modern {
            self.parked = rings;
            return;
        }
        // A device that has asked for a reset gets it before anything else.
        if self.interrupt.needs_reset() {
            return;
        }
        if !self.features_agree() {
            // Only a legacy driver comes here, which was not asked before.
            tracing::debug!("the driver's features {:#x} are refused", self.driver_features);
            return self.interrupt.ask_for_reset();
        }
        for ((index, state), kick) in (0u16..).zip(&self.queues).zip(&self.kicks) {
            let lives = rings.iter().any(|ring| ring.index == index);
            let Some(checked) = state.ready.filter(|_| !lives) else { continue };
            let (Ok(queue), Ok(kick)) = (checked.queue(), kick.try_clone()) else {
                return self.interrupt.ask_for_reset();
            };
            rings.push(self.ring(index, queue, kick));
        }
        rings.sort_by_key(|ring| ring.index);
        let start = Start {
            rings,
            memory: self.memory.clone(),
            features: self.driver_features,
            interrupt: Arc::clone(&self.interrupt),
        };
        match self.device.start(start) {
            Ok(()) => self.live = true,
            Err(error) => {
                tracing::error!("a virtio device cannot start: {error}");
                self.interrupt.ask_for_reset();
            }
        }
    }

    fn ring(&self, index: u16, mut queue: virtio_queue::Queue, kick: EventFd) -> Ring {
        queue.set_event_idx(self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        let indirect = self.driver_features & 1 << VIRTIO_RING_F_INDIRECT_DESC != 0;
        Ring { index, queue, indirect, told: 0, kick, call: Arc::clone(&self.interrupt) }
    }

    fn halt(&mut self) {
        self.parked.clear();
        if std::mem::take(&mut self.live) {
            drop(self.device.stop());
        }
    }

    /// Back to power-on. No request is in flight and no ring is touched when this returns.
    ///
    /// So it waits for what is in flight. A file of the host that does not answer holds up the vCPU whose guest asks
    /// for this, and others at this device: the kernel does not take back a read that it waits in, and until then it
    /// may write into memory that the driver has for something else by now. No status says that a legacy reset still
    /// goes on, and drivers of the modern ones wait for theirs in a loop without an end.
    pub fn reset(&mut self) {
        self.halt();
        self.device.reset();
        self.interface = Interface::default();
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

fn refused(index: u32, error: &QueueError) {
    tracing::debug!("queue {index} refused: {error}");
}

fn power_on(device: &dyn VirtioDevice) -> Vec<QueueState> {
    let at_reset = |max: &u16| QueueState { setup: QueueSetup::at_reset(*max), ready: None, pfn: 0 };
    device.queue_sizes().iter().map(at_reset).collect()
}

#[cfg(test)]
#[path = "transport/tests.rs"]
mod tests;
