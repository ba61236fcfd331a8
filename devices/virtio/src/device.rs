//! One virtio device type, behind any transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ambit_bus::IrqLine;
use ambit_memory::GuestMemory;

use crate::ring::Ring;

/// What one type of device does. The transport has the registers, the device has the rings while it runs.
pub trait VirtioDevice: Send {
    /// As in virtio 1.2, section 5.
    fn device_type(&self) -> u32;

    /// What it offers of its own and ring features. The transport adds `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Whether what the driver chose from [`VirtioDevice::features`] makes sense: some bits require others.
    fn accepts(&self, _features: u64) -> bool {
        true
    }

    /// The most entries of each of its queues; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Fills all of `data` from its configuration structure; what is beyond it reads as zero.
    fn read_config(&self, at: u64, data: &mut [u8]);

    /// Begins to serve the rings. It owns them until [`VirtioDevice::stop`].
    ///
    /// # Errors
    /// [`StartError`] if the host refuses what it takes. The rings are gone, and only a reset helps.
    fn start(&mut self, start: Start) -> Result<(), StartError>;

    /// Ends all work and gives the rings back. No request is in flight, and no byte of guest memory is
    /// touched, after it returns. Empty if it did not run.
    fn stop(&mut self) -> Vec<Ring>;
}

/// What a device gets to run with.
pub struct Start {
    /// The queues the driver made ready, in the order of their index.
    pub rings: Vec<Ring>,
    pub memory: GuestMemory,
    /// What both sides agreed on.
    pub features: u64,
    /// To ask the driver for a reset.
    pub interrupt: Arc<Interrupt>,
}

/// Why a device does not run.
#[derive(Debug, thiserror::Error)]
#[error("{wanted}: {source}")]
pub struct StartError {
    pub wanted: &'static str,
    pub source: std::io::Error,
}

/// Interrupt status bit: a device used a buffer (virtio 1.2, 4.2.2).
const USED: u32 = 1;
/// Interrupt status bit: the configuration changed.
const CONFIG: u32 = 2;

/// A device's one interrupt, as the transport and the device's worker share it.
///
/// The line is an edge. The driver reads the status, acknowledges it, and only then looks at its rings.
/// So if a bit is set between its read and its acknowledgement, the new edge is still to come or the
/// used entry is already visible to the look that follows: nothing is lost, and at worst one interrupt
/// finds the status empty.
pub struct Interrupt {
    line: Option<IrqLine>,
    status: AtomicU32,
    needs_reset: AtomicBool,
}

impl Interrupt {
    pub fn new(line: Option<IrqLine>) -> Self {
        Self { line, status: AtomicU32::new(0), needs_reset: AtomicBool::new(false) }
    }

    /// Tells the driver that buffers were used.
    pub fn used(&self) {
        self.raise(USED);
    }

    /// The device cannot go on until the driver resets it (virtio 1.2, 2.1.2).
    pub fn ask_for_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.raise(CONFIG);
    }

    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// What the driver has not acknowledged.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.needs_reset.store(false, Ordering::SeqCst);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        if let Some(line) = &self.line {
            line.pulse();
        }
    }
}
