//! A machine for tests: records what devices do to it, holds RAM, needs no KVM.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, IrqPin, PaBits};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    Backplane, Doorbell, Host, HostError, IrqLine, IrqWire, Match, Message, MsiVector, MsiWire, Space,
    Trigger, Wired,
};

/// Where the RAM of a [`BenchHost`] begins.
pub const RAM_BASE: u64 = 0x4000_0000;

/// A [`Host`] of plain values, and a [`Backplane`] of them.
pub struct BenchHost {
    memory: GuestMemory,
    pa_bits: PaBits,
    pins: Mutex<Vec<(IrqPin, Arc<PinLog>)>>,
    doorbells: Mutex<Vec<(Doorbell, EventFd)>>,
    // `None` on a machine without messages.
    messages: Option<Mutex<Vec<Arc<MsiLog>>>>,
    // As a backplane, at addresses.
    wired: Arc<Mutex<Vec<Wire>>>,
    doorbell_room: usize,
    // Each wire has a copy of its kind's.
    lines_held: Arc<()>,
    messages_held: Arc<()>,
}

/// What a [`BenchHost`] has given out and not got back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub lines: usize,
    pub messages: usize,
    /// As a backplane.
    pub doorbells: usize,
}

/// A doorbell at its address.
struct Wire {
    space: Space,
    address: u64,
    write: Match,
    event: Arc<EventFd>,
}

/// Takes the wire down when it is dropped.
struct Unwire {
    at: (Space, u64, Match),
    wired: Arc<Mutex<Vec<Wire>>>,
}

impl Drop for Unwire {
    fn drop(&mut self) {
        self.wired.lock().unwrap().retain(|wire| (wire.space, wire.address, wire.write) != self.at);
    }
}

fn matches(write: Match, data: &[u8]) -> bool {
    match write {
        Match::Any => true,
        Match::Half(value) => data == value.to_le_bytes(),
        Match::Word(value) => data == value.to_le_bytes(),
    }
}

fn refused(wanted: &str, kind: ErrorKind) -> HostError {
    HostError { wanted: wanted.into(), source: kind.into() }
}

/// What became of one message-signalled interrupt.
#[derive(Debug, Default)]
pub struct MsiLog {
    route: Mutex<Option<Message>>,
    sent: Mutex<Vec<Message>>,
}

impl MsiLog {
    pub fn route(&self) -> Option<Message> {
        *self.route.lock().unwrap()
    }

    /// Every message that went out, in order.
    pub fn sent(&self) -> Vec<Message> {
        self.sent.lock().unwrap().clone()
    }
}

struct LoggedMsi {
    log: Arc<MsiLog>,
    _held: Arc<()>,
}

impl MsiWire for LoggedMsi {
    /// Refuses messages to addresses with the top bit, so that refusals can be tested.
    fn route(&self, message: Option<Message>) -> Result<(), HostError> {
        let mut route = self.log.route.lock().unwrap();
        *route = message.filter(|message| message.address >> 63 == 0);
        match message {
            Some(message) if route.is_none() => {
                Err(refused(&format!("a message to {:#x}", message.address), ErrorKind::InvalidInput))
            }
            _ => Ok(()),
        }
    }

    fn pulse(&self) {
        if let Some(message) = self.log.route() {
            self.log.sent.lock().unwrap().push(message);
        }
    }
}

/// What happened on one pin.
#[derive(Debug, Default)]
pub struct PinLog {
    high: AtomicBool,
    pulses: AtomicUsize,
}

impl PinLog {
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }

    pub fn pulses(&self) -> usize {
        self.pulses.load(Ordering::SeqCst)
    }
}

struct PinWire {
    log: Arc<PinLog>,
    _held: Arc<()>,
}

impl IrqWire for PinWire {
    fn set(&self, high: bool) {
        self.log.high.store(high, Ordering::SeqCst);
    }

    fn pulse(&self) {
        self.log.pulses.fetch_add(1, Ordering::SeqCst);
    }
}

impl BenchHost {
    /// With `ram` bytes of RAM at [`RAM_BASE`]; a multiple of 4096.
    pub fn new(ram: u64) -> Self {
        Self::with_ram(&[AddressRange::fixed(RAM_BASE, ram)], PaBits::MAX)
    }

    pub fn with_ram(ranges: &[AddressRange], pa_bits: PaBits) -> Self {
        let memory = ambit_memory::map(ranges).expect("a test's RAM fits this host");
        Self {
            memory,
            pa_bits,
            pins: Mutex::default(),
            doorbells: Mutex::default(),
            messages: Some(Mutex::default()),
            wired: Arc::default(),
            doorbell_room: usize::MAX,
            lines_held: Arc::default(),
            messages_held: Arc::default(),
        }
    }

    /// The same machine without anything that takes messages.
    #[must_use]
    pub fn without_messages(self) -> Self {
        Self { messages: None, ..self }
    }

    /// The same machine with room for so many doorbells at a time.
    #[must_use]
    pub fn with_doorbells(self, doorbell_room: usize) -> Self {
        Self { doorbell_room, ..self }
    }

    pub fn held(&self) -> Held {
        Held {
            lines: Arc::strong_count(&self.lines_held) - 1,
            messages: Arc::strong_count(&self.messages_held) - 1,
            doorbells: self.wired.lock().unwrap().len(),
        }
    }

