//! An arm64 board as data, and the machine it makes. The shipped boards and those of a user's file are all
//! of this kind.

use std::sync::Arc;

use ambit_bus::{Model, Needs, Request, Trigger};
use ambit_device_manager::{
    Above, Arch, Board, BoardOption, BootError, BootImage, DevicePlaces, Fit, Fixture, Frames, HighPart,
    HostFacts, Length, MachineConfig, MemoryMap, OptionError, PageTables, Part, Payload, PciPlaces, Place,
    Plan, PlanError, RamPlace, RegionKind, Transport, Tree, pci,
};
use ambit_platform::{pl011, pl031};
use ambit_resources::{AddressRange, IrqPin, PaBits};

use crate::board_file::{self, Lineage};
use crate::fdt::{self, Chosen};
use crate::tree::Edit;
use crate::{boot, gic, stage2};

/// A board, all of it. Addresses are guest physical, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoardSpec {
    pub name: String,
    /// What it is for, in a line.
    pub about: String,
    /// A width it does not go past, whatever the host has.
    pub width: Option<PaBits>,
    pub max_cpus: u32,
    pub ram: RamPlace,
    /// Never given to anybody: a name and a place each. A plan calls it `reserved.NAME`.
    pub reserved: Vec<(String, AddressRange)>,
    pub gic: GicSpec,
    /// How many pins the interrupt controller can have.
    pub pins: u32,
    pub devices: DevicePlaces,
    /// How the guest reaches devices of which the user does not say.
    pub transport: Transport,
    pub fixtures: Vec<FixtureSpec>,
    /// `None`: it never has PCI.
    pub pci: Option<PciSpec>,
    /// Nothing but RAM is above RAM and below this.
    pub floor: u64,
    /// What is left out above RAM leaves a hole of its size.
    pub holes: bool,
    /// Changes to what the guest is told.
    pub edits: Vec<Edit>,
    /// How far into RAM the kernel's 2 MiB boundary is; a multiple of 2 MiB.
    pub kernel_offset: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GicSpec {
    V2 {
        dist: AddressRange,
        /// The interface to a CPU.
        cpu: AddressRange,
        /// What is kept above RAM for redistributors all the same, as QEMU does.
        kept: Vec<HighSpec>,
    },
    V3 {
        dist: u64,
        /// `None`: it has none on any host.
        its: Option<ItsPlace>,
        /// In the order they are filled; at most 256.
        redists: Vec<RedistSpec>,
        /// With frames of 256 KiB for each vCPU, as GICv4 has. No KVM gives a guest those.
        v4: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItsPlace {
    At(u64),
    /// Right below the lowest redistributor.
    BelowRedists,
}

/// Where redistributors may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedistSpec {
    /// From the start of this window upward. `whole`: all of the window is kept for them.
    Up { window: AddressRange, whole: bool },
    /// From here downward, as many as there are vCPUs: the first address that is not theirs.
    Down { top: u64 },
    /// Above RAM, this much; `off`: the option that takes it away on every host.
    High { size: u64, off: Option<String> },
}

/// Kinds of fixture that every program has a model for.
pub const FIXTURE_KINDS: [&str; 2] = ["pl011", "pl031"];

/// A device that is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixtureSpec {
    pub id: String,
    /// One of [`FIXTURE_KINDS`], or one that the board has models for: [`SpecBoard::with_kinds`].
    pub kind: String,
    pub base: u64,
    pub pin: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciSpec {
    /// Configuration space below 4 GiB, a whole number of MiB, which are buses.
    pub ecam: AddressRange,
    /// A larger one above RAM where the width holds it. `off`: the option that takes it away.
    pub high_ecam: Option<HighSpec>,
    pub io: Option<AddressRange>,
    pub mmio32: AddressRange,
    /// `None`: there is never one.
    pub mmio64: Option<Mmio64Spec>,
    /// The first of four pins that functions without MSI share.
    pub intx: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HighSpec {
    pub size: u64,
    pub off: Option<String>,
}

/// The window for 64-bit BARs, above all else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mmio64Spec {
    /// As long as the BARs need and `room` more, trimmed from its top by the width.
    ByNeed { room: u64, cap: u64 },
    /// Exactly this long, or not there.
    Fixed(HighSpec),
}

/// What a 64-bit window by need is a multiple of, in length and place.
const WINDOW_GRAIN: u64 = 1 << 30;

/// What an option does to a board: a new one, or what may be written instead.
pub type SetOption = fn(&mut BoardSpec, &str) -> Result<(), &'static str>;

/// Makes the model of a fixture with this id.
pub type MakeModel = fn(&str) -> Arc<dyn Model>;

/// An arm64 board made of data.
#[derive(Clone, Debug)]
pub struct SpecBoard {
    pub spec: BoardSpec,
    options: &'static [(BoardOption, SetOption)],
    kinds: &'static [(&'static str, MakeModel)],
    /// Of a board from files: what it was made of, so that options come before what the files say.
    lineage: Option<Arc<Lineage>>,
}

