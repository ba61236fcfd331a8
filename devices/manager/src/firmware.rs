//! What a PC's firmware does to a function before the guest begins: its BARs are where they were planned, not decoded.
//!
//! A system that reads no ACPI does not know the windows of PCI. Linux keeps each BAR that it finds, and puts one that
//! was never set anywhere outside RAM (`arch/x86/pci/i386.c`), where no window is.

use ambit_bus::{Bar, BarSpace, Device, Effect, Offset};
use ambit_resources::AddressRange;

/// The first base address register (PCI 3.0, 6.1).
const BARS: u64 = 0x10;
const REGISTER: usize = 4;

/// Writes the place of each of `bars` into its register of `function`, whose configuration space is window 0.
pub(crate) fn set_bars(function: &mut dyn Device, bars: &[Bar], planned: impl Iterator<Item = AddressRange>) {
    let mut at = BARS;
    for (bar, range) in bars.iter().zip(planned) {
        let size = match bar.space {
            BarSpace::Io | BarSpace::Mmio32 => REGISTER,
            BarSpace::Mmio64 => 2 * REGISTER,
        };
        let place = range.first().to_le_bytes();
        for word in place.chunks(REGISTER).take(size / REGISTER) {
            let effect = function.write(Offset { window: 0, byte: at }, word);
            debug_assert!(matches!(effect, Effect::None), "nothing is decoded before the guest says so");
            at += word.len() as u64;
        }
    }
}
