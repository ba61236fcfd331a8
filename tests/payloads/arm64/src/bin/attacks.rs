//! Does the attacks of the table to every virtio device of its machine, and says what they came to.
//!
//! It waits for a key before the first and after the last, so that whoever started it can look at the monitor then. The
//! first key is a digit: of so many attacks it does one.

#![no_std]
#![no_main]

use ambit_attacks::alone::{Board, Window, attack_all};
use ambit_attacks::layout::ROOM;
use raw::register::{read8, read16, read32, read64, write8, write16, write32, write64};
use raw::{clock, console, println};

raw::program!(main);

/// A machine of 64 MiB, on the board as it is whatever else it has (`arch/aarch64/src/board_file.rs`).
struct Native;

const _: () = assert!(Native::ROOM + ROOM < Native::END);

/// Of virtio-mmio, one behind the other.
const DEVICES: u64 = 0x0200_0000;
/// Where the window of PCI for ports is.
const IO: u64 = 0x3fff_0000;

impl Board for Native {
    const ROOM: u64 = 0x4100_0000;
    const END: u64 = 0x4400_0000;
    const HOLE: u64 = 0x6000_0000;
    const ECAM: u64 = 0x1000_0000;
    const MMIO32: u64 = 0x2000_0000;
    const PORTS: u16 = 0x1000;

    fn port(number: u16) -> Window {
        Window::Memory(IO + u64::from(number))
    }

    fn load(at: Window, byte: u64, width: u8) -> u64 {
        match (at, width) {
            (Window::Memory(base), 1) => read8(base + byte).into(),
            (Window::Memory(base), 2) => read16(base + byte).into(),
            (Window::Memory(base), 4) => read32(base + byte).into(),
            (Window::Memory(base), _) => read64(base + byte),
            // There are none.
            (Window::Ports(_), _) => 0,
        }
    }

    fn store(at: Window, byte: u64, width: u8, value: u64) {
        match (at, width) {
            (Window::Memory(base), 1) => write8(base + byte, value as u8),
            (Window::Memory(base), 2) => write16(base + byte, value as u16),
            (Window::Memory(base), 4) => write32(base + byte, value as u32),
            (Window::Memory(base), _) => write64(base + byte, value),
            (Window::Ports(_), _) => {}
        }
    }

    fn pause() {
        clock::wait(20_000);
    }
}

fn main() -> u8 {
    println!("attacks: ready");
    let every = usize::from(console::typed().saturating_sub(b'0'));
    let places = (0..8).map(|device| DEVICES + 0x1000 * device);
    let counts = attack_all::<Native>(places, every, |line| println!("attacks: {line}"));
    println!("attacks: {counts}");
    console::typed();
    u8::from(counts.fail + counts.wedged > 0)
}
