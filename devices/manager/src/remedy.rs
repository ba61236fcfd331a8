//! What would help, found by planning again: every remedy was tried before it is said.

use std::fmt;

use ambit_resources::{PaBits, human_size};

use crate::draft::attempt;
use crate::{Board, HostFacts, MachineConfig, Plan, PlanError, WidthSource};

/// One change after which the machine fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// At most so many bytes.
    Memory(u64),
    /// At most so many bytes, hot-plugged ones included.
    MaxMemory(u64),
    Cpus(u32),
    /// At most so many optional devices.
    Devices(usize),
    /// So many bytes for the window of 64-bit BARs.
    PciWindow(u64),
    NoPci,
    /// Drivers that speak modern virtio.
    NoQueueReach,
    /// Exactly so many bytes: whole pages.
    Pages(u64),
    Bits {
        bits: PaBits,
        source: WidthSource,
    },
    /// A board's option, and its value.
    BoardOption {
        key: String,
        value: String,
    },
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(most) => write!(f, "give the guest at most {} of memory", human_size(*most)),
            Self::MaxMemory(most) => {
                write!(f, "let memory grow to at most {} (--max-memory)", human_size(*most))
            }
            Self::Cpus(most) => write!(f, "give the guest at most {most} vCPUs"),
            Self::Devices(0) => f.write_str("give the guest fewer devices"),
            Self::Devices(most) => write!(f, "give the guest at most {most} devices"),
            Self::PciWindow(size) => write!(f, "make the PCI window {} (--pci-window)", human_size(*size)),
            Self::NoPci => f.write_str("do without PCI (--pci off)"),
            Self::NoQueueReach => f.write_str("use modern virtio devices, which reach everywhere"),
            Self::Pages(size) => write!(f, "give the guest {}", human_size(*size)),
            Self::Bits { bits, source } => match source {
                WidthSource::User => write!(f, "allow {bits} bits, if the host has them"),
                WidthSource::Guest => write!(f, "use a guest that can use {bits} bits (--guest-reach)"),
                WidthSource::Board => write!(f, "use a board with {bits} bits"),
                WidthSource::Host | WidthSource::Assumed => write!(f, "use a host with {bits} bits"),
            },
            Self::BoardOption { key, value } => write!(f, "set the board's option {key}={value}"),
        }
    }
}

impl Remedy {
    /// The same, with how much is given up and what comes `back`.
    pub(crate) fn and_then(&self, config: &MachineConfig, back: &str) -> String {
        match self {
            Self::Memory(most) => {
                let less = human_size(config.memory.saturating_sub(*most));
                format!("{self} ({less} less), and {back}")
            }
            _ => format!("{self}, and {back}"),
        }
    }

    /// The machine and the host after it. A board's option is the board's: see [`Board::with_options`].
    pub fn apply(&self, config: &MachineConfig, facts: &HostFacts) -> (MachineConfig, HostFacts) {
        let (mut config, mut facts) = (config.clone(), facts.clone());
        match self {
            Self::Memory(size) | Self::Pages(size) => config.memory = *size,
            Self::MaxMemory(most) => {
                config.hotplug =
                    config.hotplug.map(|room| crate::MemoryHotplug { max_memory: *most, ..room });
            }
            Self::Cpus(most) => config.cpus = *most,
            Self::Devices(most) => config.devices.truncate(*most),
            Self::PciWindow(size) => config.pci = Some(crate::PciConfig { window: Some(*size) }),
            Self::NoPci => config.pci = None,
            Self::NoQueueReach => config.queue_reach = None,
            Self::Bits { bits, .. } => facts.width.bits = *bits,
            Self::BoardOption { .. } => {}
        }
        (config, facts)
    }
}

/// The whole pages of `page` bytes around `memory`: less of it, then more.
pub fn whole_pages(memory: u64, page: u64) -> Vec<Remedy> {
    let down = Some(memory / page * page).filter(|size| *size > 0);
    [down, memory.checked_next_multiple_of(page)].into_iter().flatten().map(Remedy::Pages).collect()
}

/// Whether what came out of planning again is good enough.
pub(crate) type Wanted<'a> = &'a dyn Fn(&Result<Plan, PlanError>) -> bool;

struct Search<'a> {
    board: &'a dyn Board,
    config: &'a MachineConfig,
    facts: &'a HostFacts,
    wanted: Wanted<'a>,
}

