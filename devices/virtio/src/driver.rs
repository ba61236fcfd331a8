//! A driver for tests: registers through `Device`, rings in RAM, as Linux's virtio-mmio does it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ambit_bus::bench::{BenchHost, PinLog, RAM_BASE};
use ambit_bus::{Doorbell, Effect, Host, Model, Offset, Shared, Slot, Trigger};
use ambit_memory::GuestMemory;
use ambit_resources::{AddressRange, IrqPin};
use vm_memory::{Bytes, GuestAddress};

use crate::device::{Start, StartError, VirtioDevice};
use crate::mmio::{MmioModel, WINDOW, read_bytes};
use crate::ring::{Broken, Ring, write_front};
use crate::worker::{Serve, Service};

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
    free: u64,
}

impl Machine {
    pub fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::with_host(BenchHost::new(RAM), device)
    }

    pub fn with_host(host: BenchHost, device: impl VirtioDevice + 'static) -> Self {
        let model = MmioModel::new("test0", "virtio-test", device);
        let slot = Slot { windows: vec![AddressRange::fixed(BASE, WINDOW)], irq: Some((PIN, Trigger::Edge)) };
        let device = model.build(&slot, &host).unwrap();
        let memory = host.memory();
        Self { host, device, memory, free: RAM_BASE }
    }

    pub fn access(&self, byte: u64, data: &mut [u8]) {
        self.device.lock().unwrap().read(Offset { window: 0, byte }, data);
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

    pub fn status(&self) -> u32 {
        self.read(0x70)
    }

    pub fn pin(&self) -> Arc<PinLog> {
        self.host.pin(PIN)
    }

    /// Every register and the first bytes of the configuration, as each selector shows them.
    pub fn dump(&self) -> Vec<u32> {
        let plain = (0..0x140).step_by(4).map(|at| self.read(at));
        let mut all: Vec<u32> = plain.collect();
        for select in 0..4 {
            self.write(0x30, select);
            self.write(0x14, select);
            all.extend([0x10, 0x34, 0x44].map(|at| self.read(at)));
        }
        self.write(0x30, 0);
        self.write(0x14, 0);
        all
    }

    pub fn offered(&self) -> u64 {
        self.write(0x14, 0);
        let low = self.read(0x10);
        self.write(0x14, 1);
        u64::from(low) | u64::from(self.read(0x10)) << 32
    }

    /// Reset to FEATURES_OK; false if the device does not agree.
    pub fn negotiate(&self, features: u64) -> bool {
        self.write(0x70, 0);
        assert_eq!(self.status(), 0, "reset is complete when its write returns");
        for status in [1, 3] {
            self.write(0x70, status);
        }
        self.choose(features);
        self.write(0x70, 11);
        self.status() == 11
    }

    pub fn choose(&self, features: u64) {
        let low = u32::try_from(features & 0xffff_ffff).unwrap();
        for (select, half) in [(0, low), (1, u32::try_from(features >> 32).unwrap())] {
            self.write(0x24, select);
            self.write(0x20, half);
        }
    }

    pub fn go(&self) {
        self.write(0x70, 15);
    }

    /// Some RAM that nobody else has, filled with zeroes.
    pub fn alloc(&mut self, len: u64, align: u64) -> u64 {
        let at = self.free.next_multiple_of(align);
        self.free = at + len;
        assert!(self.free <= RAM_BASE + RAM, "a test's RAM is full");
        at
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

    /// Sets up a queue and makes it ready; not yet live.
    pub fn queue(&mut self, index: u16, size: u16) -> Vq {
        let n = u64::from(size);
        let (desc, avail, used) =
            (self.alloc(16 * n, 16), self.alloc(6 + 2 * n, 2), self.alloc(6 + 8 * n, 4));
        self.point(index, u32::from(size), [desc, avail, used]);
        self.write(0x44, 1);
        let (memory, notify) = (self.memory.clone(), 0);
        Vq { index, size, desc, avail, used, memory, next: 0, slot: 0, seen: notify }
    }

    /// Writes size and addresses of a queue.
    pub fn point(&self, index: u16, size: u32, areas: [u64; 3]) {
        self.write(0x30, u32::from(index));
        self.write(0x38, size);
        for (register, at) in [0x80, 0x90, 0xa0].into_iter().zip(areas) {
            self.write(register, u32::try_from(at & 0xffff_ffff).unwrap());
            self.write(register + 4, u32::try_from(at >> 32).unwrap());
        }
    }

    /// As the guest's write does when the doorbell takes it.
    pub fn kick(&self, queue: &Vq) {
        let at = Doorbell { address: BASE + 0x50, value: u32::from(queue.index) };
        assert!(self.host.ring(at), "every queue has a doorbell");
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
        Self { service: Service::new(id, EchoServer { gate }) }
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

    fn read_config(&self, at: u64, data: &mut [u8]) {
        read_bytes(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], at, data);
    }

    fn start(&mut self, start: Start) -> Result<(), StartError> {
        self.service.start(start)
    }

    fn stop(&mut self) -> Vec<Ring> {
        self.service.stop()
    }
}

impl Serve for EchoServer {
    fn begin(&mut self, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn serve(&mut self, ring: &mut Ring, memory: &GuestMemory) -> Result<bool, Broken> {
        ring.serve(memory, |chain| {
            self.gate.reached.fetch_add(1, Ordering::SeqCst);
            let _open = self.gate.closed.lock().unwrap();
            chain
                .writable
                .iter()
                .map(|buffer| write_front(memory, &[*buffer], &vec![ECHO; buffer.len as usize]))
                .sum()
        })
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
