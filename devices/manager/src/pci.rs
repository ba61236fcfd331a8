//! PCI on paper: a place on bus 0 for each function, and one in a window for each BAR.

use std::ops::RangeInclusive;
use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request, Slot, Trigger};
use ambit_resources::{AddressRange, AddressSpace, Claim, IrqPin, PaBits, SpaceError};

use crate::config_ports;
use crate::draft::Draft;
use crate::{MachineConfig, MemoryMap, PlanError, Region, RegionKind};

/// Configuration space of all functions, 4 KiB each (PCI Express 5.0, 7.2.2).
pub const ECAM: &str = "pci.ecam";
/// I/O ports.
pub const IO: &str = "pci.io";
/// Two ports that lead to configuration space, wherever I/O ports are a space of their own.
pub const CONFIG: &str = "pci.config";
/// Room for BARs of 32 bits.
pub const MMIO32: &str = "pci.mmio32";
/// Room for BARs of 64 bits.
pub const MMIO64: &str = "pci.mmio64";

/// The host bridge: function 0 of bus 0, wherever there is configuration space.
pub const BRIDGE: &str = "pci.bridge";
pub const BRIDGE_KIND: &str = "pci-host-bridge";

/// What one bus takes of the configuration space, in bytes.
pub const BUS_SIZE: u64 = 1 << 20;
/// What one device number takes of a bus: eight functions, in bytes.
const DEVICE_SIZE: u64 = 1 << 15;
const CONFIG_SIZE: u64 = 4096;
/// Device numbers on a bus; the host bridge is number 0.
pub(crate) const DEVICES: RangeInclusive<u8> = 1..=31;
/// INTA to INTD.
pub(crate) const WIRES: [&str; 4] = ["pci.inta", "pci.intb", "pci.intc", "pci.intd"];

/// What PCI of a draft is and has left.
pub(crate) struct Pci {
    next: u8,
    // BARs are within a window, and a window is one claim of the machine: so they have spaces of their own.
    bars: AddressSpace,
    /// The pins of INTA to INTD.
    pub intx: Vec<IrqPin>,
}

impl Pci {
    /// Takes the pins for INTx.
    ///
    /// # Errors
    /// [`PlanError`] if a pin is taken, or if there would be no interrupts at all.
    pub fn new(map: &MemoryMap, config: &MachineConfig, draft: &mut Draft) -> Result<Self, PlanError> {
        let places = map.pci.as_ref().filter(|_| config.pci.is_some());
        let mut intx = Vec::new();
        if let Some(places) = places {
            if places.intx.is_none() && !places.msi {
                return Err(PlanError::PciWithoutInterrupts);
            }
            draft.wired = places.intx.is_some();
            if let Some(ports) = places.ports {
                draft.claim_ports(IO, ports)?;
                draft.claim_ports(CONFIG, config_ports::PORTS)?;
            }
            if let Some(first) = places.intx {
                for (number, name) in (0..).zip(WIRES) {
                    intx.push(draft.irqs.claim(name, IrqPin(first.0.saturating_add(number)))?);
                }
            }
        }
        if let Some(ecam) = part(&draft.regions, ECAM).and_then(|region| region.range) {
            draft.placed(&bridge(), Slot { windows: vec![config_space(ecam, 0)], irq: None }, Some(0));
        }
        Ok(Self { next: *DEVICES.start(), bars: AddressSpace::new(PaBits::MAX), intx })
    }

    /// Gives a function its number and its BARs.
    ///
    /// # Errors
    /// See [`function`].
    pub fn function(&mut self, request: &Request, bars: &[Bar], draft: &mut Draft) -> Result<(), PlanError> {
        let number = Some(self.next).filter(|next| DEVICES.contains(next));
        let room =
            Room { regions: &draft.regions, ports: port_window(draft.ports.claims()), intx: &self.intx };
        let slot = function(&request.id, number, bars, &room, &mut self.bars)?;
        self.next += 1;
        draft.placed(request, slot, number);
        Ok(())
    }
}

/// What functions are placed in.
pub(crate) struct Room<'a> {
    pub regions: &'a [Region],
    /// Room for BARs of ports, where those are a space of their own.
    pub ports: Option<AddressRange>,
    pub intx: &'a [IrqPin],
}

/// Where BARs of I/O ports are, if `ports` are a space of their own.
pub(crate) fn port_window<'a>(mut ports: impl Iterator<Item = &'a Claim>) -> Option<AddressRange> {
    ports.find(|claim| claim.owner == IO).map(|claim| claim.range)
}

