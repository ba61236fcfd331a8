//! A driver for tests: registers through `Device`, rings in RAM, as Linux's virtio-mmio does it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ambit_bus::bench::{BenchHost, PinLog, RAM_BASE};
use ambit_bus::{Effect, Host, Needs, Offset, Shared, Slot, Trigger};
use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, IrqPin};
use vm_memory::{Bytes, GuestAddress};

use crate::config::Config;
use crate::device::{Start, StartError, VirtioDevice};
use crate::interrupt::Signal;
use crate::ring::{Broken, Ring, write_front};
use crate::worker::{Next, Run, Serve, Service};

mod face;
pub mod hand;

pub use face::{Face, Spot, Spots, bar_windows, capabilities};

pub const VERSION_1: u64 = 1 << 32;
pub const INDIRECT: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;

pub const RAM: u64 = 16 << 20;
const BASE: u64 = 0x200_0000;
const PIN: IrqPin = IrqPin(16);
/// How long anything may take before it counts as hung.
const HANG: Duration = Duration::from_secs(20);

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const TABLE: u16 = 4;

/// A machine with one virtio device.
pub struct Machine {
    pub host: BenchHost,
    pub device: Shared,
    pub memory: GuestMemory,
    pub face: Face,
    pub spots: Spots,
    pub needs: Needs,
    free: u64,
}

