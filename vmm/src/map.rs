//! The map of one machine without its host: what has to stay the same for a guest to find everything again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ambit_bus::Trigger;
use ambit_device_manager::{Arch, Plan, RegionKind, Reservation};
use ambit_resources::{AddressRange, PaBits, human_size};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::Settings;

/// Two machines with equal maps are the same to a guest. Nothing in it depends on how much the host has beyond
/// what the machine needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "the map of a machine")]
pub struct Map {
    pub board: String,
    /// `key=value`, sorted. `None`: not known, as in a plan without its board.
    pub board_options: Option<Vec<String>>,
    /// What else a guest can tell of the board, in lines: known when the options are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub particulars: Vec<String>,
    pub arch: Arch,
    pub cpus: u32,
    pub ipa_bits: PaBits,
    /// Everything that has an address, lowest first.
    pub regions: Vec<MapRegion>,
    /// In the order of their names. `None`: not known.
    pub devices: Option<Vec<MapDevice>>,
    /// By pin.
    pub irqs: Vec<MapIrq>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapRegion {
    pub name: String,
    pub kind: RegionKind,
    pub base: Address,
    /// In bytes.
    pub size: u64,
    /// What is kept for it, in bytes, if that is more: a guest may be told all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapDevice {
    pub name: String,
    pub kind: String,
    /// Of a PCI function: its number on bus 0.
    pub function: Option<u8>,
    /// Of a PCI function: its configuration space, then its BARs.
    pub windows: Vec<Span>,
    /// It is for drivers from before virtio 1.0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
    pub pin: Option<u32>,
    pub level: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    pub base: Address,
    /// In bytes.
    pub size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapIrq {
    pub name: String,
    pub pin: u32,
}

/// Written as "0x2000000", as in every report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        // One address has one spelling, so that equal maps are equal texts.
        let number = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let address = number.map(Self).filter(|address| address.to_string() == text);
        address.ok_or_else(|| de::Error::custom(format!("'{text}' is not an address; write 0x2000000")))
    }
}

impl From<AddressRange> for Span {
    fn from(range: AddressRange) -> Self {
        Self { base: Address(range.first()), size: range.size() }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", human_size(self.size), self.base)
    }
}

impl MapRegion {
    pub fn span(&self) -> Span {
        Span { base: self.base, size: self.size }
    }

    fn whole(&self) -> Span {
        Span { size: self.room.unwrap_or(self.size), ..self.span() }
    }
}

impl MapDevice {
    /// With what is told of its drivers, if they are not the usual ones.
    fn whole_kind(&self) -> String {
        let legacy = if self.legacy { ", legacy" } else { "" };
        format!("{}{legacy}", self.kind)
    }
}

impl Map {
    /// What of `plan` a guest can see, for a machine that `settings` want.
    pub fn new(plan: &Plan, settings: &Settings<'_>) -> Self {
        Self {
            board_options: Some(settings.board_options.clone()),
            particulars: settings.board.particulars(),
            ..Self::of(plan)
        }
    }

