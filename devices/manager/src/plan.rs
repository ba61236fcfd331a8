//! The whole machine on paper: every address and every interrupt pin.

use std::sync::Arc;

use ambit_bus::{Description, Slot, Space};
use ambit_resources::{AddressRange, AddressSpace, Claim, IrqPin, IrqPool, PaBits};
use serde::{Deserialize, Serialize};

use crate::draft::{Stage, staged};
use crate::remedy::{Remedy, remedies};
use crate::{Arch, Board, HostFacts, MachineConfig, PageTables, PlanError, RegionKind, Transport, Width};

/// Every address and every pin of one machine. Made once by [`plan`], then only read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub board: String,
    pub arch: Arch,
    pub cpus: u32,
    /// What was planned with: nothing lies at or above 2^bits.
    pub width: Width,
    /// The fewest bits that cover RAM and every window, and so what KVM is asked for.
    pub ipa_bits: PaBits,
    /// What the host does with those bits. `None` where that does not follow from them.
    pub page_tables: Option<PageTables>,
    /// Everything with an address, lowest first; what was left out comes last.
    pub regions: Vec<Region>,
    pub devices: Vec<Placed>,
    pub space: AddressSpace,
    /// I/O ports that have an owner, lowest first; none where they are no space of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Claim>,
    pub irqs: IrqPool,
    /// Pins that optional devices may have, those that are taken among them.
    pub device_pins: (u32, u32),
    /// Pins that every PCI function without MSI shares, lowest first; none without PCI.
    pub intx: Vec<IrqPin>,
    pub diagnostics: Vec<Diagnostic>,
}

/// One piece of the address map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    pub name: String,
    pub kind: RegionKind,
    /// `None` if it was dropped.
    pub range: Option<AddressRange>,
    /// What it has, or would have needed; in bytes.
    pub size: u64,
    pub status: Status,
    /// Why it is not placed in full.
    pub reason: Option<String>,
    /// What it lacks, if that can be counted.
    pub shortfall: Option<Shortfall>,
    /// How many vCPUs have a frame in it. `None` if it is not made of those.
    pub frames: Option<u32>,
    /// What is kept for it; more than `range` where a board leaves room for more frames.
    pub room: Option<AddressRange>,
}

/// How far a region is from what it wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// In bytes.
    pub wanted: u64,
    /// Bytes that are missing.
    pub bytes: u64,
    /// The fewest bits with which it is placed in full where it would be. `None` if no width is enough.
    pub needed_bits: Option<u8>,
    /// The limit that bound.
    pub limit: Width,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Placed,
    Shrunk,
    Dropped,
}

/// A device with its room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub id: String,
    pub kind: String,
    pub slot: Slot,
    pub transport: Transport,
    /// For a PCI function: its number on bus 0. 0 is the host bridge, others have 1 to 31.
    pub function: Option<u8>,
    /// Which of its windows are of I/O ports, in a space of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u8>,
    pub description: Arc<Description>,
}

impl Placed {
    /// What window `number` is a window of.
    pub fn space(&self, number: u8) -> Space {
        if self.ports.contains(&number) { Space::Ports } else { Space::Memory }
    }
}

/// What a part for frames is called that no vCPU has one in.
pub(crate) fn kept_as(name: &str) -> String {
    format!("reserved.{name}")
}

/// What a piece of a region is called that others cut: "pci.mmio32", "pci.mmio32.1", …
pub(crate) fn piece_name(name: &str, number: usize) -> String {
    if number == 0 { name.into() } else { format!("{name}.{number}") }
}

/// Something about the plan that the user should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Stable, for programs: "ram-beyond-width".
    pub code: String,
    pub severity: Severity,
    pub message: String,
    /// What would help, cheapest first.
    pub remedies: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Note,
    /// Something the machine could use is not there, or not whole.
    Warning,
    Error,
}

/// Why there is no plan, and what would help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    pub error: PlanError,
    /// Cheapest first. Each was tried: with it alone, this error is gone.
    pub remedies: Vec<Remedy>,
}

