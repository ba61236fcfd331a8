//! The windows of one device on the bus, and the doorbells that go where they go.

use std::sync::Arc;

use ambit_bus::{Backplane, Bus, BusError, Doorbell, HostError, Owner, Shared, Window, Wired};
use ambit_resources::AddressRange;
use vmm_sys_util::eventfd::EventFd;

/// A doorbell that a device asked for, wherever its window is.
pub(crate) struct Bell {
    pub at: Doorbell,
    pub event: Arc<EventFd>,
}

/// All windows of one device: where the plan has each, and where it is.
pub(crate) struct Windows {
    owner: Owner,
    device: Shared,
    bells: Vec<Bell>,
    // By number.
    windows: Vec<Place>,
}

struct Place {
    planned: AddressRange,
    up: Option<Up>,
}

/// A window that is on the bus.
struct Up {
    range: AddressRange,
    wired: Vec<Wired>,
}

impl Windows {
    /// None of them is on the bus.
    pub fn new(owner: Owner, device: Shared, planned: &[AddressRange], bells: Vec<Bell>) -> Self {
        let windows = planned.iter().map(|planned| Place { planned: *planned, up: None }).collect();
        Self { owner, device, bells, windows }
    }

    /// The number and the planned place of each.
    pub fn planned(&self) -> impl Iterator<Item = (u8, AddressRange)> {
        (0..=u8::MAX).zip(&self.windows).map(|(number, place)| (number, place.planned))
    }

    /// The number and the range of each that is on the bus.
    pub fn up(&self) -> impl Iterator<Item = (u8, AddressRange)> {
        let numbered = (0..=u8::MAX).zip(&self.windows);
        numbered.filter_map(|(number, place)| Some((number, place.up.as_ref()?.range)))
    }

    pub fn range(&self, number: u8) -> Option<AddressRange> {
        Some(self.windows.get(usize::from(number))?.up.as_ref()?.range)
    }

    /// Takes window `number` off the bus, its doorbells first: from then on a write to one reaches the device,
    /// as long as there is a window.
    pub fn take_down(&mut self, number: u8, bus: &Bus) {
        let place = self.windows.get_mut(usize::from(number));
        if let Some(Up { range, wired }) = place.and_then(|place| place.up.take()) {
            drop(wired);
            bus.unplug(range);
        }
    }

    /// Puts window `number`, which is not on the bus, there at `range`, and then its doorbells. Gives why the
    /// host refused a doorbell, if it did: the device is called for that one.
    ///
    /// # Errors
    /// [`BusError`] if something is there; then it is nowhere.
    pub fn put_up(
        &mut self,
        number: u8,
        range: AddressRange,
        bus: &Bus,
        host: &dyn Backplane,
    ) -> Result<Option<HostError>, BusError> {
        let Some(place) = self.windows.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        bus.plug(range, Window { device: Arc::clone(&self.device), number, owner: self.owner })?;
        let (mut wired, mut refused) = (Vec::new(), None);
        for bell in self.bells.iter().filter(|bell| bell.at.window == number) {
            // One past the end of its window would be in somebody else's.
            let address = range.first().checked_add(bell.at.byte).filter(|_| bell.at.byte < range.size());
            let Some(address) = address else { continue };
            match host.doorbell(address, bell.at.write, &bell.event) {
                Ok(wire) => wired.push(wire),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        place.up = Some(Up { range, wired });
        Ok(refused)
    }
}