impl SpecBoard {
    pub fn new(spec: BoardSpec, options: &'static [(BoardOption, SetOption)]) -> Self {
        Self { spec, options, kinds: &[], lineage: None }
    }

    /// The same board with devices of its own: each kind that a fixture may be of, which its requests have too,
    /// and what makes its models.
    #[must_use]
    pub fn with_kinds(self, kinds: &'static [(&'static str, MakeModel)]) -> Self {
        Self { kinds, ..self }
    }

    /// `spec`, which files made of `lineage`; it has the options and the kinds of the board at the root.
    pub(crate) fn from_files(spec: BoardSpec, lineage: Lineage) -> Self {
        let root = lineage.root.as_ref();
        let (options, kinds) = root.map_or((&[] as &[_], &[] as &[_]), |root| (root.options, root.kinds));
        Self { spec, options, kinds, lineage: Some(Arc::new(lineage)) }
    }

    /// The same board with these options set, as [`Board::with_options`].
    ///
    /// # Errors
    /// [`OptionError`] for the first one it does not have or whose value makes no sense.
    pub fn with(&self, options: &[(String, String)]) -> Result<Self, OptionError> {
        let known = |key: &str| self.options.iter().find(|(option, _)| option.key == key);
        if let Some((key, _)) = options.iter().find(|(key, _)| known(key).is_none()) {
            let known = self.options.iter().map(|(option, _)| option.key).collect();
            return Err(OptionError::Unknown { board: self.spec.name.clone(), key: key.clone(), known });
        }
        if let Some(lineage) = &self.lineage {
            return lineage.with(options);
        }
        let mut board = self.clone();
        for (key, value) in options {
            let Some((_, set)) = known(key) else { continue };
            set(&mut board.spec, value).map_err(|wanted| OptionError::Value {
                key: key.clone(),
                value: value.clone(),
                wanted: wanted.into(),
            })?;
        }
        Ok(board)
    }

    fn own_model(&self, kind: &str, id: &str) -> Option<Arc<dyn Model>> {
        self.kinds.iter().find(|(known, _)| *known == kind).map(|(_, make)| make(id))
    }
}

impl Board for SpecBoard {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn arch(&self) -> Arch {
        Arch::Aarch64
    }

    fn about(&self) -> String {
        self.spec.about.clone()
    }

    fn options(&self) -> Vec<BoardOption> {
        self.options.iter().map(|(option, _)| *option).collect()
    }

    fn with_options(&self, options: &[(String, String)]) -> Result<Box<dyn Board>, OptionError> {
        Ok(Box::new(self.with(options)?))
    }

    fn transport(&self) -> Transport {
        self.spec.transport
    }

    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> Result<MemoryMap, PlanError> {
        self.spec.map(config, facts)
    }

    fn fixtures(&self) -> Vec<Fixture> {
        let fixture = |spec: &FixtureSpec| match self.own_model(&spec.kind, &spec.id) {
            Some(model) => Fixture { request: model.request(), ..spec.fixture() },
            None => spec.fixture(),
        };
        self.spec.fixtures.iter().map(fixture).collect()
    }

