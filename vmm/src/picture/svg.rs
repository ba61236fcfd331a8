//! The picture as SVG that stands alone: no script, no font, nothing from elsewhere.

use std::fmt::Arguments;

use super::layout::{
    Area, Block, COLUMN_X, Gap, Key, Label, Layout, Line, MARGIN, Px, RULER_WIDTH, RULER_X, Swatch, WIDTH,
};
use super::letters::{Anchor, Style};
use super::{BandStatus, Scene, add, escaped};

const RULER_END: Px = RULER_X + RULER_WIDTH;
const INK: &str = "#1b1f24";
const FAINT: &str = "#59636e";
const ALARM: &str = "#a8071a";

pub fn svg(scene: &Scene) -> String {
    drawn(scene, &Layout::new(scene))
}

pub fn drawn(scene: &Scene, layout: &Layout) -> String {
    let height = layout.height;
    let mut drawing = Drawing::default();
    drawing.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"group\" aria-label=\"{}\">\n",
        escaped(&scene.title),
    ));
    drawing.style();
    drawing.patterns();
    drawing.put(format_args!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"));
    drawing.all(layout);
    drawing.put(format_args!("</svg>\n"));
    drawing.text
}

/// How a kind is coloured: after Okabe and Ito, whose colours everybody can tell apart, and each of another
/// lightness for those who print.
struct Colours {
    strong: &'static str,
    fill: &'static str,
}

fn colours(kind: &str) -> Colours {
    let (strong, fill) = match kind {
        "ram" => ("#005a94", "#bcdcf2"),
        "ram-hotplug" => ("#56b4e9", "url(#map-hotplug)"),
        "reserved" => ("#6b6b6b", "url(#map-reserved)"),
        "interrupt-controller" => ("#a8487f", "#f1d3e4"),
        "device" => ("#009e73", "#d6f1e8"),
        "pci" => ("#d98e00", "#fdf0d2"),
        _ => ("#8a8a8a", "#f0f0f0"),
    };
    Colours { strong, fill }
}

#[derive(Default)]
struct Drawing {
    text: String,
}

impl Drawing {
    fn put(&mut self, more: Arguments<'_>) {
        add(&mut self.text, more);
    }

    fn all(&mut self, layout: &Layout) {
        layout.headings.iter().for_each(|label| self.label(label));
        layout.legend.iter().for_each(|swatch| self.swatch(swatch));
        if let Some(scale) = &layout.scale {
            let height = scale.bottom - scale.top;
            self.put(format_args!(
                "<rect class=\"ruler\" x=\"{RULER_X}\" y=\"{}\" width=\"{RULER_WIDTH}\" height=\"{height}\"/>\n",
                scale.top,
            ));
        }
        layout.gaps.iter().for_each(|gap| self.gap(gap));
        layout.blocks.iter().for_each(|block| self.block(block));
        layout.lines.iter().for_each(|line| self.line(line));
        for tick in &layout.ticks {
            let y = tick.area.y + tick.area.height / 2;
            self.put(format_args!("<path class=\"notch\" d=\"M{} {y}H{RULER_X}\"/>\n", RULER_X - 5));
            self.label(tick);
        }
    }

    fn style(&mut self) {
        self.put(format_args!(
            "<style>\n\
             .map text{{font-family:system-ui,'Segoe UI','Helvetica Neue',Arial,'DejaVu Sans',sans-serif;\
             fill:{INK};white-space:pre}}\n"
        ));
        for style in Style::ALL {
            self.put(format_args!(".map .{}{{font-size:{}px", style.class(), style.font_size()));
            if style.is_bold() {
                self.put(format_args!(";font-weight:bold"));
            }
            if style.is_mono() {
                self.put(format_args!(";font-family:'DejaVu Sans Mono',Menlo,Consolas,monospace"));
            }
            match style.anchor() {
                Anchor::Start => {}
                Anchor::Middle => self.put(format_args!(";text-anchor:middle")),
                Anchor::End => self.put(format_args!(";text-anchor:end")),
            }
            match style {
                Style::Struck => self.put(format_args!(";text-decoration:line-through")),
                Style::Binding => self.put(format_args!(";fill:{ALARM}")),
                Style::Subtitle | Style::Aside | Style::Gap | Style::Tick => {
                    self.put(format_args!(";fill:{FAINT}"));
                }
                _ => {}
            }
            self.put(format_args!("}}\n"));
        }
        // The halo keeps names legible on hatching. What is struck out has none, or its line would have one.
        self.put(format_args!(
            ".map .halo text{{paint-order:stroke;stroke:#fff;stroke-width:3px;stroke-linejoin:round}}\n\
             .map .ruler{{fill:#fff;stroke:#b4bac1}}\n\
             .map .notch{{stroke:#8c959f;fill:none}}\n\
             .map .fan{{opacity:.16}}\n\
             .map .gap-side{{stroke:#a3abb4;stroke-dasharray:2 4;fill:none}}\n\
             </style>\n"
        ));
    }

    fn patterns(&mut self) {
        let hatch = [
            ("reserved", 45, "#f4f4f4", "#cdcdcd"),
            ("hotplug", 0, "#e6f3fb", "#bfdff2"),
            ("dropped", 135, "#fff", "#f3d6d6"),
            ("beyond", 135, "#fff", "#e3e6e9"),
        ];
        self.put(format_args!("<defs>\n"));
        for (name, turn, ground, line) in hatch {
            self.put(format_args!(
                "<pattern id=\"map-{name}\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
                 patternTransform=\"rotate({turn})\"><rect width=\"7\" height=\"7\" fill=\"{ground}\"/>\
                 <rect width=\"2\" height=\"7\" fill=\"{line}\"/></pattern>\n"
            ));
        }
        self.put(format_args!("</defs>\n"));
    }

