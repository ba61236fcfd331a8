//! Which pin each interrupt wire of each PCI device reaches, as every table says it.

use ambit_device_manager::Plan;
use ambit_resources::IrqPin;

/// Device numbers on a bus.
const DEVICES: u8 = 32;
/// INTA to INTD.
const WIRES: u8 = 4;

/// One wire of one device on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub device: u8,
    /// 0 for INTA.
    pub wire: u8,
    pub pin: IrqPin,
}

/// A device's INTA reaches the pin of its number, and so on, as the planner gave them. None without PCI; device 0 is
/// the host bridge, which interrupts nobody.
pub fn routes(plan: &Plan) -> impl Iterator<Item = Route> {
    let all = (1..DEVICES).flat_map(|device| (0..WIRES).map(move |wire| (device, wire)));
    all.filter_map(|(device, wire)| {
        let number = usize::from(device) + usize::from(wire);
        let pin = *plan.intx.get(number.checked_rem(plan.intx.len())?)?;
        Some(Route { device, wire, pin })
    })
}
