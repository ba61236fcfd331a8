//! Does a case to a machine and judges it.

use crate::guest::Guest;
use crate::layout::{DATA, HEADER, MARK, SECTOR, STATUS, on_disk};
use crate::registers::{self, Face, Spot, Windows};
use crate::step::Place;
use crate::{Answer, Attack, Device, Stage, Verdict};

/// What a case is done to.
pub trait Machine {
    fn face(&self) -> Face;
    fn device(&self) -> Device;
    fn windows(&self) -> Windows;
    fn ground(&self) -> Ground;
    /// What a firmware leaves behind: a function is in its place, is decoded, may master the bus, and has no MSI-X.
    fn power_up(&mut self);
    /// Reads `width` bytes; 1, 2, 4 or 8.
    fn read(&mut self, at: Spot, width: u8) -> u64;
    fn write(&mut self, at: Spot, width: u8, value: u64);
    /// Two bytes are read and written at once, after and before all others.
    fn load(&mut self, address: u64, bytes: &mut [u8]);
    fn store(&mut self, address: u64, bytes: &[u8]);
    fn kick(&mut self, queue: u16)
    where
        Self: Sized,
    {
        registers::notify(self, queue.into());
    }
    /// Lets the device work, the longer the more rounds there were.
    fn pause(&mut self, round: u32);
}

/// Where the guest's memory is.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// The first of [`ROOM`](crate::layout::ROOM) bytes that nothing else uses.
    pub room: u64,
    /// The first byte behind RAM.
    pub end: u64,
    /// Where a page and more are that no RAM and no device is.
    pub hole: u64,
    /// The device's own registers.
    pub registers: u64,
}

/// How many rounds of [`Machine::pause`] an answer may take that has to come.
const PATIENCE: u32 = 100_000;
/// After so many it is believed that none comes.
const BRIEF: u32 = 40;
const WRITE: u16 = 2;

/// Does the steps of `attack` to a machine in any state, and leaves it as it is then.
pub fn begin<'a, M: Machine>(attack: &Attack, machine: &'a mut M) -> Guest<'a, M> {
    let expect = attack.answer_on(machine.face());
    let patience = if matches!(expect, Answer::Silence | Answer::Any) { BRIEF } else { PATIENCE };
    let mut guest = Guest::new(machine, attack.features, patience);
    guest.prepare();
    guest.begin(attack.from);
    guest.all(attack.steps);
    guest.wait();
    guest
}

/// Does `attack` to a machine in any state, then sees whether the device works after a reset.
pub fn run(attack: &Attack, machine: &mut impl Machine) -> Verdict {
    let expect = attack.answer_on(machine.face());
    let mut guest = begin(attack, machine);
    let answer = guest.answer();
    // Of what was refused nothing may be left that is served later.
    guest.reset();
    let wrong = guest.is_wrong();
    if !works(machine) {
        return Verdict::Wedged;
    }
    match answer {
        _ if wrong => Verdict::Fail(Answer::Wrong),
        Answer::Served if matches!(expect, Answer::Served | Answer::Any) => Verdict::Pass,
        answer if answer == expect || expect == Answer::Any => Verdict::Reject,
        answer => Verdict::Fail(answer),
    }
}

/// Whether a well-formed request of a driver that begins anew is served.
fn works(machine: &mut impl Machine) -> bool {
    let device = machine.device();
    let mut guest = Guest::new(machine, 0, PATIENCE);
    guest.begin(Stage::Live);
    let works = match device {
        Device::Disk | Device::ReadOnlyDisk => {
            guest.request(0, 9);
            let used = guest.ask(&[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
            let data: [u8; 512] = guest.get(DATA);
            let right = (9 * SECTOR..).zip(data).all(|(at, byte)| byte == on_disk(at));
            used == Some(513) && guest.get(STATUS) == [0] && right
        }
        Device::Net => {
            guest.put(DATA, &[0; 96]);
            guest.ask(&[(DATA, 12, 0), (DATA + 12, 84, 0)]) == Some(0)
        }
        Device::Console => {
            guest.put(DATA, b".");
            guest.ask(&[(DATA, 1, 0)]) == Some(0)
        }
        Device::Rng => guest.ask(&[(DATA, 64, WRITE)]) == Some(64),
        Device::Balloon => {
            guest.put(MARK, &[7; 64]);
            guest.page_number(DATA, Place::Ram(MARK));
            let used = guest.ask(&[(DATA, 4, 0)]);
            used == Some(0) && guest.get(MARK) == [0; 64]
        }
    };
    guest.reset();
    works
}

/// How many cases came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pass: u32,
    pub reject: u32,
    pub fail: u32,
    pub wedged: u32,
}

impl Counts {
    pub fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Pass => self.pass += 1,
            Verdict::Reject => self.reject += 1,
            Verdict::Fail(_) => self.fail += 1,
            Verdict::Wedged => self.wedged += 1,
        }
    }
}

impl core::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            pass: self.pass + other.pass,
            reject: self.reject + other.reject,
            fail: self.fail + other.fail,
            wedged: self.wedged + other.wedged,
        }
    }
}

impl core::fmt::Display for Counts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { pass, reject, fail, wedged } = self;
        write!(f, "PASS {pass} REJECT {reject} FAIL {fail} WEDGED {wedged}")
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Pass => f.write_str("PASS"),
            Self::Reject => f.write_str("REJECT"),
            Self::Fail(answer) => write!(f, "FAIL ({answer:?})"),
            Self::Wedged => f.write_str("WEDGED"),
        }
    }
}
