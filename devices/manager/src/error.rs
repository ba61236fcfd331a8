//! Why there is no such machine: the object, the need, the limit, and how far apart they are.

use ambit_resources::{AddressRange, IrqError, SpaceError, human_size};

use crate::{Reservation, Transport, Width, WidthSource};

/// Why there is no such machine. Each names the object, the need and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("a machine has at least one vCPU, and 0 were asked for")]
    NoCpus,
    #[error("{wanted} vCPUs are more than {limit}, which is all that {bound}")]
    TooManyCpus { wanted: u32, limit: u32, bound: String },
    #[error(
        "{} of memory is not a multiple of the host's page size, {}",
        human_size(*.memory), human_size(*.page_size)
    )]
    MemoryNotPages { memory: u64, page_size: u64 },
    #[error(
        "the most memory, {}, is not a multiple of the host's page size, {}",
        human_size(*.max_memory), human_size(*.page_size)
    )]
    HotplugNotPages { max_memory: u64, page_size: u64 },
    #[error("a machine has memory, and none was asked for")]
    NoMemory,
    /// `short`: by how many bytes it goes past the width.
    #[error(
        "{} of memory at [{base:#x}-{last:#x}] needs {needed} physical address bits, and {}, which is {} too few",
        human_size(*.memory), limit_text(*.width), human_size(*.short)
    )]
    MemoryBeyondWidth { memory: u64, base: u64, last: u64, needed: u8, width: Width, short: u64 },
    #[error("{} of memory from {base:#x} passes the end of the 64-bit address space", human_size(*.memory))]
    MemoryWraps { memory: u64, base: u64 },
    #[error(
        "the most memory, {}, is less than the {} there are from the start",
        human_size(*.max_memory), human_size(*.memory)
    )]
    HotplugBelowMemory { max_memory: u64, memory: u64 },
    #[error("{wanted} memory slots were asked for, and {bound}")]
    MemorySlots { wanted: u32, bound: String },
    #[error(
        "room for hot-plugged memory up to {} with {slots} slots needs {needed} physical address bits, and {}, \
         which is {} too few",
        human_size(*.max_memory), limit_text(*.width), human_size(*.short)
    )]
    HotplugBeyondWidth { max_memory: u64, slots: u32, needed: u8, width: Width, short: u64 },
    #[error(
        "memory ends at {last:#x}, and the guest's queues reach no address past {bits} bits; \
         a legacy driver could not name its queues there"
    )]
    QueueReach { last: u64, bits: u8 },
    /// `last`: of RAM that is there or may be plugged.
    #[error(
        "{device} is reached over {transport}, whose drivers name queues within {bits} address bits, \
         and memory ends at {last:#x}"
    )]
    DeviceReach { device: String, transport: Transport, bits: u8, last: u64 },
    #[error("two parts of the machine are called '{0}'; give the device another id")]
    DuplicateId(String),
    #[error("{owner} at {wanted} needs {needed} physical address bits, and {}", limit_text(*.width))]
    WindowBeyondWidth { owner: String, wanted: AddressRange, needed: u8, width: Width },
    #[error("{0} would pass the end of the 64-bit address space")]
    PartWraps(String),
    /// What is refused was drawn around a range that is kept free.
    #[error("{error}; {hole}")]
    Around { error: Box<PlanError>, hole: Reservation },
    /// What has its place cannot be drawn around a range that is kept free.
    #[error("{owner} is at {wanted} on this board, and {hole}")]
    KeptFree { owner: String, wanted: AddressRange, hole: Box<Reservation> },
    #[error("board '{board}' needs {needs}, and {host}")]
    HostLacks { board: String, needs: String, host: String },
    #[error("a host with pages of {0} bytes is none that KVM runs on; they have 4, 16 or 64 KiB")]
    HostPages(u64),
    #[error("{0} wants PCI, and this machine has none")]
    NoPci(String),
    #[error(
        "PCI on this machine has neither messages nor wires for interrupts: there is no ITS, and the board \
         routes no INTx"
    )]
    PciWithoutInterrupts,
    #[error("{0} wants a place on PCI bus 0, and all 31 are taken")]
    NoFunction(String),
    #[error("{0} wants I/O ports, and only devices at a fixed place of a board that has ports get any")]
    NoPorts(String),
    #[error("{owner} wants the I/O ports {wanted}, and ports are numbered to 0xffff")]
    NoSuchPort { owner: String, wanted: AddressRange },
    #[error("{0} is no PCI function, and nothing else is plugged while the guest runs")]
    NotHotPluggable(String),
    #[error("{owner} wants {} for BAR {bar} in {window}, and {why}", human_size(*.size))]
    Bar { owner: String, bar: usize, size: u64, window: &'static str, why: String },
    #[error(
        "a PCI window of {} is not possible; it is a multiple of {} and at most {}",
        human_size(*.wanted), human_size(*.grain), human_size(*.cap)
    )]
    PciWindow { wanted: u64, grain: u64, cap: u64 },
    #[error("board '{board}' {what}")]
    Board { board: String, what: String },
    #[error(transparent)]
    Space(SpaceError),
    #[error(transparent)]
    Irq(#[from] IrqError),
}

