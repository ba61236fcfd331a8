//! The host bridge: the function at device 0 of bus 0 through which a machine has PCI at all.

use std::sync::Arc;

use ambit_bus::{Device, Effect, Host, HostError, Model, Needs, Offset, Request, Shared, Slot, share};

use crate::config::{ConfigSpace, Identity};

/// What a plan calls it.
pub const KIND: &str = "pci-host-bridge";

/// Red Hat's identity for a generic PCI Express host bridge (QEMU `docs/specs/pci-ids.rst`). Its driver is the
/// one for generic bridges, which looks at the device tree and not at this.
const IDENTITY: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_0000,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
    has_intx: false,
};

/// What it asks of the planner: device 0, and nothing besides.
pub fn request(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: KIND.into(),
        needs: Needs::Pci { bars: Vec::new() },
        description: Arc::default(),
        queue_reach: None,
    }
}

/// The bridge as configured.
#[derive(Debug)]
pub struct BridgeModel {
    id: String,
}

impl BridgeModel {
    pub fn new(id: &str) -> Self {
        Self { id: id.into() }
    }
}

impl Model for BridgeModel {
    fn request(&self) -> Request {
        request(&self.id)
    }

    fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
        Ok(share(Bridge { config: ConfigSpace::new(&IDENTITY, &[]) }))
    }
}

struct Bridge {
    config: ConfigSpace,
}

impl Device for Bridge {
    fn read(&mut self, at: Offset, data: &mut [u8]) {
        self.config.read(at.byte, data);
    }

    fn write(&mut self, at: Offset, data: &[u8]) -> Effect {
        // It has no windows that could move.
        self.config.write(at.byte, data);
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
    }
}
