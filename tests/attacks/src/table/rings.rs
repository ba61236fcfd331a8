//! Available rings, descriptors and tables (2.B of the list of regressions).

use crate::Device::{self, Disk, Rng};
use crate::attack::Answer::{self, Any, Broken, Empty, Served};
use crate::attack::Attack;
use crate::layout::{DATA, TABLE};
use crate::step::Number::{self, Is, Size};
use crate::step::Place::{self, Behind, Hole, OwnAvail, OwnTable, OwnUsed, Ram, RamEnd, Registers, Wrap};
use crate::step::Step::{self, Buffers, Chain, Desc, Index, Kick, Offer, Repeat, Wait};
use crate::step::Table;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const F_INDIRECT: u64 = 1 << 28;
const RNG: &[Device] = &[Rng];
const BUFFER: Place = Ram(DATA);

const fn entry(index: u16, addr: Place, len: u32, flags: u16, next: Number) -> Step {
    Desc { table: Table::Queue, index: Is(index), addr, len, flags, next }
}

const fn inside(index: u16, addr: Place, len: u32, flags: u16, next: u16) -> Step {
    Desc { table: Table::At(TABLE), index: Is(index), addr, len, flags, next: Is(next) }
}

const fn chain(count: Number, addr: Place, len: u32) -> Step {
    Chain { table: Table::Queue, count, addr, len, flags: WRITE }
}

/// A head is offered that is one descriptor.
macro_rules! one {
    ($row:literal, $what:literal, $answer:expr, $addr:expr, $len:expr, $flags:expr) => {
        Attack::new($row, $what, $answer, &[entry(0, $addr, $len, $flags, Is(0)), Offer(Is(0)), Kick])
    };
}

/// An indirect descriptor names `len` bytes of a table whose entries are the steps before.
macro_rules! table {
    ($row:literal, $what:literal, $answer:expr, $len:expr, $($step:expr),*) => {
        Attack::new($row, $what, $answer, &[
            $($step,)*
            entry(0, Ram(TABLE), $len, INDIRECT, Is(0)),
            Offer(Is(0)),
            Kick,
        ])
        .with(F_INDIRECT)
    };
}

const fn served(attack: Attack) -> Attack {
    Attack { expect: Answer::Served, ..attack }.of(RNG)
}

