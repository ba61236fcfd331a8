//! Does the attacks of the table to every virtio device of its machine, and says what they came to.
//!
//! It waits for a key before the first and after the last, so that whoever started it can look at the monitor then. The
//! first key is a digit: of so many attacks it does one.

#![no_std]
#![no_main]

use ambit_attacks::alone::{Board, Window, attack_all};
use ambit_attacks::layout::ROOM;
use flat::register::{read8, read16, read32, read64, write8, write16, write32, write64};
use flat::{patience, pci, port, println, zero_page};

flat::program!(main);

/// A machine of 64 MiB.
struct Pc;

const _: () = assert!(Pc::ROOM + ROOM < Pc::END);

impl Board for Pc {
    const ROOM: u64 = 0x100_0000;
    const END: u64 = 64 << 20;
    const HOLE: u64 = 0x8000_0000;
    const ECAM: u64 = pci::ECAM;
    const MMIO32: u64 = pci::MMIO32;
    const PORTS: u16 = pci::IO;

    fn port(number: u16) -> Window {
        Window::Ports(number)
    }

    fn load(at: Window, byte: u64, width: u8) -> u64 {
        match (at, width) {
            (Window::Memory(base), 1) => read8(base + byte).into(),
            (Window::Memory(base), 2) => read16(base + byte).into(),
            (Window::Memory(base), 4) => read32(base + byte).into(),
            (Window::Memory(base), _) => read64(base + byte),
            (Window::Ports(base), 1) => port::in8(base + byte as u16).into(),
            (Window::Ports(base), 2) => port::in16(base + byte as u16).into(),
            (Window::Ports(base), 4) => port::in32(base + byte as u16).into(),
            // No instruction does that.
            (Window::Ports(_), _) => 0,
        }
    }

    fn store(at: Window, byte: u64, width: u8, value: u64) {
        match (at, width) {
            (Window::Memory(base), 1) => write8(base + byte, value as u8),
            (Window::Memory(base), 2) => write16(base + byte, value as u16),
            (Window::Memory(base), 4) => write32(base + byte, value as u32),
            (Window::Memory(base), _) => write64(base + byte, value),
            (Window::Ports(base), 1) => port::out8(base + byte as u16, value as u8),
            (Window::Ports(base), 2) => port::out16(base + byte as u16, value as u16),
            (Window::Ports(base), 4) => port::out32(base + byte as u16, value as u32),
            (Window::Ports(_), _) => {}
        }
    }

    fn pause() {
        patience::wait(150_000, || false);
    }
}

fn main() -> u8 {
    println!("attacks: ready");
    let every = usize::from(key().saturating_sub(b'0'));
    let places = zero_page::virtio_mmio().map(|device| device.base);
    let counts = attack_all::<Pc>(places, every, |line| println!("attacks: {line}"));
    println!("attacks: {counts}");
    key();
    u8::from(counts.fail + counts.wedged > 0)
}

fn key() -> u8 {
    loop {
        if let Some(key) = flat::console::typed() {
            return key;
        }
        core::hint::spin_loop();
    }
}
