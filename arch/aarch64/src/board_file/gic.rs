//! The interrupt controller of a board file.

use ambit_resources::{AddressRange, PaBits};
use toml::de::DeValue;

use super::Marks;
use super::finding::{hex, size_text};
use super::parts::high;
use super::text::{Item, Reader, Table};
use crate::gic;
use crate::spec::{GicSpec, HighSpec, ItsPlace, RedistSpec};

/// Both frames of a GICv2 begin at multiples of this, and their sizes are such.
const V2_GRAIN: u64 = 4 << 10;
/// What KVM takes at least for a GICv2's interface (`KVM_VGIC_V2_CPU_SIZE`).
const V2_CPU_SIZE: u64 = 8 << 10;

const V2_KEYS: [&str; 4] = ["version", "dist", "cpu", "redistributors"];
const V3_KEYS: [&str; 4] = ["version", "dist", "its", "redistributors"];
const KEYS: [&str; 5] = ["version", "dist", "cpu", "its", "redistributors"];

pub(super) fn apply(
    reader: &mut Reader<'_>,
    item: &Item<'_>,
    fresh: bool,
    gic: &mut GicSpec,
    marks: &mut Marks,
) {
    let Some(table) = reader.table(item, &KEYS) else { return };
    let mut version = u32::from(gic.version());
    reader.set(&mut version, &table, "version", fresh, |reader, item| reader.count(item, 2, 4));
    let known: &[&str] = if version == 2 { &V2_KEYS } else { &V3_KEYS };
    for (key, item) in table.items.iter().filter(|(key, _)| KEYS.contains(key) && !known.contains(key)) {
        let message = format!("a GICv{version} has no '{key}'");
        reader.refuse(
            item.key,
            message,
            format!("leave it out, or write version = {}", if version == 2 { 3 } else { 2 }),
        );
    }
    if version == 2 {
        v2(reader, &table, fresh, gic)
    } else {
        v3(reader, &table, fresh, version == 4, gic, marks)
    }
}

fn v2(reader: &mut Reader<'_>, table: &Table<'_>, fresh: bool, gic: &mut GicSpec) {
    let old = match gic {
        GicSpec::V2 { dist, cpu, kept } if !fresh => Some((*dist, *cpu, kept.clone())),
        _ => None,
    };
    let dist = frame(reader, table, "dist", V2_GRAIN, old.as_ref().map(|(dist, ..)| *dist));
    let cpu = frame(reader, table, "cpu", V2_CPU_SIZE, old.as_ref().map(|(_, cpu, _)| *cpu));
    let mut kept = old.map(|(.., kept)| kept).unwrap_or_default();
    if let Some(item) = table.item("redistributors") {
        kept = reader.list(item).iter().filter_map(|entry| room(reader, entry)).collect();
    }
    if let (Some(dist), Some(cpu)) = (dist, cpu) {
        *gic = GicSpec::V2 { dist, cpu, kept };
    }
}