pub const CASES: &[Attack] = &[
    one!("R-20", "a descriptor that names itself", Empty, BUFFER, 16, WRITE | NEXT),
    Attack::new(
        "R-20",
        "two descriptors that name each other",
        Empty,
        &[
            entry(0, BUFFER, 16, WRITE | NEXT, Is(1)),
            entry(1, BUFFER, 16, WRITE | NEXT, Is(0)),
            Offer(Is(0)),
            Kick,
        ],
    ),
    Attack::new(
        "R-20",
        "a loop of all descriptors",
        Empty,
        &[
            chain(Size(0), BUFFER, 16),
            Desc {
                table: Table::Queue,
                index: Size(-1),
                addr: BUFFER,
                len: 16,
                flags: WRITE | NEXT,
                next: Is(0),
            },
            Offer(Is(0)),
            Kick,
        ],
    ),
    Attack::new(
        "R-20",
        "a loop of empty descriptors",
        Empty,
        &[entry(0, BUFFER, 0, NEXT, Is(0)), Offer(Is(0)), Kick],
    ),
    Attack::new(
        "R-20",
        "next is the size",
        Empty,
        &[entry(0, BUFFER, 16, WRITE | NEXT, Size(0)), Offer(Is(0)), Kick],
    ),
    Attack::new(
        "R-20",
        "next is 2^16 - 1",
        Empty,
        &[entry(0, BUFFER, 16, WRITE | NEXT, Is(0xffff)), Offer(Is(0)), Kick],
    ),
    Attack::new("R-20", "a head that is the size", Broken, &[Offer(Size(0)), Kick]),
    Attack::new("R-20", "a head of 2^16 - 1", Broken, &[Offer(Is(0xffff)), Kick]),
    Attack::new(
        "R-20",
        "a broken queue that is kicked on",
        Broken,
        &[Offer(Is(0xffff)), Repeat(100, &[Kick]), Wait, Repeat(100, &[Kick])],
    ),
    Attack::new("R-21", "an index one more than the size ahead", Broken, &[Index(Size(1)), Kick]),
    Attack::new("R-21", "an index that goes back", Broken, &[Index(Is(0xffff)), Kick]),
    Attack::new("R-21", "an index 2^15 ahead", Broken, &[Index(Is(0x8000)), Kick]),
    Attack::new(
        "R-21",
        "an index that goes back after a request",
        Broken,
        &[one_refused(), Offer(Is(0)), Kick, Wait, Index(Is(0xfffe)), Kick],
    ),
    served(Attack::new(
        "R-23",
        "a chain one shorter than the queue",
        Served,
        &[chain(Size(-1), BUFFER, 16), Offer(Is(0)), Kick],
    )),
    served(Attack::new(
        "R-23",
        "a chain as long as the queue",
        Served,
        &[chain(Size(0), BUFFER, 16), Offer(Is(0)), Kick],
    )),
    Attack::new(
        "R-23",
        "a table with as many entries as the largest queue",
        Served,
        &[
            Chain { table: Table::At(TABLE), count: Is(64), addr: BUFFER, len: 16, flags: WRITE },
            entry(0, Ram(TABLE), 64 * 16, INDIRECT, Is(0)),
            Offer(Is(0)),
            Kick,
        ],
    )
    .with(F_INDIRECT)
    .of(RNG),
    Attack::new(
        "R-23",
        "a table with more entries than any queue",
        Empty,
        &[
            Chain { table: Table::At(TABLE), count: Is(1025), addr: BUFFER, len: 16, flags: WRITE },
            entry(0, Ram(TABLE), 1025 * 16, INDIRECT, Is(0)),
            Offer(Is(0)),
            Kick,
        ],
    )
    .with(F_INDIRECT),
    one!("R-24", "a buffer that wraps", Empty, Wrap(256), 512, WRITE),
    one!("R-24", "a buffer that ends at 2^64", Empty, Wrap(16), 16, 0),
    one!("R-24", "a buffer of 2^32 - 1 bytes", Empty, BUFFER, u32::MAX, WRITE),
    Attack::new(
        "R-24",
        "a chain of 2^32 bytes and more",
        Empty,
        &[chain(Size(0), BUFFER, u32::MAX), Offer(Is(0)), Kick],
    ),
    one!("R-25", "an empty buffer to write", Empty, BUFFER, 0, WRITE),
    one!("R-25", "an empty buffer to read", Empty, BUFFER, 0, 0),
    Attack::new("R-25", "only empty buffers", Empty, &[chain(Size(0), BUFFER, 0), Offer(Is(0)), Kick]),
    one!("R-25", "an empty buffer that is nowhere", Empty, Wrap(1), 0, WRITE),
    Attack::new(
        "R-26",
        "a thousand requests without waiting",
        Any,
        &[chain(Is(1), BUFFER, 64), Repeat(1000, &[Offer(Is(0)), Kick])],
    ),
    Attack::new(
        "R-26",
        "a full ring, again and again",
        Any,
        &[chain(Is(1), BUFFER, 1 << 18), Repeat(50, &[Repeat(8, &[Offer(Is(0))]), Kick, Wait])],
    )
    .of(RNG),
    Attack::new("R-27", "one head twice", Any, &[chain(Is(1), BUFFER, 64), Offer(Is(0)), Offer(Is(0)), Kick]),
    Attack::new(
        "R-27",
        "one head of a disk eight times",
        Any,
        &[
            Step::Header(0, 9),
            Buffers(&[(crate::layout::HEADER, 16, 0), (DATA, 512, WRITE), (crate::layout::STATUS, 1, WRITE)]),
            Repeat(8, &[Offer(Is(0))]),
            Kick,
        ],
    )
    .of(&[Disk]),
    table!("R-28", "a table of no bytes", Empty, 0, inside(0, BUFFER, 16, WRITE, 0)),
    table!("R-28", "a table of 15 bytes", Empty, 15, inside(0, BUFFER, 16, WRITE, 0)),
    table!("R-28", "a table of 17 bytes", Empty, 17, inside(0, BUFFER, 16, WRITE, 0)),
    table!("R-28", "a table of 4 GiB", Empty, 0xffff_fff0, inside(0, BUFFER, 16, WRITE, 0)),
    table!("R-28", "a table in a table", Empty, 16, inside(0, Ram(TABLE), 16, INDIRECT, 0)),
    table!("R-28", "a table of empty tables", Empty, 32, inside(0, Ram(TABLE), 16, INDIRECT | NEXT, 1)),
    table!(
        "R-28",
        "a loop in a table",
        Empty,
        32,
        inside(0, BUFFER, 16, WRITE | NEXT, 1),
        inside(1, BUFFER, 16, WRITE | NEXT, 0)
    ),
    table!("R-28", "next past the table", Empty, 16, inside(0, BUFFER, 16, WRITE | NEXT, 1)),
    table!("R-28", "next of 2^16 - 1 in a table", Empty, 32, inside(0, BUFFER, 16, WRITE | NEXT, 0xffff)),
    Attack::new(
        "R-28",
        "a table with a successor",
        Empty,
        &[
            inside(0, BUFFER, 16, WRITE, 0),
            entry(0, Ram(TABLE), 16, INDIRECT | NEXT, Is(1)),
            entry(1, BUFFER, 16, WRITE, Is(0)),
            Offer(Is(0)),
            Kick,
        ],
    )
    .with(F_INDIRECT),
    one!("R-28", "a table behind RAM", Empty, Behind(0), 16, INDIRECT).with(F_INDIRECT),
    one!("R-28", "a table across the end of RAM", Empty, RamEnd(8), 32, INDIRECT).with(F_INDIRECT),
    one!("R-28", "a table in the device's registers", Empty, Registers(0), 64, INDIRECT).with(F_INDIRECT),
    one!("R-28", "a table that wraps", Empty, Wrap(16), 32, INDIRECT).with(F_INDIRECT),
    Attack::new(
        "R-28",
        "a table that was not negotiated",
        Empty,
        &[inside(0, BUFFER, 16, WRITE, 0), entry(0, Ram(TABLE), 16, INDIRECT, Is(0)), Offer(Is(0)), Kick],
    ),
    Attack::new(
        "R-28",
        "a table said to be for writing",
        Served,
        &[
            inside(0, BUFFER, 16, WRITE, 0),
            entry(0, Ram(TABLE), 16, INDIRECT | WRITE, Is(0)),
            Offer(Is(0)),
            Kick,
        ],
    )
    .with(F_INDIRECT)
    .of(RNG),
    Attack::new(
        "R-29",
        "a table at an odd address",
        Served,
        &[
            Desc {
                table: Table::At(TABLE + 1),
                index: Is(0),
                addr: BUFFER,
                len: 16,
                flags: WRITE,
                next: Is(0),
            },
            entry(0, Ram(TABLE + 1), 16, INDIRECT, Is(0)),
            Offer(Is(0)),
            Kick,
        ],
    )
    .with(F_INDIRECT)
    .of(RNG),
    one!("R-30", "a buffer across the end of RAM", Empty, RamEnd(8), 16, WRITE),
    one!("R-30", "a buffer from RAM to the end of the hole", Empty, RamEnd(512), 0x8000_0000, WRITE),
    served(one!("R-31", "a buffer that ends where RAM does", Served, RamEnd(64), 64, WRITE)),
    one!("R-31", "a buffer one byte past RAM", Empty, RamEnd(63), 64, WRITE),
    one!("R-31", "a buffer 64 KiB past RAM", Empty, RamEnd(64), 64 + 0x1_0000, WRITE),
    one!("R-31", "a buffer to read one byte past RAM", Empty, RamEnd(63), 64, 0),
    one!("R-36", "a buffer in a hole", Empty, Hole(0), 64, WRITE),
    one!("R-36", "a buffer behind RAM", Empty, Behind(0), 64, WRITE),
    Attack::new(
        "R-36",
        "a thousand buffers in a hole",
        Empty,
        &[chain(Is(1), Hole(0), 64), Repeat(1000, &[Offer(Is(0)), Kick, Wait])],
    ),
    one!("R-36", "a buffer in the device's own registers", Empty, Registers(0), 64, WRITE),
    one!("R-36", "a buffer to read in the device's own registers", Empty, Registers(0), 64, 0),
    one!("R-36", "a buffer over the available ring", Any, OwnAvail, 6, WRITE),
    one!("R-36", "a buffer over the used ring", Any, OwnUsed, 6, WRITE),
    one!("R-36", "a buffer over the table", Any, OwnTable, 64, WRITE),
    Attack::new(
        "R-20",
        "what may be read behind what may be written",
        Empty,
        &[one_refused(), Offer(Is(0)), Kick],
    ),
    Attack::new("R-38", "a flood of requests", Any, &[one_refused(), Repeat(3000, &[Offer(Is(0)), Kick])]),
    one!("R-60", "4 GiB less a byte to fill", Empty, BUFFER, u32::MAX, WRITE).of(RNG),
    Attack::new("R-60", "a MiB eight times", Served, &[chain(Is(8), BUFFER, 1 << 20), Offer(Is(0)), Kick])
        .of(RNG),
];

/// Two buffers in the wrong order: refused by every device.
const fn one_refused() -> Step {
    Buffers(&[(DATA, 16, WRITE), (DATA, 16, 0)])
}
