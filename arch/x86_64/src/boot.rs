//! How a kernel is started: where it and all it is given are, and what the first vCPU finds.
//!
//! By the 64-bit entry of Linux's boot protocol (`Documentation/arch/x86/boot.rst`, 1.14) the first vCPU is in 64-bit
//! mode at [`BootImage::entry`], with interrupts off, flat segments from the table below, the first addresses mapped
//! to themselves, and [`BootImage::argument`] in rsi, where the [zero page](crate::zero_page) is. By PVH, which a
//! program asks for in a note, it is in 32-bit mode without paging, with ebx where the
//! [start info](crate::pvh) is. All other vCPUs wait for INIT and SIPI.
//!
//! ```text
//! 0x0000_0500  segment descriptors
//! 0x0000_1000  nothing: room for the trampoline of other vCPUs
//! 0x0000_6000  seed
//! 0x0000_7000  zero page, or start info
//! 0x0000_8000  command line
//! 0x0000_9000  page tables: up to the end of the plan's addresses, but 128 GiB at most, in pages of 2 MiB
//! 0x0009_fc00  pointer to processors, and at 0x000a_0000 their table
//! 0x000e_0000  ACPI tables, the first of them the root pointer
//! 0x000f_fff0  reset vector
//! 0x0010_0000  from here on the kernel, where it was linked to be; then the initrd
//! ```
//!
//! A kernel that reads no tables, as it is no Linux or its command line says `acpi=off`, has devices of virtio-mmio
//! named there as Linux reads them, `virtio_mmio.device=4K@0xf0000000:5`, and finds processors and pins, those of PCI
//! too, by the [table](crate::mptable) that PCs had before ACPI.

use std::borrow::Cow;
use std::fmt::Write as _;

use ambit_device_manager::{BootError, BootImage, CpuMode, Payload, Piece, Plan, RegionKind};
use ambit_resources::{AddressRange, IrqPin};

use crate::load::{Entry, Loaded, load};
use crate::pvh::StartInfo;
use crate::zero_page::{self, MAX_E820, ZeroPage};
use crate::{acpi, e820, mptable};

/// The segment descriptors of [`descriptors`].
pub const GDT: u64 = 0x500;
/// Selects the code segment.
pub const CODE: u16 = 0x10;
/// Selects the data segment.
pub const DATA: u16 = 0x18;
/// Selects the code segment of 32-bit mode.
pub const CODE_32: u16 = 0x20;
/// Random bytes for the kernel. Not in the first page, which Linux takes for the firmware's.
pub const SEED: u64 = 0x6000;
pub const ZERO_PAGE: u32 = 0x7000;
pub const CMDLINE: u32 = 0x8000;
/// The root of the page tables, for CR3.
pub const PAGE_TABLES: u64 = 0x9000;

/// Where a PC begins in real mode, and where Linux goes to restart hardware-reduced ACPI without EFI (its `BOOT_BIOS`).
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// mov al, 0xfe; out 0x64, al; cli; hlt; and again: resets by the keyboard controller.
const RESET_CODE: [u8; 8] = [0xb0, 0xfe, 0xe6, 0x64, 0xfa, 0xf4, 0xeb, 0xfc];

/// Up to the page tables, without the final NUL.
const CMDLINE_ROOM: u64 = PAGE_TABLES - CMDLINE as u64 - 1;

const GIB: u64 = 1 << 30;
const PAGE: u64 = 4096;
/// As much as the tables below [`e820::FIRMWARE`] can map, in GiB.
const MOST_MAPPED: u64 = 128;

// Of a page table entry.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// What is at [`GDT`]: flat, for 64-bit code, for data and for 32-bit code (Intel SDM volume 3, 3.4.5).
pub const fn descriptors() -> [u64; 5] {
    [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff]
}

