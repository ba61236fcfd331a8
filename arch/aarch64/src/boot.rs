//! How Linux is started: where the kernel, the initrd and the tree go, and what the first vCPU finds.
//!
//! From the start of RAM upward (`Documentation/arch/arm64/booting.rst`): the kernel at its offset from a
//! 2 MiB boundary, what it needs free after it, the initrd, the device tree. The first vCPU starts at
//! [`BootImage::entry`] with [`BootImage::argument`] in x0, zero in x1 to x3, and [`PSTATE`]; the others
//! wait for PSCI. MMU and caches are off, as KVM leaves them.

use std::borrow::Cow;

use ambit_device_manager::{BootError, BootImage, CpuMode, Payload, Piece, Plan, RegionKind};
use ambit_resources::AddressRange;
use linux_loader::cmdline::{Cmdline, Error as CmdlineError};

use crate::fdt::{self, Chosen, TreeError};
use crate::image::{Image, ImageError};
use crate::spec::BoardSpec;
use crate::tree::{Edit, Node};

/// EL1 with its own stack pointer; debug, SError, IRQ and FIQ masked.
pub const PSTATE: u64 = 0x3c5;

/// What Linux keeps of the command line, its final NUL among it (`arch/arm64/include/uapi/asm/setup.h`).
pub const CMDLINE_SIZE: usize = 2048;

const TWO_MIB: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// The largest page Linux can have: nothing shares one with the kernel, the initrd or the tree.
const PAGE: u64 = 64 << 10;
/// The kernel and the initrd are within one window of this size that begins at a multiple of 1 GiB.
const INITRD_REACH: u64 = 32 << 30;

/// Places a Linux kernel and all it is given.
///
/// # Errors
/// [`BootError`] for a kernel that is not an arm64 `Image`, an initrd that is empty, a command line that
/// Linux would not read in full, and whatever does not fit in the first run of RAM.
pub fn linux<'a>(plan: &Plan, payload: &Payload<'a>, board: &BoardSpec) -> Result<BootImage<'a>, BootError> {
    let ram = plan.ram().next().ok_or_else(|| BootError::Tree("the plan has no RAM".into()))?;
    let cmdline = command_line(payload.cmdline)?;
    let initrd_size = payload.initrd.map_or(0, |initrd| initrd.len() as u64);
    let base = ram.first().next_multiple_of(TWO_MIB).saturating_add(board.kernel_offset);
    let most = ram.size().saturating_sub(base - ram.first());
    let kept = plan.regions.iter().filter(|region| region.kind == RegionKind::Reserved);
    let kept_free =
        kept.filter_map(|region| Some(region.range?.first())).filter(|first| *first > ram.last()).min();
    let room = |text_offset, memory| {
        let next = base + text_offset;
        Room { ram, kept_free, next, enough: enough(ram, next, memory, initrd_size) }
    };
    let image = Image::open(payload.kernel, most).map_err(|error| match error {
        ImageError::TooLarge { text_offset, memory } => {
            room(text_offset, memory).too_large("the kernel", memory, base + text_offset)
        }
        error => BootError::Kernel(error.to_string()),
    })?;

    let mut room = room(image.text_offset, image.memory);
    let kernel = room.take("the kernel", image.memory, 1)?;
    let initrd =
        payload.initrd.map(|bytes| place_initrd(&mut room, kernel, bytes.len() as u64)).transpose()?;
    let chosen = Chosen { cmdline: &cmdline, initrd, seed: payload.seed };
    let tree = tree(plan, &chosen, &board.edits).and_then(|tree| fdt::flat(&tree));
    let tree = tree.map_err(|error| BootError::Tree(error.to_string()))?;
    let dtb = room.take_unbroken("the device tree", tree.len() as u64)?;

    let mut pieces = vec![Piece { name: "kernel", address: kernel.first(), bytes: image.bytes }];
    if let Some((range, bytes)) = initrd.zip(payload.initrd) {
        pieces.push(Piece { name: "initrd", address: range.first(), bytes: Cow::Borrowed(bytes) });
    }
    pieces.push(Piece { name: "device tree", address: dtb.first(), bytes: Cow::Owned(tree) });
    Ok(BootImage { pieces, entry: kernel.first(), argument: dtb.first(), mode: CpuMode::Usual })
}

