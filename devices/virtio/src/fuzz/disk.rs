//! Requests to a disk, mostly good ones, beside an array of bytes.

use std::os::unix::fs::FileExt;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};
use arbitrary::Result;
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use super::devices::file;
use crate::block::{Block, Options};
use crate::driver::{Face, Machine, VERSION_1, Vq, WRITE};

const SECTOR: usize = 512;
const SECTORS: usize = 16;
const RAM: u64 = 0x8_0000;
const READABLE: u64 = RAM_BASE + 0x4_0000;
const WRITABLE: u64 = RAM_BASE + 0x6_0000;
/// What a byte is before the device writes it.
const EMPTY: u8 = 0xee;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// What a request must do.
struct Answer {
    status: u8,
    /// The first of the bytes before the status.
    data: Vec<u8>,
    /// This part of the disk may read as anything.
    any: Vec<(usize, usize)>,
}

impl Answer {
    fn of(status: u8) -> Self {
        Self { status, data: Vec::new(), any: Vec::new() }
    }
}

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let mut disk: Vec<u8> = (0..SECTORS * SECTOR).map(|at| (at / 7 % 251) as u8).collect();
    let file = file();
    file.write_all_at(&disk, 0).unwrap();
    let face = *input.choose(&[Face::Mmio, Face::MmioLegacy])?;
    let host = BenchHost::with_ram(&[AddressRange::fixed(RAM_BASE, RAM)], PaBits::MAX);
    let block = Block::new(file.try_clone().unwrap(), &Options::new("disk0")).unwrap();
    let mut machine = Machine::build(host, face, block);
    // DISCARD, WRITE_ZEROES and FLUSH.
    assert!(machine.negotiate(VERSION_1 | 1 << 9 | 1 << 13 | 1 << 14));
    let mut queue = machine.queue(0, 64);
    machine.go();
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        let (readable, room) = request(input)?;
        let answer = expected(&mut disk, face, &readable, room);
        let used = ask(input, &machine, &mut queue, &readable, room)?;
        let mut there = vec![0; disk.len()];
        file.read_exact_at(&mut there, 0).unwrap();
        for (from, to) in answer.iter().flat_map(|answer| &answer.any) {
            disk[*from..*to].copy_from_slice(&there[*from..*to]);
        }
        assert!(there == disk, "the disk is not what it must be after {readable:?}, {room}");
        check(&machine, answer.as_ref(), room, used);
    }
    assert_eq!(file.metadata().unwrap().len(), disk.len() as u64);
    Ok(())
}

/// What the device reads, and how many bytes it may write.
fn request(input: &mut Input<'_>) -> Result<(Vec<u8>, usize)> {
    let kind: u32 = if input.ratio(1, 16)? {
        input.arbitrary()?
    } else {
        *input.choose(&[0, 1, 0, 1, 4, 5, 8, 11, 13])?
    };
    let sector = |input: &mut Input<'_>| {
        Ok(if input.ratio(1, 8)? {
            *input.choose(&[SECTORS as u64, u64::MAX, 1 << 55, (1 << 55) - 1, input.len() as u64])?
        } else {
            input.int_in_range(0..=SECTORS as u64 - 1)?
        })
    };
    let count = usize::from(input.int_in_range(0..=4u8)?);
    let mut readable = Vec::new();
    readable.extend(kind.to_le_bytes());
    readable.extend([0; 4]);
    readable.extend(sector(input)?.to_le_bytes());
    let mut room = 1;
    match kind {
        0 => room += count * SECTOR,
        1 => readable.extend((0..count * SECTOR).map(|at| at as u8)),
        8 => room += 20,
        11 | 13 => {
            for _ in 0..count {
                readable.extend(sector(input)?.to_le_bytes());
                let sectors =
                    if input.ratio(1, 8)? { input.arbitrary()? } else { input.int_in_range(0..=4u32)? };
                readable.extend(sectors.to_le_bytes());
                let flags: u32 = if input.ratio(1, 8)? { input.arbitrary()? } else { 0 };
                readable.extend(flags.to_le_bytes());
            }
        }
        _ => {}
    }
    if input.ratio(1, 8)? {
        let len = usize::from(input.arbitrary::<u16>()? % 600);
        readable.resize(len.min(readable.len() + 17), 1);
    }
    if input.ratio(1, 8)? {
        room = usize::from(input.arbitrary::<u16>()? % 1100);
    }
    Ok((readable, room))
}

