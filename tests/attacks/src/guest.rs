//! The guest: does steps, as a driver that means well and otherwise.

use crate::layout::{
    AVAIL, CANARY, CANARY_BYTE, CANARY_LEN, HEADER, PAGE, PAGE_BYTES, QUEUE, STATUS, UNTOUCHED, USED,
};
use crate::registers::{self, Face, spot};
use crate::run::Machine;
use crate::step::{Number, Place, Step, Table};
use crate::{Answer, Stage};

/// Entries of a queue, where its driver chooses.
const SIZE: u16 = 8;
/// How many queues are set up at most: the first ones.
const QUEUES: usize = 2;
const NEEDS_RESET: u64 = 64;
const VERSION_1: u64 = 1 << 32;
const NEXT: u16 = 1;

pub struct Guest<'a, M> {
    machine: &'a mut M,
    features: u64,
    /// How many rounds it waits.
    patience: u32,
    queue: u16,
    /// Entries of each queue.
    sizes: [u16; QUEUES],
    /// The available index, as written.
    index: u16,
    asked: bool,
    wrong: bool,
}

impl<'a, M: Machine> Guest<'a, M> {
    pub fn new(machine: &'a mut M, features: u64, patience: u32) -> Self {
        let (queue, sizes) = (machine.device().queue(), [SIZE; QUEUES]);
        Self { machine, features, patience, queue, sizes, index: 0, asked: false, wrong: false }
    }

    /// Rings and requests of the case before are gone, and the canary is there.
    pub fn prepare(&mut self) {
        self.reset();
        self.put(CANARY, &[CANARY_BYTE; CANARY_LEN]);
        self.put(STATUS, &[UNTOUCHED]);
        self.put(HEADER, &[0; 16]);
    }

