//! A balloon: memory that the guest puts away, or says is free, goes back to the host (virtio 1.2, 5.5).

use std::io;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ambit_memory::{GuestMemory, discard};
use ambit_resources::AddressRange;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::config::{Config, overlay};
use crate::device::{Interface, Start, StartError, VirtioDevice};
use crate::ring::{Broken, Chain, Ring, read_some};
use crate::worker::{Next, Run, Serve, Service};

/// What a plan calls this kind of device.
pub const KIND: &str = "virtio-balloon";

/// The unit of the balloon, whatever the pages of guest and host are.
pub const PAGE: u64 = 4096;

// Features (5.5.3; Linux `include/uapi/linux/virtio_balloon.h`).
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_POISON: u64 = 1 << 4;
const F_REPORTING: u64 = 1 << 5;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
// Drivers do not agree on the queue that free pages are reported in: by 5.5.2 it is 4, and Linux counts only
// the queues that its features give it. Nobody has other queues here, so it is any after the first two.
const QUEUE_SIZES: [u16; 5] = [128; 5];

// The configuration (5.5.4): num_pages, actual, free_page_hint_cmd_id, poison_val. All little-endian for legacy
// drivers too (5.5.4.1).
const NUM_PAGES: usize = 0;
const ACTUAL: usize = 4;
const ACTUAL_END: u64 = 8;
const POISON: usize = 12;

/// The most page numbers of one request that are looked at; Linux sends 256. What the host does not get back
/// costs the guest nothing.
const MOST: usize = 16 << 10;

/// How much goes back to the host in one turn: calls of it, and bytes. Each may take as long as the guest makes it,
/// by what it has touched.
const CALLS: u32 = 1024;
const BYTES: u64 = 64 << 20;
/// Longer runs are cut at multiples of this, which are in the middle of no page of a host.
const PIECE: u64 = 16 << 20;

/// What a balloon is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub id: String,
    /// How much the guest is to put away at first, in bytes.
    pub target: u64,
    /// The guest may take pages out again before it runs out of memory.
    pub deflate_on_oom: bool,
    /// The guest tells which pages are free, and the host has them until they are used.
    pub reporting: bool,
}

impl Options {
    /// With nothing to put away yet.
    pub fn new(id: &str) -> Self {
        Self { id: id.into(), target: 0, deflate_on_oom: true, reporting: true }
    }
}

/// A balloon as configured.
pub struct Balloon {
    service: Service<Pages>,
    shared: Arc<Shared>,
    config: Arc<Config>,
    deflate_on_oom: bool,
    reporting: bool,
}

/// The host's hand on a balloon. Cheap to clone, and used from any thread.
#[derive(Clone, Debug)]
pub struct BalloonControl(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Arc<Config>,
    /// In pages, as the driver last said.
    actual: AtomicU32,
    /// The guest's RAM in bytes; 0 before a driver ran.
    ram: AtomicU64,
}

impl Balloon {
    pub fn new(options: &Options) -> (Self, BalloonControl) {
        let mut bytes = vec![0; if options.reporting { 16 } else { 8 }];
        put(&mut bytes, NUM_PAGES, pages(options.target));
        let config = Arc::new(Config::new(bytes));
        let (actual, ram) = (AtomicU32::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { config: Arc::clone(&config), actual, ram });
        let service = Service::new(&options.id, Pages::new(Arc::clone(&config)));
        let Options { deflate_on_oom, reporting, .. } = *options;
        let balloon = Self { service, shared: Arc::clone(&shared), config, deflate_on_oom, reporting };
        (balloon, BalloonControl(shared))
    }
}

impl BalloonControl {
    /// Asks the guest to put away `bytes`, in whole pages of 4 KiB and not more than 16 TiB. It need not.
    pub fn set_target(&self, bytes: u64) {
        self.0.config.announce(|config| put(config, NUM_PAGES, pages(bytes)));
    }

    /// In bytes.
    pub fn target(&self) -> u64 {
        bytes(word(&self.0.config.bytes(), NUM_PAGES))
    }

    /// How much the guest says it has put away, in bytes: not more than it has.
    pub fn actual(&self) -> u64 {
        bytes(self.0.actual.load(Ordering::Relaxed)).min(self.0.ram.load(Ordering::Relaxed))
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE).unwrap_or(u32::MAX)
}

fn bytes(pages: u32) -> u64 {
    u64::from(pages).saturating_mul(PAGE)
}

fn put(config: &mut [u8], at: usize, value: u32) {
    config.iter_mut().skip(at).zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
}

/// Zero where there is no such field.
fn word(config: &[u8], at: usize) -> u32 {
    let field = config.get(at..).and_then(|field| field.first_chunk::<4>());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        let deflate = if self.deflate_on_oom { F_DEFLATE_ON_OOM } else { 0 };
        // A guest that fills free pages would not report any without a way to say so.
        let reporting = if self.reporting { F_REPORTING | F_PAGE_POISON } else { 0 };
        deflate | reporting
    }

    fn queue_sizes(&self) -> &[u16] {
        if self.reporting { &QUEUE_SIZES } else { QUEUE_SIZES.first_chunk::<2>().map_or(&[], |two| two) }
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn write_config(&mut self, at: u64, data: &[u8], _: Interface) {
        self.config.update(|config| {
            for first in [ACTUAL, POISON] {
                let field = config.get_mut(first..).and_then(|field| field.first_chunk_mut::<4>());
                if let Some(field) = field {
                    overlay(field, first as u64, at, data);
                }
            }
        });
        // A legacy driver may write one byte after another, the highest last; before it the value is none
        // (5.5.6.2.1).
        if at.checked_add(data.len() as u64).is_some_and(|end| end >= ACTUAL_END) && at < ACTUAL_END {
            self.shared.actual.store(word(&self.config.bytes(), ACTUAL), Ordering::Relaxed);
        }
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        let ram = start.memory.iter().map(GuestMemoryRegion::len).fold(0, u64::saturating_add);
        self.shared.ram.store(ram, Ordering::Relaxed);
        let interrupt = Arc::clone(&start.interrupt);
        self.service.start(start)?;
        self.config.attach(&interrupt);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.config.detach();
        self.service.stop()
    }

    fn reset(&mut self) {
        self.config.reset(|config| [ACTUAL, POISON].into_iter().for_each(|field| put(config, field, 0)));
        self.shared.actual.store(0, Ordering::Relaxed);
    }
}

