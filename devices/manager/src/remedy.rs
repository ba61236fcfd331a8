//! What would help, found by planning again: every remedy was tried before it is said.

use std::collections::BTreeSet;
use std::{fmt, iter};

use ambit_bus::Request;
use ambit_resources::{AddressRange, PaBits, human_size};

use crate::draft::{Stage, staged};
use crate::{Board, HostFacts, MachineConfig, Plan, PlanError, Transport, WidthSource};

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
    /// With PCI after all.
    Pci,
    /// Other transports for these devices.
    Transports(Vec<(String, Transport)>),
    /// Drivers that speak modern virtio.
    NoQueueReach,
    /// Exactly so many bytes: whole pages.
    Pages(u64),
    Bits {
        bits: PaBits,
        source: WidthSource,
    },
    /// Everything drawn around what is kept free, not moved above it.
    Split,
    /// Without what the processors keep for themselves.
    WithoutHt,
    /// Without these of the ranges that the user keeps free.
    WithoutRanges(Vec<AddressRange>),
    /// Without what single devices of the host keep for themselves.
    WithoutDevices,
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
            Self::Pci => f.write_str("have PCI (--pci on)"),
            Self::Transports(changes) => write!(f, "give {}", changes_text(changes)),
            Self::NoQueueReach => f.write_str("use modern virtio devices, which reach everywhere"),
            Self::Pages(size) => write!(f, "give the guest {}", human_size(*size)),
            Self::Bits { bits, source } => match source {
                WidthSource::User => write!(f, "allow {bits} bits, if the host has them"),
                WidthSource::Guest => write!(f, "use a guest that can use {bits} bits (--guest-reach)"),
                WidthSource::Board => write!(f, "use a board with {bits} bits"),
                WidthSource::Host | WidthSource::Assumed => write!(f, "use a host with {bits} bits"),
            },
            Self::Split => f.write_str("put RAM on both sides of what is kept free (--hole split)"),
            Self::WithoutHt => f.write_str(
                "keep nothing free for the processors (--no-reserve-ht), if the host's devices are never the guest's",
            ),
            Self::WithoutRanges(ranges) => {
                let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                write!(f, "do not keep {} free (--reserve)", ranges.join(" and "))
            }
            Self::WithoutDevices => f.write_str(
                "keep nothing free for single devices (--reserve host), if none of those is ever the guest's",
            ),
            Self::BoardOption { key, value } => write!(f, "set the board's option {key}={value}"),
        }
    }
}

/// "disk0 and disk1 transport=mmio and net0 transport=pci".
fn changes_text(changes: &[(String, Transport)]) -> String {
    const MOST: usize = 4;
    let groups = Transport::ALL.into_iter().filter_map(|transport| {
        let ids: Vec<&str> =
            changes.iter().filter(|(_, to)| *to == transport).map(|(id, _)| id.as_str()).collect();
        let names = match ids.as_slice() {
            [] => return None,
            [one] => (*one).to_owned(),
            [most @ .., last] if ids.len() <= MOST => format!("{} and {last}", most.join(", ")),
            _ => format!("{} and {} more", ids[..MOST - 1].join(", "), ids.len() + 1 - MOST),
        };
        Some(format!("{names} transport={transport}"))
    });
    groups.collect::<Vec<_>>().join(" and ")
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
            Self::Pci => config.pci = Some(crate::PciConfig::default()),
            Self::Transports(changes) => changes.iter().for_each(|(id, to)| change(&mut config, id, *to)),
            Self::NoQueueReach => {
                config.queue_reach = None;
                let transports: Vec<(String, Transport)> = config.devices.iter().map(modern).collect();
                transports.iter().for_each(|(id, to)| change(&mut config, id, *to));
            }
            Self::Bits { bits, .. } => facts.width.bits = *bits,
            Self::Split => config.reserve.policy = crate::HolePolicy::Split,
            Self::WithoutHt => config.reserve.without_ht = true,
            Self::WithoutRanges(ranges) => config.reserve.ranges.retain(|range| !ranges.contains(range)),
            Self::WithoutDevices => config.reserve.of_devices = false,
            Self::BoardOption { .. } => {}
        }
        (config, facts)
    }
}

/// Puts the device `id` on the transport `to`, if it is known what it asks for there.
fn change(config: &mut MachineConfig, id: &str, to: Transport) {
    let other = config.alternatives.iter().find(|other| other.id == id && transport(other) == to);
    let device = config.devices.iter_mut().find(|device| device.id == id);
    if let Some((device, other)) = device.zip(other) {
        *device = other.clone();
    }
}

fn transport(request: &Request) -> Transport {
    Transport::of(&request.needs, request.queue_reach)
}

/// A device, and the transport for modern drivers on its own bus.
fn modern(device: &Request) -> (String, Transport) {
    (device.id.clone(), Transport::new(transport(device).is_pci(), false))
}

/// The whole pages of `page` bytes around `memory`: less of it, then more.
pub fn whole_pages(memory: u64, page: u64) -> Vec<Remedy> {
    let down = Some(memory / page * page).filter(|size| *size > 0);
    [down, memory.checked_next_multiple_of(page)].into_iter().flatten().map(Remedy::Pages).collect()
}

