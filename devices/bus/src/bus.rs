//! From a guest physical address to the device that answers there.

use std::sync::PoisonError;

use ambit_resources::AddressRange;
use vm_device::bus::{MmioAddress, MmioBus, MmioRange};

use crate::{Device, Effect, Offset, Shared};

/// The windows of one address space. Two windows never overlap.
#[derive(Default)]
pub struct Bus {
    windows: MmioBus<Window>,
}

struct Window {
    device: Shared,
    number: u8,
}

/// Why a window cannot be on the bus. The planner's ranges never meet this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("the window {0} overlaps another one on the bus")]
    Overlap(AddressRange),
}

impl Bus {
    /// Puts window `number` of `device` at `range`.
    ///
    /// # Errors
    /// [`BusError::Overlap`] if another window has any byte of it.
    pub fn plug(&mut self, range: AddressRange, device: Shared, number: u8) -> Result<(), BusError> {
        let at = MmioRange::new(MmioAddress(range.first()), range.size())
            .expect("an AddressRange is never empty and never wraps");
        self.windows.register(at, Window { device, number }).map_err(|_| BusError::Overlap(range))
    }

    /// Reads as ones where no single window holds the whole access, as an aborted bus read does.
    /// True if a device answered.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let answered = self.with(address, data.len(), |device, at| device.read(at, data)).is_some();
        if !answered {
            data.fill(0xff);
        }
        answered
    }

    /// Does nothing where no single window holds the whole access; `None` says so.
    pub fn write(&self, address: u64, data: &[u8]) -> Option<Effect> {
        self.with(address, data.len(), |device, at| device.write(at, data))
    }

    fn with<T>(&self, address: u64, len: usize, act: impl FnOnce(&mut dyn Device, Offset) -> T) -> Option<T> {
        let (range, window) = self.windows.check_access(MmioAddress(address), len).ok()?;
        let at = Offset { window: window.number, byte: address - range.base().0 };
        // A device that panicked has ended the program: there is no half-dead machine to protect.
        let mut device = window.device.lock().unwrap_or_else(PoisonError::into_inner);
        Some(act(&mut *device, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share;

    /// Answers every read with its offset and remembers nothing.
    struct Echo;

    impl Device for Echo {
        fn read(&mut self, at: Offset, data: &mut [u8]) {
            data.fill(at.byte.to_le_bytes()[0] | at.window << 4);
        }

        fn write(&mut self, _: Offset, _: &[u8]) -> Effect {
            Effect::PowerOff
        }

        fn reset(&mut self) {}
    }

    fn bus() -> Bus {
        let mut bus = Bus::default();
        bus.plug(AddressRange::fixed(0x1000, 8), share(Echo), 1).unwrap();
        bus.plug(AddressRange::fixed(0x1008, 8), share(Echo), 2).unwrap();
        bus
    }

    fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
        let mut data = [0x55; N];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn an_access_reaches_its_window_with_an_offset_from_the_windows_start() {
        assert_eq!(read::<2>(&bus(), 0x1006), [0x16, 0x16]);
        assert_eq!(read::<2>(&bus(), 0x100e), [0x26, 0x26]);
    }

    #[test]
    fn an_access_outside_every_window_reads_as_ones_and_writes_nothing() {
        assert_eq!(read::<4>(&bus(), 0xffc), [0xff; 4]);
        assert_eq!(bus().write(0x1010, &[0]), None);
    }

    #[test]
    fn an_access_that_straddles_two_windows_reaches_neither() {
        assert_eq!(read::<4>(&bus(), 0x1006), [0xff; 4]);
        assert_eq!(bus().write(0x1006, &[0; 4]), None);
    }

    #[test]
    fn an_access_that_wraps_the_address_space_is_answered_like_any_other_miss() {
        assert_eq!(read::<8>(&bus(), u64::MAX - 3), [0xff; 8]);
        assert_eq!(bus().write(u64::MAX, &[0; 8]), None);
    }

    #[test]
    fn two_windows_never_share_a_byte() {
        let range = AddressRange::fixed(0x100f, 2);

        assert_eq!(bus().plug(range, share(Echo), 0), Err(BusError::Overlap(range)));
    }
}