/// Who set a width, and what it is.
pub fn limit_text(width: Width) -> String {
    match width.source {
        WidthSource::Host => format!("this host has {}", width.bits),
        WidthSource::User => format!("{} were allowed", width.bits),
        WidthSource::Guest => format!("the guest can use {}", width.bits),
        WidthSource::Board => format!("the board has {}", width.bits),
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
            Self::HotplugNotPages { .. } => "max-memory-not-pages",
            Self::NoMemory => "no-memory",
            Self::MemoryBeyondWidth { .. } => "ram-beyond-width",
            Self::MemoryWraps { .. } => "ram-wraps",
            Self::HotplugBelowMemory { .. } => "max-memory-below-memory",
            Self::MemorySlots { .. } => "memory-slots",
            Self::HotplugBeyondWidth { .. } => "hotplug-beyond-width",
            Self::QueueReach { .. } | Self::DeviceReach { .. } => "ram-beyond-queue-reach",
            Self::DuplicateId(_) => "duplicate-id",
            Self::WindowBeyondWidth { .. } => "window-beyond-width",
            Self::PartWraps(_) => "part-wraps",
            Self::Around { error, .. } => error.code(),
            Self::KeptFree { .. } => "kept-free",
            Self::HostLacks { .. } => "host-lacks",
            Self::HostPages(_) => "host-pages",
            Self::NoPci(_) => "no-pci",
            Self::PciWithoutInterrupts => "pci-without-interrupts",
            Self::NoFunction(_) => "pci-bus-full",
            Self::NoSuchPort { .. } => "no-such-port",
            Self::NoPorts(_) => "no-ports",
            Self::NotHotPluggable(_) => "not-hot-pluggable",
            Self::Bar { .. } => "bar-without-room",
            Self::PciWindow { .. } => "pci-window",
            Self::Board { .. } => "board",
            Self::Space(_) => "no-room",
            Self::Irq(_) => "no-interrupt",
        }
    }

    /// True if the configuration makes no sense on any host; false if it does not fit this one.
    pub fn is_nonsense(&self) -> bool {
        if let Self::Around { error, .. } = self {
            return error.is_nonsense();
        }
        matches!(
            self,
            Self::NoCpus
                | Self::NoMemory
                | Self::MemoryNotPages { .. }
                | Self::HotplugBelowMemory { .. }
                | Self::HotplugNotPages { .. }
                | Self::MemorySlots { wanted: 0, .. }
                | Self::DuplicateId(_)
                | Self::NoPci(_)
                | Self::NoPorts(_)
                | Self::NotHotPluggable(_)
                | Self::PciWindow { .. }
                | Self::HostPages(_)
                | Self::Board { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_slots_for_memory_make_no_sense_anywhere_and_too_many_only_here() {
        let of = |wanted| PlanError::MemorySlots { wanted, bound: "it has 2".into() }.is_nonsense();

        assert_eq!([0, 1, 3].map(of), [true, false, false]);
    }
}