    fn model(&self, fixture: &Request) -> Option<Arc<dyn Model>> {
        self.own_model(&fixture.kind, &fixture.id)
    }

    fn interrupt_id(&self, pin: IrqPin) -> u32 {
        pin.0.saturating_add(gic::FIRST_SPI)
    }

    fn page_tables(&self, ipa_bits: PaBits, page_size: u64) -> Option<PageTables> {
        stage2::geometry(ipa_bits, page_size)
    }

    fn tree(&self, plan: &Plan, cmdline: &str) -> Result<Option<Tree>, BootError> {
        let tree = boot::tree(plan, &Chosen { cmdline, ..Chosen::default() }, &self.spec.edits);
        let refused = |error: fdt::TreeError| BootError::Tree(error.to_string());
        let tree = tree.map_err(refused)?;
        Ok(Some(Tree { source: tree.source(), blob: fdt::flat(&tree).map_err(refused)? }))
    }

    fn particulars(&self) -> Vec<String> {
        board_file::particulars(&self.spec)
    }

    fn boot_image<'a>(&self, plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError> {
        boot::linux(plan, payload, &self.spec)
    }
}

impl FixtureSpec {
    pub(crate) fn fixture(&self) -> Fixture {
        let request = match self.kind.as_str() {
            "pl011" => pl011::request(&self.id),
            "pl031" => pl031::request(&self.id),
            kind => Request {
                id: self.id.clone(),
                kind: kind.into(),
                needs: Needs::Board { registers: 0x1000, irq: self.pin.map(|_| Trigger::Level) },
                description: Arc::default(),
                queue_reach: None,
            },
        };
        Fixture { request, base: self.base, pin: self.pin.map(IrqPin) }
    }
}

impl BoardSpec {
    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> Result<MemoryMap, PlanError> {
        self.gic.check(&self.name)?;
        let wanted = self.gic.version();
        if !facts.gic_versions.contains(&wanted) {
            return Err(self.lacks_gic(wanted, facts));
        }
        let reserved = self.reserved.iter();
        let mut parts: Vec<Part> =
            reserved.map(|(name, range)| at(&reserved_name(name), RegionKind::Reserved, *range)).collect();
        let mut above = Above { floor: self.floor, holes: self.holes, parts: Vec::new() };
        let cpus = config.cpus.clamp(1, gic::MAX_CPUS);
        let frames = self.gic.parts(cpus, facts, &mut parts, &mut above);
        let pci = self.pci.as_ref().filter(|_| config.pci.is_some());
        let msi = parts.iter().any(|part| part.name == gic::ITS && matches!(part.place, Place::At(_)));
        if let Some(pci) = pci {
            pci.parts(&mut parts, &mut above);
        }
        Ok(MemoryMap {
            parts,
            ram: self.ram,
            gap: None,
            reserved: Vec::new(),
            above,
            frames,
            devices: self.devices.clone(),
            pins: self.pins,
            pci: pci.map(|pci| PciPlaces { intx: pci.intx.map(IrqPin), msi, ports: None }),
            max_cpus: self.max_cpus.min(self.gic.max_cpus()),
            width: self.width,
        })
    }

    fn lacks_gic(&self, wanted: u8, facts: &HostFacts) -> PlanError {
        let has: Vec<String> = facts.gic_versions.iter().map(|version| format!("GICv{version}")).collect();
        PlanError::HostLacks {
            board: self.name.clone(),
            needs: format!("a GICv{wanted}"),
            host: match has.as_slice() {
                [] => "this host's KVM has no GIC".into(),
                _ => format!("this host's KVM has {}", has.join(" and ")),
            },
        }
    }
}

impl GicSpec {
    pub fn version(&self) -> u8 {
        match self {
            Self::V2 { .. } => 2,
            Self::V3 { v4: false, .. } => 3,
            Self::V3 { v4: true, .. } => 4,
        }
    }

