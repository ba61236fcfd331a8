//! Requests to a disk (2.C of the list of regressions).

use crate::Device::{self, Disk, ReadOnlyDisk};
use crate::attack::Answer::{Any, Empty, Error, Served};
use crate::attack::Attack;
use crate::layout::{DATA, HEADER, SECTORS, STATUS};
use crate::step::Number::Is;
use crate::step::Place::Ram;
use crate::step::Step::{Buffers, Bytes, Header, Kick, Offer};

const WRITE: u16 = 2;
const DISK: &[Device] = &[Disk];
const DISKS: &[Device] = &[Disk, ReadOnlyDisk];
const READ_ONLY: &[Device] = &[ReadOnlyDisk];
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

// Types of requests, and statuses (virtio 1.2, 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const SCSI: u32 = 2;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_ZEROES: u32 = 13;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// A request of these buffers.
macro_rules! ask {
    ($row:literal, $what:literal, $answer:expr, $kind:expr, $sector:expr, $buffers:expr) => {
        Attack::new($row, $what, $answer, &[Header($kind, $sector), Buffers($buffers), Offer(Is(0)), Kick])
            .of(DISK)
    };
}

/// A request of one range: sector, number and flags.
macro_rules! range {
    ($row:literal, $what:literal, $answer:expr, $kind:expr, $len:expr, $range:expr) => {
        Attack::new(
            $row,
            $what,
            $answer,
            &[
                Bytes(Ram(DATA), $range),
                Header($kind, 0),
                Buffers(&[HEAD, (DATA, $len, 0), END]),
                Offer(Is(0)),
                Kick,
            ],
        )
        .of(DISK)
        .with(DISCARD | WRITE_ZEROES)
    };
}

type Buffer = (u64, u32, u16);

const HEAD: Buffer = (HEADER, 16, 0);
const END: Buffer = (STATUS, 1, WRITE);

const fn data(len: u32) -> Buffer {
    (DATA, len, WRITE)
}

const fn output(len: u32) -> Buffer {
    (DATA, len, 0)
}

const fn with_sector(sector: u64, count: u32, flags: u32) -> [u8; 16] {
    let (s, c, f) = (sector.to_le_bytes(), count.to_le_bytes(), flags.to_le_bytes());
    [s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], c[0], c[1], c[2], c[3], f[0], f[1], f[2], f[3]]
}

