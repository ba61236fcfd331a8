//! A source of entropy (virtio 1.2, 5.4).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use ambit_memory::GuestMemory;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::iov::Iov;
use crate::limit::{Limiter, Limits};
use crate::ring::{Broken, Buffer, Ring, Turn, cut, total};
use crate::worker::{Next, Run, Serve, Service};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-rng";

const QUEUE_SIZES: [u16; 1] = [64];

/// The most bytes of one request. The guest may ask for 4 GiB and is content with fewer.
const MOST: u64 = 64 << 10;

/// An entropy device as the user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub id: String,
    /// How fast the guest gets random bytes, and requests served.
    pub limits: Limits,
}

impl Options {
    /// Without limits.
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), limits: Limits::default() }
    }
}

/// An entropy device as configured.
pub struct Rng {
    service: Service<Source>,
    config: Arc<Config>,
}

struct Source {
    file: File,
    limiter: Limiter,
}

impl Rng {
    /// `source` gives random bytes without end and without waiting: /dev/urandom.
    pub fn new(source: File, options: &Options) -> Self {
        let limiter = Limiter::new(options.limits, Instant::now());
        let service = Service::new(&options.id, Source { file: source, limiter });
        Self { service, config: Arc::new(Config::new(Vec::new())) }
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
        ring.quiet(memory)?;
        let next = self.fill_all(ring, memory)?;
        ring.tell(memory)?;
        Ok(next)
    }
}

impl Source {
    /// Serves requests for one turn, or until a limit is reached.
    fn fill_all(&self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let mut turn = Turn::default();
        while !turn.is_over() {
            let Some((head, chain)) = ring.next(memory)? else {
                if ring.listen(memory)? {
                    turn.took(0);
                    ring.quiet(memory)?;
                    continue;
                }
                return Ok(Next::Wait);
            };
            let buffers = match chain {
                // A driver must not offer readable buffers (5.4.6.1); such a request gets nothing.
                Ok(chain) if chain.readable.is_empty() => cut(&chain.writable, MOST).0,
                Ok(_) => Vec::new(),
                Err(malformed) => {
                    tracing::debug!("queue {}: chain {head} refused: {malformed}", ring.index);
                    Vec::new()
                }
            };
            let wanted = total(&buffers);
            turn.took(wanted);
            if wanted == 0 {
                ring.finish(memory, head, 0)?;
                continue;
            }
            if let Err(wait) = self.limiter.take(wanted, Instant::now()) {
                ring.put_back(1);
                return Ok(Next::After(wait));
            }
            let written = self.fill(&buffers, memory).map_err(|error| Broken {
                index: ring.index,
                why: format!("there are no random bytes: {error}"),
            })?;
            ring.finish(memory, head, written)?;
        }
        Ok(Next::Again)
    }

    /// At least one byte (5.4.6.2).
    fn fill(&self, buffers: &[Buffer], memory: &GuestMemory) -> io::Result<u32> {
        let iov = Iov::new(memory, buffers).ok_or(io::ErrorKind::InvalidInput)?;
        loop {
            match iov.read(self.file.as_fd()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                // No more than was asked for, which is less than 2^32.
                Ok(count) => return Ok(u32::try_from(count).unwrap_or(0)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
#[path = "rng/tests.rs"]
mod tests;
