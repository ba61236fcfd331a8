//! Status, features, notifications and selectors (2.A of the list of regressions).

use crate::attack::Answer::{Any, Broken, Empty, Silence};
use crate::attack::{Attack, Stage};
use crate::layout::DATA;
use crate::registers::Face;
use crate::step::Number::Is;
use crate::step::Step::{
    Begin, Buffers, Features, Kick, Notify, Offer, Reads, Repeat, Reset, Select, Size, Status, StatusIs,
    Sweep, Wait, Write,
};
use crate::step::Window;

const MODERN: &[Face] = &[Face::Mmio, Face::Pci];
const MMIO: &[Face] = &[Face::Mmio, Face::MmioLegacy];
const LEGACY: &[Face] = &[Face::MmioLegacy, Face::PciLegacy];
const PCI: &[Face] = &[Face::Pci];

/// A request that no device takes: what it may write comes before what it may read.
const REQUEST: &[(u64, u32, u16)] = &[(DATA, 16, 2), (DATA, 16, 0)];

pub const CASES: &[Attack] = &[
    Attack::new("R-03", "DRIVER_OK out of nothing", Silence, &[Status(4), StatusIs(0)]).from(Stage::Reset),
    Attack::new("R-03", "all bits at once", Silence, &[Status(15), StatusIs(0)]).from(Stage::Reset),
    Attack::new("R-03", "DRIVER before ACKNOWLEDGE", Silence, &[Status(2), StatusIs(0)]).from(Stage::Reset),
    Attack::new("R-03", "a bit that there is not", Silence, &[Status(0x13), StatusIs(3)]).from(Stage::Driver),
    Attack::new("R-03", "a bit taken away", Silence, &[Status(1), StatusIs(3)]).from(Stage::Driver),
    Attack::new("R-03", "DRIVER_OK before FEATURES_OK", Silence, &[Status(7), StatusIs(3)])
        .from(Stage::Driver)
        .over(MODERN),
    Attack::new("R-03", "two steps in one", Silence, &[Status(15), StatusIs(3)]).from(Stage::Driver),
    Attack::new("R-03", "a step back from DRIVER_OK", Silence, &[Status(11), StatusIs(15)]).over(MODERN),
    Attack::new(
        "R-03",
        "FAILED, and on as if not",
        Silence,
        &[Status(0x83), StatusIs(0x83), Status(0x8b), StatusIs(0x83)],
    )
    .from(Stage::Driver),
    Attack::new("R-03", "FEATURES_OK without VERSION_1", Silence, &[Features(0), Status(11), StatusIs(3)])
        .from(Stage::Driver)
        .over(MODERN),
    Attack::new(
        "R-03",
        "features that were not offered",
        Silence,
        &[Features(u64::MAX), Status(11), StatusIs(3)],
    )
    .from(Stage::Driver)
    .over(MODERN),
    Attack::new(
        "R-03",
        "features after FEATURES_OK",
        Empty,
        &[Features(u64::MAX), Buffers(REQUEST), Offer(Is(0)), Kick],
    ),
    Attack::new(
        "R-04",
        "a reset before each step",
        Silence,
        &[
            Begin(Stage::Driver),
            Begin(Stage::Features),
            Begin(Stage::Queues),
            Begin(Stage::Live),
            Reset,
            StatusIs(0),
        ],
    )
    .from(Stage::Reset),
    Attack::new(
        "R-04",
        "resets with a request in flight",
        Any,
        &[Repeat(40, &[Buffers(REQUEST), Offer(Is(0)), Kick, Reset, Begin(Stage::Live)])],
    ),
    Attack::new(
        "R-06",
        "no entries, then a kick",
        Any,
        &[Select(0), Size(0), Status(15), Notify(0), Notify(1)],
    )
    .from(Stage::Features),
    Attack::new(
        "R-07",
        "notifications of queues that there are not",
        Silence,
        &[Notify(2), Notify(5), Notify(0x7fff), Notify(0x8000), Notify(0xffff), Notify(0xfffe)],
    ),
    Attack::new(
        "R-07",
        "notifications in 32 bits",
        Silence,
        &[Notify(0x1_0000), Notify(0x7fff_ffff), Notify(0x8000_0000), Notify(u32::MAX)],
    )
    .over(MMIO),
    Attack::new(
        "R-07",
        "every place for notifications of a function",
        Silence,
        &[Sweep { window: Window::Notify, at: 0, bytes: 64, value: Some(0xffff) }],
    )
    .over(PCI),
    Attack::new(
        "R-08",
        "every register of a queue that there is not",
        Empty,
        &[
            Select(0xffff),
            Sweep { window: Window::Registers, at: 0x30, bytes: 0x18, value: None },
            Sweep { window: Window::Registers, at: 0x80, bytes: 0x28, value: Some(u64::MAX) },
            Size(8),
            Write { window: Window::Registers, at: 0x44, width: 4, value: 1 },
            Select(0),
            Buffers(REQUEST),
            Offer(Is(0)),
            Kick,
        ],
    )
    .over(MMIO),
    Attack::new(
        "R-08",
        "every register of a queue past 16 bits",
        Silence,
        &[
            Select(u32::MAX),
            Reads { window: Window::Registers, at: 0x34, width: 4, value: 0 },
            Reads { window: Window::Registers, at: 0x44, width: 4, value: 0 },
        ],
    )
    .over(&[Face::Mmio]),
    Attack::new(
        "R-08",
        "the configuration past its end",
        Silence,
        &[
            Sweep { window: Window::Config, at: 0, bytes: 0x90, value: None },
            Sweep { window: Window::Config, at: 0x60, bytes: 0x90, value: Some(u64::MAX) },
            Reads { window: Window::Config, at: 0xc0, width: 4, value: 0 },
        ],
    )
    .over(MODERN),
    Attack::new(
        "R-08",
        "the last bytes of the registers",
        Silence,
        &[
            Sweep { window: Window::Registers, at: 0xff0, bytes: 9, value: Some(u64::MAX) },
            Sweep { window: Window::Registers, at: 0xfc, bytes: 4, value: Some(0) },
        ],
    )
    .over(MMIO),
    Attack::new(
        "R-09",
        "the vector of a queue that there is not",
        Silence,
        &[
            Select(0xffff),
            Write { window: Window::Registers, at: 26, width: 2, value: 0 },
            Reads { window: Window::Registers, at: 26, width: 2, value: 0xffff },
            Reads { window: Window::Registers, at: 24, width: 2, value: 0 },
            Reads { window: Window::Registers, at: 28, width: 2, value: 0 },
        ],
    )
    .over(PCI),
    Attack::new(
        "R-09",
        "the common configuration of a queue that there is not",
        Silence,
        &[Select(0xffff), Sweep { window: Window::Registers, at: 24, bytes: 48, value: Some(1) }],
    )
    .over(PCI)
    .from(Stage::Features),
    Attack::new("R-12", "a kick before there is a driver", Silence, &[Kick, Notify(0), Notify(1)])
        .from(Stage::Reset),
    Attack::new("R-12", "a request before DRIVER_OK", Silence, &[Buffers(REQUEST), Offer(Is(0)), Kick, Wait])
        .from(Stage::Queues)
        .over(MODERN),
    Attack::new(
        "R-12",
        "a request of a legacy driver before DRIVER_OK",
        Empty,
        &[Buffers(REQUEST), Offer(Is(0)), Kick],
    )
    .from(Stage::Queues)
    .over(LEGACY),
    Attack::new("R-12", "a kick after a reset", Silence, &[Reset, Buffers(REQUEST), Offer(Is(0)), Kick]),
    Attack::new(
        "R-12",
        "a kick after FAILED",
        Silence,
        &[Status(0x8f), Status(0x87), Buffers(REQUEST), Offer(Is(0)), Kick],
    ),
    Attack::new(
        "R-13",
        "the set-up of the driver before, without one of its own",
        Silence,
        &[Reset, Status(1), Status(3), Status(7), Buffers(REQUEST), Offer(Is(0)), Kick],
    ),
    Attack::new(
        "R-11",
        "an activation that fails, seen in the status",
        Broken,
        &[
            Select(0),
            Write { window: Window::Registers, at: 0x84, width: 4, value: 0xffff_ffff },
            Write { window: Window::Registers, at: 0x44, width: 4, value: 1 },
            StatusIs(0x4b),
        ],
    )
    .from(Stage::Features)
    .over(&[Face::Mmio]),
    Attack::new(
        "R-11",
        "DRIVER_OK after an activation that failed",
        Broken,
        &[
            Select(0),
            Write { window: Window::Registers, at: 36, width: 4, value: 0xffff_ffff },
            Write { window: Window::Registers, at: 28, width: 2, value: 1 },
            Status(15),
            StatusIs(0x4f),
            Kick,
        ],
    )
    .from(Stage::Features)
    .over(PCI),
];
