//! Where a kernel and its initrd are in RAM, and where the first vCPU begins.

use std::borrow::Cow;

use ambit_device_manager::{BootError, Payload, Piece};
use ambit_resources::{AddressRange, human_size};

use crate::bzimage::{self, BzImage};
use crate::elf::Segment;
use crate::kernel::Kernel;

/// What Linux keeps of the command line, its final NUL among it (`arch/x86/include/asm/setup.h`).
pub const CMDLINE_SIZE: u64 = 2048;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// As far as a kernel finds its initrd that does not say how far: the zero page has 32 bits for it.
const INITRD_LAST: u64 = u32::MAX as u64;

/// A kernel in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded<'a> {
    pub pieces: Vec<Piece<'a>>,
    pub entry: Entry,
    /// The setup header that it came with; may be empty.
    pub header: &'a [u8],
    pub initrd: Option<AddressRange>,
    /// The most characters of a command line, without the final NUL.
    pub cmdline: u64,
}

/// How the first vCPU begins: at a physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In 64-bit mode, with the zero page.
    Long(u64),
    /// In 32-bit mode without paging, with the start info of PVH.
    Pvh(u64),
}

/// Places the kernel where it wants to be, and the initrd above it.
///
/// # Errors
/// [`BootError`] for a file that is no kernel, an initrd that is empty or that the kernel would not find, and whatever
/// does not fit in `ram`.
pub fn load<'a>(payload: &Payload<'a>, ram: AddressRange) -> Result<Loaded<'a>, BootError> {
    let kernel = Kernel::open(payload.kernel).map_err(|error| BootError::Kernel(error.to_string()))?;
    let initrd_size = payload.initrd.map_or(0, |initrd| initrd.len() as u64);
    let (mut loaded, end, initrd_last) = match kernel {
        Kernel::Image(image) => {
            let own = AddressRange::spanning(image.preferred, image.preferred + image.memory - 1);
            let end = check_room(own.into_iter(), ram, initrd_size)?;
            let last = image.initrd_last;
            (image_loaded(&image), end, last)
        }
        Kernel::Program(program) => {
            let end = check_room(program.segments.iter().map(|segment| segment.range), ram, initrd_size)?;
            let entry = program.pvh.map_or(Entry::Long(program.entry), Entry::Pvh);
            let loaded = program.segments.iter().filter(|segment| !segment.bytes.is_empty()).map(segment);
            let pieces = loaded.collect();
            let cmdline = CMDLINE_SIZE - 1;
            (Loaded { pieces, entry, header: &[], initrd: None, cmdline }, end, INITRD_LAST)
        }
    };
    if let Some(bytes) = payload.initrd {
        let range = place_initrd(bytes, end, ram, initrd_last)?;
        loaded.pieces.push(Piece { name: "initrd", address: range.first(), bytes: Cow::Borrowed(bytes) });
        loaded.initrd = Some(range);
    }
    Ok(loaded)
}

fn image_loaded<'a>(image: &BzImage<'a>) -> Loaded<'a> {
    let code = Piece { name: "kernel", address: image.preferred, bytes: Cow::Borrowed(image.code) };
    Loaded {
        pieces: vec![code],
        entry: Entry::Long(image.preferred + bzimage::ENTRY),
        header: image.header,
        initrd: None,
        // Before 2.06 there was no number, and 255 characters.
        cmdline: if image.cmdline == 0 { 255 } else { image.cmdline },
    }
}

fn segment<'a>(segment: &Segment<'a>) -> Piece<'a> {
    Piece { name: "kernel", address: segment.range.first(), bytes: Cow::Borrowed(segment.bytes) }
}

/// Gives the first address after the kernel.
fn check_room(
    ranges: impl Iterator<Item = AddressRange> + Clone,
    ram: AddressRange,
    initrd: u64,
) -> Result<u64, BootError> {
    if let Some(low) = ranges.clone().find(|range| range.first() < MIB) {
        return Err(BootError::Kernel(format!(
            "it wants to be at {low}, and below 1 MiB is what it is started with; link it higher"
        )));
    }
    let last = ranges.clone().map(|range| range.last()).max().unwrap_or(MIB);
    if let Some(beyond) = ranges.clone().find(|range| !ram.contains(*range)) {
        return Err(BootError::TooLarge {
            what: "the kernel",
            needed: beyond.size(),
            free: (ram.last() + 1).saturating_sub(beyond.first()),
            memory: ram.size(),
            enough: enough(last, initrd),
        });
    }
    Ok(last + 1)
}

fn place_initrd(
    bytes: &[u8],
    after: u64,
    ram: AddressRange,
    found_last: u64,
) -> Result<AddressRange, BootError> {
    let first = after.next_multiple_of(PAGE);
    let size = bytes.len() as u64;
    if size == 0 {
        return Err(BootError::Initrd("is empty".into()));
    }
    let lacks_memory = || BootError::TooLarge {
        what: "the initrd",
        needed: size,
        free: (ram.last() + 1).saturating_sub(first),
        memory: ram.size(),
        enough: enough(after - 1, size),
    };
    let range =
        AddressRange::new(first, size).filter(|range| ram.contains(*range)).ok_or_else(lacks_memory)?;
    if range.last() > found_last {
        let free = (found_last + 1).saturating_sub(first);
        return Err(BootError::Initrd(format!(
            "has {size} bytes, and this kernel finds one up to {found_last:#x} (its initrd_addr_max), which leaves {} \
             after the kernel; make it smaller",
            human_size(free)
        )));
    }
    Ok(range)
}

/// With how much RAM everything fits; whole MiB.
fn enough(last: u64, initrd: u64) -> u64 {
    let up = |at: u64, align: u64| at.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let end = up(last.saturating_add(1), PAGE).saturating_add(initrd);
    up(end, MIB)
}