/// Places a kernel and all it is given.
///
/// # Errors
/// [`BootError`] for a file that is no kernel, an initrd that is empty, a command line that the kernel would not read
/// in full, and whatever does not fit in RAM.
pub fn image<'a>(plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
    let Loaded { pieces: loaded, entry, header, initrd, cmdline: most } = load(payload, plan)?;
    // Two names for one device would make two of it. Programs without a system read no tables.
    let tables = !header.is_empty() || matches!(entry, Entry::Pvh(_));
    let tables = tables && !payload.cmdline.split_whitespace().any(|word| word == "acpi=off");
    let cmdline = command_line(plan, payload.cmdline, !tables, most)?;
    let length = u32::try_from(cmdline.len()).unwrap_or(u32::MAX);
    let e820 = e820::told(plan);
    if e820.len() > MAX_E820 {
        return Err(BootError::MemoryMap { lines: e820.len(), most: MAX_E820 });
    }
    let acpi = acpi::tables(plan)?;

    let own = |name, address: u64, bytes| Piece { name, address, bytes: Cow::Owned(bytes) };
    let gdt: Vec<u8> = descriptors().iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let mut pieces = vec![own("segment descriptors", GDT, gdt)];
    let (mode, entry) = match entry {
        Entry::Long(entry) => {
            let seed = payload.seed.as_ref().map(|seed| own("seed", SEED, zero_page::seed(seed)));
            let setup_data = seed.as_ref().map_or(0, |_| SEED);
            let cmdline = (CMDLINE, length);
            let page = ZeroPage { header, cmdline, initrd, e820, rsdp: acpi::ROOT, setup_data };
            pieces.push(own("zero page", ZERO_PAGE.into(), page.bytes()));
            pieces.extend(seed);
            pieces.push(own("page tables", PAGE_TABLES, page_tables(plan)));
            (CpuMode::Usual, entry)
        }
        Entry::Pvh(entry) => {
            let info = StartInfo { cmdline: CMDLINE.into(), initrd, rsdp: acpi::ROOT, map: &e820 };
            pieces.push(own("start info", ZERO_PAGE.into(), info.bytes(ZERO_PAGE.into())));
            (CpuMode::Protected, entry)
        }
    };
    pieces.push(own("command line", CMDLINE.into(), [cmdline.as_bytes(), b"\0"].concat()));
    let [pointer, processors] = mptable::tables(plan);
    pieces.push(own("pointer to processors", mptable::POINTER, pointer));
    pieces.push(own("table of processors", mptable::TABLE, processors));
    pieces.push(own("ACPI tables", acpi::ROOT, acpi));
    pieces.push(own("reset vector", RESET_VECTOR, RESET_CODE.to_vec()));
    pieces.extend(loaded);
    Ok(BootImage { pieces, entry, argument: ZERO_PAGE.into(), mode })
}

/// `text`, and if `names_devices`, what Linux needs to find those that no table names.
fn command_line(plan: &Plan, text: &str, names_devices: bool, most: u64) -> Result<String, BootError> {
    let mut line = text.trim().to_owned();
    if let Some((at, odd)) = line.chars().enumerate().find(|(_, character)| !matches!(character, ' '..='~')) {
        return Err(BootError::Cmdline(format!("has {odd:?} as character {}; use printable ASCII", at + 1)));
    }
    if names_devices {
        for (window, pin) in virtio_mmio(plan) {
            let (size, first) = (window.size() >> 10, window.first());
            let _never_fails = write!(line, " virtio_mmio.device={size}K@{first:#x}:{pin}");
        }
    }
    let (has, most) = (line.len() as u64, most.min(CMDLINE_ROOM));
    if has > most {
        let with = if names_devices { " with what names the devices" } else { "" };
        let why = format!("has {has} characters{with}, and Linux keeps {most}; shorten it by {}", has - most);
        return Err(BootError::Cmdline(why));
    }
    Ok(line)
}

/// The devices of virtio-mmio: their windows and pins.
pub(crate) fn virtio_mmio(plan: &Plan) -> impl Iterator<Item = (AddressRange, IrqPin)> {
    let on_board = plan.devices.iter().filter(|device| device.description.node == "virtio_mmio");
    on_board.filter_map(|device| {
        let pin = device.slot.irq.as_ref().map(|(pin, _)| *pin);
        device.slot.windows.first().copied().zip(pin)
    })
}

/// Maps the addresses of the plan to themselves, up to 128 GiB: who has more than that maps it.
fn page_tables(plan: &Plan) -> Vec<u8> {
    // What is kept free is nobody's to read.
    let used = plan.regions.iter().filter(|region| region.kind != RegionKind::Reserved);
    let highest = used.filter_map(|region| region.range).map(AddressRange::last).max().unwrap_or(0);
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
