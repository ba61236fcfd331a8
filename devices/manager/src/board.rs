//! A machine model: where things go, and how a guest is started there. Pure.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ambit_bus::{Model, Request};
use ambit_resources::{AddressRange, IrqPin, PaBits, human_size};
use serde::{Deserialize, Serialize};

use crate::{Diagnostic, Plan, PlanError, Processor, Reservation, Reserve, Transport};

/// One machine model. No method touches the host; the same arguments give the same answers.
pub trait Board: Send + Sync {
    /// What the user calls it.
    fn name(&self) -> &str;

    fn arch(&self) -> Arch;

    /// What it is for, in a line.
    fn about(&self) -> String {
        String::new()
    }

    /// What [`Board::with_options`] takes.
    fn options(&self) -> Vec<BoardOption> {
        Vec::new()
    }

    /// The same board with these options set: keys and values as the user wrote them.
    ///
    /// # Errors
    /// [`OptionError`] for the first one it does not have or whose value makes no sense.
    fn with_options(&self, options: &[(String, String)]) -> Result<Box<dyn Board>, OptionError> {
        Err(OptionError::none(self.name(), options))
    }

    /// How the guest reaches devices of which the user does not say.
    fn transport(&self) -> Transport {
        Transport::Mmio
    }

    /// Where everything but the optional devices goes for this configuration.
    ///
    /// # Errors
    /// [`PlanError`] for what this board can tell before anything is placed.
    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> Result<MemoryMap, PlanError>;

    /// The devices that are always there, each at its place.
    fn fixtures(&self) -> Vec<Fixture>;

    /// The model of a fixture that only this board has. `None`: it is one of the program's.
    fn model(&self, _fixture: &Request) -> Option<Arc<dyn Model>> {
        None
    }

    /// The number the guest's interrupt controller has for `pin`: on Arm the INTID.
    fn interrupt_id(&self, pin: IrqPin) -> u32;

    /// How the host translates the guest's addresses on a host with this page size, in bytes. `None` where
    /// that does not follow from the width.
    fn page_tables(&self, _ipa_bits: PaBits, _page_size: u64) -> Option<PageTables> {
        None
    }

    /// The device tree the guest is given, as text and as it is in memory, for a machine without a payload.
    /// `None` on boards without one.
    ///
    /// # Errors
    /// [`BootError::Tree`] if the plan cannot be told as one.
    fn tree(&self, _plan: &Plan, _cmdline: &str) -> Result<Option<Tree>, BootError> {
        Ok(None)
    }

    /// What a guest can tell of this board and no plan says, in lines: of the device tree, and of where the kernel
    /// goes. Empty for what is usual.
    fn particulars(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the usual guest makes of less than the plan has, each a note: nothing of it is left out or cut short.
    fn remarks(&self, _plan: &Plan) -> Vec<Diagnostic> {
        Vec::new()
    }

    /// What is in RAM when the first vCPU starts, and how it starts.
    ///
    /// # Errors
    /// [`BootError`] if the payload is not one this board can start, or does not fit in RAM.
    fn boot_image<'a>(&self, plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError>;
}

/// One thing a board can be asked to do otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BoardOption {
    pub key: &'static str,
    /// What may be written: "on|off", "SIZE".
    pub values: &'static str,
    /// What it does, and what it is without.
    pub about: &'static str,
}

/// Why a board's option is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("board '{board}' has no option '{key}'; {}", listed(.known))]
    Unknown { board: String, key: String, known: Vec<&'static str> },
    #[error("board option {key}={value}: write {wanted}")]
    Value { key: String, value: String, wanted: String },
    /// Each makes sense, and the board makes none with them.
    #[error("board '{board}' cannot be had with {options}: {why}")]
    Refused { board: String, options: String, why: String },
}

impl OptionError {
    /// What a board without options says to the first of `options`.
    pub fn none(board: &str, options: &[(String, String)]) -> Self {
        let key = options.first().map(|(key, _)| key.clone()).unwrap_or_default();
        Self::Unknown { board: board.into(), key, known: Vec::new() }
    }
}