impl Machine {
    /// With the device on modern mmio.
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::with_face(Face::Mmio, device)
    }

    pub fn with_face(face: Face, device: impl VirtioDevice + 'static) -> Self {
        Self::build(BenchHost::new(RAM), face, device)
    }

    pub fn with_host(host: BenchHost, device: impl VirtioDevice + 'static) -> Self {
        Self::build(host, Face::Mmio, device)
    }

    /// The device as its driver finds it: a function is decoded and may master the bus.
    pub fn build(host: BenchHost, face: Face, device: impl VirtioDevice + 'static) -> Self {
        let model = face.model(device);
        let needs = model.request().needs;
        let trigger = if face.is_pci() { Trigger::Level } else { Trigger::Edge };
        let slot = Slot { windows: windows(&needs), irq: Some((PIN, trigger)) };
        let device = model.build(&slot, &host).unwrap();
        let memory = host.memory();
        let spots = Spots { config: Spot { window: 0, byte: 0x100 }, ..Spots::default() };
        let mut machine = Self { host, device, memory, face, spots, needs, free: RAM_BASE };
        if face.is_pci() {
            machine.spots = face::find(&machine, &machine.needs);
            if face.is_legacy() {
                machine.spots.config = Spot { window: 1, byte: 20 };
            }
            machine.put_at(Spot { window: 0, byte: 4 }, &[7, 0]);
        }
        machine
    }

    pub fn get<const N: usize>(&self, at: Spot) -> [u8; N] {
        let mut data = [0x55; N];
        self.fetch(at, &mut data);
        data
    }

    pub fn fetch(&self, Spot { window, byte }: Spot, data: &mut [u8]) {
        self.device.lock().unwrap().read(Offset { window, byte }, data);
    }

    pub fn put_at(&self, Spot { window, byte }: Spot, data: &[u8]) {
        // What it wants of the machine is nothing here: there is no bus whose windows could move.
        let _moved = self.device.lock().unwrap().write(Offset { window, byte }, data);
    }

    pub fn access(&self, byte: u64, data: &mut [u8]) {
        self.fetch(Spot { window: 0, byte }, data);
    }

    pub fn store(&self, byte: u64, data: &[u8]) {
        let effect = self.device.lock().unwrap().write(Offset { window: 0, byte }, data);
        assert_eq!(effect, Effect::None);
    }

    pub fn read(&self, register: u64) -> u32 {
        let mut data = [0x55; 4];
        self.access(register, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&self, register: u64, value: u32) {
        self.store(register, &value.to_le_bytes());
    }

    pub fn pin(&self) -> Arc<PinLog> {
        self.host.pin(PIN)
    }

    /// Every register and the first bytes of the configuration, as each selector shows them.
    pub fn dump(&self) -> Vec<u32> {
        let words = |window: u8, len: u64| {
            (0..len).step_by(4).map(move |byte| u32::from_le_bytes(self.get(Spot { window, byte })))
        };
        let mut all: Vec<u32> = match &self.needs {
            Needs::Board { .. } | Needs::Ports { .. } => words(0, 0x140).collect(),
            // Reading the interrupt status clears it, so it is read as often here as there.
            Needs::Pci { bars } => {
                let bars = (1..).zip(bars).flat_map(|(window, bar)| words(window, bar.size));
                words(0, 0x100).chain(bars).collect()
            }
        };
        for select in 0..4 {
            self.select(select);
            all.extend([self.offered_word(u32::from(select)), self.largest(), u32::from(self.is_ready())]);
        }
        self.select(0);
        self.offered_word(0);
        all
    }

    pub fn offered(&self) -> u64 {
        u64::from(self.offered_word(0)) | u64::from(self.offered_word(1)) << 32
    }

    /// Reset to FEATURES_OK, or for a legacy driver to its features; false if the device does not agree.
    pub fn negotiate(&self, features: u64) -> bool {
        self.set_status(0);
        assert_eq!(self.status(), 0, "reset is complete when its write returns");
        for status in [1, 3] {
            self.set_status(status);
        }
        if self.face.is_legacy() {
            self.choose(features & 0xffff_ffff);
            return self.status() == 3;
        }
        self.choose(features);
        self.set_status(11);
        self.status() == 11
    }

    pub fn choose(&self, features: u64) {
        let low = u32::try_from(features & 0xffff_ffff).unwrap();
        for (select, half) in [(0, low), (1, u32::try_from(features >> 32).unwrap())] {
            self.choose_word(select, half);
        }
    }

    pub fn go(&self) {
        self.set_status(if self.face.is_legacy() { 7 } else { 15 });
    }

    /// Some RAM that nobody else has, filled with zeroes.
    pub fn alloc(&mut self, len: u64, align: u64) -> u64 {
        let at = self.free.next_multiple_of(align);
        self.free = at + len;
        assert!(self.free <= RAM_BASE + RAM, "a test's RAM is full");
        at
    }

    /// For [`forget`](Self::forget).
    pub fn mark(&self) -> u64 {
        self.free
    }

    /// Takes back all RAM that was given out since `mark`, and fills it with zeroes again.
    pub fn forget(&mut self, mark: u64) {
        let used = usize::try_from(self.free - mark).unwrap();
        self.memory.write_slice(&vec![0; used], GuestAddress(mark)).unwrap();
        self.free = mark;
    }

    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        let at = self.alloc(bytes.len() as u64, 1);
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        at
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Sets up a queue and makes it ready; not yet live, unless its driver is a legacy one. The queues of a legacy
    /// function have the size that they have.
    pub fn queue(&mut self, index: u16, size: u16) -> Vq {
        self.select(index);
        let size = match self.face {
            Face::PciLegacy => u16::try_from(self.largest()).unwrap(),
            _ => size,
        };
        let n = u64::from(size);
        let (desc, avail, used) = if self.face.is_legacy() {
            let to_used = (18 * n + 6).next_multiple_of(4096);
            let desc = self.alloc(to_used + 6 + 8 * n, 4096);
            (desc, desc + 16 * n, desc + to_used)
        } else {
            (self.alloc(16 * n, 16), self.alloc(6 + 2 * n, 2), self.alloc(6 + 8 * n, 4))
        };
        // What a device did for a driver before this one may be anywhere.
        for (at, len) in [(desc, 16 * n), (avail, 6 + 2 * n), (used, 6 + 8 * n)] {
            self.memory.write_slice(&vec![0; len as usize], GuestAddress(at)).unwrap();
        }
        self.place(u32::from(size), [desc, avail, used]);
        self.enable();
        let memory = self.memory.clone();
        Vq { index, size, desc, avail, used, memory, next: 0, slot: 0, seen: 0 }
    }

    /// Writes size and addresses of a queue.
    pub fn point(&self, index: u16, size: u32, areas: [u64; 3]) {
        self.select(index);
        self.place(size, areas);
    }

    /// As the guest's write does when the doorbell takes it.
    pub fn kick(&self, queue: &Vq) {
        assert!(self.host.ring(self.doorbell(queue.index)), "every queue has a doorbell");
    }

    /// Makes one request, waits for it, and says what the used element said of its length.
    pub fn ask(&self, queue: &mut Vq, chain: &[(u64, u32, u16)]) -> u32 {
        let head = queue.offer(chain);
        self.kick(queue);
        let (id, len) = queue.wait();
        assert_eq!(id, u32::from(head));
        len
    }

    pub fn wait_until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        until(what, || is(self).then_some(()));
    }
}