/// What the guest is told, with the board's own changes.
///
/// # Errors
/// [`TreeError`] for a plan that cannot be told, or a change that takes away what is not there.
pub fn tree(plan: &Plan, chosen: &Chosen, edits: &[Edit]) -> Result<Node, TreeError> {
    let mut tree = fdt::device_tree(plan, chosen)?;
    match edits.iter().find(|edit| !tree.apply(edit)) {
        Some(edit) => Err(TreeError::Edit(edit.path.clone())),
        None => Ok(tree),
    }
}

/// With how much RAM everything fits, whatever the size of the tree; whole MiB.
fn enough(ram: AddressRange, kernel: u64, memory: u64, initrd: u64) -> u64 {
    let up = |at: u64, align: u64| at.checked_next_multiple_of(align).unwrap_or(u64::MAX);
    let after_kernel = up(kernel.saturating_add(memory), PAGE);
    let after_initrd = up(after_kernel.saturating_add(initrd), TWO_MIB);
    let end = after_initrd.saturating_add(fdt::MAX_SIZE as u64);
    up(end - ram.first(), 1 << 20)
}

/// RAM that has nothing in it yet.
struct Room {
    ram: AddressRange,
    /// The first address above that RAM cannot have: more memory goes to after that.
    kept_free: Option<u64>,
    next: u64,
    enough: u64,
}

impl Room {
    /// The refusal of `what`, which would begin at `first`.
    fn too_large(&self, what: &'static str, needed: u64, first: u64) -> BootError {
        let (free, enough) = ((self.ram.last() + 1).saturating_sub(first), self.enough);
        match self.kept_free.filter(|kept_free| enough > kept_free - self.ram.first()) {
            None => BootError::TooLarge { what, needed, free, memory: self.ram.size(), enough },
            Some(kept_free) => BootError::Interrupted { what, needed, free, kept_free },
        }
    }

    fn take(&mut self, what: &'static str, size: u64, align: u64) -> Result<AddressRange, BootError> {
        let first = self.next.next_multiple_of(align);
        let taken = AddressRange::new(first, size).filter(|range| self.ram.contains(*range));
        let Some(range) = taken else {
            return Err(self.too_large(what, size, first));
        };
        self.next = range.last() + 1;
        Ok(range)
    }

    /// Kernels before 4.2 map one block of 2 MiB to read the tree, so it does not cross into another.
    fn take_unbroken(&mut self, what: &'static str, size: u64) -> Result<AddressRange, BootError> {
        let first = self.next.next_multiple_of(PAGE);
        let fits = first % TWO_MIB + size <= TWO_MIB;
        self.take(what, size, if fits { PAGE } else { TWO_MIB })
    }
}

fn place_initrd(room: &mut Room, kernel: AddressRange, size: u64) -> Result<AddressRange, BootError> {
    if size == 0 {
        return Err(BootError::Initrd("is empty".into()));
    }
    let range = room.take("the initrd", size, PAGE)?;
    let window = kernel.first() / GIB * GIB;
    if range.last() - window >= INITRD_REACH {
        return Err(BootError::Initrd(format!(
            "ends at {:#x}, and Linux finds it only within 32 GiB of the kernel; make it smaller",
            range.last()
        )));
    }
    Ok(range)
}

/// `text` as the kernel will have it.
fn command_line(text: &str) -> Result<String, BootError> {
    let refused = |why: String| BootError::Cmdline(why);
    let mut line = Cmdline::new(CMDLINE_SIZE).map_err(|error| refused(error.to_string()))?;
    line.insert_str(text).map_err(|error| match error {
        CmdlineError::TooLarge => {
            let (has, most) = (text.trim().len(), CMDLINE_SIZE - 1);
            refused(format!("has {has} characters and Linux keeps {most}; shorten it by {}", has - most))
        }
        CmdlineError::InvalidAscii => refused(not_printable(text.trim())),
        other => refused(other.to_string()),
    })?;
    let line = line.as_cstring().map_err(|error| refused(error.to_string()))?;
    line.into_string().map_err(|error| refused(error.to_string()))
}

fn not_printable(text: &str) -> String {
    let odd = text.chars().enumerate().find(|(_, character)| !matches!(character, ' '..='~'));
    let (at, odd) = odd.unwrap_or_default();
    format!("has {odd:?} as character {}; use printable ASCII", at + 1)
}

#[cfg(test)]
mod tests;
