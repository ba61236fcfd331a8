//! The guest's physical address map as a picture, and as a page to search in.

mod fold;
mod html;
mod layout;
mod letters;
mod order;
mod scale;
mod svg;
#[cfg(test)]
mod tests;

use std::fmt::Write;

use ambit_resources::human_size;

pub use html::html;
pub use svg::svg;

/// All that is drawn.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    pub title: String,
    pub subtitle: String,
    /// Placed ones lowest first; dropped ones last.
    pub regions: Vec<Band>,
    pub limits: Vec<Limit>,
    /// For the page, below the picture.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Band {
    pub name: String,
    /// The colour goes by it: `ram`, `ram-hotplug`, `reserved`, `interrupt-controller`, `device` or `pci`.
    pub kind: &'static str,
    pub kind_label: String,
    /// First and last guest physical address; none if dropped.
    pub range: Option<(u64, u64)>,
    /// Bytes it has, or would have needed.
    pub size: u64,
    pub status: BandStatus,
    pub reason: Option<String>,
    pub interrupt: Option<String>,
    /// Such as the BARs in a PCI window.
    pub inside: Vec<Band>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BandStatus {
    Placed,
    Shrunk,
    Dropped,
}

impl BandStatus {
    /// What is worth saying of it.
    fn remark(self) -> Option<&'static str> {
        match self {
            Self::Placed => None,
            Self::Shrunk => Some("shrunk"),
            Self::Dropped => Some("dropped"),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Limit {
    pub label: String,
    /// The first address out of reach.
    pub address: u64,
    /// Whether it, of all limits, is what the map had to keep to.
    pub binding: bool,
}

/// One band, and its line in the table of the page.
#[derive(Clone, Copy, Debug)]
struct Row<'s> {
    band: &'s Band,
    number: usize,
    /// How many bands it is inside of.
    depth: usize,
}

impl Scene {
    /// Every band, each followed by those inside.
    fn rows(&self) -> Vec<Row<'_>> {
        fn add<'s>(bands: &'s [Band], depth: usize, rows: &mut Vec<Row<'s>>) {
            for band in bands {
                rows.push(Row { band, number: rows.len(), depth });
                add(&band.inside, depth + 1, rows);
            }
        }
        let mut rows = Vec::new();
        add(&self.regions, 0, &mut rows);
        rows
    }

    /// How many digits all addresses are written with.
    fn digits(&self) -> usize {
        let ends = self.rows().into_iter().filter_map(|row| row.band.range).map(|(_, last)| last);
        let highest = ends.chain(self.limits.iter().map(|limit| limit.address)).max();
        format!("{:x}", highest.unwrap_or(0)).len().max(8)
    }
}

impl Band {
    /// Its status, but what has no range is dropped whatever its status is.
    fn fate(&self) -> BandStatus {
        if self.range.is_none() { BandStatus::Dropped } else { self.status }
    }

    fn first(&self) -> u64 {
        self.range.map_or(0, |(first, _)| first)
    }

    fn last(&self) -> u64 {
        self.range.map_or(0, |(first, last)| last.max(first))
    }
}

fn hex(address: u64, digits: usize) -> String {
    format!("{address:#0width$x}", width = digits + 2)
}

/// `bytes` exactly if that is short, and else to a tenth of the largest unit.
fn short_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let exact = human_size(bytes);
    if exact.split(' ').next().is_some_and(|number| number.len() <= 4) {
        return exact;
    }
    // Longer than four digits, so it is more than 1 KiB.
    let steps = (bytes.ilog2() / 10) as usize;
    let tenths = ((bytes >> (10 * (steps - 1))) * 10 + 512) >> 10;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("~{whole} {}", UNITS[steps]),
        (whole, tenth) => format!("~{whole}.{tenth} {}", UNITS[steps]),
    }
}

/// `text` for XML, where some characters may not stand even if escaped.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(letter),
            '\u{fffe}' | '\u{ffff}' => safe.push(char::REPLACEMENT_CHARACTER),
            _ if letter.is_control() => safe.push(char::REPLACEMENT_CHARACTER),
            _ => safe.push(letter),
        }
    }
    safe
}

/// Adds formatted text to a string, which cannot fail.
fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes all that is written to it");
}