impl Refusal {
    /// The same as an entry of the plan's diagnostics.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic {
            code: self.error.code().into(),
            severity: Severity::Error,
            message: self.error.to_string(),
            remedies: self.remedies.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Decides every address and every pin, or says what does not fit and what would help.
///
/// Fixed parts come first, then the board's devices, RAM, what goes above it, and the optional devices in
/// their order, each at the lowest place: so the width decides only whether the answer is accepted, and an
/// added device moves nothing placed before it.
///
/// # Errors
/// [`Refusal`] for the first thing that does not fit.
pub fn plan(board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> Result<Plan, Refusal> {
    let (reached, planned) = staged(board, config, facts);
    let mut plan = planned.map_err(|error| {
        let code = error.code();
        let mut found = remedies(board, config, facts, &|_, tried| tried.is_ok());
        if found.is_empty() {
            // There is more than one thing wrong. What is refused sooner than before is not known to be better.
            let gone = |stage: Stage, tried: &Result<Plan, PlanError>| match tried {
                Ok(_) => true,
                Err(other) => other.code() != code && stage >= reached,
            };
            found = remedies(board, config, facts, &gone);
        }
        Refusal { error, remedies: found }
    })?;
    let lost: Vec<Diagnostic> =
        plan.regions.iter().filter_map(|region| lost(region, board, config, facts)).collect();
    plan.diagnostics.extend(lost);
    plan.diagnostics.extend(board.remarks(&plan));
    Ok(plan)
}

/// What to say of a region that is not placed in full. What the user or the board chose is a note, what a
/// limit took is a warning with what would bring it back.
fn lost(region: &Region, board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> Option<Diagnostic> {
    let reason = region.reason.as_ref()?;
    let (code, what) = match region.status {
        Status::Placed => return None,
        Status::Shrunk => ("shrunk", "is smaller than it should be"),
        Status::Dropped => ("dropped", "is left out"),
    };
    let whole = |_: Stage, tried: &Result<Plan, PlanError>| {
        // One that comes back and that nobody needs is kept under another name.
        let names = [region.name.clone(), kept_as(&region.name)];
        let is = |it: &Region| names.contains(&it.name) && it.status == Status::Placed;
        tried.as_ref().is_ok_and(|plan| plan.regions.iter().any(is))
    };
    let remedies = match region.shortfall {
        None => Vec::new(),
        Some(_) => {
            let back = format!("{} is placed in full", region.name);
            let found = remedies(board, config, facts, &whole);
            found.into_iter().map(|remedy| remedy.and_then(config, &back)).collect()
        }
    };
    Some(Diagnostic {
        code: code.into(),
        severity: if region.shortfall.is_some() { Severity::Warning } else { Severity::Note },
        message: format!("{} {what}: {reason}", region.name),
        remedies,
    })
}

impl Plan {
    /// RAM, lowest first.
    pub fn ram(&self) -> impl Iterator<Item = AddressRange> {
        self.regions.iter().filter(|region| region.kind == RegionKind::Ram).filter_map(|region| region.range)
    }

    /// The region called `name`, placed or not.
    pub fn region(&self, name: &str) -> Option<&Region> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// Where the region called `name` is. `None` if it was dropped or there is none.
    pub fn range(&self, name: &str) -> Option<AddressRange> {
        self.region(name)?.range
    }

    /// Where the part of this kind called `name` is: a device may be called like a part that is not there.
    pub fn part(&self, kind: RegionKind, name: &str) -> Option<AddressRange> {
        self.region(name).filter(|region| region.kind == kind)?.range
    }

    /// All pieces of the window of PCI called `name`, lowest first.
    pub fn window(&self, name: &str) -> impl Iterator<Item = AddressRange> {
        crate::pci::pieces(&self.regions, name).filter_map(|region| region.range)
    }

    pub fn device(&self, id: &str) -> Option<&Placed> {
        self.devices.iter().find(|device| device.id == id)
    }

    /// The highest pin that has an owner.
    pub fn highest_pin(&self) -> Option<IrqPin> {
        self.irqs.owners().map(|(pin, _)| pin).last()
    }

    /// How many more optional devices can have a pin.
    pub fn free_device_pins(&self) -> u32 {
        let (first, last) = self.device_pins;
        let within = |pin: IrqPin| (first..=last).contains(&pin.0);
        let taken = self.irqs.owners().filter(|(pin, _)| within(*pin)).count();
        let all = (u64::from(last) + 1).saturating_sub(u64::from(first));
        u32::try_from(all.saturating_sub(taken as u64)).unwrap_or(u32::MAX)
    }
}