/// What serves the queues.
struct Pages {
    config: Arc<Config>,
    features: u64,
    /// Of one request, as the guest wrote them.
    bytes: Box<[u8]>,
    numbers: Vec<u32>,
    /// By queue: how many pieces of the request of this head went back to the host in turns before this one.
    done: [(u16, usize); QUEUE_SIZES.len()],
}

/// What is left of a turn.
struct Left {
    calls: u32,
    bytes: u64,
}

impl Serve for Pages {
    fn begin(&mut self, run: &Run) -> io::Result<()> {
        self.features = run.features;
        // What had begun begins anew, and pages that are put away can be given again.
        self.done = Default::default();
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let index = ring.index;
        let mut left = Left { calls: CALLS, bytes: BYTES };
        let more = ring.serve_in_parts(memory, |chain| {
            let before = self.done.get(usize::from(index)).filter(|(head, _)| *head == chain.head);
            let mut done = before.map_or(0, |(_, pieces)| *pieces);
            let all = match index {
                INFLATE => self.inflate(chain, memory, &mut done, &mut left),
                // A page that is taken out again is there when it is touched.
                DEFLATE => true,
                _ => self.report(chain, memory, &mut done, &mut left),
            };
            if let Some(queue) = self.done.get_mut(usize::from(index)) {
                *queue = if all { (0, 0) } else { (chain.head, done) };
            }
            all.then_some(0)
        })?;
        Ok(Next::again_if(more))
    }
}

impl Pages {
    fn new(config: Arc<Config>) -> Self {
        let bytes = vec![0; MOST.saturating_mul(4)].into();
        Self { config, features: 0, bytes, numbers: Vec::with_capacity(MOST), done: Default::default() }
    }

    /// The request is a list of page numbers. What of them is not RAM is left out. False if the turn is over before
    /// all are given.
    fn inflate(&mut self, chain: &Chain, memory: &GuestMemory, done: &mut usize, left: &mut Left) -> bool {
        if !chain.writable.is_empty() {
            tracing::debug!("pages were put away in a buffer for writing");
            return true;
        }
        let count = read_some(memory, &chain.readable, &mut self.bytes);
        let words = self.bytes.get(..count).unwrap_or_default().chunks_exact(4);
        self.numbers.clear();
        self.numbers.extend(words.filter_map(|word| Some(u32::from_le_bytes(word.try_into().ok()?))));
        give_all(memory, runs(&mut self.numbers), done, left)
    }

    /// The buffers themselves are free, until the request is used. False as with [`Pages::inflate`].
    fn report(&self, chain: &Chain, memory: &GuestMemory, done: &mut usize, left: &mut Left) -> bool {
        // A guest that expects its own pattern in free pages must find it there (5.5.6.7.2).
        let filled = self.features & F_PAGE_POISON != 0 && word(&self.config.bytes(), POISON) != 0;
        if self.features & F_REPORTING == 0 || filled || !chain.readable.is_empty() {
            return true;
        }
        let runs = chain.writable.iter().map(|buffer| (buffer.address.raw_value(), u64::from(buffer.len)));
        give_all(memory, runs, done, left)
    }
}

/// The pages' bytes, each run once: where it begins and how long it is. The host's pages may be larger than
/// these, and the guest lists them in any order.
fn runs(numbers: &mut Vec<u32>) -> impl Iterator<Item = (u64, u64)> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers
        .chunk_by(|a, b| a.checked_add(1) == Some(*b))
        .filter_map(|run| Some((bytes(*run.first()?), PAGE.saturating_mul(run.len() as u64))))
}

/// Goes on after the first `done` pieces of `runs`. False if the turn is over before the last.
fn give_all(
    memory: &GuestMemory,
    runs: impl Iterator<Item = (u64, u64)>,
    done: &mut usize,
    left: &mut Left,
) -> bool {
    for (first, len) in runs.flat_map(|(first, len)| pieces(first, len)).skip(*done) {
        if left.calls == 0 || left.bytes == 0 {
            return false;
        }
        give(memory, first, len);
        *done = done.saturating_add(1);
        left.calls = left.calls.saturating_sub(1);
        left.bytes = left.bytes.saturating_sub(len);
    }
    true
}

/// A run, cut at each multiple of [`PIECE`].
fn pieces(first: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = first.saturating_add(len);
    let after = |at: u64| (at | (PIECE - 1)).checked_add(1);
    let starts = iter::successors(Some(first), move |at| after(*at)).take_while(move |at| *at < end);
    starts.map(move |at| (at, after(at).map_or(end, |after| after.min(end)).saturating_sub(at)))
}

fn give(memory: &GuestMemory, first: u64, len: u64) {
    let Some(range) = AddressRange::new(first, len) else { return };
    match discard(memory, range) {
        Ok(given) => tracing::trace!("{given:#x} bytes of {range} went back to the host"),
        Err(error) => tracing::debug!("the host does not take {range}: {error}"),
    }
}

#[cfg(test)]
#[path = "balloon/tests.rs"]
mod tests;