/// One behind the other, each at a multiple of its size.
fn windows(needs: &Needs) -> Vec<AddressRange> {
    let sizes: Vec<u64> = match needs {
        Needs::Board { registers: size, .. } | Needs::Ports { count: size, .. } => vec![*size],
        Needs::Pci { bars } => [4096].into_iter().chain(bars.iter().map(|bar| bar.size)).collect(),
    };
    let mut next = BASE;
    let place = |size: u64| {
        let first = next.next_multiple_of(size);
        next = first + size;
        AddressRange::fixed(first, size)
    };
    sizes.into_iter().map(place).collect()
}

pub fn until<T>(what: &str, mut is: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    for round in 0u64.. {
        if let Some(value) = is() {
            return value;
        }
        assert!(start.elapsed() < HANG, "hung: {what}");
        if round < 100 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    unreachable!()
}

/// A device id, and so a thread's name, that no other test has.
pub fn unique(kind: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{kind}{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The thread called `name` sleeps: in a fifth of a second it uses next to no time of a processor.
pub fn idles(name: &str) {
    let before = ticks(name);
    std::thread::sleep(Duration::from_millis(200));
    // A tick is 10 ms, so a thread that spins has 20, or fewer if the machine is busy.
    let used = ticks(name) - before;
    assert!(used < 3, "{name} used {used} ticks while it had nothing to do");
}

fn ticks(name: &str) -> u64 {
    let named =
        |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
    // A thread gets its name when it first runs.
    let task = until("a thread", || {
        let mut tasks = std::fs::read_dir("/proc/self/task").ok()?.filter_map(|task| Some(task.ok()?.path()));
        tasks.find(named)
    });
    let stat = std::fs::read_to_string(task.join("stat")).unwrap();
    // After the name in brackets: user time is the 12th field, system time the 13th.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// A device that fills what it may write with [`ECHO`], after the gate lets it.
pub struct Echo {
    service: Service<EchoServer>,
    config: Arc<Config>,
}

pub const ECHO: u8 = 0x5a;
const ECHO_QUEUES: [u16; 2] = [256, 4];

struct EchoServer {
    gate: Arc<Gate>,
}

/// Closed while it is locked.
#[derive(Default)]
pub struct Gate {
    pub closed: Mutex<()>,
    /// How many requests came to it.
    pub reached: AtomicUsize,
}

impl Echo {
    pub fn new(id: &str) -> Self {
        Self::behind(id, Arc::default())
    }

    pub fn behind(id: &str, gate: Arc<Gate>) -> Self {
        let config = Config::new(vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        Self { service: Service::new(id, EchoServer { gate }), config: Arc::new(config) }
    }
}

impl VirtioDevice for Echo {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &ECHO_QUEUES
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

impl Serve for EchoServer {
    fn begin(&mut self, _: &Run) -> std::io::Result<()> {
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<Next, Broken> {
        let more = ring.serve(memory, |chain| {
            self.gate.reached.fetch_add(1, Ordering::SeqCst);
            let _open = self.gate.closed.lock().unwrap();
            chain
                .writable
                .iter()
                .map(|buffer| write_front(memory, &[*buffer], &vec![ECHO; buffer.len as usize]))
                .sum()
        });
        more.map(Next::again_if)
    }
}

/// The driver's side of a queue.
pub struct Vq {
    pub index: u16,
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
    pub memory: GuestMemory,
    /// The next free descriptor. They are taken in turn; a test waits before it comes round.
    pub next: u16,
    /// The available index.
    pub slot: u16,
    pub seen: u16,
}

impl Vq {
    pub fn describe(&self, table: u64, index: u16, (at, len, flags): (u64, u32, u16), next: u16) {
        let entry =
            u128::from(at) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.memory.write_obj(entry.to_le(), GuestAddress(table + 16 * u64::from(index))).unwrap();
    }

    /// Writes a chain without making it available. NEXT is set on all but the last.
    pub fn chain(&mut self, chain: &[(u64, u32, u16)]) -> u16 {
        let head = self.next;
        for (i, (at, len, flags)) in chain.iter().enumerate() {
            let index = self.next;
            self.next = (self.next + 1) % self.size;
            let more = if i + 1 < chain.len() { NEXT } else { 0 };
            self.describe(self.desc, index, (*at, *len, flags | more), self.next);
        }
        head
    }

    /// Puts a head into the available ring and publishes it.
    pub fn publish(&mut self, head: u16) {
        let at = self.avail + 4 + 2 * u64::from(self.slot % self.size);
        self.memory.write_obj(head.to_le(), GuestAddress(at)).unwrap();
        self.slot = self.slot.wrapping_add(1);
        self.set_index(self.slot);
    }

    pub fn set_index(&self, index: u16) {
        self.memory.store(index.to_le(), GuestAddress(self.avail + 2), Ordering::Release).unwrap();
    }

    pub fn offer(&mut self, chain: &[(u64, u32, u16)]) -> u16 {
        let head = self.chain(chain);
        self.publish(head);
        head
    }

    pub fn used_index(&self) -> u16 {
        u16::from_le(self.memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap())
    }

    pub fn used_flags(&self) -> u16 {
        u16::from_le(self.memory.load(GuestAddress(self.used), Ordering::Acquire).unwrap())
    }

    /// The next used element, if there is one: head and length.
    pub fn poll(&mut self) -> Option<(u32, u32)> {
        if self.used_index() == self.seen {
            return None;
        }
        let at = self.used + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        let element: [u32; 2] = [0, 4].map(|i| self.memory.read_obj(GuestAddress(at + i)).unwrap());
        Some((u32::from_le(element[0]), u32::from_le(element[1])))
    }

    pub fn wait(&mut self) -> (u32, u32) {
        until("a used element", || self.poll())
    }

    /// Whether the device asked for a kick for what was made available since `before`.
    pub fn wants_kick(&self, event_idx: bool, before: u16) -> bool {
        std::sync::atomic::fence(Ordering::SeqCst);
        if !event_idx {
            return self.used_flags() & 1 == 0;
        }
        let at = self.used + 4 + 8 * u64::from(self.size);
        let event: u16 = self.memory.load(GuestAddress(at), Ordering::SeqCst).unwrap();
        self.slot.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < self.slot.wrapping_sub(before)
    }

    /// The driver's half of the suppression fields.
    pub fn set_avail_flags(&self, flags: u16) {
        self.memory.store(flags.to_le(), GuestAddress(self.avail), Ordering::SeqCst).unwrap();
    }

    pub fn set_used_event(&self, event: u16) {
        let at = self.avail + 4 + 2 * u64::from(self.size);
        self.memory.store(event.to_le(), GuestAddress(at), Ordering::SeqCst).unwrap();
    }
}

/// Carries no notification anywhere.
pub struct Silent;

impl Signal for Silent {
    fn status(&self, _: u8, _: u8) {}
}
