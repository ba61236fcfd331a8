//! Which message each event of a device is (virtio 1.2, 4.1.5.1.2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use ambit_pci::{Intx, Msix};

use crate::interrupt::{Event, Signal};

/// No message.
pub const NO_VECTOR: u16 = 0xffff;

/// The mapping, which the driver writes and the device's workers read.
pub struct Vectors {
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    /// How many vectors there are.
    count: u16,
}

impl Vectors {
    /// None is mapped yet.
    pub fn new(queues: u16, count: usize) -> Self {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        let queues = (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect();
        Self { config: AtomicU16::new(NO_VECTOR), queues, count }
    }

    pub fn config(&self) -> u16 {
        self.config.load(Ordering::SeqCst)
    }

    /// One that is not there reads back as [`NO_VECTOR`].
    pub fn set_config(&self, vector: u16) {
        self.config.store(self.valid(vector), Ordering::SeqCst);
    }

    /// [`NO_VECTOR`] for a queue that is not there.
    pub fn queue(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    pub fn set_queue(&self, queue: u16, vector: u16) {
        if let Some(slot) = self.queues.get(usize::from(queue)) {
            slot.store(self.valid(vector), Ordering::SeqCst);
        }
    }

    fn valid(&self, vector: u16) -> u16 {
        if vector < self.count { vector } else { NO_VECTOR }
    }

    pub fn unmap(&self) {
        self.set_config(NO_VECTOR);
        self.queues.iter().for_each(|vector| vector.store(NO_VECTOR, Ordering::SeqCst));
    }
}

/// Notifications as messages, or over INTx while MSI-X is off.
pub struct Messages {
    pub vectors: Arc<Vectors>,
    /// `None` on a machine that takes no messages.
    pub msix: Option<Arc<Msix>>,
    pub intx: Arc<Intx>,
}

impl Signal for Messages {
    fn message(&self, event: Event) -> bool {
        let vector = match event {
            Event::Config => self.vectors.config(),
            Event::Used(queue) => self.vectors.queue(queue),
        };
        let msix = self.msix.as_ref().filter(|msix| msix.is_enabled());
        // One that is not mapped goes nowhere (4.1.5.3.1); no table has that many.
        msix.inspect(|msix| msix.fire(vector)).is_some()
    }

    fn status(&self, _: u8, now: u8) {
        if now == 0 {
            self.intx.take();
        } else {
            self.intx.raise(now);
        }
    }
}
