//! A machine model: where things go, and how a guest is started there. Pure.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use ambit_bus::Request;
use ambit_resources::{AddressRange, IrqPin, PaBits, human_size};
use serde::{Deserialize, Serialize};

use crate::Plan;

/// One machine model. No method touches the host; the same arguments give the same answers.
pub trait Board: Sync {
    /// What the user calls it.
    fn name(&self) -> &'static str;

    fn arch(&self) -> Arch;

    /// Where everything but the optional devices goes for this configuration.
    fn map(&self, config: &MachineConfig, facts: &HostFacts) -> MemoryMap;

    /// The devices that are always there, each at its place.
    fn fixtures(&self) -> Vec<Fixture>;

    /// The number the guest's interrupt controller has for `pin`: on Arm the INTID.
    fn interrupt_id(&self, pin: IrqPin) -> u32;

    /// What is in RAM when the first vCPU starts, and how it starts.
    ///
    /// # Errors
    /// [`BootError`] if the payload is not one this board can start, or does not fit in RAM.
    fn boot_image<'a>(&self, plan: &Plan, payload: &Payload<'a>) -> Result<BootImage<'a>, BootError>;
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
    /// The optional devices, in the order they are placed.
    pub devices: Vec<Request>,
}

/// What the host can do. Asked once, or given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub width: Width,
    /// Of the host kernel, in bytes: RAM comes in multiples of it.
    pub page_size: u64,
    /// The most vCPUs its KVM gives one machine.
    pub max_cpus: u32,
    /// Whether its KVM has an interrupt translation service.
    pub its: bool,
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
    /// No host was asked and the user said nothing.
    Assumed,
}

/// Where a board puts things, before RAM and devices have their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    /// In the order they are claimed: first come, first served.
    pub parts: Vec<Part>,
    /// Where RAM begins; it goes up from there.
    pub ram_base: u64,
    /// Where windows of optional devices go, lowest first.
    pub devices: AddressRange,
    /// How many pins the interrupt controller can have.
    pub pins: u32,
    /// Pins of optional devices, lowest first.
    pub device_pins: RangeInclusive<u32>,
    /// The most vCPUs this board can have, whatever the host gives.
    pub max_cpus: u32,
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
    /// Never given to anybody.
    Reserved,
    /// Registers that KVM answers.
    InterruptController,
    /// Registers that we answer.
    Device,
}

/// A device that is always there, with the place it always has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixture {
    pub request: Request,
    /// Of its window; the size is in the request.
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
    #[error("the initrd {0}")]
    Initrd(String),
    #[error("the kernel command line {0}")]
    Cmdline(String),
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
