//! A board file as text: its tables and values with their places, and what is said of those that are wrong.

use ambit_device_manager::Severity;
use ambit_resources::{AddressRange, PaBits, human_size, parse_size};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::finding::{Finding, Source, Spot, hex, nearest, shortened, size_text};

/// One key with its value.
#[derive(Clone)]
pub(super) struct Item<'t> {
    /// How it is called: "[ram] base".
    pub what: String,
    /// Where its key is, and where its value is.
    pub key: usize,
    pub at: usize,
    pub value: &'t DeValue<'t>,
}

/// The keys of one table, in the order they are written.
pub(super) struct Table<'t> {
    pub what: String,
    pub at: usize,
    pub items: Vec<(&'t str, Item<'t>)>,
}

impl<'t> Table<'t> {
    pub fn new(what: &str, at: usize, table: &'t DeTable<'t>) -> Self {
        let mut items: Vec<(&str, Item)> = table
            .iter()
            .map(|(key, value)| {
                let name: &str = key.get_ref();
                let space = if what.is_empty() { "" } else { " " };
                let item = Item {
                    what: format!("{what}{space}{name}"),
                    key: key.span().start,
                    at: value.span().start,
                    value: value.get_ref(),
                };
                (name, item)
            })
            .collect();
        items.sort_by_key(|(_, item)| item.key);
        Self { what: what.into(), at, items }
    }

    pub fn item(&self, key: &str) -> Option<&Item<'t>> {
        self.items.iter().find(|(name, _)| *name == key).map(|(_, item)| item)
    }

    pub fn has(&self, key: &str) -> bool {
        self.item(key).is_some()
    }
}

/// How many findings there are at most: nobody reads more, and junk has no end of them.
const MOST: usize = 100;
/// How many entries one list has at most.
const LONGEST: usize = 1024;

/// Reads values and remembers what is wrong with them.
pub(super) struct Reader<'s> {
    source: &'s Source,
    /// Where each line starts.
    lines: Vec<usize>,
    pub findings: Vec<Finding>,
}

impl<'s> Reader<'s> {
    pub fn new(source: &'s Source) -> Self {
        let newlines = source.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Self { source, lines, findings: Vec::new() }
    }

    pub fn spot(&self, at: usize) -> Spot {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        Spot { file: self.source.name.clone(), line, column: at - start + 1 }
    }

    pub fn refuse(&mut self, at: usize, message: String, help: impl Into<String>) {
        if self.findings.len() < MOST {
            let (spot, help) = (self.spot(at), Some(help.into()));
            self.findings.push(Finding { severity: Severity::Error, spot, message, help });
        }
    }

