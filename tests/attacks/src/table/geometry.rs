//! Size and place of queues (2.A of the list of regressions).

use crate::attack::Answer::{Any, Broken, Empty, Silence};
use crate::attack::{Attack, Device, Stage};
use crate::layout::{AVAIL, DATA, PAGE, USED};
use crate::registers::Face;
use crate::step::Number::Is;
use crate::step::Place::{self, Behind, Hole, OwnTable, Ram, RamEnd, Registers, Wrap};
use crate::step::Step::{
    self, Align, Areas, Buffers, Enable, Kick, Notify, Offer, PageSize, Reads, Repeat, Select, Size, Status,
    Write,
};
use crate::step::Window;

const MODERN: &[Face] = &[Face::Mmio, Face::Pci];
const MMIO_LEGACY: &[Face] = &[Face::MmioLegacy];
const LEGACY: &[Face] = &[Face::MmioLegacy, Face::PciLegacy];

const REQUEST: &[(u64, u32, u16)] = &[(DATA, 16, 2), (DATA, 16, 0)];
const TABLE_AT: Place = Ram(0);
const AVAIL_AT: Place = Ram(AVAIL);
const USED_AT: Place = Ram(USED);
const ASK: Step = Repeat(1, &[Buffers(REQUEST), Offer(Is(0)), Kick]);

/// Devices that are asked on their first queue.
const ON_THE_FIRST: &[Device] = &[Device::Disk, Device::Rng, Device::Balloon];

/// A modern driver puts queue 0 there, and goes on.
macro_rules! put {
    ($row:literal, $what:literal, $answer:expr, $desc:expr, $avail:expr, $used:expr) => {
        Attack::new(
            $row,
            $what,
            $answer,
            &[Select(0), Size(8), Areas([$desc, $avail, $used]), Enable, Status(15), ASK],
        )
        .from(Stage::Features)
        .over(MODERN)
    };
}

/// A driver on mmio says another size.
macro_rules! size {
    ($row:literal, $what:literal, $answer:expr, $size:expr) => {
        Attack::new(
            $row,
            $what,
            $answer,
            &[
                Select(0),
                Size($size),
                Align(4096),
                Areas([TABLE_AT, AVAIL_AT, USED_AT]),
                Enable,
                Status(15),
                Status(7),
                ASK,
            ],
        )
        .from(Stage::Features)
        .over(&[Face::Mmio, Face::MmioLegacy])
    };
}

/// A legacy driver puts queue 0 there; its page then reads as none.
macro_rules! page {
    ($what:literal, $place:expr) => {
        page!($what, $place, &[Face::PciLegacy], 8)
    };
    ($what:literal, $place:expr, $face:expr, $register:literal) => {
        Attack::new(
            "R-10",
            $what,
            Silence,
            &[
                Select(0),
                Size(8),
                Align(4096),
                Areas([$place, $place, $place]),
                Reads { window: Window::Registers, at: $register, width: 4, value: 0 },
                Status(7),
                ASK,
            ],
        )
        .from(Stage::Features)
        .over($face)
    };
}

/// A driver on legacy mmio says another page size and alignment.
macro_rules! block {
    ($what:literal, $page:expr, $align:expr) => {
        Attack::new(
            "R-05",
            $what,
            Silence,
            &[
                PageSize($page),
                Select(0),
                Size(8),
                Align($align),
                Write { window: Window::Registers, at: 0x40, width: 4, value: 1 },
                Write { window: Window::Registers, at: 0x40, width: 4, value: u32::MAX as u64 },
                Areas([TABLE_AT, AVAIL_AT, USED_AT]),
                Reads { window: Window::Registers, at: 0x40, width: 4, value: 0 },
                Status(7),
                ASK,
            ],
        )
        .from(Stage::Features)
        .over(MMIO_LEGACY)
    };
}