    /// Whether something read otherwise than it should, or a byte was written that nothing named.
    pub fn is_wrong(&mut self) -> bool {
        self.wrong || self.get(CANARY) != [CANARY_BYTE; CANARY_LEN]
    }

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        self.machine.store(self.machine.ground().room + at, bytes);
    }

    pub fn get<const N: usize>(&mut self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.machine.load(self.machine.ground().room + at, &mut bytes);
        bytes
    }

    pub fn reset(&mut self) {
        self.machine.power_up();
        registers::set_status(self.machine, 0);
    }

    /// As a driver that means well, up to `stage`.
    pub fn begin(&mut self, stage: Stage) {
        self.reset();
        (0..=self.queue).for_each(|queue| self.clear(queue));
        (self.index, self.asked) = (0, false);
        let legacy = self.machine.face().is_legacy();
        if stage >= Stage::Driver {
            registers::set_status(self.machine, 1);
            registers::set_status(self.machine, 3);
        }
        if stage >= Stage::Features {
            registers::choose(self.machine, if legacy { self.features } else { self.features | VERSION_1 });
            if !legacy {
                registers::set_status(self.machine, 11);
            }
            registers::set_page_size(self.machine, PAGE_BYTES);
        }
        if stage >= Stage::Queues {
            (0..=self.queue).for_each(|queue| self.set_up(queue));
        }
        if stage >= Stage::Live {
            registers::set_status(self.machine, if legacy { 7 } else { 15 });
        }
    }

    fn set_up(&mut self, queue: u16) {
        registers::select(self.machine, u32::from(queue));
        if self.machine.face() == Face::PciLegacy {
            let largest = registers::largest(self.machine);
            self.sizes[usize::from(queue)] = u16::try_from(largest).unwrap_or(SIZE);
        }
        self.clear(queue);
        registers::set_size(self.machine, u32::from(SIZE));
        registers::set_align(self.machine, PAGE_BYTES);
        let areas = self.areas(queue).map(|at| self.machine.ground().room + at);
        registers::place(self.machine, areas);
        registers::enable(self.machine);
    }

    /// Flags and indices of both rings; descriptors and entries are written before they count.
    fn clear(&mut self, queue: u16) {
        let [_, avail, used] = self.areas(queue);
        self.put(avail, &[0; 4]);
        self.put(used, &[0; 4]);
    }

    /// Table, available and used ring, from the start of the room.
    fn areas(&self, queue: u16) -> [u64; 3] {
        let desc = u64::from(queue) * QUEUE;
        if !self.machine.face().is_legacy() {
            return [desc, desc + AVAIL, desc + USED];
        }
        let n = u64::from(self.sizes[usize::from(queue)]);
        [desc, desc + 16 * n, desc + (18 * n + 6).next_multiple_of(PAGE)]
    }

    fn size(&self) -> u16 {
        self.sizes[usize::from(self.queue)]
    }

    fn number(&self, number: Number) -> u16 {
        match number {
            Number::Is(number) => number,
            Number::Size(plus) => self.size().wrapping_add_signed(plus),
        }
    }

    fn resolve(&self, place: Place) -> u64 {
        let ground = self.machine.ground();
        let own = self.areas(self.queue).map(|at| ground.room + at);
        match place {
            Place::Ram(at) => ground.room + at,
            Place::RamEnd(before) => ground.end - before,
            Place::Behind(after) => ground.end + after,
            Place::Hole(at) => ground.hole + at,
            Place::Registers(at) => ground.registers + at,
            Place::Wrap(before) => 0u64.wrapping_sub(before),
            Place::OwnTable => own[0],
            Place::OwnAvail => own[1],
            Place::OwnUsed => own[2],
        }
    }

    pub fn all(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| self.step(step));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Begin(stage) => self.begin(stage),
            Step::Reset => self.reset(),
            Step::PowerUp => self.machine.power_up(),
            Step::Status(value) => registers::set_status(self.machine, value),
            Step::StatusIs(value) => self.wrong |= registers::status(self.machine) != value,
            Step::Features(features) => registers::choose(self.machine, features),
            Step::Select(queue) => registers::select(self.machine, queue),
            Step::Size(size) => registers::set_size(self.machine, size),
            Step::Areas(places) => {
                registers::place(self.machine, places.map(|place| self.resolve(place)));
            }
            Step::PageSize(bytes) => registers::set_page_size(self.machine, bytes),
            Step::Align(bytes) => registers::set_align(self.machine, bytes),
            Step::Enable => registers::enable(self.machine),
            Step::Notify(queue) => registers::notify(self.machine, queue),
            Step::Kick => self.machine.kick(self.queue),
            Step::Wait => self.wait(),
            Step::Repeat(times, steps) => (0..times).for_each(|_| self.all(steps)),
            Step::Write { window, at, width, value } => {
                if let Some(at) = spot(self.machine, window, at) {
                    self.machine.write(at, width, value);
                }
            }
            Step::Reads { window, at, width, value } => {
                if let Some(at) = spot(self.machine, window, at) {
                    self.wrong |= self.machine.read(at, width) != value;
                }
            }
            Step::Sweep { .. } => self.sweep(step),
            _ => self.edit(step),
        }
    }

    fn sweep(&mut self, step: &Step) {
        let Step::Sweep { window, at, bytes, value } = *step else { return };
        for at in at..at + bytes {
            let Some(at) = spot(self.machine, window, at) else { return };
            for width in [1, 2, 4, 8] {
                self.machine.read(at, width);
                if let Some(value) = value {
                    self.machine.write(at, width, value);
                }
            }
        }
    }

    /// What only RAM sees.
    fn edit(&mut self, step: &Step) {
        match *step {
            Step::Desc { table, index, addr, len, flags, next } => {
                let (index, next) = (self.number(index), self.number(next));
                self.describe(table, index, (self.resolve(addr), len, flags, next));
            }
            Step::Chain { table, count, addr, len, flags } => {
                let (count, addr) = (self.number(count), self.resolve(addr));
                for index in 0..count {
                    let more = if index + 1 < count { NEXT } else { 0 };
                    self.describe(table, index, (addr, len, flags | more, index + 1));
                }
            }
            Step::Buffers(buffers) => self.buffers(buffers),
            Step::Header(kind, sector) => self.request(kind, sector),
            Step::Offer(head) => {
                let head = self.number(head);
                self.offer(head);
            }
            Step::Index(by) => {
                let by = self.number(by);
                self.advance(by);
            }
            Step::Bytes(at, bytes) => {
                let at = self.resolve(at);
                self.machine.store(at, bytes);
            }
            Step::PageNumber(at, page) => self.page_number(at, page),
            _ => {}
        }
    }

    fn describe(&mut self, table: Table, index: u16, entry: (u64, u32, u16, u16)) {
        let table = match table {
            Table::Queue => self.areas(self.queue)[0],
            Table::At(at) => at,
        };
        let (addr, len, flags, next) = entry;
        let entry =
            u128::from(addr) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.put(table + 16 * u64::from(index), &entry.to_le_bytes());
    }

    fn buffers(&mut self, buffers: &[(u64, u32, u16)]) {
        for (index, (at, len, flags)) in (0u16..).zip(buffers) {
            let more = if usize::from(index) + 1 < buffers.len() { NEXT } else { 0 };
            let addr = self.resolve(Place::Ram(*at));
            self.describe(Table::Queue, index, (addr, *len, flags | more, index + 1));
        }
    }

    fn offer(&mut self, head: u16) {
        let [_, avail, _] = self.areas(self.queue);
        let slot = u64::from(self.index % self.size());
        self.put(avail + 4 + 2 * slot, &head.to_le_bytes());
        self.advance(1);
    }

    fn advance(&mut self, by: u16) {
        let [_, avail, _] = self.areas(self.queue);
        self.index = self.index.wrapping_add(by);
        self.put(avail + 2, &self.index.to_le_bytes());
        self.asked = true;
    }

    fn used(&mut self) -> u16 {
        let [_, _, used] = self.areas(self.queue);
        u16::from_le_bytes(self.get(used + 2))
    }

    pub fn wait(&mut self) {
        for round in 0..self.patience {
            // With nothing asked there is nothing to wait for but that the device does something on its own.
            let over = if self.asked { self.used() == self.index } else { round > 4 };
            if over || registers::status(self.machine) & NEEDS_RESET != 0 {
                return;
            }
            self.machine.pause(round);
        }
    }

    pub fn answer(&mut self) -> Answer {
        if registers::status(self.machine) & NEEDS_RESET != 0 {
            return Answer::Broken;
        }
        let used = self.used();
        if used == 0 || used != self.index {
            return Answer::Silence;
        }
        let [status] = self.get(STATUS);
        let [_, _, ring] = self.areas(self.queue);
        let slot = u64::from(used.wrapping_sub(1) % self.size());
        let len = u32::from_le_bytes(self.get(ring + 8 + 8 * slot));
        match status {
            0 => Answer::Served,
            UNTOUCHED if len == 0 => Answer::Empty,
            UNTOUCHED => Answer::Served,
            status => Answer::Error(status),
        }
    }

    /// The header of a disk's request.
    pub fn request(&mut self, kind: u32, sector: u64) {
        let header = u128::from(kind) | u128::from(sector) << 64;
        self.put(HEADER, &header.to_le_bytes());
        self.put(STATUS, &[UNTOUCHED]);
    }

    pub fn page_number(&mut self, at: u64, page: Place) {
        let number = (self.resolve(page) / PAGE) & 0xffff_ffff;
        self.put(at, &number.to_le_bytes()[..4]);
    }

    /// One request as a driver makes it that means well; how much was written.
    pub fn ask(&mut self, buffers: &[(u64, u32, u16)]) -> Option<u32> {
        self.buffers(buffers);
        self.offer(0);
        self.machine.kick(self.queue);
        self.wait();
        let [_, _, used] = self.areas(self.queue);
        (self.used() == self.index).then(|| u32::from_le_bytes(self.get(used + 8)))
    }
}
