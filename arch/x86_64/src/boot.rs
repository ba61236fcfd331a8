//! How a program is started: where it and all it is given are, and what the first vCPU finds.
//!
//! The 64-bit entry of Linux's boot protocol (`Documentation/arch/x86/boot.rst`, 1.14): the first vCPU is in 64-bit
//! mode at [`BootImage::entry`], with interrupts off, flat segments from the table below, the first addresses mapped
//! to themselves, and [`BootImage::argument`] in rsi, where the [zero page](crate::zero_page) is. All other vCPUs wait
//! for INIT and SIPI.
//!
//! ```text
//! 0x0000_0500  segment descriptors
//! 0x0000_1000  nothing: room for the trampoline of other vCPUs
//! 0x0000_7000  zero page
//! 0x0000_8000  command line
//! 0x0000_9000  page tables: everything up to the end of the plan's addresses, in pages of 2 MiB
//! 0x0010_0000  the program, where it was linked to be; then the initrd
//! ```
//!
//! Devices of virtio-mmio are named on the command line as Linux reads them, `virtio_mmio.device=4K@0xf0000000:5`.

use std::borrow::Cow;
use std::fmt::Write as _;

use ambit_device_manager::{BootError, BootImage, Payload, Piece, Plan, RegionKind, pci};
use ambit_resources::AddressRange;

use crate::elf::{Program, Segment};
use crate::zero_page::{E820, E820Kind, ZeroPage};

/// The segment descriptors of [`descriptors`].
pub const GDT: u64 = 0x500;
/// Selects the code segment.
pub const CODE: u16 = 0x10;
/// Selects the data segment.
pub const DATA: u16 = 0x18;
pub const ZERO_PAGE: u32 = 0x7000;
pub const CMDLINE: u32 = 0x8000;
/// The root of the page tables, for CR3.
pub const PAGE_TABLES: u64 = 0x9000;

/// What Linux keeps of the command line, its final NUL among it (`arch/x86/include/asm/setup.h`).
pub const CMDLINE_SIZE: usize = 2048;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
/// Where a PC's firmware has its own, which nobody looks for here; up to 1 MiB, RAM is not said to be there.
const LOW_RAM: AddressRange = AddressRange::fixed(0, 0x9_fc00);
/// As much as the tables below [`LOW_RAM`]'s end can map, in GiB.
const MOST_MAPPED: u64 = 128;

// Of a page table entry.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// What is at [`GDT`]: flat, for 64-bit code and for data (Intel SDM volume 3, 3.4.5).
pub const fn descriptors() -> [u64; 4] {
    [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]
}

/// Places a program and all it is given.
///
/// # Errors
/// [`BootError`] for a file that is no program, an initrd that is empty, a command line that Linux would not read in
/// full, and whatever does not fit in RAM.
pub fn program<'a>(plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
    let ram = plan.ram().next().ok_or_else(|| BootError::Kernel("there is no RAM for it".into()))?;
    let refused = |error: crate::elf::ElfError| BootError::Kernel(error.to_string());
    let program = Program::open(payload.kernel).map_err(refused)?;
    let initrd_size = payload.initrd.map_or(0, |initrd| initrd.len() as u64);
    let end = check_room(&program.segments, ram, initrd_size)?;
    let initrd = payload.initrd.map(|bytes| place_initrd(bytes, end, ram)).transpose()?;
    let cmdline = command_line(plan, payload.cmdline)?;
    let length = u32::try_from(cmdline.len()).unwrap_or(u32::MAX);
    let zero_page = ZeroPage { cmdline: (CMDLINE, length), initrd, e820: memory_map(plan, ram) };

    let gdt: Vec<u8> = descriptors().iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let cmdline = [cmdline.as_bytes(), b"\0"].concat();
    let own = |name, address: u64, bytes| Piece { name, address, bytes: Cow::Owned(bytes) };
    let mut pieces = vec![
        own("segment descriptors", GDT, gdt),
        own("zero page", ZERO_PAGE.into(), zero_page.bytes()),
        own("command line", CMDLINE.into(), cmdline),
        own("page tables", PAGE_TABLES, page_tables(plan)),
    ];
    let loaded = program.segments.iter().filter(|segment| !segment.bytes.is_empty());
    pieces.extend(loaded.map(|segment| Piece {
        name: "kernel",
        address: segment.range.first(),
        bytes: Cow::Borrowed(segment.bytes),
    }));
    if let Some((range, bytes)) = initrd.zip(payload.initrd) {
        pieces.push(Piece { name: "initrd", address: range.first(), bytes: Cow::Borrowed(bytes) });
    }
    Ok(BootImage { pieces, entry: program.entry, argument: ZERO_PAGE.into() })
}

