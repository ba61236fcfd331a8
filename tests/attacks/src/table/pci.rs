//! Functions: MSI-X, BARs and configuration space (2.D of the list of regressions), and accesses of any width.

use crate::attack::Answer::{Empty, Silence};
use crate::attack::{Attack, Stage};
use crate::layout::DATA;
use crate::registers::Face;
use crate::step::Number::Is;
use crate::step::Step::{Begin, Buffers, Kick, Offer, PowerUp, Reads, Repeat, Reset, Sweep, Wait, Write};
use crate::step::Window;

const PCI: &[Face] = &[Face::Pci, Face::PciLegacy];
const MODERN: &[Face] = &[Face::Pci];
const LEGACY: &[Face] = &[Face::PciLegacy];
const MMIO: &[Face] = &[Face::Mmio, Face::MmioLegacy];

const REQUEST: &[(u64, u32, u16)] = &[(DATA, 16, 2), (DATA, 16, 0)];
/// MSI-X enabled, and masked.
const ENABLED: u64 = 0x8000;
const MASKED: u64 = 0xc000;

const fn message_control(value: u64) -> crate::step::Step {
    Write { window: Window::Msix, at: 2, width: 2, value }
}

/// Through the capability that reaches BARs: which, how many bytes from where, and what.
macro_rules! through {
    ($what:literal, $bar:expr, $at:expr, $len:expr) => {
        Attack::new(
            "R-74",
            $what,
            Empty,
            &[
                Write { window: Window::Access, at: 4, width: 1, value: $bar },
                Write { window: Window::Access, at: 8, width: 4, value: $at },
                Write { window: Window::Access, at: 12, width: 4, value: $len },
                Sweep { window: Window::Access, at: 12, bytes: 12, value: None },
                // Zero would be a reset, if it reached the status.
                Write { window: Window::Access, at: 16, width: 4, value: 0 },
                Buffers(REQUEST),
                Offer(Is(0)),
                Kick,
            ],
        )
        .over(PCI)
    };
}

/// A BAR is written, with decoding on.
macro_rules! bar {
    ($what:literal, $register:expr, $value:expr) => {
        Attack::new(
            "R-73",
            $what,
            Silence,
            &[
                Write { window: Window::Space, at: $register, width: 4, value: $value },
                Sweep { window: Window::Registers, at: 0, bytes: 16, value: None },
                Kick,
                PowerUp,
            ],
        )
        .over(PCI)
    };
}

