//! Where everything goes: rows from the top down, so that nothing can overlap.

use super::fold::{self, Cluster};
use super::letters::{Anchor, Style};
use super::order::{Cut, Entry, entries};
use super::scale::Scale;
use super::{BandStatus, Row, Scene, hex, short_size};

pub type Px = u64;

pub const WIDTH: Px = 1000;
pub const MARGIN: Px = 24;
const RIGHT: Px = WIDTH - MARGIN;
pub const RULER_X: Px = 92;
pub const RULER_WIDTH: Px = 10;
pub const COLUMN_X: Px = 184;
pub const COLUMN_WIDTH: Px = 260;
const COLUMN_END: Px = COLUMN_X + COLUMN_WIDTH;
const TEXT_X: Px = COLUMN_END + 16;
const INSET: Px = 18;
/// Between neighbours.
const SPACE: Px = 3;
const PADDING: Px = 10;
const SIZE_WIDTH: Px = 96;
const REASON_LINES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    pub x: Px,
    pub y: Px,
    pub width: Px,
    pub height: Px,
}

#[derive(Clone, Debug)]
pub struct Label {
    pub area: Area,
    pub text: String,
    pub style: Style,
}

/// One band, or a folded run of them.
#[derive(Clone, Debug)]
pub struct Block<'s> {
    pub rows: Vec<Row<'s>>,
    pub name: String,
    pub details: String,
    pub area: Area,
    /// Top and bottom of its place there.
    pub on_ruler: Option<(Px, Px)>,
    pub labels: Vec<Label>,
}

#[derive(Clone, Debug)]
pub struct Gap {
    pub area: Area,
    pub label: Label,
    pub out_of_reach: bool,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub y: Px,
    pub on_ruler: Px,
    pub address: u64,
    pub binding: bool,
    pub labels: Vec<Label>,
    pub details: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Kind(&'static str),
    Shrunk,
    Dropped,
    Binding,
    Limit,
}

#[derive(Clone, Debug)]
pub struct Swatch {
    pub key: Key,
    pub area: Area,
    pub label: Label,
}

/// The finished picture; from the top down, and what is inside after what it is inside of.
#[derive(Clone, Debug, Default)]
pub struct Layout<'s> {
    pub height: Px,
    pub headings: Vec<Label>,
    pub legend: Vec<Swatch>,
    pub blocks: Vec<Block<'s>>,
    pub gaps: Vec<Gap>,
    pub lines: Vec<Line>,
    pub scale: Option<Scale>,
    pub ticks: Vec<Label>,
    digits: usize,
}

impl<'s> Layout<'s> {
    pub fn new(scene: &'s Scene) -> Self {
        let rows = scene.rows();
        let placed = fold::placed(&rows, &scene.limits);
        let dropped = fold::dropped(&rows);
        let mut layout = Self { height: MARGIN, digits: scene.digits(), ..Self::default() };
        layout.head(scene);
        layout.legend(scene, &rows);
        if !dropped.is_empty() {
            layout.dropped(&dropped);
        }
        layout.map(scene, placed);
        layout.foot();
        layout
    }

    /// Every label there is.
    #[cfg(test)]
    pub fn labels(&self) -> impl Iterator<Item = &Label> {
        let blocks = self.blocks.iter().flat_map(|block| &block.labels);
        let lines = self.lines.iter().flat_map(|line| &line.labels);
        let gaps = self.gaps.iter().map(|gap| &gap.label);
        let legend = self.legend.iter().map(|swatch| &swatch.label);
        self.headings.iter().chain(legend).chain(blocks).chain(gaps).chain(lines).chain(&self.ticks)
    }

    fn head(&mut self, scene: &Scene) {
        for (text, style) in [(&scene.title, Style::Title), (&scene.subtitle, Style::Subtitle)] {
            for line in style.wrapped(text, RIGHT - MARGIN, 2) {
                self.heading(line, style);
            }
        }
        self.height += PADDING;
    }