    /// The same without the options of the board.
    pub fn of(plan: &Plan) -> Self {
        // What is kept free is nothing's place, and other hosts keep other ranges.
        let places = plan.regions.iter().filter(|region| !Reservation::is(region.kind, &region.name));
        let placed = places.filter_map(|region| Some((region, region.range?)));
        let regions = placed.map(|(region, range)| MapRegion {
            name: region.name.clone(),
            kind: region.kind,
            base: Address(range.first()),
            size: range.size(),
            room: region.room.map(AddressRange::size).filter(|room| *room != range.size()),
        });
        let irqs = plan.irqs.owners().map(|(pin, name)| MapIrq { name: name.into(), pin: pin.0 });
        let mut devices: Vec<MapDevice> = plan
            .devices
            .iter()
            .map(|device| MapDevice {
                name: device.id.clone(),
                kind: device.kind.clone(),
                function: device.function,
                windows: device.slot.windows.iter().copied().map(Span::from).collect(),
                legacy: device.transport.is_legacy(),
                pin: device.slot.irq.map(|(pin, _)| pin.0),
                level: device.slot.irq.map(|(_, trigger)| trigger == Trigger::Level),
            })
            .collect();
        devices.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            board: plan.board.clone(),
            board_options: None,
            particulars: Vec::new(),
            arch: plan.arch,
            cpus: plan.cpus,
            ipa_bits: plan.ipa_bits,
            regions: regions.collect(),
            devices: Some(devices),
            irqs: irqs.collect(),
        }
    }

    /// What is not the same in `after`. What has an address comes first, the lowest first; then pins, then what
    /// is the machine's as a whole. What either does not know is not compared.
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        let mut found = self.moved_regions(after);
        found.extend(self.other_devices(after));
        found.sort_by_key(|difference| difference.at);
        // What is new or gone is so with its pin.
        let whole = |name: &str| {
            let whole = |change: &Change| matches!(change, Change::Appeared(_) | Change::Gone(_));
            found.iter().any(|difference| difference.name == name && whole(&difference.change))
        };
        let pins: Vec<Difference> =
            self.other_pins(after).into_iter().filter(|pin| !whole(&pin.name)).collect();
        found.extend(pins);
        found.extend(self.other_machine(after));
        found
    }

    fn moved_regions(&self, after: &Self) -> Vec<Difference> {
        let by_name = |map: &Self| -> BTreeMap<String, MapRegion> {
            map.regions.iter().map(|region| (region.name.clone(), region.clone())).collect()
        };
        let (before, after) = (by_name(self), by_name(after));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let mut found = Vec::new();
        for name in names {
            let (old, new) = (before.get(name), after.get(name));
            let change = match (old, new) {
                (Some(old), Some(new)) if old.kind != new.kind => {
                    Some(Change::Kind { from: kind_text(old.kind), to: kind_text(new.kind) })
                }
                (old, new) => between(old.map(MapRegion::span), new.map(MapRegion::span)),
            };
            let at = old.or(new).map(|region| region.base);
            found.extend(change.map(|change| Difference { name: name.clone(), at, change }));
            // Where neither has more room than it fills, nothing is left to say.
            let rooms = old.zip(new).filter(|(old, new)| old.room.is_some() || new.room.is_some());
            if let Some((old, new)) = rooms.filter(|(old, new)| old.whole().size != new.whole().size) {
                let change = Change::Resized { from: old.whole(), to: new.whole() };
                found.push(Difference { name: format!("the room of {name}"), at, change });
            }
        }
        found
    }

    fn other_devices(&self, after: &Self) -> Vec<Difference> {
        let (Some(before), Some(after)) = (&self.devices, &after.devices) else { return Vec::new() };
        let mut found = Vec::new();
        let pairs =
            before.iter().filter_map(|old| Some((old, after.iter().find(|new| new.name == old.name)?)));
        for (old, new) in pairs.filter(|(old, new)| old != new) {
            let at = old.windows.iter().chain(&new.windows).map(|window| window.base).next();
            let mut differs = |name: &str, change| found.push(Difference { name: name.into(), at, change });
            if (&old.kind, old.legacy) != (&new.kind, new.legacy) {
                differs(&old.name, Change::Kind { from: old.whole_kind(), to: new.whole_kind() });
            } else if old.level != new.level && old.pin == new.pin {
                let text = |level| if level == Some(true) { "level" } else { "edge" }.to_owned();
                differs(&old.name, Change::Trigger { from: text(old.level), to: text(new.level) });
            }
            // A window of the board's bus is a region, too.
            let functions = old.function.is_some() && new.function.is_some();
            let count = if functions { old.windows.len().max(new.windows.len()) } else { 0 };
            for index in 0..count {
                let windows = (old.windows.get(index).copied(), new.windows.get(index).copied());
                if let Some(change) = between(windows.0, windows.1) {
                    differs(&window_name(&old.name, index), change);
                }
            }
        }
        // What is on PCI has no region that could be there or not.
        for (list, others, appeared) in [(before, after, false), (after, before, true)] {
            let alone = list.iter().filter(|device| device.function.is_some());
            let is_there = |device: &MapDevice| {
                others.iter().any(|other| other.name == device.name && other.function.is_some())
            };
            for device in alone.filter(|device| !is_there(device)) {
                let Some(window) = device.windows.first() else { continue };
                let change = if appeared { Change::Appeared(*window) } else { Change::Gone(*window) };
                found.push(Difference { name: device.name.clone(), at: Some(window.base), change });
            }
        }
        found
    }

    fn other_pins(&self, after: &Self) -> Vec<Difference> {
        let by_name = |map: &Self| -> BTreeMap<String, u32> {
            map.irqs.iter().map(|irq| (irq.name.clone(), irq.pin)).collect()
        };
        let (before, after) = (by_name(self), by_name(after));
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let pins = |name| (before.get(name).copied(), after.get(name).copied());
        let mut found: Vec<Difference> = names
            .into_iter()
            .map(|name| (name, pins(name)))
            .filter(|(_, (from, to))| from != to)
            .map(|(name, (from, to))| Difference {
                name: name.clone(),
                at: None,
                change: Change::Pin { from, to },
            })
            .collect();
        found.sort_by_key(|difference| match difference.change {
            Change::Pin { from, to } => from.or(to),
            _ => None,
        });
        found
    }

    fn other_machine(&self, after: &Self) -> Vec<Difference> {
        let options = |map: &Self| map.board_options.as_ref().map(|options| options.join(","));
        let particulars = |map: &Self| map.board_options.as_ref().map(|_| map.particulars.join("; "));
        let facts = [
            ("board", Some(self.board.clone()), Some(after.board.clone())),
            ("board options", options(self), options(after)),
            ("board particulars", particulars(self), particulars(after)),
            ("architecture", Some(self.arch.name().into()), Some(after.arch.name().into())),
            ("vCPUs", Some(self.cpus.to_string()), Some(after.cpus.to_string())),
            ("IPA bits", Some(self.ipa_bits.to_string()), Some(after.ipa_bits.to_string())),
        ];
        let differ = facts.into_iter().filter_map(|(name, from, to)| Some((name, from?, to?)));
        differ
            .filter(|(_, from, to)| from != to)
            .map(|(name, from, to)| Difference {
                name: name.into(),
                at: None,
                change: Change::Machine { from, to },
            })
            .collect()
    }
}

