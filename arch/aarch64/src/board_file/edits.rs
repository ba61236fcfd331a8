//! The device-tree nodes of a board file, and overlays over those that are there.

use toml::de::DeValue;

use super::Marks;
use super::finding::shortened;
use super::text::{Item, Reader, Table};
use crate::tree::{Change, Edit, Value};

/// How deep a node may be. Trees are read and printed by functions that call themselves.
const DEEPEST: usize = 32;
/// How many properties one file sets; each is looked for among the others of its node.
const MOST: usize = 4096;
const LONGEST_NAME: usize = 64;

pub(super) fn apply(reader: &mut Reader<'_>, item: &Item<'_>, edits: &mut Vec<Edit>, marks: &mut Marks) {
    let mut count = 0;
    for entry in reader.list(item) {
        let entry = Item { what: "[[tree]]".into(), ..entry };
        let Some(table) = reader.table(&entry, &["path", "set", "unset", "remove"]) else { continue };
        let Some(item) = table.item("path") else {
            reader.missing(&table, "path");
            continue;
        };
        let Some(path) = path(reader, item) else { continue };
        let changes = changes(reader, &table, &path);
        let set =
            changes.iter().map(|change| if let Change::Set(values) = change { values.len() } else { 0 });
        count += set.sum::<usize>();
        if count > MOST {
            let message = format!("[[tree]] sets more than {MOST} properties");
            reader.refuse(item.at, message, "a guest reads a tree of at most 2 MiB; leave some out");
            return;
        }
        for change in changes {
            marks.put(format!("tree.{}", edits.len()), reader.spot(item.at));
            edits.push(Edit { path: path.clone(), change });
        }
    }
}

fn path(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<String> {
    let text = reader.text(item)?;
    let names = text.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>());
    let why = match &names {
        None => Some("a path begins at the root".to_owned()),
        Some(_) if text == "/" => None,
        Some(names) if names.len() > DEEPEST => Some(format!("at most {DEEPEST} nodes are below each other")),
        Some(names) => names
            .iter()
            .find(|name| !is_node_name(name))
            .map(|odd| format!("'{}' is no name of a node", shortened(odd))),
    };
    let Some(why) = why else { return Some(text.into()) };
    let message = format!("[[tree]] path is '{}', and {why}", shortened(text));
    reader.refuse(item.at, message, "write /name@address with letters, digits and ',', '.', '_', '+', '-'");
    None
}

/// Devicetree Specification 0.4, 2.2.1; with room for names that others have.
fn is_node_name(name: &str) -> bool {
    let good = |part: &str| {
        (1..=LONGEST_NAME).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b",._+-".contains(&byte))
    };
    match name.split_once('@') {
        Some((name, unit)) => good(name) && good(unit),
        None => good(name),
    }
}

/// The same, 2.2.4.
fn is_property_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b",._+?#-".contains(&byte))
}

fn changes(reader: &mut Reader<'_>, table: &Table<'_>, path: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(item) = table.item("remove") {
        let Some(removes) = reader.flag(item) else { return changes };
        let others = table.has("set") || table.has("unset");
        if removes && (others || path == "/") {
            let why = if others { "the same entry changes it" } else { "a tree has a root" };
            let message = format!("[[tree]] '{}' takes the node away, and {why}", shortened(path));
            reader.refuse(item.at, message, "leave remove out");
        } else if removes {
            changes.push(Change::Remove);
        }
    }
    if let Some(item) = table.item("unset") {
        changes.extend(unset(reader, item).map(Change::Unset));
    }
    if let Some(item) = table.item("set") {
        let named = Item { what: format!("'{}'", shortened(path)), ..item.clone() };
        if let Some(values) = reader.table(&named, &[]) {
            let values = values.items.iter().filter_map(|(name, item)| property(reader, name, item));
            changes.push(Change::Set(values.collect()));
        }
    }
    if changes.is_empty() && !["remove", "unset", "set"].iter().any(|key| table.has(key)) {
        let message = format!("[[tree]] '{}' changes nothing", shortened(path));
        reader.refuse(table.at, message, "write set, unset or remove = true");
    }
    changes
}

fn unset(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for entry in reader.list(item) {
        let name = reader.text(&entry)?;
        if names.iter().any(|known| known == name) {
            let message = format!("{} has '{}' twice", item.what, shortened(name));
            reader.refuse(entry.at, message, "leave one of them out");
            return None;
        }
        names.push(name.into());
    }
    Some(names)
}

fn property(reader: &mut Reader<'_>, name: &str, item: &Item<'_>) -> Option<(String, Value)> {
    if !is_property_name(name) {
        let message = format!("'{}' is no name of a property", shortened(name));
        reader.refuse(item.key, message, "write letters, digits and ',', '.', '_', '+', '?', '#', '-'");
        return None;
    }
    value(reader, item).map(|value| (name.to_owned(), value))
}

fn value(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Value> {
    const FORMS: &str =
        "write true, text, a list of texts, { cells = […] }, { cells64 = […] } or { bytes = \"00ff\" }";
    match item.value {
        DeValue::Boolean(true) => Some(Value::Flag),
        DeValue::Boolean(false) => {
            let message = format!("{} is false, and a property that is there is true", item.what);
            reader.refuse(item.at, message, "name it in unset");
            None
        }
        DeValue::String(_) => Some(Value::Strings(vec![reader.text(item)?.into()])),
        DeValue::Integer(_) => Some(Value::Cells(vec![cell(reader, item)?])),
        DeValue::Array(list) if list.iter().any(|value| value.get_ref().is_integer()) => cells(reader, item),
        DeValue::Array(_) => {
            let texts: Option<Vec<String>> =
                reader.list(item).iter().map(|entry| reader.text(entry).map(String::from)).collect();
            texts.map(Value::Strings)
        }
        DeValue::Table(_) => {
            let table = reader.table(item, &["cells", "cells64", "bytes"])?;
            match table.items.as_slice() {
                [("cells", item)] => cells(reader, item),
                [("cells64", item)] => {
                    let list = reader.list(item);
                    let wide: Option<Vec<u64>> = list.iter().map(|entry| wide(reader, entry)).collect();
                    wide.map(Value::Cells64)
                }
                [("bytes", item)] => bytes(reader, item),
                _ => {
                    reader.refuse(item.at, format!("{} has not one value", item.what), FORMS);
                    None
                }
            }
        }
        _ => {
            reader.wrong(item, "no property is that", FORMS);
            None
        }
    }
}

fn cells(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Value> {
    let list = reader.list(item);
    let cells: Option<Vec<u32>> = list.iter().map(|entry| cell(reader, entry)).collect();
    cells.map(Value::Cells)
}

fn cell(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<u32> {
    let number = wide(reader, item)?;
    let cell = u32::try_from(number).ok();
    if cell.is_none() {
        let message = format!("a cell of {} is {number:#x}, and a cell has 32 bits", item.what);
        reader.refuse(item.at, message, "write it as { cells64 = […] }, which are two cells each");
    }
    cell
}

fn wide(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<u64> {
    reader.number(item, "a number")
}

fn bytes(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Value> {
    let text: String = reader.text(item)?.chars().filter(|character| *character != ' ').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let even = text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
    let bytes = bytes.filter(|_| even);
    if bytes.is_none() {
        let message =
            format!("{} is '{}', and bytes are two hexadecimal digits each", item.what, shortened(&text));
        reader.refuse(item.at, message, "write them as \"00ff\"");
    }
    bytes.map(Value::Bytes)
}
