//! The windows of one device on the bus, and the doorbells that go where they go.

use std::sync::Arc;

use ambit_bus::{Backplane, Bus, BusError, Doorbell, HostError, Owner, Shared, Space, Window, Wired};
use ambit_resources::AddressRange;
use vmm_sys_util::eventfd::EventFd;

use crate::Placed;

/// The buses of a machine, one for each space.
#[derive(Default)]
pub(crate) struct Buses {
    pub memory: Bus,
    pub ports: Bus,
}

impl Buses {
    pub fn of(&self, space: Space) -> &Bus {
        match space {
            Space::Memory => &self.memory,
            Space::Ports => &self.ports,
        }
    }
}

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
    space: Space,
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
    pub fn new(owner: Owner, device: Shared, placed: &Placed, bells: Vec<Bell>) -> Self {
        let numbered = (0..=u8::MAX).zip(&placed.slot.windows);
        let place = |(number, planned): (u8, &AddressRange)| Place {
            space: placed.space(number),
            planned: *planned,
            up: None,
        };
        Self { owner, device, bells, windows: numbered.map(place).collect() }
    }

    /// The number, the space and the planned place of each.
    pub fn planned(&self) -> impl Iterator<Item = (u8, Space, AddressRange)> {
        (0..=u8::MAX).zip(&self.windows).map(|(number, place)| (number, place.space, place.planned))
    }

    /// The number and the range of each that is on the bus.
    pub fn up(&self) -> impl Iterator<Item = (u8, Space, AddressRange)> {
        let numbered = (0..=u8::MAX).zip(&self.windows);
        numbered.filter_map(|(number, place)| Some((number, place.space, place.up.as_ref()?.range)))
    }

    pub fn range(&self, number: u8) -> Option<AddressRange> {
        Some(self.windows.get(usize::from(number))?.up.as_ref()?.range)
    }

    /// Takes window `number` off the bus, its doorbells first: from then on a write to one reaches the device,
    /// as long as there is a window.
    pub fn take_down(&mut self, number: u8, buses: &Buses) {
        let Some(place) = self.windows.get_mut(usize::from(number)) else { return };
        if let Some(Up { range, wired }) = place.up.take() {
            drop(wired);
            buses.of(place.space).unplug(range);
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
        buses: &Buses,
        host: &dyn Backplane,
    ) -> Result<Option<HostError>, BusError> {
        let Some(place) = self.windows.get_mut(usize::from(number)) else {
            return Ok(None);
        };
        let bus = buses.of(place.space);
        bus.plug(range, Window { device: Arc::clone(&self.device), number, owner: self.owner })?;
        let (mut wired, mut refused) = (Vec::new(), None);
        for bell in self.bells.iter().filter(|bell| bell.at.window == number) {
            // One past the end of its window would be in somebody else's.
            let address = range.first().checked_add(bell.at.byte).filter(|_| bell.at.byte < range.size());
            let Some(address) = address else { continue };
            match host.doorbell(place.space, address, bell.at.write, &bell.event) {
                Ok(wire) => wired.push(wire),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        place.up = Some(Up { range, wired });
        Ok(refused)
    }
}
