//! Does every attack of the table to every virtio device of its machine, and says what each came to.
//!
//! It waits for a key before the first and after the last, so that whoever started it can look at the monitor then.

#![no_std]
#![no_main]

use ambit_attacks::layout::ROOM;
use ambit_attacks::{Counts, Device, Face, Ground, Machine, Spot, Verdict, Windows, run, table};
use flat::pci::{self, Function};
use flat::register::{read8, read16, read32, read64, write8, write16, write32, write64};
use flat::zero_page::VirtioMmio;
use flat::{patience, port, println, zero_page};

flat::program!(main);

/// Free in a machine of 64 MiB.
const FREE: u64 = 0x100_0000;
const END: u64 = 64 << 20;
/// Above RAM, below PCI.
const HOLE: u64 = 0x8000_0000;
const _: () = assert!(FREE + ROOM < END);

/// Of a function: bytes of its BAR for memory, and of the one for ports.
const BAR: u64 = 0x4000;
const PORTS: u16 = 0x80;

/// Ticks of one round of waiting: some 50 µs.
const ROUND: u64 = 150_000;

fn main() -> u8 {
    println!("attacks: ready");
    key();
    let mut counts = Counts::default();
    for place in zero_page::virtio_mmio() {
        attack(There::on_board(place), &mut counts);
    }
    for (number, function) in pci::devices().enumerate() {
        if function.id() & 0xffff == 0x1af4 {
            attack(There::on_pci(function, number as u16), &mut counts);
        }
    }
    println!("attacks: {counts}");
    key();
    u8::from(counts.fail + counts.wedged > 0)
}

fn key() {
    while flat::console::typed().is_none() {
        core::hint::spin_loop();
    }
}

fn attack(there: Option<There>, counts: &mut Counts) {
    let Some(mut there) = there else { return };
    let (device, face) = (there.device, there.face);
    for attack in table::all().filter(|attack| attack.is_for(device, face)) {
        let verdict = run(attack, &mut there);
        counts.count(verdict);
        println!("{} {} on {device:?} over {face:?}: {verdict}", attack.row, attack.what);
        if verdict == Verdict::Wedged {
            break;
        }
    }
    println!("attacks: done on {device:?}");
}

#[derive(Clone, Copy)]
enum Window {
    Memory(u64),
    Ports(u16),
}

/// A device of this machine.
struct There {
    device: Device,
    face: Face,
    /// Of a function: its configuration space, then each BAR.
    windows: [Window; 3],
    spots: Windows,
    function: Option<Function>,
}

impl There {
    fn on_board(VirtioMmio { base, .. }: VirtioMmio) -> Option<Self> {
        let face = if read32(base + 4) == 1 { Face::MmioLegacy } else { Face::Mmio };
        write32(base + 0x14, 0);
        let device = device(read32(base + 8), read32(base + 0x10))?;
        let spots = Windows { config: Spot { window: 0, byte: 0x100 }, ..Windows::default() };
        Some(Self { device, face, windows: [Window::Memory(base); 3], spots, function: None })
    }

    fn on_pci(function: Function, number: u16) -> Option<Self> {
        let id = function.id() >> 16;
        let face = if id < 0x1040 { Face::PciLegacy } else { Face::Pci };
        let memory = Window::Memory(pci::MMIO32 + BAR * u64::from(number));
        let ports = Window::Ports(pci::IO + PORTS * number);
        let windows = match face {
            Face::PciLegacy => [Window::Memory(function.at(0)), ports, memory],
            _ => [Window::Memory(function.at(0)), memory, memory],
        };
        let (device, spots) = (Device::Rng, Windows::default());
        let mut there = Self { device, face, windows, spots, function: Some(function) };
        there.power_up();
        there.spots = there.find(function);
        let offered = there.read(Spot { window: 1, byte: if face == Face::Pci { 4 } else { 0 } }, 4) as u32;
        let kind = if face == Face::Pci { id - 0x1040 } else { function.read16(0x2e).into() };
        there.device = self::device(kind, offered)?;
        Some(there)
    }

    /// Reads the list of capabilities (virtio 1.2, 4.1.4).
    fn find(&self, function: Function) -> Windows {
        let window = if self.face == Face::Pci { 1 } else { 2 };
        let mut all = Windows::default();
        for at in function.capabilities() {
            let word = |byte| function.read32(at + byte);
            let spot = |word: u32| Spot { window, byte: u64::from(word & !7) };
            match (function.read8(at), function.read8(at + 3)) {
                (0x11, _) => {
                    all.msix = at.into();
                    (all.vectors, all.pending) = (spot(word(4)), spot(word(8)));
                }
                (9, 1) => all.registers = spot(word(8)),
                (9, 2) => (all.notify, all.notify_step) = (spot(word(8)), word(16).into()),
                (9, 3) => all.isr = spot(word(8)),
                (9, 4) => all.config = spot(word(8)),
                (9, 5) => all.access = at.into(),
                _ => {}
            }
        }
        if self.face == Face::PciLegacy {
            all.registers = Spot { window: 1, byte: 0 };
            all.config = Spot { window: 1, byte: 20 };
        }
        all
    }
}