    /// What a guest's write comes to before any device is asked: true if a doorbell took it.
    pub fn signals(&self, address: u64, data: &[u8]) -> bool {
        self.signals_in(Space::Memory, address, data)
    }

    /// The same of a write in `space`.
    pub fn signals_in(&self, space: Space, address: u64, data: &[u8]) -> bool {
        let wired = self.wired.lock().unwrap();
        let here = |wire: &&Wire| (wire.space, wire.address) == (space, address);
        let wire = wired.iter().find(|wire| here(wire) && matches(wire.write, data));
        wire.is_some_and(|wire| wire.event.write(1).is_ok())
    }

    fn line(&self, pin: IrqPin) -> IrqLine {
        IrqLine::new(PinWire { log: self.pin(pin), _held: Arc::clone(&self.lines_held) })
    }

    fn vector(&self) -> Option<MsiVector> {
        self.messages.as_ref().map(|all| {
            let log = Arc::new(MsiLog::default());
            all.lock().unwrap().push(Arc::clone(&log));
            MsiVector::new(LoggedMsi { log, _held: Arc::clone(&self.messages_held) })
        })
    }

    /// Every message that a device has asked for, in that order.
    pub fn messages(&self) -> Vec<Arc<MsiLog>> {
        self.messages.as_ref().map(|all| all.lock().unwrap().clone()).unwrap_or_default()
    }

    /// What happened on `pin`; nothing yet if no device has asked for it.
    pub fn pin(&self, pin: IrqPin) -> Arc<PinLog> {
        let mut pins = self.pins.lock().unwrap();
        if let Some((_, log)) = pins.iter().find(|(known, _)| *known == pin) {
            return Arc::clone(log);
        }
        let log = Arc::new(PinLog::default());
        pins.push((pin, Arc::clone(&log)));
        log
    }

    /// Signals the doorbell as the guest's write would. False if no device asked for it.
    pub fn ring(&self, at: Doorbell) -> bool {
        let doorbells = self.doorbells.lock().unwrap();
        let Some((_, event)) = doorbells.iter().find(|(known, _)| *known == at) else {
            return false;
        };
        event.write(1).is_ok()
    }
}

impl Host for BenchHost {
    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn pa_bits(&self) -> PaBits {
        self.pa_bits
    }

    fn irq(&self, pin: IrqPin, _: Trigger) -> Result<IrqLine, HostError> {
        Ok(self.line(pin))
    }

    fn message(&self) -> Result<Option<MsiVector>, HostError> {
        Ok(self.vector())
    }

    fn doorbell(&self, at: Doorbell, event: &EventFd) -> Result<(), HostError> {
        let ours = event.try_clone().map_err(|source| HostError { wanted: "a doorbell".into(), source })?;
        self.doorbells.lock().unwrap().push((at, ours));
        Ok(())
    }
}

impl Backplane for BenchHost {
    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn pa_bits(&self) -> PaBits {
        self.pa_bits
    }

    fn irq(&self, pin: IrqPin, _: Trigger) -> Result<IrqLine, HostError> {
        Ok(self.line(pin))
    }

    fn message(&self, _: u16) -> Result<Option<MsiVector>, HostError> {
        Ok(self.vector())
    }

    /// Refuses what KVM refuses: two that one write could signal, and one more than there is room for.
    fn doorbell(
        &self,
        space: Space,
        address: u64,
        write: Match,
        event: &Arc<EventFd>,
    ) -> Result<Wired, HostError> {
        let mut wired = self.wired.lock().unwrap();
        if wired.len() >= self.doorbell_room {
            return Err(refused("a doorbell", ErrorKind::StorageFull));
        }
        let same = |other: Match| write == Match::Any || other == Match::Any || other == write;
        if wired.iter().any(|wire| (wire.space, wire.address) == (space, address) && same(wire.write)) {
            return Err(refused("a doorbell", ErrorKind::AlreadyExists));
        }
        wired.push(Wire { space, address, write, event: Arc::clone(event) });
        Ok(Wired::new(Unwire { at: (space, address, write), wired: Arc::clone(&self.wired) }))
    }
}

/// A fuzz target: its name in `fuzz/`, and what runs one input.
pub type Target = (&'static str, fn(&[u8]));

/// Runs every target over the inputs that were worth keeping of it.
pub fn replay_all(targets: &[Target]) {
    for (name, target) in targets {
        replay(name, *target);
    }
}

/// Runs every target over random bytes, see [`random`].
pub fn random_for_all(targets: &[Target], cases: u64, most: u64) {
    for (name, target) in targets {
        println!("{name}");
        random(cases, most, *target);
    }
}

/// Runs a fuzz target over every input in `fuzz/corpus/NAME`; there is at least one.
pub fn replay(name: &str, target: fn(&[u8])) {
    // Ours is two directories down.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let inputs = std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let inputs: Vec<_> = inputs.map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for input in inputs {
        println!("{}", input.display());
        target(&std::fs::read(input).unwrap());
    }
}

/// Runs a fuzz target over `cases` inputs of up to `most` random bytes, the same every time (SplitMix64).
pub fn random(cases: u64, most: u64, target: fn(&[u8])) {
    let mut state = 0u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    for _ in 0..cases {
        let len = next() % (most + 1);
        let bytes: Vec<u8> = (0..len).map(|_| next().to_le_bytes()[0]).collect();
        target(&bytes);
    }
}
