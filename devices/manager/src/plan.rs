//! The whole machine on paper: every address and every interrupt pin.

use std::collections::HashSet;

use ambit_bus::{Description, Request, Slot};
use ambit_resources::{
    AddressRange, AddressSpace, IrqError, IrqPin, IrqPool, PaBits, SpaceError, bits_for, human_size,
};
use serde::{Deserialize, Serialize};

use crate::{Arch, Board, HostFacts, MachineConfig, MemoryMap, Part, Place, RegionKind, Width, WidthSource};

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
    /// Everything with an address, lowest first; what was left out comes last.
    pub regions: Vec<Region>,
    pub devices: Vec<Placed>,
    pub space: AddressSpace,
    pub irqs: IrqPool,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Placed,
    Dropped,
}

/// A device with its room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub id: String,
    pub kind: String,
    pub slot: Slot,
    pub description: Description,
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
    Warning,
    Error,
}

/// Why there is no such machine. Each names the object, the need and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("a machine has at least one vCPU, and 0 were asked for")]
    NoCpus,
    #[error("{wanted} vCPUs are more than {limit}, which is all that {bound} gives")]
    TooManyCpus { wanted: u32, limit: u32, bound: String },
    #[error(
        "{} of memory is not a multiple of the host's page size, {}",
        human_size(*.memory), human_size(*.page_size)
    )]
    MemoryNotPages { memory: u64, page_size: u64 },
    #[error("a machine has memory, and none was asked for")]
    NoMemory,
    #[error(
        "{} of memory at [{base:#x}-{last:#x}] needs {needed} physical address bits, and {}",
        human_size(*.memory), limit_text(*.width)
    )]
    MemoryBeyondWidth { memory: u64, base: u64, last: u64, needed: u8, width: Width, most: u64 },
    #[error("{} of memory from {base:#x} passes the end of the 64-bit address space", human_size(*.memory))]
    MemoryWraps { memory: u64, base: u64, most: u64 },
    #[error("two parts of the machine are called '{0}'; give the device another id")]
    DuplicateId(String),
    #[error("{owner} at {wanted} needs {needed} physical address bits, and {}", limit_text(*.width))]
    WindowBeyondWidth { owner: String, wanted: AddressRange, needed: u8, width: Width },
    #[error(transparent)]
    Space(SpaceError),
    #[error(transparent)]
    Irq(#[from] IrqError),
}

fn limit_text(width: Width) -> String {
    match width.source {
        WidthSource::Host => format!("this host has {}", width.bits),
        WidthSource::User => format!("{} were allowed", width.bits),
        WidthSource::Assumed => format!("{} were assumed, as no host was asked", width.bits),
    }
}

impl PlanError {
    /// For programs; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCpus => "no-cpus",
            Self::TooManyCpus { .. } => "too-many-cpus",
            Self::MemoryNotPages { .. } => "memory-not-pages",
            Self::NoMemory => "no-memory",
            Self::MemoryBeyondWidth { .. } => "ram-beyond-width",
            Self::MemoryWraps { .. } => "ram-wraps",
            Self::DuplicateId(_) => "duplicate-id",
            Self::WindowBeyondWidth { .. } => "window-beyond-width",
            Self::Space(_) => "no-room",
            Self::Irq(_) => "no-interrupt",
        }
    }

    /// True if the configuration makes no sense on any host; false if it does not fit this one.
    pub fn is_nonsense(&self) -> bool {
        matches!(self, Self::NoCpus | Self::NoMemory | Self::MemoryNotPages { .. } | Self::DuplicateId(_))
    }

    /// What would help, cheapest first.
    pub fn remedies(&self) -> Vec<String> {
        match self {
            Self::TooManyCpus { limit, .. } => vec![format!("give the guest at most {limit} vCPUs")],
            Self::MemoryNotPages { memory, page_size } => {
                let down = memory / page_size * page_size;
                let up = memory.checked_next_multiple_of(*page_size);
                [Some(down).filter(|size| *size > 0), up]
                    .into_iter()
                    .flatten()
                    .map(|size| format!("give the guest {}", human_size(size)))
                    .collect()
            }
            Self::MemoryBeyondWidth { needed, most, width, .. } => {
                less_memory(*most).into_iter().chain(wider(*needed, *width)).collect()
            }
            Self::MemoryWraps { most, .. } => less_memory(*most).into_iter().collect(),
            Self::WindowBeyondWidth { needed, width, .. } => wider(*needed, *width).into_iter().collect(),
            Self::Space(SpaceError::NoRoom { .. }) => vec!["give the guest fewer devices".into()],
            _ => Vec::new(),
        }
    }

    /// The same as an entry of the plan's diagnostics.
    pub fn diagnostic(&self) -> Diagnostic {
        Diagnostic {
            code: self.code().into(),
            severity: Severity::Error,
            message: self.to_string(),
            remedies: self.remedies(),
        }
    }
}

