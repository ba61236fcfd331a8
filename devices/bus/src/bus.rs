//! From a guest physical address to the device that answers there.

use std::sync::{PoisonError, RwLock};

use ambit_resources::AddressRange;
use vm_device::bus::{MmioAddress, MmioBus, MmioRange};

use crate::{Device, Effect, Offset, Shared};

/// The windows of one address space. Two windows never overlap.
///
/// Shared by all vCPUs, and windows come and go while they run. Lock order: the map, then nothing; an access
/// has let go of the map when it locks its device, so that a slow device holds up only those who want it.
#[derive(Default)]
pub struct Bus {
    windows: RwLock<MmioBus<Window>>,
}

/// What is behind a range of addresses.
#[derive(Clone)]
pub struct Window {
    pub device: Shared,
    /// Which of the device's windows.
    pub number: u8,
    /// Of the device, from whoever plugged it; comes back with the effect of a write.
    pub owner: Owner,
}

/// A name for a plugged device that no other one ever has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(pub u64);

/// What became of a write that a device served.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub effect: Effect,
    pub owner: Owner,
}

/// Why a window cannot be on the bus. The planner's ranges never meet this; a guest's may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    #[error("the window {0} overlaps another one on the bus")]
    Overlap(AddressRange),
}

impl Bus {
    /// Puts `window` at `range`.
    ///
    /// # Errors
    /// [`BusError::Overlap`] if another window has any byte of it.
    pub fn plug(&self, range: AddressRange, window: Window) -> Result<(), BusError> {
        let at = MmioRange::new(MmioAddress(range.first()), range.size())
            .expect("an AddressRange is never empty and never wraps");
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        windows.register(at, window).map_err(|_| BusError::Overlap(range))
    }

    /// Takes the window at `range` off. An access that found it before may still be under way. False if no
    /// window is exactly there.
    pub fn unplug(&self, range: AddressRange) -> bool {
        let first = MmioAddress(range.first());
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        let exact = |at: &MmioRange| at.base() == first && at.size() == range.size();
        windows.device(first).is_some_and(|(at, _)| exact(at)) && windows.deregister(first).is_some()
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
    pub fn write(&self, address: u64, data: &[u8]) -> Option<Written> {
        let (effect, owner) = self.with(address, data.len(), |device, at| device.write(at, data))?;
        Some(Written { effect, owner })
    }

    fn with<T>(
        &self,
        address: u64,
        len: usize,
        act: impl FnOnce(&mut dyn Device, Offset) -> T,
    ) -> Option<(T, Owner)> {
        let (first, window) = self.find(address, len)?;
        let at = Offset { window: window.number, byte: address - first };
        // A device that panicked has ended the program: there is no half-dead machine to protect.
        let mut device = window.device.lock().unwrap_or_else(PoisonError::into_inner);
        Some((act(&mut *device, at), window.owner))
    }

    /// The window that holds the whole access, and where it begins. The map is free again after that.
    fn find(&self, address: u64, len: usize) -> Option<(u64, Window)> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let (range, window) = windows.check_access(MmioAddress(address), len).ok()?;
        Some((range.base().0, window.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

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

    fn window(number: u8) -> Window {
        Window { device: share(Echo), number, owner: Owner(u64::from(number) + 100) }
    }

    const FIRST: AddressRange = AddressRange::fixed(0x1000, 8);

    fn bus() -> Bus {
        let bus = Bus::default();
        bus.plug(FIRST, window(1)).unwrap();
        bus.plug(AddressRange::fixed(0x1008, 8), window(2)).unwrap();
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
    fn a_write_comes_back_with_its_effect_and_whose_window_it_was() {
        let written = bus().write(0x1008, &[0]);

        assert_eq!(written, Some(Written { effect: Effect::PowerOff, owner: Owner(102) }));
    }

    #[test]
    fn an_access_outside_every_window_reads_as_ones_and_writes_nothing() {
        assert_eq!(read::<4>(&bus(), 0xffc), [0xff; 4]);
        assert_eq!(bus().write(0x1010, &[0]), None);
    }

    //
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

        assert_eq!(bus().plug(range, window(0)), Err(BusError::Overlap(range)));
    }

    #[test]
    fn a_window_is_gone_only_when_exactly_it_is_unplugged() {
        let bus = bus();

        let partly =
            [AddressRange::fixed(0x1000, 4), AddressRange::fixed(0x1000, 16)].map(|at| bus.unplug(at));
        let inside = bus.unplug(AddressRange::fixed(0x1004, 8));

        assert_eq!((partly, inside), ([false, false], false));
        assert_eq!(read::<1>(&bus, 0x1004), [0x14]);
        assert_eq!((bus.unplug(FIRST), bus.unplug(FIRST)), (true, false));
        assert_eq!(read::<1>(&bus, 0x1004), [0xff]);
    }

    /// Does not come back from a write before it is told to.
    struct Slow {
        inside: mpsc::Sender<()>,
        leave: mpsc::Receiver<()>,
    }

    impl Device for Slow {
        fn read(&mut self, _: Offset, _: &mut [u8]) {}

        fn write(&mut self, _: Offset, _: &[u8]) -> Effect {
            self.inside.send(()).unwrap();
            self.leave.recv_timeout(Duration::from_secs(20)).unwrap();
            Effect::None
        }

        fn reset(&mut self) {}
    }

    #[test]
    fn while_one_device_is_busy_others_answer_and_windows_come_and_go() {
        let bus = Arc::new(bus());
        let (inside, is_inside) = mpsc::channel();
        let (leave, told) = mpsc::channel();
        let slow = Window { device: share(Slow { inside, leave: told }), number: 0, owner: Owner(7) };
        let range = AddressRange::fixed(0x2000, 8);
        bus.plug(range, slow).unwrap();
        let writer = Arc::clone(&bus);
        let busy = thread::spawn(move || writer.write(0x2000, &[0]));
        is_inside.recv_timeout(Duration::from_secs(20)).unwrap();

        assert_eq!(read::<1>(&bus, 0x1004), [0x14]);
        assert!(bus.unplug(range));
        bus.plug(range, window(3)).unwrap();

        leave.send(()).unwrap();
        assert_eq!(busy.join().unwrap(), Some(Written { effect: Effect::None, owner: Owner(7) }));
    }
}
