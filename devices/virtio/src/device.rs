//! One virtio device type, behind any transport.

use std::sync::Arc;

use ambit_memory::GuestMemory;

use crate::config::Config;
use crate::interrupt::Interrupt;
use crate::ring::Ring;

/// What one type of device does. The transport has the registers, the device has the rings while it runs.
/// It cannot tell which transport that is, only whether the driver is a legacy one.
pub trait VirtioDevice: Send {
    /// As in virtio 1.2, section 5.
    fn device_type(&self) -> u32;

    /// What it offers of its own and ring features. The transport adds `VIRTIO_F_VERSION_1`, or for a legacy
    /// driver `VIRTIO_F_ANY_LAYOUT`, and the features of rings.
    fn features(&self) -> u64;

    /// Whether what the driver chose from [`VirtioDevice::features`] makes sense: some bits require others.
    fn accepts(&self, _features: u64) -> bool {
        true
    }

    /// A modern driver and the device have agreed on these features: from here until the reset they hold.
    fn settled(&mut self, _features: u64) {}

    /// The most entries of each of its queues; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// What the driver reads of it. Shared, so that whatever works for the device can change it.
    fn config(&self) -> &Arc<Config>;

    /// The driver wrote `data` at `at` of the configuration. Most devices have nothing to write there.
    fn write_config(&mut self, _at: u64, _data: &[u8], _from: Interface) {}

    /// Whether it hears what is written to its configuration even before there is a driver, and after that failed.
    fn listens_always(&self) -> bool {
        false
    }

    /// Begins to serve the rings. It owns them until [`VirtioDevice::stop`].
    ///
    /// # Errors
    /// [`StartError`] if the host refuses what it takes. The rings are gone, and only a reset helps.
    fn start(&mut self, start: Start) -> Result<(), StartError>;

    /// Ends all work and gives the rings back. No request is in flight, and no byte of guest memory is
    /// touched, after it returns. Empty if it did not run.
    fn stop(&mut self) -> Vec<Ring>;

    /// What the driver has made of it is forgotten. It is stopped.
    fn reset(&mut self) {}
}

/// What the driver takes the device for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Interface {
    /// Of virtio 1.0 and later.
    #[default]
    Modern,
    /// Of before (virtio 1.2, 2.2.3). Its rings and fields are in the guest's own byte order, which here is
    /// little-endian.
    Legacy,
}

/// What a device gets to run with.
pub struct Start {
    /// The queues the driver made ready, in the order of their index.
    pub rings: Vec<Ring>,
    pub memory: GuestMemory,
    /// What both sides agreed on. Without `VIRTIO_F_VERSION_1` the driver is a legacy one.
    pub features: u64,
    /// To tell of changes in the configuration, and to ask the driver for a reset.
    pub interrupt: Arc<Interrupt>,
}

/// Why a device does not run.
#[derive(Debug, thiserror::Error)]
#[error("{wanted}: {source}")]
pub struct StartError {
    pub wanted: &'static str,
    pub source: std::io::Error,
}