fn less_memory(most: u64) -> Option<String> {
    (most > 0).then(|| format!("give the guest at most {} of memory", human_size(most)))
}

/// `None` if no host and no user can give that many bits.
fn wider(needed: u8, width: Width) -> Option<String> {
    let bits = PaBits::new(needed)?;
    Some(match width.source {
        WidthSource::User => format!("allow {bits} bits, if the host has them"),
        WidthSource::Host | WidthSource::Assumed => format!("use a host with {bits} bits"),
    })
}

/// Decides every address and every pin, or says what does not fit.
///
/// Fixed parts come first, then the board's devices, RAM, and the optional devices in their order, each
/// at the lowest place: so the width decides only whether the answer is accepted, and an added device
/// moves nothing placed before it.
///
/// # Errors
/// [`PlanError`] for the first thing that does not fit.
pub fn plan(board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> Result<Plan, PlanError> {
    let map = board.map(config, facts);
    check_counts(config, facts, &map)?;
    let mut draft = Draft::new(&map, facts.width);
    for part in &map.parts {
        draft.part(part)?;
    }
    for fixture in board.fixtures() {
        let window = AddressRange::new(fixture.base, fixture.request.needs.registers).ok_or_else(|| {
            PlanError::Space(SpaceError::Malformed {
                owner: fixture.request.id.clone(),
                size: fixture.request.needs.registers,
                align: 1,
            })
        })?;
        let window = draft.claim(&fixture.request.id, window)?;
        let pin = fixture.pin.map(|pin| draft.irqs.claim(&fixture.request.id, pin)).transpose()?;
        draft.device(fixture.request, window, pin)?;
    }
    draft.ram(config.memory, map.ram_base, facts.page_size)?;
    for request in &config.devices {
        let size = request.needs.registers;
        let window =
            draft.space.place(&request.id, size, size, map.devices).map_err(|error| draft.explain(error))?;
        let pin = match request.needs.irq {
            Some(_) => Some(draft.irqs.place(&request.id, map.device_pins.clone())?),
            None => None,
        };
        draft.device(request.clone(), window, pin)?;
    }
    Ok(draft.finish(board, config, facts))
}

fn check_counts(config: &MachineConfig, facts: &HostFacts, map: &MemoryMap) -> Result<(), PlanError> {
    if config.cpus == 0 {
        return Err(PlanError::NoCpus);
    }
    let host = match facts.width.source {
        WidthSource::Assumed => "the KVM of a host like most",
        WidthSource::Host | WidthSource::User => "this host's KVM",
    };
    let limits = [(facts.max_cpus, host), (map.max_cpus, "this board")];
    let lowest = limits.into_iter().min_by_key(|(limit, _)| *limit);
    if let Some((limit, bound)) = lowest.filter(|(limit, _)| config.cpus > *limit) {
        return Err(PlanError::TooManyCpus { wanted: config.cpus, limit, bound: bound.into() });
    }
    if config.memory == 0 {
        return Err(PlanError::NoMemory);
    }
    Ok(())
}

/// A plan that is being made.
struct Draft {
    width: Width,
    space: AddressSpace,
    irqs: IrqPool,
    regions: Vec<Region>,
    devices: Vec<Placed>,
    names: HashSet<String>,
}

impl Draft {
    fn new(map: &MemoryMap, width: Width) -> Self {
        Self {
            width,
            space: AddressSpace::new(width.bits),
            irqs: IrqPool::new(map.pins),
            regions: Vec::new(),
            devices: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// Adds to the width's own refusal who set the width.
    fn explain(&self, error: SpaceError) -> PlanError {
        match error {
            SpaceError::Beyond { owner, wanted, needed, .. } => {
                PlanError::WindowBeyondWidth { owner, wanted, needed, width: self.width }
            }
            _ => PlanError::Space(error),
        }
    }

    fn claim(&mut self, owner: &str, range: AddressRange) -> Result<AddressRange, PlanError> {
        self.space.claim(owner, range).map_err(|error| self.explain(error))
    }

    fn part(&mut self, part: &Part) -> Result<(), PlanError> {
        match &part.place {
            Place::At(range) => {
                let range = self.claim(&part.name, *range)?;
                self.region(&part.name, part.kind, range)
            }
            Place::Lowest { size, align, within } => {
                let placed = self.space.place(&part.name, *size, *align, *within);
                let range = placed.map_err(|error| self.explain(error))?;
                self.region(&part.name, part.kind, range)
            }
            Place::Absent { size, reason } => {
                self.name(&part.name)?;
                self.regions.push(Region {
                    name: part.name.clone(),
                    kind: part.kind,
                    range: None,
                    size: *size,
                    status: Status::Dropped,
                    reason: Some(reason.clone()),
                });
                Ok(())
            }
        }
    }

    fn ram(&mut self, memory: u64, base: u64, page_size: u64) -> Result<(), PlanError> {
        let most = self.width.bits.ceiling().saturating_sub(base) / page_size * page_size;
        let range = AddressRange::new(base, memory).ok_or(PlanError::MemoryWraps { memory, base, most })?;
        if !self.width.bits.reach().contains(range) {
            return Err(PlanError::MemoryBeyondWidth {
                memory,
                base,
                last: range.last(),
                needed: bits_for(range.last()),
                width: self.width,
                most,
            });
        }
        // Second, so that the size it proposes is known to be within reach.
        if !memory.is_multiple_of(page_size) {
            return Err(PlanError::MemoryNotPages { memory, page_size });
        }
        let range = self.claim("ram0", range)?;
        self.region("ram0", RegionKind::Ram, range)
    }

    fn device(
        &mut self,
        request: Request,
        window: AddressRange,
        pin: Option<IrqPin>,
    ) -> Result<(), PlanError> {
        self.region(&request.id, RegionKind::Device, window)?;
        self.devices.push(Placed {
            slot: Slot { windows: vec![window], irq: pin.zip(request.needs.irq) },
            id: request.id,
            kind: request.kind,
            description: request.description,
        });
        Ok(())
    }

    fn region(&mut self, name: &str, kind: RegionKind, range: AddressRange) -> Result<(), PlanError> {
        self.name(name)?;
        let (range, size) = (Some(range), range.size());
        self.regions.push(Region {
            name: name.into(),
            kind,
            range,
            size,
            status: Status::Placed,
            reason: None,
        });
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), PlanError> {
        if self.names.insert(name.into()) { Ok(()) } else { Err(PlanError::DuplicateId(name.into())) }
    }

    fn finish(mut self, board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> Plan {
        // What was dropped has no address and sorts last.
        self.regions.sort_by_key(|region| region.range.map_or(u64::MAX, AddressRange::first));
        let highest = self.space.claims().map(|claim| claim.range.last()).max().unwrap_or(0);
        let ipa_bits =
            PaBits::covering(highest).expect("no claim passes the width, which is at most 52 bits");
        let diagnostics = self.regions.iter().filter_map(dropped).collect();
        Plan {
            board: board.name().into(),
            arch: board.arch(),
            cpus: config.cpus,
            width: facts.width,
            ipa_bits,
            regions: self.regions,
            devices: self.devices,
            space: self.space,
            irqs: self.irqs,
            diagnostics,
        }
    }
}

fn dropped(region: &Region) -> Option<Diagnostic> {
    let reason = region.reason.as_ref()?;
    Some(Diagnostic {
        code: "dropped".into(),
        severity: Severity::Note,
        message: format!("{} is left out: {reason}", region.name),
        remedies: Vec::new(),
    })
}

impl Plan {
    /// RAM, lowest first.
    pub fn ram(&self) -> impl Iterator<Item = AddressRange> {
        self.regions.iter().filter(|region| region.kind == RegionKind::Ram).filter_map(|region| region.range)
    }

    /// Where the region called `name` is. `None` if it was dropped or there is none.
    pub fn range(&self, name: &str) -> Option<AddressRange> {
        self.regions.iter().find(|region| region.name == name)?.range
    }

    pub fn device(&self, id: &str) -> Option<&Placed> {
        self.devices.iter().find(|device| device.id == id)
    }

    /// The highest pin that has an owner.
    pub fn highest_pin(&self) -> Option<IrqPin> {
        self.irqs.owners().map(|(pin, _)| pin).last()
    }
}
