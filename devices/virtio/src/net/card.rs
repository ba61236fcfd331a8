//! What the lanes of a card share: its carriers, its configuration, and which of its queues are in use.

use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use virtio_bindings::bindings::virtio_net::{VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ, VIRTIO_NET_S_LINK_UP};

use super::{Carrier, Mac, Offloads, Options};
use crate::config::Config;
use crate::limit::{Limiter, Limits};

/// Bytes of the configuration (virtio 1.2, 5.1.4).
pub const ADDRESS: std::ops::Range<usize> = 0..6;
const STATUS: usize = 6;
const LINK_UP: u8 = VIRTIO_NET_S_LINK_UP.to_le_bytes()[0];

/// One card.
pub struct Card {
    id: String,
    /// One for each pair of queues.
    pub carriers: Vec<Box<dyn Carrier>>,
    pairs: Vec<Pair>,
    /// How many pairs are in use; the first always is.
    active: AtomicUsize,
    pub config: Arc<Config>,
    mac: Mac,
    pub mtu: Option<u16>,
    /// Towards the guest, and from it.
    pub rx: Limiter,
    pub tx: Limiter,
    /// What the guest takes: what it agreed to, until it says otherwise. `None` before it agreed to anything.
    offloads: Mutex<Option<Offloads>>,
    /// The carriers are gone for good.
    gone: AtomicBool,
    counters: Counters,
}

/// A pair of queues.
struct Pair {
    /// Held by whoever works on its rings.
    gate: Mutex<()>,
    /// Wake the one for receiving and the one for sending when the pair comes into use.
    bells: [OwnedFd; 2],
    /// The driver has set up both queues.
    ready: AtomicBool,
}

#[derive(Default)]
struct Counters {
    received: AtomicU64,
    not_received: AtomicU64,
    sent: AtomicU64,
    not_sent: AtomicU64,
}

/// How many frames of a card there were so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub received: u64,
    /// Of those that came, how many the guest never got.
    pub not_received: u64,
    pub sent: u64,
    /// Of those the guest sent, how many went nowhere.
    pub not_sent: u64,
}

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Receive,
    Transmit,
    Control,
    /// Nothing, with these features.
    None,
}

impl Card {
    /// # Errors
    /// If the host has no events for it.
    pub fn new(id: &str, carriers: Vec<Box<dyn Carrier>>, options: &Options) -> io::Result<Self> {
        let event = || eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let pair = |_| {
            Ok(Pair { gate: Mutex::default(), bells: [event()?, event()?], ready: AtomicBool::default() })
        };
        let now = Instant::now();
        let limiter = |limits: Limits| Limiter::new(limits, now);
        Ok(Self {
            id: id.into(),
            pairs: (0..carriers.len()).map(pair).collect::<io::Result<_>>()?,
            active: AtomicUsize::new(1),
            config: Arc::new(Config::new(layout(options, carriers.len()))),
            carriers,
            mac: options.mac,
            mtu: options.mtu,
            rx: limiter(options.rx),
            tx: limiter(options.tx),
            offloads: Mutex::default(),
            gone: AtomicBool::default(),
            counters: Counters::default(),
        })
    }

    /// What queue `index` is for, which depends on what was agreed on (5.1.2).
    pub fn role(&self, index: u16, features: u64) -> Role {
        let pairs = if features & 1 << VIRTIO_NET_F_MQ == 0 { 1 } else { self.carriers.len() };
        let index = usize::from(index);
        if index / 2 < pairs {
            return if index.is_multiple_of(2) { Role::Receive } else { Role::Transmit };
        }
        let control = features & 1 << VIRTIO_NET_F_CTRL_VQ != 0;
        if control && index == pairs.saturating_mul(2) { Role::Control } else { Role::None }
    }

    /// Readies the carriers for a driver with these features, which has set up the queues that `has` says.
    ///
    /// # Errors
    /// If a carrier does not do that.
    pub fn begin(&self, features: u64, has: impl Fn(usize) -> bool) -> io::Result<()> {
        for (index, pair) in self.pairs.iter().enumerate() {
            let rx = index.saturating_mul(2);
            pair.ready.store(has(rx) && has(rx.saturating_add(1)), Ordering::SeqCst);
        }
        let active = self.active.load(Ordering::SeqCst);
        let attached = self.carriers.iter().enumerate().skip(1);
        let attached = attached.map(|(index, carrier)| carrier.attach(index < active));
        let offloads = *lock(&self.offloads).get_or_insert(Offloads::of(features));
        let told = attached.collect::<io::Result<()>>();
        match told.and_then(|()| self.tell_offloads(offloads)) {
            // The interface was deleted: the card stays, with nothing at its other end.
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => {
                self.lose(&error);
                Ok(())
            }
            told => told,
        }
    }

    /// As if no driver had ever been there.
    pub fn reset(&self) {
        self.shrink(1);
        *lock(&self.offloads) = None;
        self.config.reset(|bytes| set_address(bytes, self.mac.0));
    }

