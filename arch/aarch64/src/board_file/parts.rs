//! What each table of a board file does to a board.

use std::ops::RangeInclusive;

use ambit_device_manager::{DevicePlaces, RamPlace, Transport};
use ambit_resources::{AddressRange, PaBits};
use toml::de::DeValue;

use super::finding::{hex, nearest, shortened, size_text};
use super::text::{Item, Reader, Table};
use super::{Marks, edits, gic, is_false};
use crate::gic as hardware;
use crate::spec::{BoardSpec, FixtureSpec, GicSpec, HighSpec, Mmio64Spec, PciSpec, reserved_name};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// KVM's own limit (`KVM_MEM_SLOTS_NUM`).
const MAX_SLOTS: u32 = 32767;
/// What a bus address of 256 buses takes.
const LARGEST_ECAM: u64 = 256 * MIB;
/// The kernel, the initrd and the tree have to be within reach of each other.
const LARGEST_OFFSET: u64 = GIB;
const TWO_MIB: u64 = 2 * MIB;

const KEYS: [&str; 15] = [
    "inherit",
    "name",
    "about",
    "width",
    "max_cpus",
    "ram",
    "reserved",
    "gic",
    "interrupts",
    "devices",
    "fixture",
    "pci",
    "above_ram",
    "boot",
    "tree",
];

/// What a file without a parent begins with. What it does not say has no meaning yet.
pub(super) fn nothing() -> BoardSpec {
    let nowhere = AddressRange::fixed(0, 1);
    BoardSpec {
        name: String::new(),
        about: String::new(),
        width: None,
        max_cpus: hardware::MAX_CPUS,
        ram: RamPlace { base: 0, grain: 1, slot_room: 0, max_slots: 256 },
        reserved: Vec::new(),
        gic: GicSpec::V3 { dist: 0, its: None, redists: Vec::new(), v4: false },
        pins: hardware::SPIS,
        devices: DevicePlaces { window: nowhere, grain: 4 * KIB, pins: 0..=0 },
        transport: Transport::Mmio,
        fixtures: Vec::new(),
        pci: None,
        floor: 0,
        holes: false,
        edits: Vec::new(),
        kernel_offset: 0,
    }
}

/// Changes `spec` as the file says. `fresh`: there is nothing to inherit.
pub(super) fn apply(
    reader: &mut Reader<'_>,
    file: &Table<'_>,
    fresh: bool,
    spec: &mut BoardSpec,
    marks: &mut Marks,
) {
    reader.only(file, &KEYS);
    for (key, item) in &file.items {
        marks.put(*key, reader.spot(item.key));
        if let DeValue::Table(inner) = item.value {
            let inner = Table::new("", item.at, inner);
            inner
                .items
                .iter()
                .for_each(|(name, item)| marks.put(format!("{key}.{name}"), reader.spot(item.at)));
        }
    }
    reader.set(&mut spec.name, file, "name", fresh, Reader::name);
    reader.set(&mut spec.about, file, "about", false, about);
    reader.set(&mut spec.width, file, "width", false, width);
    reader.set(&mut spec.max_cpus, file, "max_cpus", false, |reader, item| {
        reader.count(item, 1, hardware::MAX_CPUS)
    });
    let mut section =
        |key: &str, needed: bool, apply: &mut dyn FnMut(&mut Reader<'_>, &Item<'_>)| match file.item(key) {
            Some(item) => apply(reader, &Item { what: format!("[{key}]"), ..item.clone() }),
            None if needed && fresh => reader.missing(file, key),
            None => {}
        };
    section("ram", true, &mut |reader, item| ram(reader, item, fresh, &mut spec.ram));
    section("gic", true, &mut |reader, item| gic::apply(reader, item, fresh, &mut spec.gic, marks));
    section("devices", true, &mut |reader, item| devices(reader, item, fresh, spec));
    section("pci", false, &mut |reader, item| pci(reader, item, &mut spec.pci));
    section("interrupts", true, &mut |reader, item| interrupts(reader, item, fresh, spec));
    section("above_ram", false, &mut |reader, item| above_ram(reader, item, spec));
    section("boot", false, &mut |reader, item| boot(reader, item, &mut spec.kernel_offset));
    if let Some(item) = file.item("reserved") {
        reserved(reader, item, &mut spec.reserved, marks);
    }
    if let Some(item) = file.item("fixture") {
        fixtures(reader, item, &mut spec.fixtures, marks);
    }
    if let Some(item) = file.item("tree") {
        edits::apply(reader, item, &mut spec.edits, marks);
    }
}