/// Room above RAM that a GICv2 has no redistributors for.
fn room(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<HighSpec> {
    match redist(reader, item)? {
        RedistSpec::High { size, off } => Some(HighSpec { size, off }),
        RedistSpec::Up { .. } | RedistSpec::Down { .. } => {
            let message = "a GICv2 has no redistributors, and only keeps room for some above RAM".into();
            reader.refuse(item.at, message, "write { above_ram = \"64M\" }, or leave it out");
            None
        }
    }
}

/// A frame of a GICv2: `{ base, size }`, or the address of one of the least size.
fn frame(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    key: &str,
    least: u64,
    old: Option<AddressRange>,
) -> Option<AddressRange> {
    let Some(item) = table.item(key) else {
        if old.is_none() {
            reader.missing(table, key);
        }
        return old;
    };
    let DeValue::Table(_) = item.value else {
        return AddressRange::new(reader.address(item, V2_GRAIN)?, least);
    };
    let inner = reader.table(item, &["base", "size"])?;
    let range = reader.range(&inner, (V2_GRAIN, V2_GRAIN), old)?;
    if range.size() >= least {
        return Some(range);
    }
    let message = format!("{} has {:#x} bytes, and a GICv2 takes {least:#x}", item.what, range.size());
    reader.refuse(item.at, message, format!("write at least {:?}", size_text(least)));
    None
}

fn v3(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    fresh: bool,
    v4: bool,
    gic: &mut GicSpec,
    marks: &mut Marks,
) {
    let old = match gic {
        GicSpec::V3 { dist, its, redists, .. } if !fresh => Some((*dist, *its, redists.clone())),
        _ => None,
    };
    let fresh = old.is_none();
    let (mut dist, mut its, mut redists) = old.unwrap_or_default();
    reader.set(&mut dist, table, "dist", fresh, |reader, item| place(reader, item, gic::DIST_SIZE));
    reader.set(&mut its, table, "its", false, its_place);
    if let Some(item) = table.item("redistributors") {
        let entries = reader.list(item);
        if entries.len() > gic::MAX_REDIST_REGIONS {
            let (has, most) = (entries.len(), gic::MAX_REDIST_REGIONS);
            let message = format!("[gic] redistributors has {has} entries, and KVM takes {most}");
            reader.refuse(item.at, message, "make them larger, and fewer");
            return;
        }
        for (index, entry) in entries.iter().enumerate() {
            marks.put(gic::redist(index), reader.spot(entry.at));
        }
        redists = entries.iter().filter_map(|entry| redist(reader, entry)).collect();
    } else if fresh {
        reader.missing(table, "redistributors");
    }
    *gic = GicSpec::V3 { dist, its, redists, v4 };
}

/// The address of a frame of `size` bytes.
fn place(reader: &mut Reader<'_>, item: &Item<'_>, size: u64) -> Option<u64> {
    if let DeValue::Table(_) = item.value {
        let message = format!("{} is a table, and a GICv3's is {size:#x} bytes long", item.what);
        reader.refuse(item.at, message, "write the address alone: \"0x0900_0000\"");
        return None;
    }
    let address = reader.address(item, gic::FRAME_ALIGN)?;
    let range = AddressRange::new(address, size).filter(|range| PaBits::MAX.reach().contains(*range));
    if range.is_none() {
        let message = format!("{} at {} has no room below 52 bits", item.what, hex(address));
        reader.refuse(item.at, message, "move it down");
    }
    range.map(AddressRange::first)
}

fn its_place(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Option<ItsPlace>> {
    match item.value {
        DeValue::Boolean(false) => Some(None),
        DeValue::String(text) if text == "below-redists" => Some(Some(ItsPlace::BelowRedists)),
        DeValue::String(text) if !text.starts_with(|first: char| first.is_ascii_digit()) => {
            let help = "write an address, \"below-redists\", or false";
            reader.wrong(item, "the ITS has a place, or there is none", help);
            None
        }
        _ => place(reader, item, gic::ITS_SIZE).map(|at| Some(ItsPlace::At(at))),
    }
}

fn redist(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<RedistSpec> {
    let table = reader.table(item, &["base", "size", "keep", "top", "above_ram", "off"])?;
    let kinds: Vec<&str> = ["base", "top", "above_ram"].into_iter().filter(|key| table.has(key)).collect();
    let [kind] = kinds.as_slice() else {
        let message = format!(
            "an entry of {} has one of base, top and above_ram, and this has {}",
            item.what,
            kinds.len()
        );
        reader.refuse(item.at, message, "write { base, size }, { top } or { above_ram }");
        return None;
    };
    let known: &[&str] = match *kind {
        "base" => &["base", "size", "keep"],
        "top" => &["top"],
        _ => &["above_ram", "off"],
    };
    if let Some((key, odd)) = table.items.iter().find(|(key, _)| !known.contains(key)) {
        reader.refuse(odd.key, format!("redistributors with {kind} have no '{key}'"), "leave it out");
        return None;
    }
    match *kind {
        "base" => {
            let window = reader.range(&table, (gic::FRAME_ALIGN, gic::FRAME_ALIGN), None)?;
            let mut whole = false;
            reader.set(&mut whole, &table, "keep", false, Reader::flag);
            Some(RedistSpec::Up { window, whole })
        }
        "top" => {
            let top = reader.size(table.item("top")?, gic::FRAME_ALIGN)?;
            Some(RedistSpec::Down { top })
        }
        _ => {
            let high = high(reader, item, "above_ram", PaBits::MAX.ceiling() / 2)?;
            Some(RedistSpec::High { size: high.size, off: high.off })
        }
    }
}

/// Whether it has a place for messages on a host that has an ITS.
pub(super) fn has_its(gic: &GicSpec) -> bool {
    matches!(gic, GicSpec::V3 { its: Some(_), .. })
}
