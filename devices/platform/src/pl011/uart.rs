//! The registers of a PL011: what each says and does, with no host in sight.
//!
//! Numbers and names are from the Technical Reference Manual, ARM DDI 0183, chapter 3.

use std::collections::VecDeque;

/// How many bytes wait for the guest at most, besides those in its FIFO.
pub(super) const LINE: usize = 4096;

/// Depth of the FIFO of revisions before r1p5. Linux reads the revision from the ID registers and takes
/// 32 from r1p5 on.
const FIFO: usize = 16;

// How often a guest that takes no receive interrupt looks for a byte, and writes none in between,
// before we believe that it is waiting for one.
const PATIENCE: u32 = 32;

pub(super) const DR: u16 = 0x000;
pub(super) const RSR_ECR: u16 = 0x004;
pub(super) const FR: u16 = 0x018;
pub(super) const ILPR: u16 = 0x020;
pub(super) const IBRD: u16 = 0x024;
pub(super) const FBRD: u16 = 0x028;
pub(super) const LCR_H: u16 = 0x02c;
pub(super) const CR: u16 = 0x030;
pub(super) const IFLS: u16 = 0x034;
pub(super) const IMSC: u16 = 0x038;
pub(super) const RIS: u16 = 0x03c;
pub(super) const MIS: u16 = 0x040;
pub(super) const ICR: u16 = 0x044;
pub(super) const DMACR: u16 = 0x048;
pub(super) const PERIPH_ID: u16 = 0xfe0;

// Linux picks the driver by these eight ID registers, so they read the same in every state.
// Part 0x011 of designer 0x41 in revision r1p1, the last with a FIFO of 16; then the PrimeCell mark.
const ID: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

const DR_OE: u32 = 1 << 11;
const RSR_OE: u32 = 1 << 3;

const FR_RI: u32 = 1 << 8;
const FR_TXFE: u32 = 1 << 7;
const FR_RXFF: u32 = 1 << 6;
const FR_RXFE: u32 = 1 << 4;
const FR_DCD: u32 = 1 << 2;
const FR_DSR: u32 = 1 << 1;
const FR_CTS: u32 = 1 << 0;

const LCR_H_FEN: u32 = 1 << 4;

const CR_OUT2: u32 = 1 << 13;
const CR_OUT1: u32 = 1 << 12;
const CR_RTS: u32 = 1 << 11;
const CR_DTR: u32 = 1 << 10;
const CR_RXE: u32 = 1 << 9;
const CR_TXE: u32 = 1 << 8;
const CR_LBE: u32 = 1 << 7;

const INT_OE: u32 = 1 << 10;
const INT_RT: u32 = 1 << 6;
const INT_TX: u32 = 1 << 5;
const INT_RX: u32 = 1 << 4;

/// The registers and the line that leads to them.
///
/// A line in software has no speed and need not lose anything, so this differs from hardware where
/// hardware would be slow or lossy:
/// * A byte is sent the moment it is written, in every state of the control register: early consoles
///   write without enabling anything.
/// * Bytes wait on the line, not in the FIFO, until the guest listens: it takes a receive interrupt, or
///   it has polled for a while. Linux empties the FIFO when it opens the port, and would throw away
///   what was typed before.
/// * A byte comes only when there is room in the FIFO, so there is no overrun but in loopback.
/// * The receive timeout is over at once, and both receive interrupts last while their bytes do: a
///   clear has no effect on them. A byte that came between a driver's last look and its clear would
///   otherwise be stuck.
///
/// There is always a terminal at the other end (CTS, DSR and DCD are set outside loopback), so modem
/// status never changes by itself and its interrupts never come.
pub(super) struct Uart {
    line: VecDeque<u8>,
    fifo: VecDeque<u8>,
    /// Bytes were lost since the guest was last told.
    overrun: bool,
    /// Interrupts that stay until they are cleared.
    latched: u32,
    /// Looks in vain, see [`PATIENCE`].
    polls: u32,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    dmacr: u32,
}

impl Uart {
    pub(super) fn new() -> Self {
        Self {
            line: VecDeque::new(),
            fifo: VecDeque::new(),
            overrun: false,
            latched: 0,
            polls: 0,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_RXE | CR_TXE,
            ifls: 0x12,
            imsc: 0,
            dmacr: 0,
        }
    }

    /// What waits on the line is not the guest's yet, and stays.
    pub(super) fn reset(&mut self) {
        let line = std::mem::take(&mut self.line);
        *self = Self { line, ..Self::new() };
    }

    /// The level of the interrupt line.
    pub(super) fn interrupt(&self) -> bool {
        self.raw() & self.imsc != 0
    }