fn about(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    let text = reader.text(item)?;
    if !text.chars().any(char::is_control) && text.chars().count() <= 200 {
        return Some(text.into());
    }
    reader.refuse(
        item.at,
        "about is not a line of at most 200 characters".into(),
        "put the rest in a comment",
    );
    None
}

fn width(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Option<PaBits>> {
    if is_false(item) {
        return Some(None);
    }
    let (least, most) = (u32::from(PaBits::MIN.get()), u32::from(PaBits::MAX.get()));
    let bits = u8::try_from(reader.count(item, least, most)?).ok()?;
    PaBits::new(bits).map(Some)
}

fn ram(reader: &mut Reader<'_>, item: &Item<'_>, fresh: bool, ram: &mut RamPlace) {
    let Some(table) = reader.table(item, &["base", "grain", "slot_room", "max_slots"]) else { return };
    reader.set(&mut ram.base, &table, "base", fresh, |reader, item| reader.address(item, TWO_MIB));
    reader.set(&mut ram.grain, &table, "grain", false, |reader, item| reader.power(item, 1, 1024 * GIB));
    reader.set(&mut ram.slot_room, &table, "slot_room", false, |reader, item| reader.amount(item, "a size"));
    reader
        .set(&mut ram.max_slots, &table, "max_slots", false, |reader, item| reader.count(item, 0, MAX_SLOTS));
}

fn devices(reader: &mut Reader<'_>, item: &Item<'_>, fresh: bool, spec: &mut BoardSpec) {
    let Some(table) = reader.table(item, &["base", "size", "grain", "transport"]) else { return };
    reader.set(&mut spec.transport, &table, "transport", false, transport);
    let places = &mut spec.devices;
    reader.set(&mut places.grain, &table, "grain", false, |reader, item| reader.power(item, 16, GIB));
    let grains = (places.grain, places.grain);
    let old = Some(places.window).filter(|_| !fresh);
    places.window = reader.range(&table, grains, old).unwrap_or(places.window);
}

fn transport(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Transport> {
    let text = reader.text(item)?;
    let found = Transport::named(text);
    if found.is_none() {
        let names = Transport::ALL.map(Transport::name);
        let help = match nearest(text, &names) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("write one of {}", names.join(", ")),
        };
        reader.refuse(
            item.at,
            format!("{} is '{}', which is no transport", item.what, shortened(text)),
            help,
        );
    }
    found
}

fn interrupts(reader: &mut Reader<'_>, item: &Item<'_>, fresh: bool, spec: &mut BoardSpec) {
    let Some(table) = reader.table(item, &["count", "devices", "intx"]) else { return };
    reader.set(&mut spec.pins, &table, "count", false, |reader, item| reader.count(item, 1, hardware::SPIS));
    reader.set(&mut spec.devices.pins, &table, "devices", fresh, pins);
    let Some(item) = table.item("intx") else { return };
    let intx = if is_false(item) { Some(None) } else { pin(reader, item).map(Some) };
    match (&mut spec.pci, intx) {
        (Some(pci), Some(intx)) => pci.intx = intx,
        (None, Some(Some(_))) => {
            let message = "[interrupts] intx is for PCI, and this board has none".into();
            reader.refuse(item.at, message, "leave it out, or write a table [pci]");
        }
        _ => {}
    }
}

fn pins(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<RangeInclusive<u32>> {
    let ends = reader.list(item);
    let [first, last] = ends.as_slice() else {
        reader.wrong(item, "two pins are wanted, the first and the last", "write [16, 959]");
        return None;
    };
    let (first, last) = (pin(reader, first)?, pin(reader, last)?);
    if first <= last {
        return Some(first..=last);
    }
    let message = format!("{} has the first pin, {first}, after the last, {last}", item.what);
    reader.refuse(item.at, message, format!("write [{last}, {first}]"));
    None
}

fn pin(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<u32> {
    reader.count(item, 0, hardware::SPIS - 1)
}

fn above_ram(reader: &mut Reader<'_>, item: &Item<'_>, spec: &mut BoardSpec) {
    let Some(table) = reader.table(item, &["floor", "holes"]) else { return };
    reader.set(&mut spec.floor, &table, "floor", false, |reader, item| reader.address(item, TWO_MIB));
    reader.set(&mut spec.holes, &table, "holes", false, Reader::flag);
}

fn boot(reader: &mut Reader<'_>, item: &Item<'_>, offset: &mut u64) {
    let Some(table) = reader.table(item, &["kernel_offset"]) else { return };
    reader.set(offset, &table, "kernel_offset", false, |reader, item| {
        let offset = reader.address(item, TWO_MIB)?;
        if offset <= LARGEST_OFFSET {
            return Some(offset);
        }
        let message =
            format!("{} is {}, and {} is the most", item.what, hex(offset), size_text(LARGEST_OFFSET));
        reader.refuse(item.at, message, "write less: the initrd and the tree come after the kernel");
        None
    });
}

/// The entries of a list whose entries have names, each with its name: those that are tables, and have one.
pub(super) fn named<'t>(
    reader: &mut Reader<'_>,
    item: &Item<'t>,
    list: &str,
    key: &str,
    known: &[&str],
) -> Vec<(String, Table<'t>)> {
    let mut entries: Vec<(String, Table)> = Vec::new();
    for entry in reader.list(item) {
        let Some(mut table) = reader.table(&Item { what: format!("[[{list}]]"), ..entry }, known) else {
            continue;
        };
        let Some(named) = table.item(key) else {
            reader.missing(&table, key);
            continue;
        };
        let Some(name) = reader.name(named) else { continue };
        if let Some((_, first)) = entries.iter().find(|(known, _)| *known == name) {
            let message =
                format!("[[{list}]] '{name}' is there twice, first in line {}", reader.spot(first.at).line);
            reader.refuse(named.at, message, format!("give it another {key}, or join them"));
            continue;
        }
        table.what = format!("[[{list}]] '{name}'");
        for (key, item) in &mut table.items {
            item.what = format!("{} {key}", table.what);
        }
        entries.push((name, table));
    }
    entries
}

/// Whether the entry takes one away that is there. Says so if it is not.
fn removes(reader: &mut Reader<'_>, table: &Table<'_>, is_there: bool) -> bool {
    let Some(item) = table.item("remove") else { return false };
    let removes = reader.flag(item).unwrap_or(false);
    if removes && !is_there {
        let message = format!("{} is taken away, and there is none", table.what);
        reader.refuse(item.at, message, "leave this entry out");
    }
    removes
}

fn reserved(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    places: &mut Vec<(String, AddressRange)>,
    marks: &mut Marks,
) {
    for (name, table) in named(reader, item, "reserved", "name", &["name", "base", "size", "remove"]) {
        let index = places.iter().position(|(known, _)| *known == name);
        if removes(reader, &table, index.is_some()) {
            index.map(|index| places.remove(index));
            continue;
        }
        let Some(range) = reader.range(&table, (1, 1), index.map(|index| places[index].1)) else { continue };
        marks.put(reserved_name(&name), reader.spot(table.at));
        match index {
            Some(index) => places[index].1 = range,
            None => places.push((name, range)),
        }
    }
}

fn fixtures(reader: &mut Reader<'_>, item: &Item<'_>, fixtures: &mut Vec<FixtureSpec>, marks: &mut Marks) {
    for (id, table) in named(reader, item, "fixture", "id", &["id", "kind", "base", "pin", "remove"]) {
        let index = fixtures.iter().position(|known| known.id == id);
        if removes(reader, &table, index.is_some()) {
            index.map(|index| fixtures.remove(index));
            continue;
        }
        let fresh = index.is_none();
        let nowhere = FixtureSpec { id: id.clone(), kind: String::new(), base: 0, pin: None };
        let mut fixture = index.map_or(nowhere, |index| fixtures[index].clone());
        reader.set(&mut fixture.kind, &table, "kind", fresh, Reader::name);
        reader.set(&mut fixture.base, &table, "base", fresh, |reader, item| reader.address(item, 4 * KIB));
        reader.set(&mut fixture.pin, &table, "pin", false, |reader, item| {
            if is_false(item) { Some(None) } else { pin(reader, item).map(Some) }
        });
        marks.put(format!("fixture.{id}"), reader.spot(table.at));
        if let Some(item) = table.item("pin") {
            marks.put(format!("fixture.{id}.pin"), reader.spot(item.at));
        }
        match index {
            Some(index) => fixtures[index] = fixture,
            None => fixtures.push(fixture),
        }
    }
}

fn pci(reader: &mut Reader<'_>, item: &Item<'_>, pci: &mut Option<PciSpec>) {
    if is_false(item) {
        *pci = None;
        return;
    }
    let Some(table) = reader.table(item, &["ecam", "high_ecam", "io", "mmio32", "mmio64"]) else { return };
    let old = pci.as_ref();
    let ecam = ecam(reader, &table, old.map(|pci| pci.ecam));
    let mmio32 =
        window(reader, &table, "mmio32", (4 * KIB, 4 * KIB), old.map(|pci| pci.mmio32), old.is_none());
    let mut io = old.and_then(|pci| pci.io);
    match table.item("io") {
        Some(item) if is_false(item) => io = None,
        _ => io = window(reader, &table, "io", (4 * KIB, 4 * KIB), io, false),
    }
    let (mut high_ecam, mut mmio64) =
        old.map_or((None, None), |pci| (pci.high_ecam.clone(), pci.mmio64.clone()));
    reader.set(&mut high_ecam, &table, "high_ecam", false, |reader, item| {
        if is_false(item) { Some(None) } else { high(reader, item, "size", LARGEST_ECAM).map(Some) }
    });
    reader.set(&mut mmio64, &table, "mmio64", false, |reader, item| {
        if is_false(item) { Some(None) } else { wide_window(reader, item).map(Some) }
    });
    let intx = old.and_then(|pci| pci.intx);
    if let (Some(ecam), Some(mmio32)) = (ecam, mmio32) {
        *pci = Some(PciSpec { ecam, high_ecam, io, mmio32, mmio64, intx });
    }
}

/// One window of PCI: as the file says, or as it was.
fn window(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    grains: (u64, u64),
    old: Option<AddressRange>,
    needed: bool,
) -> Option<AddressRange> {
    match table.item(key) {
        Some(item) => {
            let table = reader.table(item, &["base", "size"])?;
            reader.range(&table, grains, old)
        }
        None if needed => {
            reader.missing(table, key);
            None
        }
        None => old,
    }
}

fn ecam(reader: &mut Reader<'_>, table: &Table<'_>, old: Option<AddressRange>) -> Option<AddressRange> {
    let ecam = window(reader, table, "ecam", (MIB, MIB), old, old.is_none())?;
    if ecam.size() <= LARGEST_ECAM {
        return Some(ecam);
    }
    let at = table.item("ecam").map_or(table.at, |item| item.at);
    let message = format!("[pci] ecam has {}, and 256 buses take 256M", size_text(ecam.size()));
    reader.refuse(at, message, "write at most \"256M\"");
    None
}

/// What is above RAM: a power of two as `key`, and why it is left out, if it is.
pub(super) fn high(reader: &mut Reader<'_>, item: &Item<'_>, key: &str, most: u64) -> Option<HighSpec> {
    let DeValue::Table(_) = item.value else {
        return Some(HighSpec { size: reader.power(item, MIB, most)?, off: None });
    };
    let table = reader.table(item, &[key, "off"])?;
    let Some(size) = table.item(key) else {
        reader.missing(&table, key);
        return None;
    };
    let size = reader.power(size, MIB, most)?;
    let off = match table.item("off") {
        Some(item) => Some(reader.text(item)?.to_owned()),
        None => None,
    };
    Some(HighSpec { size, off })
}

fn wide_window(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Mmio64Spec> {
    const LARGEST: u64 = PaBits::MAX.ceiling() / 2;
    let inner = reader.table(item, &["room", "cap", "size", "off"])?;
    if inner.has("size") {
        if let Some((_, other)) = inner.items.iter().find(|(key, _)| matches!(*key, "room" | "cap")) {
            let message = format!("{} goes with no size: a window is by need, or of one size", other.what);
            reader.refuse(other.key, message, "write { room, cap } or { size }");
            return None;
        }
        return high(reader, item, "size", LARGEST).map(Mmio64Spec::Fixed);
    }
    let (mut room, mut cap) = (512 * MIB, 512 * GIB);
    let before = reader.findings.len();
    reader.set(&mut room, &inner, "room", false, |reader, item| reader.amount(item, "a size"));
    reader.set(&mut cap, &inner, "cap", false, |reader, item| reader.size(item, GIB));
    if let Some(off) = inner.item("off") {
        reader.refuse(off.key, format!("{} goes with a size only", off.what), "write mmio64 = false");
    }
    (reader.findings.len() == before).then_some(Mmio64Spec::ByNeed { room, cap })
}
