//! ELF files with any segments and notes.

use ambit_device_manager::CpuMode;
use ambit_resources::AddressRange;
use arbitrary::Result;

use super::machine::Machine;
use ambit_device_manager::fuzz::damage;

use super::Input;
use crate::kernel::Kernel;

const MIB: u64 = 1 << 20;
const HEADERS: usize = 64;
/// Of a program header.
const HEADER: usize = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;

pub fn body(input: &mut Input<'_>, notes: bool) -> Result<()> {
    let Some(machine) = Machine::new(input)? else { return Ok(()) };
    let mut file = file(input, notes)?;
    damage(input, &mut file, 0)?;
    let Ok(Kernel::Program(program)) = Kernel::open(&file) else { return Ok(()) };
    let loaded = loaded(&file);
    let entries = [Some(long(&file, 24)), program.pvh];
    for entry in entries.into_iter().flatten() {
        assert!(loaded.iter().any(|(range, _)| range.contains_address(entry)), "{entry:#x} in {loaded:?}");
    }
    let ranges: Vec<AddressRange> = loaded.iter().map(|(range, _)| *range).collect();
    let Ok(image) = machine.start(&file) else {
        let odd =
            machine.cmdline.len() > 2047 || machine.cmdline.bytes().any(|byte| !matches!(byte, b' '..=b'~'));
        let empty = machine.initrd.as_ref().is_some_and(Vec::is_empty);
        assert!(odd || empty || !machine.has_room(&ranges, u32::MAX.into()));
        return Ok(());
    };
    let (start, initrd, line) = machine.check(&image);
    assert!(line.len() <= 2047);
    for (range, bytes) in &loaded {
        assert!(range.first() >= MIB);
        start.holds(*range, bytes);
    }
    match program.pvh {
        None => assert_eq!((image.entry, image.mode), (long(&file, 24), CpuMode::Usual)),
        Some(entry) => {
            assert_eq!((image.entry, image.mode), (entry, CpuMode::Protected));
            let (at, info) = start.piece("start info").expect("it is told by one");
            assert_eq!(at.first(), image.argument);
            let initrd = initrd.map_or([0; 2], |initrd| [initrd.first(), initrd.size()]);
            let modules = long(info, 16);
            let module = if modules == 0 { 0 } else { (modules - at.first()) as usize };
            assert_eq!([0, 8].map(|to| if module == 0 { 0 } else { long(info, module + to) }), initrd);
        }
    }
    Ok(())
}

/// The segments that are loaded, of a file that was found to be good.
fn loaded(file: &[u8]) -> Vec<(AddressRange, &[u8])> {
    let (table, count) = (long(file, 32) as usize, u16::from_le_bytes([file[56], file[57]]));
    let headers = (0..usize::from(count)).map(|index| &file[table + HEADER * index..][..HEADER]);
    let loaded = headers.filter(|header| word(header, 0) == LOAD && long(header, 40) > 0);
    let segments = loaded.map(|header| {
        let range = AddressRange::new(long(header, 24), long(header, 40)).expect("it has an end");
        (range, &file[long(header, 8) as usize..][..long(header, 32) as usize])
    });
    segments.collect()
}

/// Up to four segments, most of them good.
fn file(input: &mut Input<'_>, notes: bool) -> Result<Vec<u8>> {
    let count = input.int_in_range(1..=4_u8)?;
    let mut file = vec![0; HEADERS + HEADER * usize::from(count)];
    let mut next = MIB;
    let mut entry = MIB;
    for index in 0..usize::from(count) {
        let note = notes && index == 0;
        let kind = match input.int_in_range(0..=15_u32)? {
            _ if note => NOTE,
            0 => input.int_in_range(0..=7)?,
            _ => LOAD,
        };
        let bytes = if kind == NOTE {
            note_bytes(input, next)?
        } else {
            vec![index as u8 + 1; input.int_in_range(0..=300)?]
        };
        let more = *input.choose(&[0, 1, 0x1000, MIB, 1 << 40])?;
        let (at, length) = (file.len() as u64, bytes.len() as u64);
        let first = match input.int_in_range(0..=15)? {
            0 => input.arbitrary()?,
            1 => next.wrapping_sub(1),
            2 => next.wrapping_add(MIB),
            _ => next,
        };
        file.extend(bytes);
        let header = HEADERS + HEADER * index;
        file[header..header + 4].copy_from_slice(&kind.to_le_bytes());
        for (to, value) in [(8, at), (24, first), (32, length), (40, length + more)] {
            file[header + to..header + to + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        if kind == LOAD {
            (entry, next) = (first, first.saturating_add(length + more));
        }
    }
    let entry = entry.wrapping_add(input.arbitrary::<u8>()?.into());
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    file[16..20].copy_from_slice(&[2, 0, 62, 0]);
    file[24..32].copy_from_slice(&entry.to_le_bytes());
    file[32..40].copy_from_slice(&(HEADERS as u64).to_le_bytes());
    file[54..58].copy_from_slice(&[HEADER as u8, 0, count, 0]);
    Ok(file)
}

/// Notes of a few sizes, names and types.
fn note_bytes(input: &mut Input<'_>, entry: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for _ in 0..input.int_in_range(1..=3)? {
        let name: &[u8; 4] = input.choose(&[b"Xen\0", b"GNU\0", b"Xen2"])?;
        let kind: u32 = *input.choose(&[18, 18, 1, 5])?;
        let size: u32 = *input.choose(&[4, 8, 0, 3, 5, 16, u32::MAX])?;
        for number in [4, size, kind] {
            bytes.extend(u32::to_le_bytes(number));
        }
        bytes.extend(name);
        let body = [entry.to_le_bytes(), [9; 8]].concat();
        bytes.extend(&body[..size.min(16).next_multiple_of(4) as usize]);
    }
    Ok(bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