    /// Puts bytes on the line. How many it took.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.line.extend(bytes.iter().take(taken));
        taken
    }

    /// How many bytes the line takes now.
    pub(super) fn room(&self) -> usize {
        LINE.saturating_sub(self.line.len())
    }

    /// Zero where there is no register to read.
    pub(super) fn read(&mut self, register: u16) -> u32 {
        match register {
            DR => self.take(),
            RSR_ECR => flag(self.overrun, RSR_OE),
            FR => {
                self.look();
                self.flags()
            }
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => {
                self.look();
                self.raw()
            }
            MIS => {
                self.look();
                self.raw() & self.imsc
            }
            DMACR => self.dmacr,
            _ => identification(register).unwrap_or(0),
        }
    }

    /// The byte that goes out, if any. Writes where there is no register to write have no effect.
    pub(super) fn write(&mut self, register: u16, value: u32) -> Option<u8> {
        match register {
            DR => return self.send(value.to_le_bytes()[0]),
            RSR_ECR => self.overrun = false,
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value & 0xffff,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => self.set_up(value & 0xff),
            CR => self.cr = value & 0xff87,
            IFLS => self.ifls = value & 0x3f,
            IMSC => self.imsc = value & 0x7ff,
            ICR => self.latched &= !value,
            DMACR => self.dmacr = value & 0x7,
            _ => {}
        }
        None
    }

    fn send(&mut self, byte: u8) -> Option<u8> {
        // A guest that writes is not waiting, unless we know that it always polls.
        if self.polls < PATIENCE {
            self.polls = 0;
        }
        // Sent already: the FIFO is below every level.
        self.latched |= INT_TX;
        if self.cr & CR_LBE == 0 {
            return Some(byte);
        }
        if self.cr & CR_RXE == 0 {
            return None;
        }
        if self.fifo.len() < self.depth() {
            self.fifo.push_back(byte);
        } else {
            self.overrun = true;
            self.latched |= INT_OE;
        }
        None
    }

    fn take(&mut self) -> u32 {
        self.fetch();
        let byte = self.fifo.pop_front().map_or(0, u32::from);
        byte | flag(std::mem::take(&mut self.overrun), DR_OE)
    }

    fn set_up(&mut self, lcr_h: u32) {
        if (self.lcr_h ^ lcr_h) & LCR_H_FEN != 0 {
            self.fifo.clear();
        }
        self.lcr_h = lcr_h;
        // Perhaps another driver, with other ways.
        self.polls = 0;
    }

    /// The guest looks whether there is a byte.
    fn look(&mut self) {
        let in_vain = self.fifo.is_empty() && !self.line.is_empty();
        if in_vain && self.imsc & (INT_RX | INT_RT) == 0 {
            self.polls = self.polls.saturating_add(1);
        }
        self.fetch();
    }

    fn fetch(&mut self) {
        if self.listens() {
            let room = self.depth().saturating_sub(self.fifo.len());
            self.fifo.extend(self.line.drain(..room.min(self.line.len())));
        }
    }

    fn listens(&self) -> bool {
        let connected = self.cr & (CR_RXE | CR_LBE) == CR_RXE;
        connected && (self.imsc & (INT_RX | INT_RT) != 0 || self.polls >= PATIENCE)
    }

    fn flags(&self) -> u32 {
        FR_TXFE
            | flag(self.fifo.is_empty(), FR_RXFE)
            | flag(self.fifo.len() >= self.depth(), FR_RXFF)
            | self.modem()
    }

    fn modem(&self) -> u32 {
        if self.cr & CR_LBE == 0 {
            return FR_CTS | FR_DSR | FR_DCD;
        }
        flag(self.cr & CR_RTS != 0, FR_CTS)
            | flag(self.cr & CR_DTR != 0, FR_DSR)
            | flag(self.cr & CR_OUT1 != 0, FR_DCD)
            | flag(self.cr & CR_OUT2 != 0, FR_RI)
    }

    fn raw(&self) -> u32 {
        // Bytes on the line raise the interrupt that will fetch them.
        let arriving = if self.listens() { self.line.len() } else { 0 };
        let received = self.fifo.len().saturating_add(arriving).min(self.depth());
        self.latched | flag(received >= self.level(), INT_RX) | flag(received > 0, INT_RT)
    }

    fn depth(&self) -> usize {
        if self.lcr_h & LCR_H_FEN == 0 { 1 } else { FIFO }
    }

    /// How many received bytes raise the receive interrupt.
    fn level(&self) -> usize {
        if self.lcr_h & LCR_H_FEN == 0 {
            return 1;
        }
        match self.ifls >> 3 {
            0 => 2,
            1 => 4,
            3 => 12,
            4 => 14,
            // Two is a half; above four is reserved, and taken as the value after reset.
            _ => 8,
        }
    }
}

fn flag(set: bool, bits: u32) -> u32 {
    if set { bits } else { 0 }
}

fn identification(register: u16) -> Option<u32> {
    let index = usize::from(register.checked_sub(PERIPH_ID)? >> 2);
    ID.get(index).copied().map(u32::from)
}
