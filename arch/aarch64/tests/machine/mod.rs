//! Machines to plan: what a test says of one, and nothing it does not care about.

#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;

use ambit_aarch64::native;
use ambit_bus::{Description, Needs, Property, Request, Trigger};
use ambit_device_manager::{HostFacts, MachineConfig, Plan, Refusal, Width, WidthSource, plan};
use ambit_resources::PaBits;

/// A configuration and a host. One vCPU, 512 MiB, no devices, 40 bits, an ITS.
#[derive(Clone, Debug)]
pub struct Machine {
    pub config: MachineConfig,
    pub facts: HostFacts,
}

pub fn machine() -> Machine {
    let width = Width { bits: PaBits::new(40).unwrap(), source: WidthSource::Host };
    Machine { config: MachineConfig::default(), facts: HostFacts { width, ..HostFacts::assumed() } }
}

impl Machine {
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.config.cpus = cpus;
        self
    }

    pub fn memory(mut self, memory: u64) -> Self {
        self.config.memory = memory;
        self
    }

    pub fn bits(mut self, bits: u8) -> Self {
        self.facts.width.bits = PaBits::new(bits).unwrap();
        self
    }

    pub fn allowed_by(mut self, source: WidthSource) -> Self {
        self.facts.width.source = source;
        self
    }

    pub fn without_its(mut self) -> Self {
        self.facts.its = false;
        self
    }

    pub fn device(mut self, id: &str) -> Self {
        self.config.devices.push(virtio(id));
        self
    }

    pub fn devices<T: AsRef<str>>(self, ids: impl IntoIterator<Item = T>) -> Self {
        ids.into_iter().fold(self, |machine, id| machine.device(id.as_ref()))
    }

    pub fn plan(&self) -> Plan {
        self.try_plan().unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    pub fn try_plan(&self) -> Result<Plan, Refusal> {
        plan(&native(), &self.config, &self.facts)
    }

    /// Why there is no such machine: the refusal and its remedies.
    pub fn refusal(&self) -> (String, Vec<String>) {
        match self.try_plan() {
            Ok(_) => panic!("{self:?} was planned"),
            Err(refusal) => (refusal.to_string(), refusal.remedies.iter().map(ToString::to_string).collect()),
        }
    }
}

pub fn virtio(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "virtio-blk".into(),
        needs: Needs::Board { registers: 0x1000, irq: Some(Trigger::Edge) },
        description: Arc::new(Description {
            node: "virtio_mmio".into(),
            compatible: vec!["virtio,mmio".into()],
            properties: vec![("dma-coherent".into(), Property::Flag)],
        }),
        queue_reach: None,
    }
}