pub const CASES: &[Attack] = &[
    Attack::new(
        "R-01",
        "another place for a queue that is live",
        Empty,
        &[Select(0), Size(4), Areas([Wrap(16), Hole(0), Behind(0)]), Enable, ASK],
    )
    .over(MODERN),
    Attack::new(
        "R-01",
        "a larger queue while it is live",
        Empty,
        &[
            Select(0),
            Size(0x8000),
            Size(256),
            Write { window: Window::Registers, at: 24, width: 2, value: 0x8000 },
            Reads { window: Window::Registers, at: 24, width: 2, value: 8 },
            ASK,
        ],
    )
    .over(&[Face::Pci])
    .of(ON_THE_FIRST),
    Attack::new(
        "R-01",
        "another page and size for a legacy queue that is live",
        Empty,
        &[
            Select(0),
            PageSize(0x1_0000),
            Size(0x8000),
            Align(1 << 31),
            Areas([Hole(0), Hole(0), Hole(0)]),
            ASK,
        ],
    )
    .over(LEGACY),
    Attack::new(
        "R-01",
        "a thousand rewrites between requests",
        Empty,
        &[Repeat(200, &[Select(0), Size(64), Areas([Behind(0), RamEnd(2), Wrap(4)]), Enable]), ASK],
    )
    .over(MODERN),
    size!("R-02", "twice the largest size", Any, 2048),
    size!("R-02", "one more than the largest", Broken, 257),
    size!("R-02", "2^15 entries", Broken, 0x8000),
    size!("R-02", "2^16 - 1 entries", Broken, 0xffff),
    size!("R-02", "2^16 and 8 entries", Broken, 0x1_0008),
    size!("R-02", "2^32 - 1 entries", Broken, u32::MAX),
    size!("R-06", "no entries", Broken, 0),
    size!("R-06", "three entries", Broken, 3),
    size!("R-06", "twelve entries", Broken, 12),
    Attack::new(
        "R-06",
        "sizes that no queue of a function can have",
        Empty,
        &[
            Select(0),
            Size(8),
            Size(0),
            Size(3),
            Size(12),
            Size(0xffff),
            Reads { window: Window::Registers, at: 24, width: 2, value: 8 },
            Areas([TABLE_AT, AVAIL_AT, USED_AT]),
            Enable,
            Status(15),
            ASK,
        ],
    )
    .from(Stage::Features)
    .over(&[Face::Pci])
    .of(ON_THE_FIRST),
    Attack::new(
        "R-06",
        "a queue of one entry, and a request of two",
        Empty,
        &[Select(0), Size(1), Areas([TABLE_AT, AVAIL_AT, USED_AT]), Enable, Status(15), ASK],
    )
    .from(Stage::Features)
    .over(MODERN)
    .of(ON_THE_FIRST),
    Attack::new(
        "R-06",
        "a page for a queue of no entries",
        Silence,
        &[
            Select(9),
            Reads { window: Window::Registers, at: 12, width: 2, value: 0 },
            Areas([TABLE_AT, AVAIL_AT, USED_AT]),
            Reads { window: Window::Registers, at: 8, width: 4, value: 0 },
            Status(7),
            Notify(9),
        ],
    )
    .from(Stage::Features)
    .over(&[Face::PciLegacy]),
    block!("an alignment of 0", 4096, 0),
    block!("an alignment of 1", 4096, 1),
    block!("an alignment of 3", 4096, 3),
    block!("an alignment of 4095", 4096, 4095),
    block!("an alignment of 2^31", 4096, 1 << 31),
    block!("an alignment of 2^32 - 1", 4096, u32::MAX),
    block!("pages of 0", 0, 4096),
    block!("pages of 1", 1, 4096),
    block!("pages of 4095", 4095, 4096),
    block!("pages of 2^32 - 1", u32::MAX, 4096),
    put!("R-10", "a table in a hole", Broken, Hole(0), AVAIL_AT, USED_AT),
    put!("R-10", "a table in the device's registers", Broken, Registers(0), AVAIL_AT, USED_AT),
    put!("R-10", "a table across the end of RAM", Broken, RamEnd(16), AVAIL_AT, USED_AT),
    put!("R-10", "a table behind RAM", Broken, Behind(0), AVAIL_AT, USED_AT),
    put!("R-10", "a table that wraps", Broken, Wrap(16), AVAIL_AT, USED_AT),
    put!("R-10", "a table at 8 bytes", Broken, Ram(8), AVAIL_AT, USED_AT),
    put!("R-10", "an available ring at an odd address", Broken, TABLE_AT, Ram(AVAIL + 1), USED_AT),
    put!("R-10", "an available ring in a hole", Broken, TABLE_AT, Hole(0), USED_AT),
    put!("R-10", "an available ring across the end of RAM", Broken, TABLE_AT, RamEnd(20), USED_AT),
    put!("R-10", "an available ring that wraps", Broken, TABLE_AT, Wrap(2), USED_AT),
    put!("R-10", "a used ring in a hole", Broken, TABLE_AT, AVAIL_AT, Hole(0)),
    put!("R-10", "a used ring in the device's registers", Broken, TABLE_AT, AVAIL_AT, Registers(0)),
    put!("R-10", "a used ring across the end of RAM", Broken, TABLE_AT, AVAIL_AT, RamEnd(4)),
    put!("R-10", "a used ring at 2 bytes", Broken, TABLE_AT, AVAIL_AT, Ram(USED + 2)),
    put!("R-10", "a used ring that wraps", Broken, TABLE_AT, AVAIL_AT, Wrap(4)),
    page!("a page in a hole", Hole(0)),
    page!("the last page of RAM, and on", RamEnd(PAGE)),
    page!("the page behind RAM", Behind(0)),
    page!("the last page that there is a number for", Wrap(PAGE)),
    page!("a page on mmio in a hole", Hole(0), MMIO_LEGACY, 0x40),
    page!("the last page of RAM on mmio, and on", RamEnd(PAGE), MMIO_LEGACY, 0x40),
    page!("the page on mmio behind RAM", Behind(0), MMIO_LEGACY, 0x40),
    page!("the last page on mmio that there is a number for", Wrap(PAGE), MMIO_LEGACY, 0x40),
    Attack::new(
        "R-10",
        "all three areas at one place",
        Any,
        &[Select(0), Size(8), Areas([OwnTable, OwnTable, OwnTable]), Enable, Status(15), ASK],
    )
    .from(Stage::Features)
    .over(MODERN),
];
