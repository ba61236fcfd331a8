//! A plan as a picture: what it has, in the words of the table.

use ambit_device_manager::{Board, Diagnostic, Plan, Region, RegionKind, Status};
use ambit_resources::{AddressRange, human_size};

use super::{kind_word, severity_word, table};
use crate::picture::{Band, BandStatus, Limit, Scene};

/// `plan` to be drawn, with the limits that are `known`, in bits and whose they are; `more` are diagnostics that the planner could not know.
pub fn scene(plan: &Plan, known: &[(u8, &str)], board: &dyn Board, more: &[Diagnostic]) -> Scene {
    let memory: u64 = plan.ram().map(AddressRange::size).sum();
    Scene {
        title: format!(
            "{}: {}, {} of memory",
            plan.board,
            table::counted(u64::from(plan.cpus), "vCPU"),
            human_size(memory)
        ),
        subtitle: table::width_line(plan),
        regions: plan.regions.iter().map(|region| band(plan, region, board)).collect(),
        limits: limits(plan, known),
        notes: more.iter().chain(&plan.diagnostics).map(note).collect(),
    }
}

fn note(diagnostic: &Diagnostic) -> String {
    let help: String = diagnostic.remedies.iter().map(|remedy| format!("; {remedy}")).collect();
    format!("{}: {}{help}", severity_word(diagnostic.severity), diagnostic.message)
}

fn band(plan: &Plan, region: &Region, board: &dyn Board) -> Band {
    let interrupt = plan.device(&region.name).and_then(|device| device.slot.irq);
    Band {
        name: region.name.clone(),
        kind: match region.kind {
            RegionKind::Ram => "ram",
            RegionKind::RamHotplug => "ram-hotplug",
            RegionKind::Reserved => "reserved",
            RegionKind::InterruptController => "interrupt-controller",
            RegionKind::Pci => "pci",
            RegionKind::Device => "device",
        },
        kind_label: kind_word(plan, region).into(),
        range: region.range.map(ends),
        size: region.size,
        status: match region.status {
            Status::Placed => BandStatus::Placed,
            Status::Shrunk => BandStatus::Shrunk,
            Status::Dropped => BandStatus::Dropped,
        },
        reason: region.reason.clone(),
        interrupt: interrupt.map(|(pin, _)| board.interrupt_id(pin).to_string()),
        inside: inside(plan, region),
    }
}

fn ends(range: AddressRange) -> (u64, u64) {
    (range.first(), range.last())
}

/// The BARs and configuration spaces in a window of PCI.
fn inside(plan: &Plan, region: &Region) -> Vec<Band> {
    let Some(outer) = region.range.filter(|_| region.kind == RegionKind::Pci) else { return Vec::new() };
    let functions = plan.devices.iter().filter(|device| device.function.is_some());
    let windows = functions.flat_map(|device| {
        device.slot.windows.iter().enumerate().map(move |(index, window)| (device, index, *window))
    });
    let within = windows.filter(|(_, _, window)| outer.contains(*window));
    within
        .map(|(device, index, window)| Band {
            name: window_name(&device.id, index),
            kind: "device",
            kind_label: device.kind.clone(),
            range: Some(ends(window)),
            size: window.size(),
            status: BandStatus::Placed,
            reason: None,
            interrupt: None,
            inside: Vec::new(),
        })
        .collect()
}

/// What a window of a PCI function is called.
pub fn window_name(id: &str, index: usize) -> String {
    match index.checked_sub(1) {
        None => format!("{id}.config"),
        Some(bar) => format!("{id}.bar{bar}"),
    }
}

/// The limits as they were given, and what they come to.
fn limits(plan: &Plan, known: &[(u8, &str)]) -> Vec<Limit> {
    let width = plan.width.bits.get();
    let limit = |bits: u8, who: &str| {
        let address = 1_u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX);
        Limit { label: format!("{bits} bits: {who}"), address, binding: bits == width }
    };
    let mut limits: Vec<Limit> = known.iter().map(|(bits, who)| limit(*bits, who)).collect();
    if known.iter().all(|(bits, _)| *bits != width) {
        limits.push(limit(width, "the board"));
    }
    if plan.ipa_bits < plan.width.bits {
        limits.push(limit(plan.ipa_bits.get(), "asked of KVM"));
    }
    limits
}