    fn heading(&mut self, text: String, style: Style) {
        self.headings.push(Label::new(text, style, MARGIN, self.height));
        self.height += style.line_height();
    }

    fn legend(&mut self, scene: &Scene, rows: &[Row<'s>]) {
        let swatch = Area { x: 0, y: 0, width: 20, height: 13 };
        let mut x = MARGIN;
        for (key, text) in keys(scene, rows) {
            let text = Style::Aside.shortened(&text, RIGHT - MARGIN - swatch.width - 8);
            let width = swatch.width + 8 + Style::Aside.width(&text);
            if x > MARGIN && x + width > RIGHT {
                x = MARGIN;
                self.height += 22;
            }
            let area = Area { x, y: self.height + 2, ..swatch };
            let label = Label::new(text, Style::Aside, x + swatch.width + 8, self.height);
            self.legend.push(Swatch { key, area, label });
            x += width + 16;
        }
        self.height += 22 + PADDING;
    }

    // Above the map, as it is the roof that they did not fit under.
    fn dropped(&mut self, clusters: &[Cluster<'s>]) {
        let beside = self.height + 5;
        self.headings.push(Label::new("No room for".to_owned(), Style::Heading, MARGIN, beside));
        for cluster in clusters {
            self.block(cluster, &[], &[], 0);
            self.height += SPACE;
        }
        self.height += 2 * PADDING;
    }

    fn map(&mut self, scene: &'s Scene, placed: Vec<Cluster<'s>>) {
        self.height += PADDING;
        let top = self.height;
        // What begins at 0, which no such ruler reaches, is given its last octave.
        let ends = |cluster: &Cluster| match (cluster.first(), cluster.last()) {
            (0, last) => [last / 2, last.saturating_add(1)],
            (first, last) => [first, last.saturating_add(1)],
        };
        let limits = scene.limits.iter().map(|limit| limit.address);
        let points: Vec<u64> = placed.iter().flat_map(ends).chain(limits).collect();
        for entry in entries(scene, placed).iter().rev() {
            match entry {
                Entry::Cluster(cluster, cuts) => {
                    self.block(cluster, &fold::inside(cluster, &scene.limits), cuts, 0);
                }
                Entry::Gap { size, out_of_reach } => self.gap(*size, *out_of_reach),
                Entry::Limit(cut) => self.line(cut),
            }
            self.height += SPACE;
        }
        if let Some(scale) = Scale::new(points.into_iter(), top, self.height - SPACE) {
            self.measure(scale);
        }
    }

    /// Finds the place on the ruler of what has one in the map.
    fn measure(&mut self, scale: Scale) {
        // Those further in are in the place of what they are inside of.
        for block in self.blocks.iter_mut().filter(|block| block.area.x == COLUMN_X) {
            let places = block.rows.iter().filter_map(|row| row.band.range.map(|_| row.band));
            let ends = places.fold(None, |ends: Option<(u64, u64)>, band| {
                let (first, last) = ends.unwrap_or((u64::MAX, 0));
                Some((first.min(band.first()), last.max(band.last())))
            });
            block.on_ruler = ends.map(|(first, last)| (scale.y(last.saturating_add(1)), scale.y(first)));
        }
        for line in &mut self.lines {
            line.on_ruler = scale.y(line.address);
        }
        let height = Style::Tick.line_height();
        for (y, text) in scale.ticks(24) {
            self.ticks.push(Label::new(text, Style::Tick, RULER_X - 8, y - height / 2));
        }
        self.scale = Some(scale);
    }

    fn block(&mut self, cluster: &Cluster<'s>, inside: &[Cluster<'s>], cuts: &[Cut<'s>], inset: Px) {
        let top = self.height;
        let index = self.blocks.len();
        let labels = self.block_labels(cluster, inset, inside.is_empty() && cuts.is_empty());
        self.blocks.push(Block {
            rows: cluster.rows.clone(),
            name: cluster.name(str::to_owned),
            details: cluster.details(self.digits),
            area: Area { x: COLUMN_X + inset, y: top, width: COLUMN_WIDTH - 2 * inset, height: 0 },
            on_ruler: None,
            labels,
        });
        self.contents(inside, cuts);
        self.blocks[index].area.height = self.height - top;
    }

    /// What is inside of a block, highest first.
    fn contents(&mut self, inside: &[Cluster<'s>], cuts: &[Cut<'s>]) {
        if inside.is_empty() && cuts.is_empty() {
            return;
        }
        let (mut inside, mut cuts) = (inside.iter().rev().peekable(), cuts.iter().rev().peekable());
        while inside.peek().is_some() || cuts.peek().is_some() {
            let cut = cuts.next_if(|cut| inside.peek().is_none_or(|next| cut.address > next.first()));
            match cut {
                Some(cut) => self.line(cut),
                None => {
                    let cluster = inside.next().expect("there is a cut or a cluster");
                    self.block(cluster, &[], &[], INSET);
                }
            }
            self.height += SPACE;
        }
        self.height += PADDING - SPACE;
    }

    /// The name within the block and all else beside it, both in the middle of their height.
    fn block_labels(&mut self, cluster: &Cluster<'s>, inset: Px, is_plain: bool) -> Vec<Label> {
        let x = COLUMN_X + inset + 16;
        let names = named(cluster, COLUMN_WIDTH - 2 * inset - 28);
        let mut lines = vec![self.columns(cluster)];
        for reason in reasons(cluster) {
            lines.push(vec![Label::new(reason, Style::Reason, TEXT_X, 0)]);
        }
        let tall = |labels: &[Label]| labels.iter().map(|label| label.area.height).max().unwrap_or(0);
        let beside: Px = lines.iter().map(|line| tall(line)).sum();
        let within: Px = names.iter().map(|(_, style)| style.line_height()).sum();
        let least = if is_plain && !cluster.is_dropped() { block_height(cluster.size()) } else { 0 };
        let height = (beside.max(within) + PADDING).max(least);

        let mut labels = Vec::new();
        let mut y = self.height + (height - within) / 2;
        for (name, style) in names {
            labels.push(Label::new(name, style, x, y));
            y += style.line_height();
        }
        let mut y = self.height + (height - beside) / 2;
        for mut line in lines {
            line.iter_mut().for_each(|label| label.area.y += y);
            y += tall(&line);
            labels.extend(line);
        }
        self.height += height;
        labels
    }

    /// Address, size and kind.
    fn columns(&self, cluster: &Cluster) -> Vec<Label> {
        let address = match cluster.is_dropped() {
            true => Label::new("dropped".to_owned(), Style::Binding, TEXT_X, 1),
            false => Label::new(hex(cluster.first(), self.digits), Style::Address, TEXT_X, 0),
        };
        let size_end = TEXT_X + Style::Address.width(&hex(0, self.digits)) + SIZE_WIDTH;
        let size = Label::new(short_size(cluster.size()), Style::Size, size_end, 0);
        let kind = Style::Aside.shortened(&cluster.kind(), RIGHT - size_end - 18);
        vec![address, size, Label::new(kind, Style::Aside, size_end + 18, 1)]
    }

    fn gap(&mut self, size: u64, out_of_reach: bool) {
        let area = Area { x: COLUMN_X, y: self.height, width: COLUMN_WIDTH, height: 24 };
        let text = format!("gap {}", short_size(size));
        let label = Label::new(text, Style::Gap, COLUMN_X + COLUMN_WIDTH / 2, self.height + 4);
        self.gaps.push(Gap { area, label, out_of_reach });
        self.height += area.height;
    }

    fn line(&mut self, cut: &Cut) {
        let binding = cut.limits.iter().any(|limit| limit.binding);
        let x = TEXT_X + Style::Address.width(&hex(0, self.digits)) + 18;
        let mut labels =
            vec![Label::new(hex(cut.address, self.digits), Style::Address, TEXT_X, self.height + 4)];
        self.height += 5;
        for limit in &cut.limits {
            let style = if limit.binding { Style::Binding } else { Style::Limit };
            labels.push(Label::new(style.shortened(&limit.label, RIGHT - x), style, x, self.height));
            self.height += style.line_height();
        }
        let names: Vec<&str> = cut.limits.iter().map(|limit| limit.label.as_str()).collect();
        let details = format!("{}: {}", hex(cut.address, self.digits), names.join(", "));
        let y = self.height + 4;
        self.lines.push(Line { y, on_ruler: y, address: cut.address, binding, labels, details });
        self.height += 8;
    }

    fn foot(&mut self) {
        self.height += 2 * PADDING;
        let text = match self.scale {
            Some(_) => {
                "Lowest address at the bottom. The ruler on the left is logarithmic; blocks grow with the \
                 logarithm of their size, and gaps are collapsed."
            }
            None => "Nothing is placed.",
        };
        for line in Style::Aside.wrapped(text, RIGHT - MARGIN, 2) {
            self.heading(line, Style::Aside);
        }
        self.height += MARGIN;
    }
}

impl Label {
    /// At `x`, which is the left end, the middle or the right end as `style` has it.
    fn new(text: String, style: Style, x: Px, y: Px) -> Self {
        let width = style.width(&text);
        let x = match style.anchor() {
            Anchor::Start => x,
            Anchor::Middle => x.saturating_sub(width / 2),
            Anchor::End => x.saturating_sub(width),
        };
        Self { area: Area { x, y, width, height: style.line_height() }, text, style }
    }
}

fn block_height(size: u64) -> Px {
    const LEAST: Px = 28;
    let octaves = size.checked_ilog2().unwrap_or(0).saturating_sub(12);
    LEAST + u64::from(octaves) * 3 / 2
}

fn named(cluster: &Cluster, room: Px) -> Vec<(String, Style)> {
    let style = if cluster.is_dropped() { Style::Struck } else { Style::Name };
    if !cluster.is_folded() {
        return vec![(style.shortened(&cluster.band().name, room), style)];
    }
    let half = (room - style.width(" … ")) / 2;
    let name = cluster.name(|name| style.shortened(name, half));
    vec![(name, style), (format!("({})", cluster.count()), Style::Aside)]
}

fn reasons(cluster: &Cluster) -> Vec<String> {
    let band = cluster.band();
    let text = match (band.fate(), &band.reason) {
        (BandStatus::Shrunk, Some(reason)) => format!("shrunk: {reason}"),
        (BandStatus::Shrunk, None) => "shrunk".to_owned(),
        (_, Some(reason)) => reason.clone(),
        (_, None) => String::new(),
    };
    Style::Reason.wrapped(&text, RIGHT - TEXT_X, REASON_LINES)
}

fn keys(scene: &Scene, rows: &[Row]) -> Vec<(Key, String)> {
    const ORDER: [&str; 6] = ["ram", "ram-hotplug", "reserved", "interrupt-controller", "device", "pci"];
    let mut kinds: Vec<&'static str> = rows.iter().map(|row| row.band.kind).collect();
    let rank = |kind: &str| ORDER.iter().position(|known| *known == kind).unwrap_or(ORDER.len());
    kinds.sort_by_key(|kind| (rank(kind), *kind));
    kinds.dedup();
    let mut keys: Vec<(Key, String)> =
        kinds.into_iter().map(|kind| (Key::Kind(kind), kind.replace('-', " "))).collect();
    let more = [
        (Key::Shrunk, "shrunk", rows.iter().any(|row| row.band.fate() == BandStatus::Shrunk)),
        (Key::Dropped, "dropped", rows.iter().any(|row| row.band.range.is_none())),
        (Key::Binding, "binding limit", scene.limits.iter().any(|limit| limit.binding)),
        (Key::Limit, "other limit", scene.limits.iter().any(|limit| !limit.binding)),
    ];
    keys.extend(more.into_iter().filter(|(_, _, there)| *there).map(|(key, text, _)| (key, text.to_owned())));
    keys
}