fn listed(options: &[&str]) -> String {
    if options.is_empty() { "it has none".into() } else { format!("it has {}", options.join(", ")) }
}

/// A device tree, twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// As source (Devicetree Specification 0.4, 6).
    pub source: String,
    /// Flattened (5).
    pub blob: Vec<u8>,
}

/// The stage of translation that belongs to the host: for a width and a page size, how many levels, and how
/// much memory its root takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageTables {
    /// In bytes.
    pub page_size: u64,
    pub levels: u8,
    /// The first level looked at: 3 is the one of pages.
    pub start_level: u8,
    /// How many tables of the first level lie side by side.
    pub concatenated: u8,
    /// As the hardware is told: 64 - width.
    pub t0sz: u8,
    /// As the hardware is told of the first level.
    pub sl0: u8,
    /// Of the root, in bytes.
    pub root_size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    #[serde(rename = "aarch64")]
    Aarch64,
    #[serde(rename = "x86_64")]
    X86_64,
}

impl Arch {
    /// The one this program runs on.
    pub const fn host() -> Self {
        // Not `cfg`: both arms compile everywhere.
        match std::env::consts::ARCH.as_bytes() {
            b"aarch64" => Self::Aarch64,
            _ => Self::X86_64,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
            Self::X86_64 => "x86_64",
        }
    }
}

/// The machine the user wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// How many vCPUs.
    pub cpus: u32,
    /// RAM in bytes.
    pub memory: u64,
    /// RAM that may be plugged later. `None`: none.
    pub hotplug: Option<MemoryHotplug>,
    /// `None`: no PCI on this machine.
    pub pci: Option<PciConfig>,
    /// How far the queues of the guest's drivers reach, in bits; `None`: everywhere. Legacy virtio names a
    /// queue by a 32-bit page number, which is 44 bits with pages of 4 KiB, 46 with 16 KiB, 48 with 64 KiB.
    pub queue_reach: Option<u8>,
    /// The optional devices, in the order they are placed.
    pub devices: Vec<Request>,
    /// What those devices ask for over other transports, for remedies to try. May be empty.
    pub alternatives: Vec<Request>,
    /// What is kept free of all of it.
    pub reserve: Reserve,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 512 << 20,
            hotplug: None,
            pci: Some(PciConfig::default()),
            queue_reach: None,
            devices: Vec::new(),
            alternatives: Vec::new(),
            reserve: Reserve::default(),
        }
    }
}

/// How much RAM the machine may come to have, and in how many pieces it may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryHotplug {
    /// In bytes, with what is there from the start.
    pub max_memory: u64,
    pub slots: u32,
}

/// What the user says of PCI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciConfig {
    /// How long the window for 64-bit BARs is, in bytes. `None`: as long as the devices need, and room. Refused
    /// on a board that leaves no length open ([`Length::Bars`]).
    pub window: Option<u64>,
}

/// What the host can do. Asked once, or given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub width: Width,
    /// Of the host kernel, in bytes: RAM comes in multiples of it. A power of two.
    pub page_size: u64,
    /// The most vCPUs its KVM gives one machine.
    pub max_cpus: u32,
    /// Versions of the GIC it can give a guest; none on x86_64.
    pub gic_versions: Vec<u8>,
    /// Whether its KVM has an interrupt translation service.
    pub its: bool,
    /// How many pieces of RAM one machine can have.
    pub memory_slots: u32,
    /// Of an x86_64 host. `None`: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
}

impl HostFacts {
    /// A host like most, where none is asked: 40 bits is what KVM gives where it cannot be asked (Linux
    /// `Documentation/virt/kvm/api.rst`, `KVM_CREATE_VM`), 512 vCPUs what its GICv3 takes at most
    /// (`VGIC_V3_MAX_CPUS`), 32767 slots what it has (`KVM_MEM_SLOTS_NUM`).
    pub fn assumed() -> Self {
        let bits = PaBits::new(40).expect("40 is within 32 to 52");
        Self {
            width: Width { bits, source: WidthSource::Assumed },
            page_size: 4096,
            max_cpus: 512,
            // On paper nothing is refused that some host may have.
            gic_versions: vec![2, 3, 4],
            its: true,
            memory_slots: 32767,
            processor: None,
        }
    }
}

