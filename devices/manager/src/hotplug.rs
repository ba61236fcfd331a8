//! PCI functions that come into a plan and leave it while the guest runs.

use ambit_bus::{Needs, Request};
use ambit_resources::{AddressSpace, PaBits};

use crate::draft::{check_reach, windows_of_ports};
use crate::pci::{DEVICES, Room, WIRES, function, port_window};
use crate::plan::kept_as;
use crate::{Placed, Plan, PlanError, RegionKind, Transport};

impl Plan {
    /// Gives one more PCI function the lowest free place on the bus and the lowest free room for its BARs, as it
    /// would have had from the start. Nothing else of the plan changes, and nothing at all if it is refused.
    ///
    /// # Errors
    /// [`PlanError`] for what does not fit, as [`crate::plan`] has it; and for a device that is no PCI function.
    pub fn add(&mut self, request: &Request) -> Result<&Placed, PlanError> {
        let Needs::Pci { bars } = &request.needs else {
            return Err(PlanError::NotHotPluggable(request.id.clone()));
        };
        if self.has_name(&request.id) {
            return Err(PlanError::DuplicateId(request.id.clone()));
        }
        check_reach(request, &self.regions)?;
        let taken: Vec<u8> = self.devices.iter().filter_map(|device| device.function).collect();
        let number = DEVICES.into_iter().find(|number| !taken.contains(number));
        let mut space = self.bars();
        let room = Room { regions: &self.regions, ports: port_window(self.ports.iter()), intx: &self.intx };
        let slot = function(&request.id, number, bars, &room, &mut space)?;
        let placed = Placed {
            slot,
            function: number,
            ports: windows_of_ports(&request.needs, self.ports.iter()),
            id: request.id.clone(),
            kind: request.kind.clone(),
            transport: Transport::of(&request.needs, request.queue_reach),
            description: request.description.clone(),
        };
        Ok(self.devices.push_mut(placed))
    }

    /// Takes the PCI function `id` out, and its place and its room are free again. `None` if there is none.
    pub fn remove(&mut self, id: &str) -> Option<Placed> {
        let comes_and_goes = |number: u8| DEVICES.contains(&number);
        let is_it = |device: &Placed| device.function.is_some_and(comes_and_goes) && device.id == id;
        let index = self.devices.iter().position(is_it)?;
        Some(self.devices.remove(index))
    }

    /// What the BARs of all functions take.
    fn bars(&self) -> AddressSpace {
        let mut space = AddressSpace::new(PaBits::MAX);
        for device in self.devices.iter().filter(|device| device.function.is_some()) {
            for window in device.slot.windows.iter().skip(1) {
                space.claim(&device.id, *window).expect("the plan has one BAR at each place");
            }
        }
        space
    }

    /// Whether errors and users speak of a part or a device by this name, or may on a wider host.
    fn has_name(&self, name: &str) -> bool {
        let part = self.regions.iter().any(|region| {
            let kept = region.kind == RegionKind::InterruptController && region.range.is_none();
            region.name == name || (kept && kept_as(&region.name) == name)
        });
        let wire = !self.intx.is_empty() && WIRES.contains(&name);
        let port = self.ports.iter().any(|claim| claim.owner == name);
        part || wire || port || self.device(name).is_some()
    }
}