pub const CASES: &[Attack] = &[
    Attack::new(
        "R-70",
        "vectors in every width",
        Empty,
        &[
            message_control(MASKED),
            Sweep { window: Window::Vectors, at: 0, bytes: 64, value: Some(u64::MAX) },
            Buffers(REQUEST),
            Offer(Is(0)),
            Kick,
        ],
    )
    .over(PCI),
    Attack::new(
        "R-70",
        "past the last vector",
        Silence,
        &[
            Sweep { window: Window::Vectors, at: 0x0c0, bytes: 64, value: Some(u64::MAX) },
            Sweep { window: Window::Vectors, at: 0xfe0, bytes: 0x19, value: Some(0) },
        ],
    )
    .over(PCI),
    Attack::new(
        "R-70",
        "pending bits in every width",
        Silence,
        &[
            Sweep { window: Window::Pending, at: 0, bytes: 24, value: Some(u64::MAX) },
            Reads { window: Window::Pending, at: 0, width: 8, value: 0 },
            Sweep { window: Window::Pending, at: 0xff0, bytes: 9, value: None },
        ],
    )
    .over(PCI),
    Attack::new(
        "R-71",
        "a vector past the last for the configuration",
        Silence,
        &[
            Write { window: Window::Registers, at: 16, width: 2, value: 0x7ff },
            Reads { window: Window::Registers, at: 16, width: 2, value: 0xffff },
            Write { window: Window::Registers, at: 16, width: 2, value: 0xfffe },
            Reads { window: Window::Registers, at: 16, width: 2, value: 0xffff },
        ],
    )
    .over(MODERN),
    Attack::new(
        "R-71",
        "a vector past the last for a queue, then a request",
        Empty,
        &[
            message_control(MASKED),
            Write { window: Window::Registers, at: 26, width: 2, value: 0x100 },
            Reads { window: Window::Registers, at: 26, width: 2, value: 0xffff },
            Buffers(REQUEST),
            Offer(Is(0)),
            Kick,
        ],
    )
    .over(MODERN),
    Attack::new(
        "R-72",
        "MSI-X enabled, masked and disabled between requests",
        Empty,
        &[
            Buffers(REQUEST),
            Write { window: Window::Registers, at: 26, width: 2, value: 0 },
            Repeat(
                50,
                &[
                    message_control(MASKED),
                    Offer(Is(0)),
                    Kick,
                    Wait,
                    message_control(0),
                    Offer(Is(0)),
                    Kick,
                    Wait,
                ],
            ),
        ],
    )
    .over(MODERN),
    Attack::new(
        "R-72",
        "vectors mapped and unmapped between requests",
        Empty,
        &[
            Buffers(REQUEST),
            message_control(MASKED),
            Repeat(
                50,
                &[
                    Write { window: Window::Registers, at: 26, width: 2, value: 1 },
                    Write { window: Window::Registers, at: 16, width: 2, value: 0 },
                    Offer(Is(0)),
                    Kick,
                    Wait,
                    Write { window: Window::Registers, at: 26, width: 2, value: 0xffff },
                    Write { window: Window::Registers, at: 16, width: 2, value: 0xffff },
                ],
            ),
        ],
    )
    .over(MODERN),
    Attack::new(
        "R-72",
        "MSI-X enabled without any vector",
        Empty,
        &[message_control(ENABLED), Buffers(REQUEST), Offer(Is(0)), Kick],
    )
    .over(PCI),
    bar!("a BAR at 0", 0x10, 0),
    bar!("a BAR at the top", 0x10, 0xffff_f000),
    bar!("a BAR of ones", 0x10, 0xffff_ffff),
    bar!("a BAR over RAM", 0x10, 0x4000_0000),
    bar!("the second BAR at the top", 0x14, 0xffff_ffff),
    bar!("a BAR that there is not", 0x24, 0xffff_ffff),
    bar!("a ROM", 0x30, 0xffff_ffff),
    Attack::new(
        "R-73",
        "a BAR that moves a hundred times while it is decoded",
        Silence,
        &[
            Repeat(
                50,
                &[
                    Write { window: Window::Space, at: 0x10, width: 4, value: 0 },
                    Write { window: Window::Space, at: 0x10, width: 4, value: 0xfeed_0000 },
                    Write { window: Window::Space, at: 0x12, width: 1, value: 0x55 },
                ],
            ),
            PowerUp,
        ],
    )
    .over(PCI),
    Attack::new(
        "R-73",
        "decoding off and on while requests come",
        Silence,
        &[
            Buffers(REQUEST),
            Repeat(
                20,
                &[
                    Write { window: Window::Space, at: 4, width: 2, value: 0 },
                    Kick,
                    Write { window: Window::Space, at: 4, width: 2, value: 7 },
                ],
            ),
        ],
    )
    .over(PCI),
    through!("BAR 6", 6, 0, 4),
    through!("BAR 255", 0xff, 0, 4),
    through!("no bytes", 0, 0x14, 0),
    through!("three bytes", 0, 0x14, 3),
    through!("eight bytes", 0, 0x14, 8),
    through!("an offset past the BAR", 0, 0x1_0000, 4),
    through!("the last byte of the BAR, and on", 0, 0x3ffe, 4),
    through!("an offset that wraps", 0, 0xffff_fffc, 4),
    through!("an odd offset", 0, 0x13, 4),
    Attack::new(
        "R-75",
        "every byte of the configuration space in every width",
        Silence,
        &[
            Sweep { window: Window::Space, at: 0, bytes: 0x100, value: None },
            Sweep { window: Window::Space, at: 0x40, bytes: 0xc0, value: Some(u64::MAX) },
            Sweep { window: Window::Space, at: 0xff0, bytes: 9, value: Some(u64::MAX) },
        ],
    )
    .over(PCI),
    Attack::new(
        "R-75",
        "every byte of the common configuration in every width",
        Silence,
        &[
            Sweep { window: Window::Registers, at: 0, bytes: 0x48, value: Some(0) },
            Sweep { window: Window::Registers, at: 0, bytes: 0x48, value: Some(u64::MAX) },
        ],
    )
    .over(MODERN),
    Attack::new(
        "R-75",
        "every byte of a legacy header in every width",
        Silence,
        &[Sweep { window: Window::Registers, at: 0, bytes: 0x60, value: Some(u64::MAX) }],
    )
    .over(LEGACY),
    Attack::new(
        "R-75",
        "every byte of the registers in every width",
        Silence,
        &[
            Sweep { window: Window::Registers, at: 0, bytes: 0x100, value: None },
            Sweep { window: Window::Registers, at: 0, bytes: 0x28, value: Some(u64::MAX) },
            Sweep { window: Window::Registers, at: 0x54, bytes: 0x1c, value: Some(u64::MAX) },
        ],
    )
    .over(MMIO),
    Attack::new(
        "R-75",
        "the interrupt status in every width",
        Silence,
        &[Sweep { window: Window::Isr, at: 0, bytes: 12, value: Some(u64::MAX) }],
    )
    .over(MODERN),
    Attack::new(
        "R-76",
        "a hundred activations and resets",
        Silence,
        &[Repeat(100, &[Begin(Stage::Live), Kick, Reset])],
    ),
    Attack::new(
        "R-78",
        "MSI-X on and off while the configuration is read",
        Silence,
        &[Repeat(
            50,
            &[
                message_control(MASKED),
                Reads { window: Window::Registers, at: 20, width: 2, value: 0xffff },
                message_control(0),
                Sweep { window: Window::Registers, at: 16, bytes: 16, value: None },
            ],
        )],
    )
    .over(LEGACY),
];
