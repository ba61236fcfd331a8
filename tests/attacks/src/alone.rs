//! The devices of a board, for a program that has nothing below it: finds each, and does every attack to it.

use core::fmt::Arguments;
use core::marker::PhantomData;

use crate::run::{Counts, Ground, Machine, run};
use crate::{Device, Face, Spot, Verdict, Windows, table};

/// What the program knows of its processor and of its board.
pub trait Board {
    /// The first of [`ROOM`](crate::layout::ROOM) bytes of RAM that nothing uses.
    const ROOM: u64;
    /// The first byte behind RAM.
    const END: u64;
    /// Above RAM, below PCI, or wherever nothing is.
    const HOLE: u64;
    const ECAM: u64;
    /// Room for BARs, and for those of ports.
    const MMIO32: u64;
    const PORTS: u16;

    /// Where a port is.
    fn port(number: u16) -> Window;
    /// One access of 1, 2, 4 or 8 bytes.
    fn load(at: Window, byte: u64, width: u8) -> u64;
    fn store(at: Window, byte: u64, width: u8, value: u64);
    /// Some 50 µs.
    fn pause();
}

#[derive(Clone, Copy)]
pub enum Window {
    Memory(u64),
    Ports(u16),
}

/// Of a function: bytes of its BAR for memory, and of the one for ports.
const BAR: u64 = 0x4000;
const PORTS: u16 = 0x80;
/// What every device of virtio-mmio begins with.
const MAGIC: u64 = 0x7472_6976;

