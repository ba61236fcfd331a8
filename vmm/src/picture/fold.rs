//! Which bands are drawn as one: many small neighbours of one kind.

use super::{BandStatus, Limit, Row, hex, short_size};

/// As many as these are still drawn one by one.
const FEW: usize = 8;
const SMALL: u64 = 1 << 20;
const NEAR: u64 = 1 << 20;

/// What becomes one block: a band with those inside, or several bands.
#[derive(Clone, Debug)]
pub struct Cluster<'s> {
    /// Never empty.
    pub rows: Vec<Row<'s>>,
    /// Lowest first.
    pub inside: Vec<Row<'s>>,
}

/// The placed ones, lowest first.
pub fn placed<'s>(rows: &[Row<'s>], limits: &[Limit]) -> Vec<Cluster<'s>> {
    let mut alone = Vec::new();
    // A band and all those inside, at whatever depth.
    for family in rows.chunk_by(|_, next| next.depth > 0) {
        let (placed, _): (Vec<Row>, Vec<Row>) = family.iter().partition(|row| row.band.range.is_some());
        if family[0].band.range.is_some() {
            let mut inside = placed[1..].to_vec();
            inside.sort_by_key(|row| row.band.first());
            alone.push(Cluster { rows: vec![family[0]], inside });
        } else {
            alone.extend(placed.into_iter().map(Cluster::from));
        }
    }
    alone.sort_by_key(Cluster::first);
    folded(&alone, |a, b| a.is_near(b, limits))
}

/// Those inside a band, lowest first.
pub fn inside<'s>(cluster: &Cluster<'s>, limits: &[Limit]) -> Vec<Cluster<'s>> {
    let alone: Vec<Cluster> = cluster.inside.iter().copied().map(Cluster::from).collect();
    folded(&alone, |a, b| a.is_near(b, limits))
}

pub fn dropped<'s>(rows: &[Row<'s>]) -> Vec<Cluster<'s>> {
    let rows = rows.iter().copied().filter(|row| row.band.range.is_none());
    let alone: Vec<Cluster> = rows.map(Cluster::from).collect();
    folded(&alone, |a, b| a.is_like(b) && a.band().reason == b.band().reason)
}

/// Runs of more than a few as one each, or better as one for each kind of device.
fn folded<'s>(
    alone: &[Cluster<'s>],
    belong: impl Fn(&Cluster<'s>, &Cluster<'s>) -> bool,
) -> Vec<Cluster<'s>> {
    let mut all = Vec::new();
    for run in alone.chunk_by(belong) {
        let same: Vec<&[Cluster]> = run.chunk_by(|a, b| a.band().kind_label == b.band().kind_label).collect();
        if run.len() <= FEW {
            all.extend_from_slice(run);
        } else if same.len() <= FEW {
            all.extend(same.into_iter().map(Cluster::of));
        } else {
            all.push(Cluster::of(run));
        }
    }
    all
}

impl<'s> From<Row<'s>> for Cluster<'s> {
    fn from(row: Row<'s>) -> Self {
        Self { rows: vec![row], inside: Vec::new() }
    }
}

impl<'s> Cluster<'s> {
    fn of(run: &[Self]) -> Self {
        let rows = run.iter().flat_map(|cluster| &cluster.rows).copied().collect();
        let inside = run.iter().flat_map(|cluster| &cluster.inside).copied().collect();
        Self { rows, inside }
    }

    /// The lowest one.
    pub fn band(&self) -> &'s super::Band {
        self.rows[0].band
    }

    pub fn is_folded(&self) -> bool {
        self.rows.len() > 1
    }

    pub fn is_dropped(&self) -> bool {
        self.band().range.is_none()
    }

    pub fn first(&self) -> u64 {
        self.band().first()
    }

    pub fn last(&self) -> u64 {
        self.rows.iter().map(|row| row.band.last()).max().unwrap_or(0)
    }

    pub fn size(&self) -> u64 {
        self.rows.iter().fold(0, |size, row| size.saturating_add(row.band.size))
    }

    /// "32 devices"
    pub fn count(&self) -> String {
        let what = if self.band().kind == "device" { "devices" } else { "regions" };
        format!("{} {what}", self.rows.len())
    }

    /// "disk0 … disk31"
    pub fn name(&self, shortened: impl Fn(&str) -> String) -> String {
        match self.rows.as_slice() {
            [first, .., last] => format!("{} … {}", shortened(&first.band.name), shortened(&last.band.name)),
            _ => self.band().name.clone(),
        }
    }

    /// "virtio-blk, interrupts 48 … 79"
    pub fn kind(&self) -> String {
        let mut labels: Vec<&str> = self.rows.iter().map(|row| row.band.kind_label.as_str()).collect();
        labels.dedup();
        let labels = if labels.len() > FEW { "various".to_owned() } else { labels.join(", ") };
        let mut pins = self.rows.iter().filter_map(|row| row.band.interrupt.as_deref());
        match (pins.next(), pins.next_back()) {
            (None, _) => labels,
            (Some(pin), None) => format!("{labels}, interrupt {pin}"),
            (Some(first), Some(last)) => format!("{labels}, interrupts {first} … {last}"),
        }
    }

    /// All there is to say, for a pointer that rests on it.
    pub fn details(&self, digits: usize) -> String {
        let mut text = String::new();
        if self.is_folded() {
            text = format!("{} ({})\n", self.name(str::to_owned), self.count());
        }
        let lines: Vec<String> = self.rows.iter().map(|row| row.details(digits)).collect();
        text + &lines.join("\n")
    }

    fn is_like(&self, other: &Self) -> bool {
        let (a, b) = (self.band(), other.band());
        a.kind == b.kind && family(&a.kind_label) == family(&b.kind_label)
    }

    fn is_near(&self, next: &Self, limits: &[Limit]) -> bool {
        let between = |limit: &Limit| limit.address > self.first() && limit.address <= next.last();
        self.is_small()
            && next.is_small()
            && self.is_like(next)
            && next.first().saturating_sub(self.last()) <= NEAR
            && !limits.iter().any(between)
    }

    fn is_small(&self) -> bool {
        let band = self.band();
        band.size <= SMALL
            && band.last() - band.first() < SMALL
            && band.fate() == BandStatus::Placed
            && band.reason.is_none()
            && self.inside.is_empty()
    }
}

/// Of virtio-blk, virtio.
fn family(kind_label: &str) -> &str {
    kind_label.split('-').next().unwrap_or(kind_label)
}

impl Row<'_> {
    /// "disk0: 0x02000000 to 0x02000fff, 4 KiB, virtio-blk, interrupt 48"
    pub fn details(&self, digits: usize) -> String {
        let band = self.band;
        let place = match band.range {
            Some(_) => format!("{} to {}", hex(band.first(), digits), hex(band.last(), digits)),
            None => "dropped".to_owned(),
        };
        let mut text = format!("{}: {place}, {}, {}", band.name, short_size(band.size), band.kind_label);
        if let Some(interrupt) = &band.interrupt {
            text += &format!(", interrupt {interrupt}");
        }
        if band.fate() == BandStatus::Shrunk {
            text += ", shrunk";
        }
        if let Some(reason) = &band.reason {
            text += &format!(": {reason}");
        }
        text
    }
}