    /// The whole file. `None` if it is no TOML.
    pub fn document(&mut self) -> Option<Spanned<DeTable<'s>>> {
        match DeTable::parse(&self.source.text) {
            Ok(table) => Some(table),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start).min(self.source.text.len());
                let said = error.message().trim_end().replace('`', "'").replace('\n', ", ");
                self.refuse(
                    at,
                    format!("this is not TOML: {said}"),
                    "write a table: [ram], and keys below it",
                );
                None
            }
        }
    }

    /// Says which keys of `table` are not among `known`.
    pub fn only(&mut self, table: &Table<'_>, known: &[&str]) {
        for (key, item) in table.items.iter().filter(|(key, _)| !known.contains(key)).take(MOST) {
            let place = if table.what.is_empty() { "" } else { " in " };
            let message = format!("unknown key '{}'{place}{}", shortened(key), table.what);
            let help = match nearest(key, known) {
                Some(near) => format!("did you mean '{near}'?"),
                None => format!("known are {}", known.join(", ")),
            };
            self.refuse(item.key, message, help);
        }
    }

    pub fn table<'t>(&mut self, item: &Item<'t>, known: &[&str]) -> Option<Table<'t>> {
        let DeValue::Table(inner) = item.value else {
            self.wrong(item, "a table is wanted", format!("write {{ {} = … }}", known.join(" = …, ")));
            return None;
        };
        let table = Table::new(&item.what, item.at, inner);
        if !known.is_empty() {
            self.only(&table, known);
        }
        Some(table)
    }

    pub fn list<'t>(&mut self, item: &Item<'t>) -> Vec<Item<'t>> {
        let DeValue::Array(list) = item.value else {
            self.wrong(item, "a list is wanted", "write [ … ]");
            return Vec::new();
        };
        if list.len() > LONGEST {
            let message = format!("{} has {} entries, and {LONGEST} are the most", item.what, list.len());
            self.refuse(item.at, message, "join some of them");
            return Vec::new();
        }
        let entry = |value: &'t Spanned<DeValue<'t>>| Item {
            what: item.what.clone(),
            key: value.span().start,
            at: value.span().start,
            value: value.get_ref(),
        };
        list.iter().map(entry).collect()
    }

    /// Says that `item` is not of the kind that is wanted.
    pub fn wrong(&mut self, item: &Item<'_>, wanted: &str, help: impl Into<String>) {
        self.refuse(item.at, format!("{} is {}, and {wanted}", item.what, kind(item.value)), help);
    }

    pub fn missing(&mut self, table: &Table<'_>, key: &str) {
        let place = if table.what.is_empty() { "" } else { " of " };
        let message = format!("the key '{key}'{place}{} is missing", table.what);
        self.refuse(table.at, message, "write it, or inherit it from another board (inherit = \"native\")");
    }

    /// Reads `key` into `to`, if it is there. `fresh`: it has to be, as nothing is inherited.
    pub fn set<T>(
        &mut self,
        to: &mut T,
        table: &Table<'_>,
        key: &str,
        fresh: bool,
        read: impl FnOnce(&mut Self, &Item<'_>) -> Option<T>,
    ) {
        match table.item(key) {
            Some(item) => {
                if let Some(value) = read(self, item) {
                    *to = value;
                }
            }
            None if fresh => self.missing(table, key),
            None => {}
        }
    }

    pub fn text<'t>(&mut self, item: &Item<'t>) -> Option<&'t str> {
        match item.value {
            DeValue::String(text) if !text.contains('\0') => Some(text),
            DeValue::String(_) => {
                self.refuse(item.at, format!("{} has a NUL in it", item.what), "leave it out");
                None
            }
            _ => {
                self.wrong(item, "text is wanted", "write it in quotes");
                None
            }
        }
    }

    /// What parts of a machine are called by.
    pub fn name(&mut self, item: &Item<'_>) -> Option<String> {
        let text = self.text(item)?;
        let odd = text.chars().find(|it| !it.is_ascii_alphanumeric() && !"-._".contains(*it));
        if odd.is_none() && (1..=64).contains(&text.len()) {
            return Some(text.into());
        }
        let message = format!("{} is '{}', which is no name", item.what, shortened(text));
        self.refuse(item.at, message, "write 1 to 64 letters, digits, '-', '.' and '_'");
        None
    }

    pub fn flag(&mut self, item: &Item<'_>) -> Option<bool> {
        if let DeValue::Boolean(flag) = item.value {
            return Some(*flag);
        }
        self.wrong(item, "it is true or false", "write true or false");
        None
    }

    /// A count between two ends, both possible.
    pub fn count(&mut self, item: &Item<'_>, least: u32, most: u32) -> Option<u32> {
        let number = self.number(item, &format!("a number from {least} to {most}"))?;
        let fits = u32::try_from(number).ok().filter(|count| (least..=most).contains(count));
        if fits.is_none() {
            let message = format!("{} is {number}, and possible are {least} to {most}", item.what);
            self.refuse(item.at, message, format!("write {}", number.clamp(least.into(), most.into())));
        }
        fits
    }

    /// Up to 2^52, in any way to write it.
    pub fn amount(&mut self, item: &Item<'_>, form: &str) -> Option<u64> {
        const MOST: u64 = PaBits::MAX.ceiling();
        let number = self.number(item, form)?;
        if number <= MOST {
            return Some(number);
        }
        let message =
            format!("{} is {number:#x}, and no machine has more than {}", item.what, human_size(MOST));
        self.refuse(item.at, message, format!("write at most {}", hex(MOST)));
        None
    }

    pub fn number(&mut self, item: &Item<'_>, form: &str) -> Option<u64> {
        let parsed = match item.value {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) => parse_amount(text),
            _ => None,
        };
        if parsed.is_none() {
            self.wrong(
                item,
                &format!("{form} is wanted"),
                "write a number, or text like \"0x0900_0000\" or \"64K\"",
            );
        }
        parsed
    }

    /// A multiple of `grain`.
    pub fn address(&mut self, item: &Item<'_>, grain: u64) -> Option<u64> {
        let address = self.amount(item, "an address")?;
        self.multiple(item, address, grain)
    }

    /// A multiple of `grain`, and not zero.
    pub fn size(&mut self, item: &Item<'_>, grain: u64) -> Option<u64> {
        let size = self.amount(item, "a size")?;
        if size == 0 {
            let message = format!("{} is 0, and there is nothing without a size", item.what);
            self.refuse(item.at, message, format!("write at least {}", size_text(grain)));
            return None;
        }
        self.multiple(item, size, grain)
    }

    /// A power of two between two ends, both possible.
    pub fn power(&mut self, item: &Item<'_>, least: u64, most: u64) -> Option<u64> {
        let size = self.amount(item, "a size")?;
        if size.is_power_of_two() && (least..=most).contains(&size) {
            return Some(size);
        }
        let message = format!(
            "{} is {}, and it is a power of two from {} to {}",
            item.what,
            size_text(size),
            size_text(least),
            size_text(most)
        );
        let near = size.clamp(least, most).next_power_of_two();
        self.refuse(item.at, message, format!("write \"{}\"", size_text(near)));
        None
    }

    fn multiple(&mut self, item: &Item<'_>, number: u64, grain: u64) -> Option<u64> {
        if number.is_multiple_of(grain) {
            return Some(number);
        }
        let (down, up) = (number / grain * grain, number / grain * grain + grain);
        let help = match down {
            0 => format!("write \"{}\"", hex(up)),
            _ => format!("write \"{}\" or \"{}\"", hex(down), hex(up)),
        };
        let message =
            format!("{} is {}, which is no multiple of {}", item.what, hex(number), human_size(grain));
        self.refuse(item.at, message, help);
        None
    }

    /// `{ base, size }`, each a multiple of its grain. What is not written is as in `old`.
    pub fn range(
        &mut self,
        table: &Table<'_>,
        grains: (u64, u64),
        old: Option<AddressRange>,
    ) -> Option<AddressRange> {
        let (mut base, mut size) = (old.map(AddressRange::first), old.map(AddressRange::size));
        let fresh = old.is_none();
        self.set(&mut base, table, "base", fresh, |reader, item| reader.address(item, grains.0).map(Some));
        self.set(&mut size, table, "size", fresh, |reader, item| reader.size(item, grains.1).map(Some));
        let (base, size) = (base?, size?);
        let range = AddressRange::new(base, size).filter(|range| PaBits::MAX.reach().contains(*range));
        if range.is_none() {
            let message = format!(
                "{} of {} at {} ends past {}, the last address any machine has",
                table.what,
                size_text(size),
                hex(base),
                hex(PaBits::MAX.reach().last())
            );
            let at = table.item("size").or(table.item("base")).map_or(table.at, |item| item.at);
            self.refuse(at, message, "make it smaller, or move it down");
        }
        range
    }
}

/// Hexadecimal with `0x`, or as sizes are written; underscores are for the eye.
fn parse_amount(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|character| *character != '_').collect();
    match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) if digits.starts_with('+') => None,
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => parse_size(&text).ok(),
    }
}

fn kind(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("'{}'", shortened(text)),
        DeValue::Integer(number) => shortened(&number.to_string()),
        DeValue::Float(number) => shortened(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