/// Gives the first address after the program.
fn check_room(segments: &[Segment], ram: AddressRange, initrd: u64) -> Result<u64, BootError> {
    if let Some(low) = segments.iter().find(|segment| segment.range.first() < MIB) {
        return Err(BootError::Kernel(format!(
            "it wants to be at {}, and below 1 MiB is what it is started with; link it higher",
            low.range
        )));
    }
    let last = segments.iter().map(|segment| segment.range.last()).max().unwrap_or(MIB);
    if let Some(beyond) = segments.iter().find(|segment| !ram.contains(segment.range)) {
        return Err(BootError::TooLarge {
            what: "the kernel",
            needed: beyond.range.size(),
            free: (ram.last() + 1).saturating_sub(beyond.range.first()),
            memory: ram.size(),
            enough: enough(last, initrd),
        });
    }
    Ok(last + 1)
}

fn place_initrd(bytes: &[u8], after: u64, ram: AddressRange) -> Result<AddressRange, BootError> {
    let first = after.next_multiple_of(PAGE);
    let size = bytes.len() as u64;
    if size == 0 {
        return Err(BootError::Initrd("is empty".into()));
    }
    AddressRange::new(first, size).filter(|range| ram.contains(*range)).ok_or_else(|| BootError::TooLarge {
        what: "the initrd",
        needed: size,
        free: (ram.last() + 1).saturating_sub(first),
        memory: ram.size(),
        enough: enough(after - 1, size),
    })
}

/// With how much RAM everything fits; whole MiB.
fn enough(last: u64, initrd: u64) -> u64 {
    let up = |at: u64, align: u64| at.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let end = up(last.saturating_add(1), PAGE).saturating_add(initrd);
    up(end, MIB)
}

fn memory_map(plan: &Plan, ram: AddressRange) -> Vec<E820> {
    let above = AddressRange::spanning(MIB, ram.last());
    let low = AddressRange::spanning(0, LOW_RAM.last().min(ram.last()));
    let ram = low.into_iter().chain(above).map(|range| E820 { range, kind: E820Kind::Ram });
    // Linux uses the configuration space only where the map says that nothing else is there.
    let kept = plan.regions.iter().filter(|region| {
        region.kind == RegionKind::Reserved || (region.kind == RegionKind::Pci && region.name == pci::ECAM)
    });
    let kept = kept.filter_map(|region| region.range);
    let mut map: Vec<E820> = ram.chain(kept.map(|range| E820 { range, kind: E820Kind::Reserved })).collect();
    map.sort_by_key(|line| line.range.first());
    map
}

/// `text`, and what Linux needs to find devices that no table names.
fn command_line(plan: &Plan, text: &str) -> Result<String, BootError> {
    let mut line = text.trim().to_owned();
    if let Some((at, odd)) = line.chars().enumerate().find(|(_, character)| !matches!(character, ' '..='~')) {
        return Err(BootError::Cmdline(format!("has {odd:?} as character {}; use printable ASCII", at + 1)));
    }
    let on_board = plan.devices.iter().filter(|device| device.description.node == "virtio_mmio");
    for device in on_board {
        let (Some(window), Some((pin, _))) = (device.slot.windows.first(), device.slot.irq) else { continue };
        let (size, first) = (window.size() >> 10, window.first());
        let _never_fails = write!(line, " virtio_mmio.device={size}K@{first:#x}:{pin}");
    }
    let (has, most) = (line.len(), CMDLINE_SIZE - 1);
    if has > most {
        let why = format!(
            "has {has} characters with what names the devices, and Linux keeps {most}; shorten it by {}",
            has - most
        );
        return Err(BootError::Cmdline(why));
    }
    Ok(line)
}

/// Maps every address of the plan to itself.
fn page_tables(plan: &Plan) -> Vec<u8> {
    let highest = plan.space.claims().map(|claim| claim.range.last()).max().unwrap_or(0);
    let mapped = (highest / GIB + 1).clamp(4, MOST_MAPPED);
    let table = |number: u64| PAGE_TABLES + number * PAGE;
    // The root, the one table below it, and one for each GiB.
    let entry = |first: u64| first | PRESENT | WRITABLE;
    let mut words = vec![entry(table(1))];
    words.resize(512, 0);
    words.extend((0..mapped).map(|number| entry(table(2 + number))));
    words.resize(1024, 0);
    words.extend((0..mapped * 512).map(|page| entry(page << 21) | LARGE));
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