    pub(crate) fn max_cpus(&self) -> u32 {
        match self {
            Self::V2 { .. } => gic::V2_MAX_CPUS,
            Self::V3 { .. } => gic::MAX_CPUS,
        }
    }

    /// What KVM would not take of any machine on this board.
    fn check(&self, board: &str) -> Result<(), PlanError> {
        let refused = |what: String| Err(PlanError::Board { board: board.into(), what });
        match self {
            Self::V3 { redists, .. } if redists.len() > gic::MAX_REDIST_REGIONS => refused(format!(
                "has {} redistributor regions, and KVM counts them to {}; join some",
                redists.len(),
                gic::MAX_REDIST_REGIONS
            )),
            Self::V3 { dist, .. } if AddressRange::new(*dist, gic::DIST_SIZE).is_none() => {
                refused(format!("has its distributor at {dist:#x}, where there is no room for it"))
            }
            _ => Ok(()),
        }
    }

    /// Adds the frames of the controller to what the board claims.
    fn parts(
        &self,
        cpus: u32,
        facts: &HostFacts,
        parts: &mut Vec<Part>,
        above: &mut Above,
    ) -> Option<Frames> {
        const KIND: RegionKind = RegionKind::InterruptController;
        match self {
            Self::V2 { dist, cpu, kept } => {
                parts.push(at(gic::DIST, KIND, *dist));
                parts.push(at(gic::CPU, KIND, *cpu));
                above.parts.extend(kept.iter().enumerate().map(|(index, kept)| {
                    let name = format!("reserved.{}", gic::redist(index));
                    high(&name, RegionKind::Reserved, kept.size, kept.off.as_ref())
                }));
                None
            }
            Self::V3 { dist, its, redists, v4 } => {
                let size = if *v4 { gic::REDIST_V4_SIZE } else { gic::REDIST_SIZE };
                parts.push(at(gic::DIST, KIND, AddressRange::fixed(*dist, gic::DIST_SIZE)));
                let mut left = u64::from(cpus);
                let (mut names, mut lowest) = (Vec::new(), None);
                for (index, redist) in redists.iter().enumerate() {
                    let name = gic::redist(index);
                    if let Some(range) = redist.low(left, size) {
                        left = left.saturating_sub(range.size() / size);
                        lowest = Some(lowest.map_or(range.first(), |low: u64| low.min(range.first())));
                        parts.push(at(&name, KIND, range));
                    } else if let RedistSpec::High { size, off } = redist {
                        above.parts.push(high(&name, KIND, *size, off.as_ref()));
                    } else {
                        continue;
                    }
                    names.push(name);
                }
                parts.extend(its.map(|its| its_part(its, lowest, facts)));
                Some(Frames { size, parts: names })
            }
        }
    }
}

impl RedistSpec {
    /// Where `left` redistributors are, if they are below RAM; as many of them as fit.
    pub(crate) fn low(&self, left: u64, size: u64) -> Option<AddressRange> {
        match self {
            Self::Up { window, whole: true } => Some(*window),
            Self::Up { window, whole: false } => {
                let fit = (window.size() / size).min(left);
                AddressRange::new(window.first(), fit * size)
            }
            Self::Down { top } => {
                let fit = (top / size).min(left);
                AddressRange::new(top - fit * size, fit * size)
            }
            Self::High { .. } => None,
        }
    }
}

fn its_part(place: ItsPlace, lowest: Option<u64>, facts: &HostFacts) -> Part {
    let first = match place {
        ItsPlace::At(first) => Some(first),
        ItsPlace::BelowRedists => lowest.and_then(|lowest| lowest.checked_sub(gic::ITS_SIZE)),
    };
    let range = first.and_then(|first| AddressRange::new(first, gic::ITS_SIZE));
    let absent = |reason: &str| Place::Absent { size: gic::ITS_SIZE, reason: reason.into() };
    let place = match range {
        _ if !facts.its => absent("this host's KVM has no interrupt translation service"),
        Some(range) => Place::At(range),
        None => absent("there is no room for it below the redistributors"),
    };
    Part { name: gic::ITS.into(), kind: RegionKind::InterruptController, place }
}