/// The room of the function `owner` with this number, if there is one left. `space` is what BARs have taken,
/// which its BARs are added to.
///
/// # Errors
/// [`PlanError`] without PCI, on a full bus, and for a BAR that its window does not hold.
pub(crate) fn function(
    owner: &str,
    number: Option<u8>,
    bars: &[Bar],
    room: &Room,
    space: &mut AddressSpace,
) -> Result<Slot, PlanError> {
    let ecam = part(room.regions, ECAM).and_then(|region| region.range);
    let ecam = ecam.ok_or_else(|| PlanError::NoPci(owner.into()))?;
    let number = number.ok_or_else(|| PlanError::NoFunction(owner.into()))?;
    let mut windows = vec![config_space(ecam, number)];
    for (index, bar) in bars.iter().enumerate() {
        windows.push(place(owner, index, *bar, room, space)?);
    }
    // INTA of a function on the root bus (PCI-to-PCI Bridge 1.2, 9.1).
    let pin = room.intx.get(usize::from(number) % WIRES.len());
    let irq = pin.map(|pin| (*pin, Trigger::Level));
    Ok(Slot { windows, irq })
}

/// What the host bridge asks for: it has no BARs and interrupts nobody.
fn bridge() -> Request {
    Request {
        id: BRIDGE.into(),
        kind: BRIDGE_KIND.into(),
        needs: Needs::Pci { bars: Vec::new() },
        description: Arc::default(),
        queue_reach: None,
    }
}

/// Of function 0 of the device with this number on bus 0.
fn config_space(ecam: AddressRange, number: u8) -> AddressRange {
    AddressRange::new(ecam.first() + u64::from(number) * DEVICE_SIZE, CONFIG_SIZE)
        .expect("a place within the configuration space is no end of all addresses")
}

fn place(
    owner: &str,
    index: usize,
    bar: Bar,
    room: &Room,
    space: &mut AddressSpace,
) -> Result<AddressRange, PlanError> {
    let window = match bar.space {
        BarSpace::Io => IO,
        BarSpace::Mmio32 => MMIO32,
        BarSpace::Mmio64 => MMIO64,
    };
    let refused =
        |why: String| PlanError::Bar { owner: owner.into(), bar: index, size: bar.size, window, why };
    if let Some(ports) = room.ports.filter(|_| bar.space == BarSpace::Io) {
        // No window of memory is as low as a port, so one space serves both.
        let placed = space.place(owner, bar.size, bar.size, ports);
        return placed.map_err(|error| refused(error.to_string()));
    }
    let mut why = "the board has no such window".to_owned();
    let mut largest = None;
    for region in pieces(room.regions, window) {
        let reason = region.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let Some(within) = region.range else {
            why = format!("it is left out{reason}");
            continue;
        };
        match space.place(owner, bar.size, bar.size, within) {
            Ok(range) => return Ok(range),
            // Of several pieces, the one that lacks least is told of.
            Err(error) => {
                let room = match error {
                    SpaceError::NoRoom { largest, .. } => Some(largest),
                    _ => None,
                };
                if largest.is_none() || room > largest {
                    (largest, why) = (room, format!("{error}{reason}"));
                }
            }
        }
    }
    Err(refused(why))
}

/// The window called `name`, in pieces where something that is kept free cuts it.
pub(crate) fn pieces<'a>(regions: &'a [Region], name: &str) -> impl Iterator<Item = &'a Region> {
    let is_piece =
        move |of: &str| of.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    regions.iter().filter(move |region| region.kind == RegionKind::Pci && is_piece(&region.name))
}

/// A device may be called like a part that is not there.
fn part<'a>(regions: &'a [Region], name: &str) -> Option<&'a Region> {
    regions.iter().find(|region| region.kind == RegionKind::Pci && region.name == name)
}

/// How many bytes from `first` on the 64-bit BARs of `devices` take.
pub(crate) fn wide_need(devices: &[Request], first: u64) -> u64 {
    let wide = devices.iter().filter_map(|request| match &request.needs {
        Needs::Pci { bars } => Some(bars),
        Needs::Board { .. } | Needs::Ports { .. } => None,
    });
    let wide = wide.flatten().filter(|bar| bar.space == BarSpace::Mmio64);
    let mut space = AddressSpace::new(PaBits::MAX);
    let Some(within) = AddressRange::spanning(first, PaBits::MAX.ceiling() - 1) else { return 0 };
    // One that fits nowhere is refused by name when its turn comes.
    let placed = wide.filter_map(|bar| space.place("bar", bar.size, bar.size, within).ok());
    placed.map(|range| range.last() - first + 1).max().unwrap_or(0)
}