/// Does every attack, or of `every` so many one, to each device of virtio-mmio at `places` and to each function of bus
/// 0; `say` is told what went wrong and how far it is.
pub fn attack_all<B: Board>(
    places: impl Iterator<Item = u64>,
    every: usize,
    mut say: impl FnMut(Arguments<'_>),
) -> Counts {
    let on_board = places.filter_map(There::<B>::on_board);
    let functions = (0..32).filter_map(|number| There::<B>::on_pci(number));
    let mut counts = Counts::default();
    for (number, mut there) in on_board.chain(functions).enumerate() {
        let done = there.attacked(every.max(1), number, &mut say);
        say(format_args!("done on {:?} over {:?}: {done}", there.device, there.face));
        counts = counts + done;
    }
    counts
}

/// A device of this machine.
struct There<B> {
    device: Device,
    face: Face,
    /// Of a function: its configuration space, then each BAR.
    windows: [Window; 3],
    spots: Windows,
    is_function: bool,
    board: PhantomData<B>,
}

impl<B: Board> There<B> {
    fn on_board(base: u64) -> Option<Self> {
        let window = Window::Memory(base);
        if B::load(window, 0, 4) != MAGIC {
            return None;
        }
        let face = if B::load(window, 4, 4) == 1 { Face::MmioLegacy } else { Face::Mmio };
        B::store(window, 0x14, 4, 0);
        let device = device(B::load(window, 8, 4), B::load(window, 0x10, 4))?;
        let spots = Windows { config: Spot { window: 0, byte: 0x100 }, ..Windows::default() };
        Some(Self { device, face, windows: [window; 3], spots, is_function: false, board: PhantomData })
    }

    fn on_pci(number: u16) -> Option<Self> {
        let space = Window::Memory(B::ECAM | u64::from(number) << 15);
        let id = B::load(space, 0, 4);
        if id & 0xffff != 0x1af4 {
            return None;
        }
        let id = id >> 16;
        let face = if id < 0x1040 { Face::PciLegacy } else { Face::Pci };
        let memory = Window::Memory(B::MMIO32 + BAR * u64::from(number));
        let ports = B::port(B::PORTS + PORTS * number);
        let windows = match face {
            Face::PciLegacy => [space, ports, memory],
            _ => [space, memory, memory],
        };
        let (device, spots) = (Device::Rng, Windows::default());
        let mut there = Self { device, face, windows, spots, is_function: true, board: PhantomData };
        there.power_up();
        there.spots = there.find();
        let offered = there.read(Spot { window: 1, byte: if face == Face::Pci { 4 } else { 0 } }, 4);
        let kind = if face == Face::Pci { id - 0x1040 } else { there.space(0x2e, 2) };
        there.device = self::device(kind, offered)?;
        Some(there)
    }

    fn space(&self, byte: u64, width: u8) -> u64 {
        B::load(self.windows[0], byte, width)
    }

    /// Reads the list of capabilities (virtio 1.2, 4.1.4).
    fn find(&self) -> Windows {
        let window = if self.face == Face::Pci { 1 } else { 2 };
        let mut all = Windows::default();
        let mut at = self.space(0x34, 1) & !3;
        // As many as there can be.
        for _ in 0..48 {
            let spot = |byte| Spot { window, byte: self.space(at + byte, 4) & !7 };
            match (self.space(at, 1), self.space(at + 3, 1)) {
                _ if at == 0 => break,
                (0x11, _) => {
                    all.msix = at;
                    (all.vectors, all.pending) = (spot(4), spot(8));
                }
                (9, 1) => all.registers = spot(8),
                (9, 2) => (all.notify, all.notify_step) = (spot(8), self.space(at + 16, 4)),
                (9, 3) => all.isr = spot(8),
                (9, 4) => all.config = spot(8),
                (9, 5) => all.access = at,
                _ => {}
            }
            at = self.space(at + 1, 1) & !3;
        }
        if self.face == Face::PciLegacy {
            all.registers = Spot { window: 1, byte: 0 };
            all.config = Spot { window: 1, byte: 20 };
        }
        all
    }

    /// Of `every` so many cases this is one, and another one on another device.
    fn attacked(&mut self, every: usize, number: usize, mut say: impl FnMut(Arguments<'_>)) -> Counts {
        let mut counts = Counts::default();
        let (device, face) = (self.device, self.face);
        let all = table::all().filter(|attack| attack.is_for(device, face)).skip(number % every);
        for attack in all.step_by(every) {
            let verdict = run(attack, self);
            counts.count(verdict);
            if matches!(verdict, Verdict::Fail(_) | Verdict::Wedged) {
                say(format_args!("{} {} on {device:?} over {face:?}: {verdict}", attack.row, attack.what));
            }
            if verdict == Verdict::Wedged {
                break;
            }
        }
        counts
    }
}

/// The type of a device, and the low half of what it offers.
fn device(kind: u64, offered: u64) -> Option<Device> {
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

impl<B: Board> Machine for There<B> {
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
        Ground { room: B::ROOM, end: B::END, hole: B::HOLE, registers: registers.unwrap_or(B::HOLE) }
    }

    fn power_up(&mut self) {
        if !self.is_function {
            return;
        }
        let space = self.windows[0];
        let number = match space {
            Window::Memory(at) => (at >> 15) & 31,
            Window::Ports(_) => 0,
        };
        B::store(space, 4, 2, 0);
        let (memory, ports) = (B::MMIO32 + BAR * number, u64::from(B::PORTS) + u64::from(PORTS) * number);
        let bars = if self.face == Face::PciLegacy { [ports, memory] } else { [memory, memory] };
        B::store(space, 0x10, 4, bars[0]);
        B::store(space, 0x14, 4, bars[1]);
        if self.spots.msix != 0 {
            B::store(space, self.spots.msix + 2, 2, 0);
        }
        B::store(space, 4, 2, 7);
    }

    fn read(&mut self, at: Spot, width: u8) -> u64 {
        B::load(self.windows[usize::from(at.window)], at.byte, width)
    }

    fn write(&mut self, at: Spot, width: u8, value: u64) {
        B::store(self.windows[usize::from(at.window)], at.byte, width, value);
    }

    // Eight bytes at once, as some KVM emulates each instruction.

    fn load(&mut self, address: u64, bytes: &mut [u8]) {
        let ram = Window::Memory(address);
        if let Ok(two) = <&mut [u8; 2]>::try_from(&mut *bytes) {
            two.copy_from_slice(&B::load(ram, 0, 2).to_le_bytes()[..2]);
            return;
        }
        let (words, rest) = bytes.as_chunks_mut::<8>();
        let tail = 8 * words.len() as u64;
        (0..).step_by(8).zip(words).for_each(|(at, word)| *word = B::load(ram, at, 8).to_le_bytes());
        (tail..).zip(rest).for_each(|(at, byte)| [*byte, ..] = B::load(ram, at, 1).to_le_bytes());
    }

    fn store(&mut self, address: u64, bytes: &[u8]) {
        let ram = Window::Memory(address);
        if let Ok(two) = <[u8; 2]>::try_from(bytes) {
            return B::store(ram, 0, 2, u16::from_le_bytes(two).into());
        }
        let (words, rest) = bytes.as_chunks::<8>();
        let tail = 8 * words.len() as u64;
        (0..).step_by(8).zip(words).for_each(|(at, word)| B::store(ram, at, 8, u64::from_le_bytes(*word)));
        (tail..).zip(rest).for_each(|(at, byte)| B::store(ram, at, 1, (*byte).into()));
    }

    fn pause(&mut self, _: u32) {
        B::pause();
    }
}