pub const CASES: &[Attack] = &[
    ask!("R-40", "a sector and a byte read", Error(IOERR), IN, 0, &[HEAD, data(513), END]),
    ask!("R-40", "one byte read", Error(IOERR), IN, 0, &[HEAD, data(1), END]),
    ask!("R-40", "511 bytes written", Error(IOERR), OUT, 9, &[HEAD, output(511), END]),
    ask!("R-40", "a sector and a byte written", Error(IOERR), OUT, 9, &[HEAD, output(513), END]),
    ask!("R-41", "the last sector", Served, IN, SECTORS - 1, &[HEAD, data(512), END]),
    ask!("R-41", "the sector behind the last", Error(IOERR), IN, SECTORS, &[HEAD, data(512), END]),
    ask!("R-41", "the last sector and another", Error(IOERR), IN, SECTORS - 1, &[HEAD, data(1024), END]),
    ask!("R-41", "a sector past the disk", Error(IOERR), IN, SECTORS + 1, &[HEAD, data(512), END]),
    ask!("R-41", "sector 2^55", Error(IOERR), IN, 1 << 55, &[HEAD, data(512), END]),
    ask!("R-41", "sector 2^64 - 1", Error(IOERR), IN, u64::MAX, &[HEAD, data(512), END]),
    ask!("R-41", "a write behind the last sector", Error(IOERR), OUT, SECTORS, &[HEAD, output(512), END]),
    ask!(
        "R-41",
        "a write of the last sector and another",
        Error(IOERR),
        OUT,
        SECTORS - 1,
        &[HEAD, output(1024), END]
    ),
    ask!("R-41", "a write to sector 2^55", Error(IOERR), OUT, 1 << 55, &[HEAD, output(512), END]),
    ask!("R-41", "a write to sector 2^64 - 1", Error(IOERR), OUT, u64::MAX, &[HEAD, output(1024), END]),
    range!("R-41", "a discard past the disk", Error(IOERR), T_DISCARD, 16, &with_sector(SECTORS, 1, 0)),
    range!("R-41", "zeroes past the disk", Error(IOERR), T_ZEROES, 16, &with_sector(SECTORS - 1, 2, 0)),
    range!("R-41", "zeroes from sector 2^64 - 1", Error(IOERR), T_ZEROES, 16, &with_sector(u64::MAX, 2, 0)),
    range!("R-41", "a discard from sector 2^55", Error(IOERR), T_DISCARD, 16, &with_sector(1 << 55, 1, 0)),
    range!("R-42", "a discard of no range", Error(IOERR), T_DISCARD, 0, &with_sector(9, 1, 0)),
    range!("R-42", "a discard of 15 bytes of range", Error(IOERR), T_DISCARD, 15, &with_sector(9, 1, 0)),
    range!("R-42", "a discard of a range and a byte", Error(IOERR), T_DISCARD, 17, &with_sector(9, 1, 0)),
    range!(
        "R-42",
        "a discard of more ranges than offered",
        Error(IOERR),
        T_DISCARD,
        16 * 4096,
        &with_sector(9, 0, 0)
    ),
    range!(
        "R-42",
        "a discard of 2^32 - 1 sectors",
        Error(IOERR),
        T_DISCARD,
        16,
        &with_sector(0, u32::MAX, 0)
    ),
    range!("R-42", "a discard that lets go", Error(UNSUPP), T_DISCARD, 16, &with_sector(9, 1, 1)),
    range!(
        "R-42",
        "zeroes with a flag that there is not",
        Error(UNSUPP),
        T_ZEROES,
        16,
        &with_sector(9, 1, 2)
    ),
    range!("R-42", "zeroes with all flags", Error(UNSUPP), T_ZEROES, 16, &with_sector(9, 1, u32::MAX)),
    range!("R-42", "more zeroes than offered", Error(IOERR), T_ZEROES, 16, &with_sector(0, u32::MAX, 0)),
    ask!("R-43", "a SCSI command", Error(UNSUPP), SCSI, 0, &[HEAD, output(96), data(512), END]),
    ask!("R-43", "a SCSI command of the second kind", Error(UNSUPP), 3, 0, &[HEAD, output(6), END]),
    ask!("R-43", "a kind that there is not", Error(UNSUPP), 0x7777_7777, 0, &[HEAD, END]),
    ask!("R-44", "a write to a disk for reading", Error(IOERR), OUT, 9, &[HEAD, output(512), END])
        .of(READ_ONLY),
    range!("R-44", "a discard on a disk for reading", Error(IOERR), T_DISCARD, 16, &with_sector(9, 1, 0))
        .of(READ_ONLY)
        .with(0),
    range!("R-44", "zeroes on a disk for reading", Error(IOERR), T_ZEROES, 16, &with_sector(9, 1, 0))
        .of(READ_ONLY)
        .with(0),
    ask!("R-47", "nowhere for a status", Empty, IN, 9, &[HEAD]).of(DISKS),
    ask!("R-47", "a status for reading", Empty, OUT, 9, &[HEAD, output(512), (STATUS, 1, 0)]).of(DISKS),
    ask!("R-47", "a status of no bytes", Empty, OUT, 9, &[HEAD, output(512), (STATUS, 0, WRITE)]).of(DISKS),
    ask!("R-47", "a status in the middle", Empty, OUT, 9, &[HEAD, END, output(512)]).of(DISKS),
    ask!("R-47", "a status and nothing else", Error(IOERR), IN, 9, &[END]).of(DISKS),
    ask!(
        "R-47",
        "a status at the end of a large buffer",
        Error(UNSUPP),
        0x77,
        0,
        &[HEAD, (STATUS - 511, 512, WRITE)]
    ),
    ask!("R-47", "a header of 15 bytes", Error(IOERR), IN, 9, &[(HEADER, 15, 0), data(512), END]).of(DISKS),
    ask!(
        "R-37",
        "a header in three, data in two",
        Served,
        IN,
        9,
        &[(HEADER, 1, 0), (HEADER + 1, 7, 0), (HEADER + 8, 8, 0), data(1), (DATA + 1, 511, WRITE), END,]
    )
    .of(DISKS),
    ask!("R-37", "data and status in one", Served, IN, 9, &[HEAD, (STATUS - 512, 513, WRITE)]).of(DISKS),
    ask!(
        "R-37",
        "empty buffers in between",
        Served,
        IN,
        9,
        &[(HEADER, 0, 0), HEAD, (DATA, 0, 0), (DATA, 0, WRITE), data(512), (DATA, 0, WRITE), END,]
    )
    .of(DISKS),
    ask!("R-60", "an id of 4 GiB less a byte", Empty, GET_ID, 0, &[HEAD, data(u32::MAX), END]),
    ask!("R-60", "an id of a MiB", Served, GET_ID, 0, &[HEAD, data(1 << 20), END]),
    ask!("R-60", "an id of a byte", Any, GET_ID, 0, &[HEAD, data(1), END]),
    ask!("R-40", "a flush with data", Any, FLUSH, u64::MAX, &[HEAD, output(77), END]),
];
