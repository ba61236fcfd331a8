//! A source of entropy (virtio 1.2, 5.4).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use ambit_memory::GuestMemory;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::iov::Iov;
use crate::ring::{Broken, Chain, Ring, cut};
use crate::worker::{Next, Run, Serve, Service};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-rng";

const QUEUE_SIZES: [u16; 1] = [64];

/// The most bytes of one request. The guest may ask for 4 GiB and is content with fewer.
const MOST: u64 = 64 << 10;

/// An entropy device as configured.
pub struct Rng {
    service: Service<Source>,
    config: Arc<Config>,
}

struct Source(File);

impl Rng {
    /// `source` gives random bytes without end: /dev/urandom.
    pub fn new(id: &str, source: File) -> Self {
        Self { service: Service::new(id, Source(source)), config: Arc::new(Config::new(Vec::new())) }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.service.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.service.stop()
    }
}

impl Serve for Source {
    fn begin(&mut self, _: &Run) -> io::Result<()> {
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        ring.serve(memory, |chain| self.fill(chain, memory)).map(Next::again_if)
    }
}

impl Source {
    /// A driver must not offer readable buffers (5.4.6.1); such a request gets nothing.
    fn fill(&self, chain: &Chain, memory: &GuestMemory) -> u32 {
        if !chain.readable.is_empty() {
            return 0;
        }
        let (buffers, _) = cut(&chain.writable, MOST);
        let Some(iov) = Iov::new(memory, &buffers) else { return 0 };
        match iov.read(self.0.as_fd()) {
            Ok(count) => u32::try_from(count).unwrap_or(0),
            Err(error) => {
                tracing::debug!("no entropy: {error}");
                0
            }
        }
    }
}

#[cfg(test)]
#[path = "rng/tests.rs"]
mod tests;
