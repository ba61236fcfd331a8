//! A queue served by hand, on the caller's thread: for whoever counts what serving costs.

use std::fs::File;
use std::sync::{Arc, Mutex};

use ambit_memory::GuestMemory;
use virtio_bindings::bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::{Machine, Vq};
use crate::block::{self, Lane, Options};
use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::ring::Ring;
use crate::worker::{Run, Serve};

/// The largest queue a device may have, so that many long chains fit.
pub const SIZE: u16 = 1024;

/// A device that never works: what it was started with is given to whoever made it.
struct Idle {
    config: Arc<Config>,
    started: Arc<Mutex<Option<Start>>>,
}

impl VirtioDevice for Idle {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[SIZE]
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        *self.started.lock().unwrap() = Some(start);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Ring> {
        Vec::new()
    }
}

/// Both sides of one live queue.
pub struct Hand {
    pub machine: Machine,
    pub driver: Vq,
    ring: Ring,
    run: Run,
    disk: Option<Lane>,
}

impl Hand {
    /// A queue whose device does nothing with what it gets, after its driver chose `features`.
    pub fn new(features: u64) -> Self {
        let started = Arc::default();
        let idle = Idle { config: Arc::new(Config::new(Vec::new())), started: Arc::clone(&started) };
        let mut machine = Machine::new(idle);
        assert!(machine.negotiate(features), "the device does not agree to {features:#x}");
        let driver = machine.queue(0, SIZE);
        machine.go();
        let mut start = started.lock().unwrap().take().unwrap();
        let ring = start.rings.remove(0);
        let run = Run {
            features: start.features,
            memory: start.memory,
            interrupt: start.interrupt,
            queues: vec![ring.index],
        };
        Self { machine, driver, ring, run, disk: None }
    }

    /// The same with a disk behind it.
    pub fn disk(features: u64, file: File, options: &Options) -> Self {
        let mut hand = Self::new(features);
        // Without it every write waits until it is stored.
        hand.run.features |= 1 << VIRTIO_BLK_F_FLUSH;
        let mut lane = block::lane(file, &Options { queue_size: SIZE, ..options.clone() }).unwrap();
        lane.begin(&hand.run).unwrap();
        hand.disk = Some(lane);
        hand
    }

    /// What the device's thread does when it wakes.
    pub fn serve(&mut self) {
        let memory: &GuestMemory = &self.run.memory;
        match &mut self.disk {
            Some(lane) => drop(lane.serve(&mut self.ring, memory).unwrap()),
            None => drop(self.ring.serve(memory, |chain| chain.writable.len() as u32).unwrap()),
        }
    }

    /// The same, with what somebody else does to the queue.
    pub fn serve_by<R>(&mut self, serve: impl FnOnce(&mut Ring, &GuestMemory) -> R) -> R {
        serve(&mut self.ring, &self.run.memory)
    }
}
