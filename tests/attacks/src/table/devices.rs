//! What only one kind of device has, besides the disk (2.C of the list of regressions).

use crate::Device::{self, Balloon, Console, Net, Rng};
use crate::attack::Answer::{Any, Empty, Silence};
use crate::attack::Attack;
use crate::layout::{CANARY, DATA, MARK};
use crate::registers::Face;
use crate::step::Number::Is;
use crate::step::Place::{Behind, Hole, Ram};
use crate::step::Step::{Buffers, Bytes, Kick, Offer, PageNumber, Repeat, Sweep, Wait, Write};
use crate::step::Window;

const WRITE: u16 = 2;
const NET: &[Device] = &[Net];
const RNG: &[Device] = &[Rng];
const CONSOLE: &[Device] = &[Console];
const BALLOON: &[Device] = &[Balloon];
const MODERN: &[Face] = &[Face::Mmio, Face::Pci];
/// CSUM and HOST_TSO4.
const OFFLOADS: u64 = 1 << 0 | 1 << 11;

/// A frame of so many bytes is sent.
macro_rules! frame {
    ($row:literal, $what:literal, $buffers:expr) => {
        Attack::new($row, $what, Empty, &[Buffers($buffers), Offer(Is(0)), Kick]).of(NET)
    };
}

/// A frame is sent whose header is this.
macro_rules! header {
    ($what:literal, $header:expr) => {
        Attack::new(
            "R-52",
            $what,
            Empty,
            &[Bytes(Ram(DATA), $header), Buffers(&[(DATA, 12, 0), (DATA + 12, 84, 0)]), Offer(Is(0)), Kick],
        )
        .of(NET)
        .with(OFFLOADS)
    };
}

/// Pages are put away whose numbers are these bytes.
macro_rules! pages {
    ($what:literal, $bytes:expr, $len:expr) => {
        Attack::new(
            "R-64",
            $what,
            Empty,
            &[Bytes(Ram(DATA), $bytes), Buffers(&[(DATA, $len, 0)]), Offer(Is(0)), Kick],
        )
        .of(BALLOON)
    };
}

pub const CASES: &[Attack] = &[
    frame!("R-50", "a frame of no bytes", &[(DATA, 0, 0)]),
    frame!("R-50", "a frame of one byte", &[(DATA, 1, 0)]),
    frame!("R-50", "a frame shorter than any header", &[(DATA, 9, 0)]),
    frame!("R-50", "a frame of a legacy header", &[(DATA, 10, 0)]),
    frame!("R-50", "a frame between the headers", &[(DATA, 11, 0)]),
    frame!("R-50", "a frame of a header", &[(DATA, 12, 0)]),
    frame!("R-50", "a frame one byte too short", &[(DATA, 25, 0)]),
    frame!(
        "R-50",
        "a header byte by byte",
        &[(DATA, 1, 0), (DATA + 1, 1, 0), (DATA + 2, 4, 0), (DATA + 6, 5, 0), (DATA + 11, 61, 0),]
    ),
    frame!("R-50", "a frame in a buffer for writing", &[(DATA, 96, WRITE)]),
    frame!("R-50", "a frame and a buffer for writing", &[(DATA, 96, 0), (DATA, 96, WRITE)]),
    frame!("R-51", "a frame of a MiB", &[(DATA, 1 << 20, 0)]),
    frame!(
        "R-51",
        "a frame of eight MiB",
        &[
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
            (DATA, 1 << 20, 0),
        ]
    ),
    frame!("R-51", "a frame of 4 GiB less a byte", &[(DATA, u32::MAX, 0)]),
    frame!("R-51", "a frame one byte past the longest", &[(DATA, 65_563, 0)]),
    header!("a checksum past the frame", &[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]),
    header!("a segment size of 0", &[1, 1, 0, 0, 0, 0, 14, 0, 6, 0, 0, 0]),
    header!("a segmentation that there is not", &[0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0]),
    header!("all ones", &[0xff; 12]),
    Attack::new(
        "R-52",
        "a hundred bad headers",
        Empty,
        &[Bytes(Ram(DATA), &[0xff; 12]), Buffers(&[(DATA, 96, 0)]), Repeat(100, &[Offer(Is(0)), Kick, Wait])],
    )
    .of(NET),
    Attack::new(
        "R-61",
        "a buffer for writing where it prints",
        Empty,
        &[Buffers(&[(DATA, 64, WRITE)]), Offer(Is(0)), Kick],
    )
    .of(CONSOLE),
    Attack::new(
        "R-61",
        "4 GiB less a byte to print",
        Empty,
        &[Buffers(&[(DATA, u32::MAX, 0)]), Offer(Is(0)), Kick],
    )
    .of(CONSOLE),
    Attack::new(
        "R-61",
        "text and a buffer for writing",
        Empty,
        &[Buffers(&[(DATA, 4, 0), (DATA, 4, WRITE)]), Offer(Is(0)), Kick],
    )
    .of(CONSOLE),
    Attack::new(
        "R-60",
        "entropy into what may be read",
        Empty,
        &[Buffers(&[(DATA, 64, 0)]), Offer(Is(0)), Kick],
    )
    .of(RNG),
    Attack::new(
        "R-60",
        "entropy behind what may be read",
        Empty,
        &[Buffers(&[(DATA, 64, 0), (DATA, 64, WRITE)]), Offer(Is(0)), Kick],
    )
    .of(RNG),
    pages!("the last page that there is a number for", &[0xff; 8], 8),
    pages!("a number of three bytes", &[0; 3], 3),
    pages!("a number and a byte", &[0xff, 0xff, 0xff, 0xff, 0], 5),
    Attack::new(
        "R-64",
        "pages in a hole and behind RAM",
        Empty,
        &[
            PageNumber(DATA, Hole(0)),
            PageNumber(DATA + 4, Behind(0)),
            Buffers(&[(DATA, 8, 0)]),
            Offer(Is(0)),
            Kick,
        ],
    )
    .of(BALLOON),
    Attack::new(
        "R-64",
        "one page a thousand times",
        Empty,
        &[PageNumber(DATA, Ram(MARK)), Buffers(&[(DATA, 4, 0)]), Repeat(1000, &[Offer(Is(0)), Kick, Wait])],
    )
    .of(BALLOON),
    Attack::new(
        "R-64",
        "a page whose number is in a buffer for writing",
        Empty,
        &[PageNumber(DATA, Ram(CANARY)), Buffers(&[(DATA, 4, WRITE)]), Offer(Is(0)), Kick],
    )
    .of(BALLOON),
    Attack::new(
        "R-64",
        "more put away than there is",
        Silence,
        &[
            Write { window: Window::Config, at: 4, width: 4, value: 0xffff_ffff },
            Write { window: Window::Config, at: 7, width: 4, value: 0xffff_ffff },
            Sweep { window: Window::Config, at: 0, bytes: 32, value: Some(u64::MAX) },
        ],
    )
    .of(BALLOON)
    .over(MODERN),
    Attack::new(
        "R-61",
        "text through the configuration",
        Any,
        &[
            Write { window: Window::Config, at: 8, width: 4, value: 0x2e },
            Write { window: Window::Config, at: 9, width: 2, value: 0xffff },
            Write { window: Window::Config, at: 5, width: 4, value: 0x2e2e_2e2e },
        ],
    )
    .of(CONSOLE)
    .over(MODERN),
];
