//! A virtio device on the memory bus and one of its queues, as a program that means well drives them; and every part
//! of them in reach of one that does not.

use core::sync::atomic::{Ordering, fence};

use crate::patience;
use crate::register::{read16, read32, write16, write32, write64};

// Registers (virtio 1.2, 4.2.2).
pub const MAGIC: u64 = 0x000;
pub const VERSION: u64 = 0x004;
pub const DEVICE_ID: u64 = 0x008;
pub const DEVICE_FEATURES: u64 = 0x010;
pub const DEVICE_FEATURES_SELECT: u64 = 0x014;
pub const DRIVER_FEATURES: u64 = 0x020;
pub const DRIVER_FEATURES_SELECT: u64 = 0x024;
pub const QUEUE_SELECT: u64 = 0x030;
pub const QUEUE_SIZE_MAX: u64 = 0x034;
pub const QUEUE_SIZE: u64 = 0x038;
pub const QUEUE_READY: u64 = 0x044;
pub const QUEUE_NOTIFY: u64 = 0x050;
pub const INTERRUPT_STATUS: u64 = 0x060;
pub const INTERRUPT_ACK: u64 = 0x064;
pub const STATUS: u64 = 0x070;
pub const QUEUE_DESCRIPTORS: u64 = 0x080;
pub const QUEUE_DRIVER: u64 = 0x090;
pub const QUEUE_DEVICE: u64 = 0x0a0;
pub const CONFIG: u64 = 0x100;

pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;

/// Of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;

/// A device by the address of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio(pub u64);

impl Mmio {
    pub fn read(self, register: u64) -> u32 {
        read32(self.0 + register)
    }

    pub fn write(self, register: u64, value: u32) {
        write32(self.0 + register, value);
    }

    /// Resets the device and takes it as a driver that wants VERSION_1 and nothing else. False if it does not agree.
    pub fn negotiate(self) -> bool {
        self.write(STATUS, 0);
        self.write(STATUS, ACKNOWLEDGE);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        for (select, features) in [(0, 0), (1, 1)] {
            self.write(DRIVER_FEATURES_SELECT, select);
            self.write(DRIVER_FEATURES, features);
        }
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.read(STATUS) & FEATURES_OK != 0
    }

    /// Makes `queue` the queue of this number.
    pub fn use_queue(self, number: u32, queue: &Queue) {
        self.write(QUEUE_SELECT, number);
        self.write(QUEUE_SIZE, queue.size.into());
        for (register, address) in [
            (QUEUE_DESCRIPTORS, queue.descriptors()),
            (QUEUE_DRIVER, queue.driver()),
            (QUEUE_DEVICE, queue.device()),
        ] {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(QUEUE_READY, 1);
    }

    pub fn run(self) {
        self.write(STATUS, self.read(STATUS) | DRIVER_OK);
    }

    pub fn kick(self, number: u32) {
        fence(Ordering::SeqCst);
        self.write(QUEUE_NOTIFY, number);
    }
}

/// A split virtqueue at an address of the program's choice, which it keeps free: [`Queue::BYTES`] from a page
/// boundary on are enough for 256 descriptors (virtio 1.2, 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub base: u64,
    pub size: u16,
}

impl Queue {
    pub const BYTES: u64 = 0x3000;

    /// Empty, in memory that is cleared for it.
    pub fn new(base: u64, size: u16) -> Self {
        (0..Self::BYTES / 8).for_each(|word| write64(base + 8 * word, 0));
        Self { base, size }
    }

    pub fn descriptors(self) -> u64 {
        self.base
    }

    pub fn driver(self) -> u64 {
        self.base + 0x1000
    }

    pub fn device(self) -> u64 {
        self.base + 0x2000
    }

    pub fn describe(self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.descriptors() + 16 * u64::from(index);
        write64(at, address);
        write32(at + 8, length);
        write16(at + 12, flags);
        write16(at + 14, next);
    }

    /// Offers the chain that begins at `head`.
    pub fn offer(self, head: u16) {
        let index = read16(self.driver() + 2);
        write16(self.driver() + 4 + 2 * u64::from(index % self.size), head);
        fence(Ordering::SeqCst);
        write16(self.driver() + 2, index.wrapping_add(1));
    }

    /// How many chains the device has given back, of 2^16.
    pub fn used(self) -> u16 {
        fence(Ordering::SeqCst);
        read16(self.device() + 2)
    }

    /// Head and written bytes of the used element with this number.
    pub fn element(self, number: u16) -> (u32, u32) {
        let at = self.device() + 4 + 8 * u64::from(number % self.size);
        (read32(at), read32(at + 4))
    }

    /// Waits until there are `count` used elements; false if they do not come.
    pub fn wait(self, count: u16) -> bool {
        patience::wait(patience::LONG, || self.used() == count)
    }
}
