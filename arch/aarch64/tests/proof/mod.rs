//! What the proofs of the planner share: a host that bounds nothing, and the words of a plan.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod random;
pub mod remedies;
pub mod tree;

use std::sync::Arc;

use ambit_bus::{Bar, Description, Needs, Property, Request, Trigger};
use ambit_device_manager::{
    Board, HostFacts, MachineConfig, Plan, Refusal, Region, Status, Width, WidthSource, plan,
};
use ambit_resources::{AddressRange, PaBits};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const TIB: u64 = 1 << 40;

pub fn bits(bits: u8) -> PaBits {
    PaBits::new(bits).unwrap()
}

/// A host with this many bits and everything else a machine could ask for.
pub fn host(pa_bits: u8) -> HostFacts {
    HostFacts {
        width: Width { bits: bits(pa_bits), source: WidthSource::Host },
        page_size: 4096,
        max_cpus: 4096,
        gic_versions: vec![2, 3, 4],
        its: true,
        memory_slots: 32767,
        processor: None,
    }
}

pub fn config(cpus: u32, memory: u64) -> MachineConfig {
    MachineConfig { cpus, memory, ..MachineConfig::default() }
}

/// The board with options as a user writes them: "highmem=off,compact-highmem=off".
pub fn with(board: &dyn Board, options: &str) -> Box<dyn Board> {
    let pairs = options.split(',').filter_map(|option| option.split_once('='));
    let pairs: Vec<(String, String)> = pairs.map(|(key, value)| (key.into(), value.into())).collect();
    board.with_options(&pairs).unwrap_or_else(|error| panic!("{options}: {error}"))
}

/// The plan as the user gets it.
pub fn planned(board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> Result<Plan, Box<Refusal>> {
    plan(board, config, facts).map_err(Box::new)
}

/// A virtio device as it is on the boards' own bus.
pub fn virtio(id: &str) -> Request {
    Request {
        id: id.into(),
        kind: "virtio-blk".into(),
        needs: Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) },
        description: Arc::new(Description {
            node: "virtio_mmio".into(),
            compatible: vec!["virtio,mmio".into()],
            properties: vec![("dma-coherent".into(), Property::Flag)],
        }),
        queue_reach: None,
    }
}

pub fn function(id: &str, bars: Vec<Bar>) -> Request {
    Request { needs: Needs::Pci { bars }, description: Arc::default(), ..virtio(id) }
}

/// Whether a redistributor region has frames of anybody in it.
pub fn redists(plan: &Plan) -> Vec<(u64, u32)> {
    let frames = plan.regions.iter().filter(|region| region.frames.is_some_and(|count| count > 0));
    let mut found: Vec<(&str, u64, u32)> = frames
        .map(|region| (region.name.as_str(), region.range.unwrap().first(), region.frames.unwrap()))
        .collect();
    found.sort_by_key(|(name, ..)| name.trim_start_matches("gic.redist").parse::<u32>().unwrap());
    found.into_iter().map(|(_, base, count)| (base, count)).collect()
}

/// Base and size of what is placed.
pub fn place(plan: &Plan, name: &str) -> Option<(u64, u64)> {
    plan.range(name).map(|range| (range.first(), range.size()))
}

/// The highest address that anything has.
pub fn highest(plan: &Plan) -> u64 {
    plan.space.claims().map(|claim| claim.range.last()).max().unwrap()
}

/// What nobody else may have of a region.
pub fn kept(region: &Region) -> Option<AddressRange> {
    region.room.or(region.range)
}

pub fn is_whole(region: &Region) -> bool {
    region.status == Status::Placed
}