/// Does it to the array. `None` if the device has no way to answer.
fn expected(disk: &mut [u8], face: Face, readable: &[u8], room: usize) -> Option<Answer> {
    let into = room.checked_sub(1)?;
    let Some((header, data)) = readable.split_first_chunk::<16>() else { return Some(Answer::of(IOERR)) };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
    let inside = |sector: u64, count: u64| {
        let end = sector.checked_add(count).filter(|end| *end <= SECTORS as u64)?;
        Some(sector as usize * SECTOR..end as usize * SECTOR)
    };
    let whole =
        |len: usize| if len.is_multiple_of(SECTOR) { inside(sector, (len / SECTOR) as u64) } else { None };
    Some(match word(0) {
        0 => match whole(into) {
            Some(place) => Answer { data: disk[place].to_vec(), ..Answer::of(OK) },
            None => Answer::of(IOERR),
        },
        1 => match whole(data.len()) {
            Some(place) => {
                disk[place].copy_from_slice(data);
                Answer::of(OK)
            }
            None => Answer::of(IOERR),
        },
        4 => Answer::of(OK),
        5 if face.is_legacy() => Answer::of(OK),
        8 if into < 20 => Answer::of(IOERR),
        8 => Answer { data: b"disk0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(), ..Answer::of(OK) },
        kind @ (11 | 13) => ranges(disk, kind == 11, data, inside),
        _ => Answer::of(UNSUPP),
    })
}

/// All ranges, or none if one is wrong.
fn ranges(
    disk: &mut [u8],
    discard: bool,
    data: &[u8],
    inside: impl Fn(u64, u64) -> Option<std::ops::Range<usize>>,
) -> Answer {
    let (most, flags) = if discard { (32, 0) } else { (1, 1) };
    if data.is_empty() || !data.len().is_multiple_of(16) || data.len() > most * 16 {
        return Answer::of(IOERR);
    }
    let mut all = Vec::new();
    for range in data.chunks(16) {
        let number =
            |from: usize, to: usize| range[from..to].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        if number(12, 16) & !flags != 0 {
            return Answer::of(UNSUPP);
        }
        let Some(place) = inside(number(0, 8), number(8, 12)) else { return Answer::of(IOERR) };
        all.push((place.start, place.end));
    }
    if discard {
        return Answer { any: all, ..Answer::of(OK) };
    }
    all.into_iter().for_each(|(from, to)| disk[from..to].fill(0));
    Answer::of(OK)
}

/// Puts it into the queue, cut anywhere. What the used element said.
fn ask(
    input: &mut Input<'_>,
    machine: &Machine,
    queue: &mut Vq,
    readable: &[u8],
    room: usize,
) -> Result<u32> {
    machine.memory.write_slice(readable, GuestAddress(READABLE)).unwrap();
    machine.memory.write_slice(&vec![EMPTY; room + 1], GuestAddress(WRITABLE)).unwrap();
    let mut chain = Vec::new();
    for (at, len, flags) in [(READABLE, readable.len(), 0), (WRITABLE, room, WRITE)] {
        let (mut at, mut left) = (at, len as u32);
        for _ in 0..input.int_in_range(0..=4)? {
            let piece = u32::from(input.arbitrary::<u16>()? % 530).min(left);
            chain.push((at, piece, flags));
            (at, left) = (at + u64::from(piece), left - piece);
        }
        if left > 0 {
            chain.push((at, left, flags));
        }
    }
    if chain.is_empty() {
        chain.push((READABLE, 0, 0));
    }
    Ok(machine.ask(queue, &chain))
}

fn check(machine: &Machine, answer: Option<&Answer>, room: usize, used: u32) {
    let there = machine.bytes(WRITABLE, room + 1);
    let mut expected = vec![EMPTY; room + 1];
    if let Some(answer) = answer {
        expected[..answer.data.len()].copy_from_slice(&answer.data);
        expected[room - 1] = answer.status;
    }
    assert!(there == expected, "the guest got {there:?} and not {expected:?}");
    assert!(used as usize <= room);
}