/// Whether what came out of planning again is good enough, and how far it came.
pub(crate) type Wanted<'a> = &'a dyn Fn(Stage, &Result<Plan, PlanError>) -> bool;

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
    let [mmio, pci] = [false, true].map(|to_pci| search.other_bus(to_pci).or_else(|| search.modern(to_pci)));
    let found = [
        search.memory(),
        search.max_memory(),
        search.cpus(),
        search.devices(),
        search.pci_window(),
        mmio,
        pci,
        search.one(Remedy::Pci, config.pci.is_none()),
        search.one(Remedy::NoQueueReach, config.queue_reach.is_some()),
        search.one(Remedy::Split, config.reserve.policy == crate::HolePolicy::Relocate),
        search.options(),
        search.ranges(),
        search.one(Remedy::WithoutDevices, config.reserve.of_devices),
        search.bits(),
        search.one(Remedy::WithoutHt, !config.reserve.without_ht && search.keeps_ht()),
        search.one(Remedy::NoPci, config.pci.is_some()),
    ];
    let mut found: Vec<Remedy> = found.into_iter().flatten().collect();
    if found.iter().any(|remedy| matches!(remedy, Remedy::Transports(_) | Remedy::Pci)) {
        // Nobody does without a device that can be had in another way.
        found.retain(|remedy| !matches!(remedy, Remedy::Devices(_) | Remedy::NoQueueReach));
    }
    // To give up PCI is a way out only where there is no other.
    if found.len() > 1 {
        found.retain(|remedy| *remedy != Remedy::NoPci);
    }
    found
}

impl Search<'_> {
    /// Whether the board keeps anything free at all.
    fn keeps_ht(&self) -> bool {
        self.board.map(self.config, self.facts).is_ok_and(|map| !map.reserved.is_empty())
    }

    fn helps(&self, remedy: &Remedy) -> bool {
        let (config, facts) = remedy.apply(self.config, self.facts);
        match remedy {
            Remedy::BoardOption { key, value } => {
                let board = self.board.with_options(&[(key.clone(), value.clone())]);
                board.is_ok_and(|board| self.gives(board.as_ref(), &config, &facts))
            }
            _ => self.gives(self.board, &config, &facts),
        }
    }

    fn gives(&self, board: &dyn Board, config: &MachineConfig, facts: &HostFacts) -> bool {
        let (stage, tried) = staged(board, config, facts);
        (self.wanted)(stage, &tried)
    }

    fn one(&self, remedy: Remedy, possible: bool) -> Option<Remedy> {
        Some(remedy).filter(|remedy| possible && self.helps(remedy))
    }

    /// The largest number from 1 to `most` with which `remedy` helps; more never helps where less does not, or hardly
    /// ever.
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
        // First the limit itself, as fewer vCPUs than fit may not: an ITS that follows the redistributors may then be
        // where something else is.
        let limit = match staged(self.board, self.config, self.facts).1 {
            Err(PlanError::TooManyCpus { limit, .. }) => self.one(Remedy::Cpus(limit), limit > 0),
            _ => None,
        };
        let most = u64::from(self.config.cpus.saturating_sub(1));
        limit.or_else(|| self.most(most, |cpus| Remedy::Cpus(u32::try_from(cpus).unwrap_or(u32::MAX))))
    }

    fn devices(&self) -> Option<Remedy> {
        let most = self.config.devices.len().saturating_sub(1) as u64;
        let found = self.most(most, |count| Remedy::Devices(usize::try_from(count).unwrap_or(usize::MAX)));
        found.or_else(|| self.one(Remedy::Devices(0), !self.config.devices.is_empty()))
    }

    /// Modern drivers for as few of the legacy devices as helps: those that reach least.
    fn modern(&self, to_pci: bool) -> Option<Remedy> {
        let reaches: BTreeSet<u8> =
            self.config.devices.iter().filter_map(|device| device.queue_reach).collect();
        let to = Transport::new(to_pci, false);
        let within = |most: u8| {
            let legacy = self.config.devices.iter().filter(|device| device.queue_reach <= Some(most));
            let legacy = legacy.filter(|device| device.queue_reach.is_some());
            legacy.map(|device| (device.id.clone(), to)).collect()
        };
        reaches.into_iter().find_map(|most| self.transports(within(most)))
    }

    /// The other bus for as few of the devices as helps: those that come last.
    fn other_bus(&self, to_pci: bool) -> Option<Remedy> {
        let devices = self.config.devices.iter().rev();
        let movable = devices.filter(|device| transport(device).is_pci() != to_pci);
        let all: Vec<(String, Transport)> = movable
            .map(|device| (device.id.clone(), Transport::new(to_pci, transport(device).is_legacy())))
            .filter(|(id, to)| self.has_alternative(id, *to))
            .collect();
        let last = |count: usize| {
            let mut last: Vec<_> = all.iter().take(count).cloned().collect();
            last.reverse();
            self.transports(last)
        };
        // More helps where fewer does, until there is no room on the other side.
        let powers = iter::successors(Some(1), |count: &usize| count.checked_mul(2));
        let mut counts = powers.take_while(|count| *count < all.len()).chain([all.len()]);
        let (mut bad, mut good) = (0, counts.find(|count| last(*count).is_some())?);
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            if last(middle).is_some() { good = middle } else { bad = middle }
        }
        last(good)
    }

    fn has_alternative(&self, id: &str, to: Transport) -> bool {
        self.config.alternatives.iter().any(|other| other.id == id && transport(other) == to)
    }

    /// All of these or none: one that is not possible helps nobody.
    fn transports(&self, changes: Vec<(String, Transport)>) -> Option<Remedy> {
        let possible = !changes.is_empty() && changes.iter().all(|(id, to)| self.has_alternative(id, *to));
        self.one(Remedy::Transports(changes), possible)
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

    /// One of the ranges that the user keeps free, or else all of them.
    fn ranges(&self) -> Option<Remedy> {
        let all = &self.config.reserve.ranges;
        let single = all.iter().map(|range| Remedy::WithoutRanges(vec![*range]));
        let mut tries = single.chain([Remedy::WithoutRanges(all.clone())]).filter(|_| !all.is_empty());
        tries.find(|remedy| self.helps(remedy))
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