fn window_name(device: &str, index: usize) -> String {
    match index.checked_sub(1) {
        None => device.into(),
        Some(bar) => format!("{device} BAR {bar}"),
    }
}

fn between(from: Option<Span>, to: Option<Span>) -> Option<Change> {
    match (from, to) {
        (Some(from), Some(to)) if from == to => None,
        (Some(from), Some(to)) if from.size == to.size => Some(Change::Moved { from, to }),
        (Some(from), Some(to)) => Some(Change::Resized { from, to }),
        (None, Some(to)) => Some(Change::Appeared(to)),
        (Some(from), None) => Some(Change::Gone(from)),
        (None, None) => None,
    }
}

/// One thing that is not the same in two maps. As text: a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub name: String,
    /// Where it was, or where it is if it was not; not a place of its own in a report.
    #[serde(skip)]
    pub at: Option<Address>,
    #[serde(flatten)]
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// The size is the same.
    Moved {
        from: Span,
        to: Span,
    },
    /// It may have moved, too.
    Resized {
        from: Span,
        to: Span,
    },
    Appeared(Span),
    Gone(Span),
    Kind {
        from: String,
        to: String,
    },
    Trigger {
        from: String,
        to: String,
    },
    Pin {
        from: Option<u32>,
        to: Option<u32>,
    },
    /// Something of the machine as a whole.
    Machine {
        from: String,
        to: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.change {
            Change::Moved { from, to } => write!(f, "{name} moved from {} to {}", from.base, to.base),
            Change::Resized { from, to } => {
                let verb = if from.size < to.size { "grew" } else { "shrank" };
                let (less, more) = (human_size(from.size), human_size(to.size));
                if from.base == to.base {
                    write!(f, "{name} at {} {verb} from {less} to {more}", from.base)
                } else {
                    write!(f, "{name} {verb} from {from} to {to}")
                }
            }
            Change::Appeared(span) => write!(f, "{name} is new: {span}"),
            Change::Gone(span) => write!(f, "{name} is gone: {span}"),
            Change::Kind { from, to } => write!(f, "{name} was {from} and is {to}"),
            Change::Trigger { from, to } => write!(f, "the interrupt of {name} was {from} and is {to}"),
            Change::Pin { from: Some(from), to: Some(to) } => {
                write!(f, "the pin of {name} was {from} and is {to}")
            }
            Change::Pin { from: None, to } => write!(f, "{name} has pin {}, which is new", to.unwrap_or(0)),
            Change::Pin { from: Some(from), to: None } => write!(f, "{name} has pin {from} no more"),
            Change::Machine { from, to } => {
                let none = |text: &str| if text.is_empty() { "none".into() } else { text.to_owned() };
                write!(f, "{name}: {} -> {}", none(from), none(to))
            }
        }
    }
}

/// As reports have it.
fn kind_text(kind: RegionKind) -> String {
    let word = serde_json::to_value(kind).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
pub mod tests;