/// Every single change that gives what is `wanted`, cheapest first.
pub(crate) fn remedies(
    board: &dyn Board,
    config: &MachineConfig,
    facts: &HostFacts,
    wanted: Wanted<'_>,
) -> Vec<Remedy> {
    let search = Search { board, config, facts, wanted };
    if !config.memory.is_multiple_of(facts.page_size.max(1)) {
        let pages = search.pages();
        if !pages.is_empty() {
            return pages;
        }
    }
    let found = [
        search.memory(),
        search.max_memory(),
        search.cpus(),
        search.devices(),
        search.pci_window(),
        search.one(Remedy::NoQueueReach, config.queue_reach.is_some()),
        search.options(),
        search.bits(),
        search.one(Remedy::NoPci, config.pci.is_some()),
    ];
    let mut found: Vec<Remedy> = found.into_iter().flatten().collect();
    // To give up PCI is a way out only where there is no other.
    if found.len() > 1 {
        found.retain(|remedy| *remedy != Remedy::NoPci);
    }
    found
}

impl Search<'_> {
    fn helps(&self, remedy: &Remedy) -> bool {
        let (config, facts) = remedy.apply(self.config, self.facts);
        match remedy {
            Remedy::BoardOption { key, value } => {
                let board = self.board.with_options(&[(key.clone(), value.clone())]);
                board.is_ok_and(|board| (self.wanted)(&attempt(board.as_ref(), &config, &facts)))
            }
            _ => (self.wanted)(&attempt(self.board, &config, &facts)),
        }
    }

    fn one(&self, remedy: Remedy, possible: bool) -> Option<Remedy> {
        Some(remedy).filter(|remedy| possible && self.helps(remedy))
    }

    /// The largest number from 1 to `most` with which `remedy` helps; more never helps where less does not.
    fn most(&self, most: u64, remedy: impl Fn(u64) -> Remedy) -> Option<Remedy> {
        if most == 0 || !self.helps(&remedy(1)) {
            return None;
        }
        let (mut good, mut bad) = (1, most.saturating_add(1));
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if self.helps(&remedy(middle)) { good = middle } else { bad = middle }
        }
        Some(remedy(good))
    }

    fn pages(&self) -> Vec<Remedy> {
        let mut around = whole_pages(self.config.memory, self.facts.page_size.max(1));
        around.retain(|remedy| self.helps(remedy));
        around
    }

    fn memory(&self) -> Option<Remedy> {
        let page = self.facts.page_size.max(1);
        // As far as it was the memory that did not fit, less of it does; all of it is no remedy.
        self.most((self.config.memory / page).saturating_sub(1), |pages| Remedy::Memory(pages * page))
    }

    fn max_memory(&self) -> Option<Remedy> {
        let (room, page) = (self.config.hotplug?, self.facts.page_size.max(1));
        let more = room.max_memory.checked_sub(self.config.memory)?;
        // As much as there is is no remedy, but all whole pages of it may be.
        let less = (more / page).saturating_sub(u64::from(more.is_multiple_of(page)));
        self.most(less, |pages| Remedy::MaxMemory(self.config.memory + pages * page))
    }

    fn cpus(&self) -> Option<Remedy> {
        let most = u64::from(self.config.cpus.saturating_sub(1));
        self.most(most, |cpus| Remedy::Cpus(u32::try_from(cpus).unwrap_or(u32::MAX)))
    }

    fn devices(&self) -> Option<Remedy> {
        let most = self.config.devices.len().saturating_sub(1) as u64;
        let found = self.most(most, |count| Remedy::Devices(usize::try_from(count).unwrap_or(usize::MAX)));
        found.or_else(|| self.one(Remedy::Devices(0), !self.config.devices.is_empty()))
    }

    fn pci_window(&self) -> Option<Remedy> {
        const GIB: u64 = 1 << 30;
        let asked = self.config.pci?.window?;
        let smaller = self.most((asked / GIB).saturating_sub(1), |gib| Remedy::PciWindow(gib * GIB));
        smaller.or_else(|| {
            let larger = (0..=9).map(|shift| GIB << shift).filter(|size| *size > asked);
            larger.map(Remedy::PciWindow).find(|remedy| self.helps(remedy))
        })
    }

    fn options(&self) -> Option<Remedy> {
        let switches = self.board.options().into_iter().flat_map(|option| {
            option.values.split('|').map(move |value| (option.key.to_owned(), value.to_owned()))
        });
        switches.map(|(key, value)| Remedy::BoardOption { key, value }).find(|remedy| self.helps(remedy))
    }

    fn bits(&self) -> Option<Remedy> {
        let width = self.facts.width;
        let more = (width.bits.get() + 1..=PaBits::MAX.get()).filter_map(PaBits::new);
        more.map(|bits| Remedy::Bits { bits, source: width.source }).find(|remedy| self.helps(remedy))
    }
}