impl PciSpec {
    fn parts(&self, parts: &mut Vec<Part>, above: &mut Above) {
        const KIND: RegionKind = RegionKind::Pci;
        match &self.high_ecam {
            None => parts.push(at(pci::ECAM, KIND, self.ecam)),
            Some(HighSpec { size, off }) => above.parts.push(HighPart {
                name: pci::ECAM.into(),
                kind: KIND,
                size: Length::Of(*size),
                align: *size,
                fit: match off {
                    Some(option) => Fit::OffOr(option.clone(), self.ecam),
                    None => Fit::Or(self.ecam),
                },
            }),
        }
        parts.extend(self.io.map(|io| at(pci::IO, KIND, io)));
        parts.push(at(pci::MMIO32, KIND, self.mmio32));
        match &self.mmio64 {
            None => {}
            Some(Mmio64Spec::Fixed(HighSpec { size, off })) => {
                above.parts.push(high(pci::MMIO64, KIND, *size, off.as_ref()));
            }
            Some(Mmio64Spec::ByNeed { room, cap }) => above.parts.push(HighPart {
                name: pci::MMIO64.into(),
                kind: KIND,
                size: Length::Bars { room: *room, grain: WINDOW_GRAIN, cap: *cap },
                align: WINDOW_GRAIN,
                fit: Fit::Trimmed(WINDOW_GRAIN),
            }),
        }
    }
}

/// The region of a reserved place.
pub(crate) fn reserved_name(name: &str) -> String {
    format!("reserved.{name}")
}

fn at(name: &str, kind: RegionKind, range: AddressRange) -> Part {
    Part { name: name.into(), kind, place: Place::At(range) }
}

/// A power of two, aligned to itself.
fn high(name: &str, kind: RegionKind, size: u64, off: Option<&String>) -> HighPart {
    let fit = off.map_or(Fit::Whole, |option| Fit::Off(option.clone()));
    HighPart { name: name.into(), kind, size: Length::Of(size), align: size, fit }
}

#[cfg(test)]
mod tests {
    use ambit_bus::{Host, HostError, Shared, Slot};

    use super::*;
    use crate::native;

    #[derive(Debug)]
    struct Lamp(String);

    impl Model for Lamp {
        fn request(&self) -> Request {
            Request {
                id: self.0.clone(),
                kind: "lamp".into(),
                needs: Needs::Board { registers: 0x200, irq: None },
                description: Arc::default(),
                queue_reach: None,
            }
        }

        fn build(&self, _: &Slot, _: &dyn Host) -> Result<Shared, HostError> {
            unreachable!("it is only planned")
        }
    }

    fn lit() -> SpecBoard {
        let mut board = native().with_kinds(&[("lamp", |id| Arc::new(Lamp(id.into())))]);
        let lamp = FixtureSpec { id: "lamp0".into(), kind: "lamp".into(), base: 0x0102_0000, pin: None };
        board.spec.fixtures.push(lamp);
        board
    }

    #[test]
    fn a_device_of_the_boards_own_asks_for_itself() {
        let board = lit();

        let fixture = board.fixtures().pop().unwrap();

        let request = Lamp("lamp0".into()).request();
        assert_eq!(fixture, Fixture { request: request.clone(), base: 0x0102_0000, pin: None });
        assert_eq!(board.model(&request).unwrap().request(), request);
    }

    #[test]
    fn options_leave_a_board_its_own_devices() {
        let board = lit().with_options(&[("gic-version".into(), "2".into())]).unwrap();

        let lamp = board.fixtures().pop().unwrap();

        assert!(board.model(&lamp.request).is_some());
    }

    #[test]
    fn devices_of_the_program_are_not_the_boards() {
        let board = lit();

        let models: Vec<bool> =
            board.fixtures().iter().map(|fixture| board.model(&fixture.request).is_some()).collect();

        assert_eq!(models, [false, false, true]);
    }
}