/// How many physical address bits there are to plan with, and who said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Width {
    pub bits: PaBits,
    pub source: WidthSource,
}

/// Which limit a width is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WidthSource {
    /// What the host's KVM gives at most.
    Host,
    /// What the user allows.
    User,
    /// What the guest's kernel or firmware can use.
    Guest,
    /// What the board allows itself.
    Board,
    /// No host was asked and the user said nothing.
    Assumed,
}

/// Where a board puts things, before RAM and devices have their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    /// What has a place whatever the amount of RAM. Claimed in this order, before anything else.
    pub parts: Vec<Part>,
    pub ram: RamPlace,
    /// Where no RAM is, whatever the amount: what does not fit below goes on above. `None`: there is no such gap.
    pub gap: Option<AddressRange>,
    /// What nothing is ever in.
    pub reserved: Vec<Reservation>,
    /// What goes above RAM.
    pub above: Above,
    /// Frames that each vCPU has one of. `None` if there are none.
    pub frames: Option<Frames>,
    pub devices: DevicePlaces,
    /// How many pins the interrupt controller can have.
    pub pins: u32,
    pub pci: Option<PciPlaces>,
    /// The most vCPUs this board can have, whatever the host gives.
    pub max_cpus: u32,
    /// A width the board does not go past, whatever the host has.
    pub width: Option<PaBits>,
}

/// Where RAM is: from its base up, around what is kept free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamPlace {
    pub base: u64,
    /// RAM is taken to end at a multiple of this when it is held against the width, in bytes.
    pub grain: u64,
    /// Room for hot-plugged RAM that is kept for each slot beside the RAM itself, in bytes.
    pub slot_room: u64,
    pub max_slots: u32,
}

/// What goes above RAM and its hot-plug room, upward, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Above {
    /// Nothing of it is below this address.
    pub floor: u64,
    /// What is left out leaves a hole of its size.
    pub holes: bool,
    pub parts: Vec<HighPart>,
}

/// One piece above RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HighPart {
    pub name: String,
    pub kind: RegionKind,
    pub size: Length,
    /// A power of two, in bytes.
    pub align: u64,
    pub fit: Fit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// In bytes.
    Of(u64),
    /// As long as the 64-bit BARs need from where it begins and `room` bytes more, in whole `grain`s, at
    /// most `cap`; or as long as the user said.
    Bars { room: u64, grain: u64, cap: u64 },
}

/// What happens to a high part that the width does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is left out.
    Whole,
    /// There is no such machine.
    Required,
    /// It is there, but here.
    Or(AddressRange),
    /// Its top is cut off, down to this many bytes, in bytes; and only then it is left out.
    Trimmed(u64),
    /// It is left out on every host: the board's option that says so.
    Off(String),
    /// It is here on every host: the board's option that says so.
    OffOr(String, AddressRange),
}

/// Frames of one vCPU each: a GICv3's redistributors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    /// Of one frame, in bytes.
    pub size: u64,
    /// The parts that hold them, in the order they are filled.
    pub parts: Vec<String>,
}

/// Where optional devices on the board's own bus go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlaces {
    /// Their windows, lowest first.
    pub window: AddressRange,
    /// Each has at least this much, in bytes; a power of two.
    pub grain: u64,
    /// Their pins, lowest first.
    pub pins: RangeInclusive<u32>,
}

/// What PCI on a board is made of, besides its parts `pci.ecam`, `pci.io`, `pci.mmio32` and `pci.mmio64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciPlaces {
    /// The first of the four pins that functions without MSI share. `None`: they have none.
    pub intx: Option<IrqPin>,
    /// Whether functions can send messages for interrupts.
    pub msi: bool,
    /// Room for BARs of I/O ports where those are a space of their own; else it is the part `pci.io`.
    pub ports: Option<AddressRange>,
}

