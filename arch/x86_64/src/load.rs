//! Where a kernel and its initrd are in RAM, and where the first vCPU begins.

use std::borrow::Cow;

use ambit_device_manager::{BootError, Payload, Piece, Plan};
use ambit_resources::{AddressRange, human_size};

use crate::bzimage::{self, BzImage};
use crate::elf::Segment;
use crate::kernel::Kernel;
use crate::pc;

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

/// The guest's RAM as far as kernels are loaded: below the hole for devices.
struct LowRam {
    banks: Vec<AddressRange>,
    /// All that the guest has, in bytes.
    memory: u64,
    /// Where the last bank would end if the guest had as much memory as there is room for. `None`: it has.
    end: Option<u64>,
}

/// Places the kernel where it wants to be, and the initrd above it, in the first bank of RAM that holds it whole.
///
/// # Errors
/// [`BootError`] for a file that is no kernel, an initrd that is empty or that the kernel would not find, and whatever
/// does not fit in the plan's RAM below the hole for devices.
pub fn load<'a>(payload: &Payload<'a>, plan: &Plan) -> Result<Loaded<'a>, BootError> {
    let ram = &LowRam::of(plan);
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

impl LowRam {
    fn of(plan: &Plan) -> Self {
        let (banks, above): (Vec<_>, Vec<_>) = plan.ram().partition(|bank| bank.last() < pc::HOLE);
        let memory = banks.iter().chain(&above).map(|bank| bank.size()).sum();
        let last = banks.last().map_or(0, |bank| bank.last());
        let others = plan.regions.iter().filter_map(|region| region.range).map(AddressRange::first);
        let next = others.filter(|first| *first > last).min().unwrap_or(pc::HOLE);
        let end = Some(next.min(pc::HOLE)).filter(|_| above.is_empty());
        Self { banks, memory, end }
    }

    fn holds(&self, range: AddressRange) -> bool {
        self.banks.iter().any(|bank| bank.contains(range))
    }

    /// In the first bank that has so many bytes at or above `first`, at a page.
    fn place(&self, first: u64, size: u64) -> Option<AddressRange> {
        let at =
            |bank: &AddressRange| AddressRange::new(bank.first().max(first).next_multiple_of(PAGE), size);
        self.banks.iter().find_map(|bank| at(bank).filter(|range| bank.contains(*range)))
    }

    /// The most bytes in one piece from `first` to `last`.
    fn most(&self, first: u64, last: u64) -> u64 {
        let within =
            |bank: &AddressRange| (bank.last().min(last) + 1).saturating_sub(bank.first().max(first));
        self.banks.iter().map(within).max().unwrap_or(0)
    }

    /// Where in `range` something is kept free.
    fn kept_free(&self, range: AddressRange) -> u64 {
        let on = |at, bank: &AddressRange| if bank.contains_address(at) { bank.last() + 1 } else { at };
        let ends = self.banks.iter().fold(range.first(), on);
        let is_last = self.banks.last().is_some_and(|bank| bank.last() < ends);
        self.end.filter(|_| is_last).unwrap_or(ends)
    }

    /// The refusal if with `enough` bytes of RAM and what is kept free below there would be room for `what`.
    fn too_small(&self, what: &'static str, first: u64, needed: u64, enough: u64) -> Option<BootError> {
        let grows = self.end.is_some_and(|end| enough <= end);
        let last = self.banks.last().filter(|bank| grows && bank.first() <= first)?;
        let free = (last.last() + 1).saturating_sub(first);
        let enough = enough - (last.last() + 1).saturating_sub(self.memory);
        Some(BootError::TooLarge { what, needed, free, memory: self.memory, enough })
    }
}

/// Gives the first address after the kernel.
fn check_room(
    mut ranges: impl Iterator<Item = AddressRange> + Clone,
    ram: &LowRam,
    initrd: u64,
) -> Result<u64, BootError> {
    if let Some(low) = ranges.clone().find(|range| range.first() < MIB) {
        return Err(BootError::Kernel(format!(
            "it wants to be at {low}, and below 1 MiB is what it is started with; link it higher"
        )));
    }
    let last = ranges.clone().map(|range| range.last()).max().unwrap_or(MIB);
    let high = ranges.clone().find(|range| range.last() >= pc::HOLE);
    if let Some(beyond) = high.or_else(|| ranges.find(|range| !ram.holds(*range))) {
        // An initrd that has no room in any memory is refused after the kernel.
        let mut all = [initrd, 0].into_iter().map(|initrd| enough(last, initrd));
        let small = all.find_map(|all| ram.too_small("the kernel", beyond.first(), beyond.size(), all));
        return Err(small.unwrap_or_else(|| {
            let why = match high {
                Some(_) => format!("and RAM for it ends at {:#x}, for devices; make it smaller", pc::HOLE),
                None => {
                    format!(
                        "and {:#x} is kept free; keep other ranges free (--reserve)",
                        ram.kept_free(beyond)
                    )
                }
            };
            BootError::Kernel(format!("it wants to be at {beyond}, {why}, or link it elsewhere"))
        }));
    }
    Ok(last + 1)
}

fn place_initrd(bytes: &[u8], after: u64, ram: &LowRam, found_last: u64) -> Result<AddressRange, BootError> {
    let first = after.next_multiple_of(PAGE);
    let size = bytes.len() as u64;
    if size == 0 {
        return Err(BootError::Initrd("is empty".into()));
    }
    let range = ram.place(first, size).ok_or_else(|| {
        let last = ram.banks.last().map_or(first, |bank| bank.first().max(first));
        let small = ram.too_small("the initrd", last, size, enough(last - 1, size));
        small.unwrap_or_else(|| {
            BootError::Initrd(format!(
                "takes {}, and after the kernel RAM below 4 GiB has {} in one piece; make it smaller, or keep less \
                 free there (--reserve)",
                human_size(size.next_multiple_of(1 << 10)),
                human_size(ram.most(first, u64::MAX - 1) & !0x3ff)
            ))
        })
    })?;
    if range.last() > found_last {
        return Err(BootError::Initrd(format!(
            "has {size} bytes, and this kernel finds one up to {found_last:#x} (its initrd_addr_max), which leaves {} \
             after the kernel; make it smaller",
            human_size(ram.most(first, found_last))
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
