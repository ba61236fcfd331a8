//! The generic host bridge: function 0 of bus 0, which says that there is a bus and does nothing else.

use std::sync::Arc;

use ambit_bus::{
    Description, Device, Effect, Host, HostError, Model, Needs, Offset, Request, Shared, Slot, share,
};

use crate::{ConfigSpace, Function, Identity};

/// The device number on bus 0 that it has.
pub const NUMBER: u8 = 0;

// QEMU's "PCIe host bridge" (QEMU, docs/specs/pci-ids). Linux binds no driver to a host bridge: that there is
// ECAM, and where, it has from the device tree. So a guest finds what it finds on QEMU's generic machines.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_00_00,
    // Not required of host bridges (PCI 3.0, 6.2.4).
    subsystem_vendor: 0,
    subsystem: 0,
};

/// What one called `id` asks of the planner: configuration space and no BARs. It is function 0 and must be
/// given no other number; the device tree describes the bus, not the bridge.
pub fn request(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "pci-host-bridge".into(),
        needs: Needs::Pci { bars: Vec::new() },
        description: Arc::new(Description::default()),
        queue_reach: None,
    }
}

/// The host bridge as configured.
#[derive(Debug)]
pub struct HostBridge {
    id: String,
}

impl HostBridge {
    pub fn new(id: &str) -> Self {
        Self { id: id.into() }
    }
}

impl Model for HostBridge {
    fn request(&self) -> Request {
        request(&self.id)
    }

    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        // It never interrupts, so it has no pin whatever its slot has.
        let config = ConfigSpace::new(IDENTITY, &[], false)?;
        Ok(share(Bridge(Function::new(config, None, None))))
    }
}

struct Bridge(Function);

impl Device for Bridge {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        if !self.0.read(at, data) {
            data.fill(0);
        }
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        // Without BARs no window moves.
        let _change = self.0.write(at, data);
        Effect::None
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use ambit_bus::bench::BenchHost;
    use ambit_resources::AddressRange;

    use super::*;

    fn bridge() -> Shared {
        let slot = Slot { windows: vec![AddressRange::fixed(0x3000_0000, 4096)], irq: None };
        HostBridge::new("pci").build(&slot, &BenchHost::new(0x1000)).unwrap()
    }

    fn dump(bridge: &Shared) -> Vec<u8> {
        let mut bytes = vec![0xee; 4096];
        bridge.lock().unwrap().read(Offset { window: 0, byte: 0 }, &mut bytes);
        bytes
    }

    #[test]
    fn it_is_a_host_bridge_and_nothing_else() {
        let dump = dump(&bridge());

        let header = [0x36, 0x1b, 0x08, 0x00, 0, 0, 0, 0, 0, 0x00, 0x00, 0x06];
        let rest = vec![0; 4096 - header.len()];
        assert_eq!(dump, [&header[..], &rest].concat());
    }

    #[test]
    fn it_asks_for_configuration_space_alone() {
        let request = HostBridge::new("pci").request();

        assert_eq!((request.id, request.needs), ("pci".into(), Needs::Pci { bars: vec![] }));
    }

    #[test]
    fn nothing_that_is_written_to_it_has_an_effect() {
        let bridge = bridge();
        for window in [0, 1, 7, 255] {
            for byte in 0..300 {
                let effect = bridge.lock().unwrap().write(Offset { window, byte }, &[0xff; 4]);
                assert_eq!(effect, Effect::None);
            }
        }

        assert!(bridge.lock().unwrap().places().is_empty());
    }

    #[test]
    fn other_windows_than_its_own_read_as_zero() {
        let mut data = [0xee; 8];

        bridge().lock().unwrap().read(Offset { window: 1, byte: 0 }, &mut data);

        assert_eq!(data, [0; 8]);
    }

    #[test]
    fn a_reset_gives_it_back_as_it_was() {
        let bridge = bridge();
        let before = dump(&bridge);
        let _effect = bridge.lock().unwrap().write(Offset { window: 0, byte: 0 }, &[0xff; 256]);
        assert_ne!(dump(&bridge), before);

        bridge.lock().unwrap().reset();

        assert_eq!(dump(&bridge), before);
    }
}
