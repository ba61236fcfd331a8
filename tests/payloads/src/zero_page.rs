//! What the board says to its program: the zero page of Linux's boot protocol.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::register::{read8, read32, read64};

static PAGE: AtomicU64 = AtomicU64::new(0);

pub(crate) fn found_at(page: u64) {
    PAGE.store(page, Ordering::Relaxed);
}

/// The command line, with `virtio_mmio.device=4K@0xf0000000:5` for each such device.
pub fn cmdline() -> &'static str {
    let page = PAGE.load(Ordering::Relaxed);
    let (at, length) = (read32(page + 0x228), read32(page + 0x238));
    // SAFETY: the board has put so many bytes there, and nobody writes them.
    let bytes = unsafe { core::slice::from_raw_parts(at as usize as *const u8, length as usize) };
    core::str::from_utf8(bytes).unwrap_or("")
}

/// The value of a word `name=value` of the command line; "" for `name` alone.
pub fn argument(name: &str) -> Option<&'static str> {
    cmdline().split(' ').find_map(|word| match word.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (word == name).then_some(""),
    })
}

/// A device of virtio-mmio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioMmio {
    pub base: u64,
    /// Its input of the IOAPIC.
    pub pin: u32,
}

/// All of them, in their order on the board.
pub fn virtio_mmio() -> impl Iterator<Item = VirtioMmio> {
    let values = cmdline().split(' ').filter_map(|word| word.strip_prefix("virtio_mmio.device="));
    values.filter_map(|value| {
        let (_, place) = value.split_once('@')?;
        let (base, pin) = place.split_once(':')?;
        let base = u64::from_str_radix(base.strip_prefix("0x")?, 16).ok()?;
        Some(VirtioMmio { base, pin: pin.parse().ok()? })
    })
}

/// One line of the memory map: first address, bytes, 1 for RAM and 2 for reserved.
pub fn memory_map() -> impl Iterator<Item = (u64, u64, u32)> {
    let page = PAGE.load(Ordering::Relaxed);
    let lines = 0..u64::from(read8(page + 0x1e8));
    lines.map(move |index| {
        let at = page + 0x2d0 + 20 * index;
        (read64(at), read64(at + 8), read32(at + 16))
    })
}
