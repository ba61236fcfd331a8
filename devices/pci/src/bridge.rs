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