    fn tell_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let active = self.active.load(Ordering::SeqCst);
        self.carriers.iter().take(active).try_for_each(|carrier| carrier.set_offloads(offloads))
    }

    /// The guest takes these from now on. False if the carriers do not do that.
    pub fn set_offloads(&self, offloads: Offloads) -> bool {
        let told = self.tell_offloads(offloads).is_ok();
        if told {
            *lock(&self.offloads) = Some(offloads);
        }
        told
    }

    /// The guest has another address.
    pub fn set_address(&self, address: [u8; 6]) {
        self.config.update(|bytes| set_address(bytes, address));
    }

    /// The right to work on pair `index` until it is dropped. `None` while it is not in use.
    pub fn enter(&self, index: usize) -> Option<MutexGuard<'_, ()>> {
        let gate = lock(&self.pairs.get(index)?.gate);
        self.is_active(index).then_some(gate)
    }

    pub fn is_active(&self, index: usize) -> bool {
        index < self.active.load(Ordering::SeqCst)
    }

    /// Rings when the pair comes into use: of its queue for receiving (0) or sending (1). The first always is.
    pub fn bell(&self, index: usize, queue: usize) -> Option<&OwnedFd> {
        self.pairs.get(index).filter(|_| index > 0)?.bells.get(queue)
    }

    /// Uses the first `pairs` from now on. False, and nothing has changed, if there are not as many, or not all are
    /// set up.
    pub fn use_pairs(&self, pairs: usize) -> bool {
        let ready = |pairs: &[Pair]| pairs.iter().all(|pair| pair.ready.load(Ordering::SeqCst));
        if pairs == 0 || !self.pairs.get(..pairs).is_some_and(ready) {
            return false;
        }
        self.shrink(pairs);
        self.grow(pairs)
    }

    /// What is beyond `pairs` is not touched any more when this returns (5.1.6.5.6.2).
    fn shrink(&self, pairs: usize) {
        let before = self.active.fetch_min(pairs, Ordering::SeqCst);
        for (pair, carrier) in self.pairs.iter().zip(&self.carriers).take(before).skip(pairs) {
            let _nobody = lock(&pair.gate);
            if let Err(error) = carrier.attach(false) {
                tracing::debug!("net '{}': a queue of the host's stays in use: {error}", self.id);
            }
        }
    }

    fn grow(&self, pairs: usize) -> bool {
        let before = self.active.load(Ordering::SeqCst);
        let new = || self.pairs.iter().zip(&self.carriers).take(pairs).skip(before);
        for (_, carrier) in new() {
            if let Err(error) = carrier.attach(true) {
                tracing::warn!("net '{}' has {before} pairs of queues and gets no more: {error}", self.id);
                new().for_each(|(_, carrier)| drop(carrier.attach(false)));
                return false;
            }
        }
        self.active.fetch_max(pairs, Ordering::SeqCst);
        for bell in new().flat_map(|(pair, _)| &pair.bells) {
            // Full means that it rings already.
            let _full = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
        true
    }

    /// The host's end of the wire is there, or not. What is gone never comes back.
    pub fn set_link(&self, up: bool) {
        let up = up && !self.is_gone();
        let changed = self.config.announce(|bytes| {
            if let Some(status) = bytes.get_mut(STATUS) {
                *status = if up { *status | LINK_UP } else { *status & !LINK_UP };
            }
        });
        if changed {
            tracing::info!("net '{}': its link is {}", self.id, if up { "up" } else { "down" });
        }
        // Whoever took it down may have changed what it does.
        if changed && up {
            let offloads = *lock(&self.offloads);
            if let Some(offloads) = offloads
                && let Err(error) = self.tell_offloads(offloads)
            {
                tracing::debug!("net '{}': {error}", self.id);
            }
        }
    }

    /// The carriers are gone.
    pub fn lose(&self, why: &dyn Display) {
        if !self.gone.swap(true, Ordering::SeqCst) {
            tracing::warn!("net '{}' has nothing at its other end any more: {why}", self.id);
        }
        self.set_link(false);
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    pub fn received(&self) {
        self.counters.received.fetch_add(1, Ordering::Relaxed);
    }

    pub fn sent(&self) {
        self.counters.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn not_received(&self, why: &dyn Display) {
        self.lost_one(&self.counters.not_received, "to", why);
    }

    pub fn not_sent(&self, why: &dyn Display) {
        self.lost_one(&self.counters.not_sent, "from", why);
    }

    /// Says so for the first, the second, the fourth and so on.
    fn lost_one(&self, counter: &AtomicU64, way: &str, why: &dyn Display) {
        let count = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if count.is_power_of_two() {
            tracing::info!(
                "net '{}': {count} frames {way} the guest were dropped so far, now as {why}",
                self.id
            );
        }
    }

    pub fn counts(&self) -> Counts {
        let Counters { received, not_received, sent, not_sent } = &self.counters;
        let [received, not_received, sent, not_sent] =
            [received, not_received, sent, not_sent].map(|counter| counter.load(Ordering::Relaxed));
        Counts { received, not_received, sent, not_sent }
    }
}

/// Address, status, most pairs of queues, and longest packet.
fn layout(options: &Options, pairs: usize) -> Vec<u8> {
    let pairs = u16::try_from(pairs).unwrap_or(u16::MAX);
    let Mac([a, b, c, d, e, f]) = options.mac;
    let [[g, h], [i, j]] = [pairs, options.mtu.unwrap_or(0)].map(u16::to_le_bytes);
    vec![a, b, c, d, e, f, LINK_UP, 0, g, h, i, j]
}

fn set_address(bytes: &mut [u8], address: [u8; 6]) {
    if let Some(bytes) = bytes.get_mut(ADDRESS) {
        bytes.copy_from_slice(&address);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked has ended the program.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