/// The type of a device, and the low half of what it offers.
fn device(kind: u32, offered: u32) -> Option<Device> {
    Some(match kind {
        1 => Device::Net,
        2 if offered & 1 << 5 != 0 => Device::ReadOnlyDisk,
        2 => Device::Disk,
        3 => Device::Console,
        4 => Device::Rng,
        5 => Device::Balloon,
        _ => return None,
    })
}

impl Machine for There {
    fn face(&self) -> Face {
        self.face
    }

    fn device(&self) -> Device {
        self.device
    }

    fn windows(&self) -> Windows {
        self.spots
    }

    fn ground(&self) -> Ground {
        let registers = self.windows.iter().rev().find_map(|window| match window {
            Window::Memory(at) => Some(*at),
            Window::Ports(_) => None,
        });
        Ground { room: FREE, end: END, hole: HOLE, registers: registers.unwrap_or(HOLE) }
    }

    fn power_up(&mut self) {
        let Some(function) = self.function else { return };
        function.write16(4, 0);
        for (register, window) in [0x10, 0x14].into_iter().zip(&self.windows[1..]) {
            match *window {
                Window::Memory(at) => function.write32(register, at as u32),
                Window::Ports(at) => function.write32(register, at.into()),
            }
        }
        if self.spots.msix != 0 {
            function.write16(self.spots.msix as u16 + 2, 0);
        }
        function.write16(4, 7);
    }

    fn read(&mut self, at: Spot, width: u8) -> u64 {
        match (self.windows[usize::from(at.window)], width) {
            (Window::Memory(base), 1) => read8(base + at.byte).into(),
            (Window::Memory(base), 2) => read16(base + at.byte).into(),
            (Window::Memory(base), 4) => read32(base + at.byte).into(),
            (Window::Memory(base), _) => read64(base + at.byte),
            (Window::Ports(base), 1) => port::in8(base + at.byte as u16).into(),
            (Window::Ports(base), 2) => port::in16(base + at.byte as u16).into(),
            (Window::Ports(base), 4) => port::in32(base + at.byte as u16).into(),
            // No instruction does that.
            (Window::Ports(_), _) => 0,
        }
    }

    fn write(&mut self, at: Spot, width: u8, value: u64) {
        match (self.windows[usize::from(at.window)], width) {
            (Window::Memory(base), 1) => write8(base + at.byte, value as u8),
            (Window::Memory(base), 2) => write16(base + at.byte, value as u16),
            (Window::Memory(base), 4) => write32(base + at.byte, value as u32),
            (Window::Memory(base), _) => write64(base + at.byte, value),
            (Window::Ports(base), 1) => port::out8(base + at.byte as u16, value as u8),
            (Window::Ports(base), 2) => port::out16(base + at.byte as u16, value as u16),
            (Window::Ports(base), 4) => port::out32(base + at.byte as u16, value as u32),
            (Window::Ports(_), _) => {}
        }
    }

    // Eight bytes at once, as some KVM emulates each instruction.

    fn load(&mut self, address: u64, bytes: &mut [u8]) {
        if let Ok(two) = <&mut [u8; 2]>::try_from(&mut *bytes) {
            *two = read16(address).to_le_bytes();
            return;
        }
        let (words, rest) = bytes.as_chunks_mut::<8>();
        let tail = address + 8 * words.len() as u64;
        (address..).step_by(8).zip(words).for_each(|(at, word)| *word = read64(at).to_le_bytes());
        (tail..).zip(rest).for_each(|(at, byte)| *byte = read8(at));
    }

    fn store(&mut self, address: u64, bytes: &[u8]) {
        if let Ok(two) = <[u8; 2]>::try_from(bytes) {
            return write16(address, u16::from_le_bytes(two));
        }
        let (words, rest) = bytes.as_chunks::<8>();
        let tail = address + 8 * words.len() as u64;
        (address..).step_by(8).zip(words).for_each(|(at, word)| write64(at, u64::from_le_bytes(*word)));
        (tail..).zip(rest).for_each(|(at, byte)| write8(at, *byte));
    }

    fn pause(&mut self, _: u32) {
        patience::wait(ROUND, || false);
    }
}