    fn label(&mut self, label: &Label) {
        let Area { x, y, width, .. } = label.area;
        let x = match label.style.anchor() {
            Anchor::Start => x,
            Anchor::Middle => x + width / 2,
            Anchor::End => x + width,
        };
        let baseline = y + label.style.font_size() + 1;
        let class = label.style.class();
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x}\" y=\"{baseline}\">{}</text>\n",
            escaped(&label.text)
        ));
    }

    fn swatch(&mut self, swatch: &Swatch) {
        let Area { x, y, width, .. } = swatch.area;
        let middle = y + swatch.area.height / 2;
        match swatch.key {
            Key::Kind(kind) => self.slab(swatch.area, &colours(kind), None),
            Key::Shrunk => self.slab(swatch.area, &colours(""), Some(BandStatus::Shrunk)),
            Key::Dropped => self.slab(swatch.area, &colours(""), Some(BandStatus::Dropped)),
            Key::Binding | Key::Limit => {
                let binding = swatch.key == Key::Binding;
                self.put(format_args!("<path d=\"M{x} {middle}h{width}\" {}/>\n", stroke(binding)));
            }
        }
        self.label(&swatch.label);
    }

    /// The body of a block, with its kind along the left edge.
    fn slab(&mut self, area: Area, colours: &Colours, status: Option<BandStatus>) {
        let Area { x, y, width, height } = area;
        let Colours { mut strong, mut fill } = *colours;
        let mut dashes = "";
        match status {
            Some(BandStatus::Dropped) => {
                (strong, fill) = (ALARM, "url(#map-dropped)");
                dashes = " stroke-dasharray=\"5 3\"";
            }
            Some(BandStatus::Shrunk) => dashes = " stroke-dasharray=\"9 4\"",
            _ => {}
        }
        self.put(format_args!(
            "<rect class=\"slab\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\" \
             stroke=\"{strong}\"{dashes}/>\n"
        ));
        let edge = width.min(24) / 4;
        self.put(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{edge}\" height=\"{height}\" fill=\"{}\"/>\n",
            colours.strong
        ));
    }

    fn block(&mut self, block: &Block) {
        let band = block.rows[0].band;
        let numbers: Vec<String> = block.rows.iter().map(|row| row.number.to_string()).collect();
        let halo = matches!(band.kind, "reserved" | "ram-hotplug") && band.fate() != BandStatus::Dropped;
        self.put(format_args!(
            "<g id=\"block-{}\" class=\"block{}\" data-name=\"{}\" data-rows=\"{}\" tabindex=\"0\">\n\
             <title>{}</title>\n",
            numbers[0],
            if halo { " halo" } else { "" },
            escaped(&block.name),
            numbers.join(" "),
            escaped(&block.details),
        ));
        let colours = colours(band.kind);
        let Area { y, height, .. } = block.area;
        if let Some((top, bottom)) = block.on_ruler {
            // Thin ones are still to be seen.
            let (top, bottom) = (top.min(bottom.saturating_sub(1)), bottom.max(top + 1));
            self.put(format_args!(
                "<path class=\"fan\" d=\"M{RULER_END} {top}L{COLUMN_X} {y}V{}L{RULER_END} {bottom}Z\" \
                 fill=\"{}\"/>\n\
                 <rect x=\"{RULER_X}\" y=\"{top}\" width=\"{RULER_WIDTH}\" height=\"{}\" fill=\"{}\"/>\n",
                y + height,
                colours.strong,
                bottom - top,
                colours.strong,
            ));
        }
        self.slab(block.area, &colours, Some(band.fate()));
        block.labels.iter().for_each(|label| self.label(label));
        self.put(format_args!("</g>\n"));
    }

    fn gap(&mut self, gap: &Gap) {
        let Area { x, y, width, height } = gap.area;
        if gap.out_of_reach {
            self.put(format_args!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"url(#map-beyond)\"/>\n"
            ));
        }
        self.put(format_args!(
            "<path class=\"gap-side\" d=\"M{x} {y}v{height}M{} {y}v{height}\"/>\n",
            x + width
        ));
        let halo = if gap.out_of_reach { "halo" } else { "plain" };
        self.put(format_args!("<g class=\"{halo}\">"));
        self.label(&gap.label);
        self.put(format_args!("</g>\n"));
    }

    fn line(&mut self, line: &Line) {
        let Line { y, on_ruler, .. } = *line;
        self.put(format_args!(
            "<g class=\"line\"><title>{}</title>\n\
             <path d=\"M{RULER_X} {on_ruler}H{RULER_END}L{COLUMN_X} {y}H{}\" {}/>\n",
            escaped(&line.details),
            WIDTH - MARGIN,
            stroke(line.binding),
        ));
        line.labels.iter().for_each(|label| self.label(label));
        self.put(format_args!("</g>\n"));
    }
}

fn stroke(binding: bool) -> String {
    let (colour, rest) = if binding { (ALARM, "2\"") } else { (FAINT, "1.2\" stroke-dasharray=\"7 4\"") };
    format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"{rest}")
}