/// A named piece of the map that is not RAM and not a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: String,
    pub kind: RegionKind,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    At(AddressRange),
    /// The lowest free `size` bytes of `within`, at a multiple of `align`.
    Lowest {
        size: u64,
        align: u64,
        within: AddressRange,
    },
    /// Left out of this machine, and why.
    Absent {
        size: u64,
        reason: String,
    },
}

/// What a region of the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionKind {
    Ram,
    /// Kept for RAM that is plugged later.
    RamHotplug,
    /// Never given to anybody.
    Reserved,
    /// Registers that KVM answers.
    InterruptController,
    /// PCI configuration space, ports, and room for BARs.
    Pci,
    /// Registers that we answer.
    Device,
}

/// A device that is always there, with the place it always has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixture {
    pub request: Request,
    /// Of its window, in the space that the request says; the size is in the request.
    pub base: u64,
    pub pin: Option<IrqPin>,
}

/// What the guest is started from.
#[derive(Clone, Default)]
pub struct Payload<'a> {
    pub kernel: &'a [u8],
    pub initrd: Option<&'a [u8]>,
    pub cmdline: &'a str,
    /// Random bytes for the guest's kernel: where it places itself, and its first entropy. Without them
    /// the boot image is the same every time.
    pub seed: Option<[u8; 64]>,
}

impl std::fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let initrd = self.initrd.map_or(0, <[u8]>::len);
        write!(f, "kernel of {} bytes, initrd of {initrd}, {:?}", self.kernel.len(), self.cmdline)
    }
}

/// RAM as the first vCPU finds it, and where that one starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootImage<'a> {
    /// They do not overlap, and each lies in RAM.
    pub pieces: Vec<Piece<'a>>,
    /// Guest physical address of the first instruction.
    pub entry: u64,
    /// The first argument: on Arm the guest physical address of the device tree, in x0.
    pub argument: u64,
    pub mode: CpuMode,
}

/// How the first vCPU begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuMode {
    /// In the mode of 64 bits that kernels of the architecture begin in.
    #[default]
    Usual,
    /// On x86_64, in 32-bit protected mode without paging.
    Protected,
}

/// Bytes at a guest physical address.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What it is, for errors and logs: "kernel", "initrd", "device tree".
    pub name: &'static str,
    pub address: u64,
    pub bytes: Cow<'a, [u8]>,
}

impl std::fmt::Debug for Piece<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes) at {:#x}", self.name, self.bytes.len(), self.address)
    }
}

/// Why a payload cannot be started. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    #[error("the kernel is not one this board can start: {0}")]
    Kernel(String),
    /// Sizes are in bytes.
    #[error(
        "{what} takes {}, and of {} of memory {} are left for it; give the guest at least {}",
        kib_up(*.needed), human_size(*.memory), kib_down(*.free), human_size(*.enough)
    )]
    TooLarge {
        what: &'static str,
        needed: u64,
        free: u64,
        /// All that the guest has.
        memory: u64,
        /// With this much, the whole payload fits.
        enough: u64,
    },
    /// More memory is no way out: it goes to after what is kept free at `kept_free`. Sizes are in bytes.
    #[error(
        "{what} takes {}, and {} are left for it below {kept_free:#x}, which is kept free; keep less free \
         there (--reserve), or start with a smaller kernel or initrd",
        kib_up(*.needed), kib_down(*.free)
    )]
    Interrupted { what: &'static str, needed: u64, free: u64, kept_free: u64 },
    #[error("the initrd {0}")]
    Initrd(String),
    #[error("the kernel command line {0}")]
    Cmdline(String),
    /// More ranges than guests of this board read of their memory.
    #[error("the guest's memory map has {lines} lines, and Linux reads {most}; reserve fewer ranges")]
    MemoryMap { lines: usize, most: usize },
    /// A bug in the board, or a plan that is not this board's.
    #[error("the device tree cannot be written: {0}")]
    Tree(String),
}

// Odd byte counts say no more to a reader than whole KiB do.
fn kib_up(bytes: u64) -> String {
    human_size(bytes.checked_next_multiple_of(1 << 10).unwrap_or(bytes))
}

fn kib_down(bytes: u64) -> String {
    human_size(bytes & !0x3ff)
}
