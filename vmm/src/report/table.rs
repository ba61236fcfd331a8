//! Reports for people: aligned columns, and wrapped only where a terminal is narrow.

use ambit_device_manager::{Arch, Board, Diagnostic, Plan, Region, RegionKind, Severity, WidthSource};
use ambit_resources::human_size;

use super::Probe;

/// `plan` as text; `more` are diagnostics that the planner could not know. `columns` is the width to
/// keep to, if any.
pub fn plan(plan: &Plan, board: &dyn Board, more: &[Diagnostic], columns: Option<usize>) -> String {
    let mut text = wrapped(&header(plan), 0, columns);
    text.push('\n');
    text += &regions(plan, board, columns);
    if plan.irqs.owners().next().is_some() {
        text.push('\n');
        text += &interrupts(plan, board);
    }
    text + &diagnostics(more.iter().chain(&plan.diagnostics), columns)
}

fn header(plan: &Plan) -> String {
    let source = match plan.width.source {
        WidthSource::Host => "of this host",
        WidthSource::User => "allowed",
        WidthSource::Assumed => "assumed",
    };
    let memory = plan.ram().map(|range| range.size()).sum();
    format!(
        "board {} ({}), {}, {} of memory, {} address bits {source}, {} asked of KVM",
        plan.board,
        plan.arch.name(),
        counted(u64::from(plan.cpus), "vCPU"),
        human_size(memory),
        plan.width.bits,
        plan.ipa_bits,
    )
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn regions(plan: &Plan, board: &dyn Board, columns: Option<usize>) -> String {
    let highest = plan.regions.iter().filter_map(|region| region.range).map(|range| range.last()).max();
    let digits = format!("{:x}", highest.unwrap_or(0)).len().max(8);
    let mut grid = Grid::new(&[
        ("BASE", Align::Left),
        ("LAST", Align::Left),
        ("SIZE", Align::Right),
        ("KIND", Align::Left),
        ("NAME", Align::Left),
        ("INTID", Align::Right),
    ]);
    for region in &plan.regions {
        let hex = |address: u64| format!("{address:#0width$x}", width = digits + 2);
        let intid = plan.device(&region.name).and_then(|device| device.slot.irq);
        grid.row([
            region.range.map_or_else(|| "dropped".into(), |range| hex(range.first())),
            region.range.map_or_else(|| "-".into(), |range| hex(range.last())),
            human_size(region.size),
            kind(plan, region).into(),
            region.name.clone(),
            intid.map_or_else(|| "-".into(), |(pin, _)| board.interrupt_id(pin).to_string()),
        ]);
    }
    // The last address follows from base and size.
    if columns.is_some_and(|columns| grid.width() > columns) {
        grid.remove_column(1);
    }
    grid.text()
}

/// Of a device, which one it is.
fn kind<'p>(plan: &'p Plan, region: &Region) -> &'p str {
    match region.kind {
        RegionKind::Ram => "ram",
        RegionKind::Reserved => "reserved",
        RegionKind::InterruptController => "interrupt-controller",
        RegionKind::Device => plan.device(&region.name).map_or("device", |device| &device.kind),
    }
}

fn interrupts(plan: &Plan, board: &dyn Board) -> String {
    let mut grid = Grid::new(&[("PIN", Align::Right), ("INTID", Align::Right), ("NAME", Align::Left)]);
    for (pin, owner) in plan.irqs.owners() {
        grid.row([pin.to_string(), board.interrupt_id(pin).to_string(), owner.into()]);
    }
    grid.text()
}

/// Each after an empty line.
pub fn diagnostics<'d>(all: impl Iterator<Item = &'d Diagnostic>, columns: Option<usize>) -> String {
    let mut text = String::new();
    for diagnostic in all {
        let severity = match diagnostic.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        text.push('\n');
        text += &wrapped(&format!("{severity}: {}", diagnostic.message), 2, columns);
        for remedy in &diagnostic.remedies {
            text += &wrapped(&format!("  help: {remedy}"), 4, columns);
        }
    }
    text
}

/// `probe` as text.
pub fn probe(probe: &Probe, columns: Option<usize>) -> String {
    let mut grid = Grid::new(&[]);
    grid.row(["architecture".into(), probe.arch.name().into()]);
    match &probe.kvm {
        None => grid.row(["KVM".into(), "not available".into()]),
        Some(kvm) => {
            let limit = if kvm.ipa_limit_known { "" } else { " (this kernel cannot say; the usual)" };
            grid.row(["KVM".into(), format!("available, interface version {}", kvm.api_version)]);
            grid.row(["physical address bits".into(), format!("at most {}{limit}", kvm.ipa_limit)]);
            if probe.arch == Arch::Aarch64 {
                let gics: Vec<String> =
                    kvm.gic_versions.iter().map(|version| format!("GICv{version}")).collect();
                let gics = if gics.is_empty() { "none".into() } else { gics.join(", ") };
                grid.row(["interrupt controllers".into(), gics]);
                grid.row(["translation service (ITS)".into(), if kvm.its { "yes" } else { "no" }.into()]);
            }
            let cpus = format!("at most {}, {} recommended", kvm.max_vcpus, kvm.recommended_vcpus);
            grid.row(["vCPUs".into(), cpus]);
            grid.row(["memory slots".into(), kvm.memory_slots.to_string()]);
            grid.row(["page size".into(), human_size(kvm.page_size)]);
        }
    }
    grid.text() + &diagnostics(probe.problems.iter(), columns)
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

/// Rows of cells, each column as wide as its widest cell.
struct Grid {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// Without columns there is no title row, and every cell is aligned to the left.
    fn new(columns: &[(&str, Align)]) -> Self {
        let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).into()).collect();
        let rows = if titles.is_empty() { Vec::new() } else { vec![titles] };
        Self { aligns: columns.iter().map(|(_, align)| *align).collect(), rows }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn remove_column(&mut self, index: usize) {
        self.aligns.remove(index);
        for row in &mut self.rows {
            row.remove(index);
        }
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        widths
    }

    fn width(&self) -> usize {
        let widths = self.widths();
        widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1)
    }

    fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match self.aligns.get(column) {
                    Some(Align::Right) => format!("{cell:>width$}"),
                    _ => format!("{cell:<width$}"),
                })
                .collect();
            text += cells.join("  ").trim_end();
            text.push('\n');
        }
        text
    }
}

/// `line` in lines of at most `columns`, broken at spaces, the later ones indented.
fn wrapped(line: &str, indent: usize, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return format!("{line}\n") };
    let lead = line.len() - line.trim_start().len();
    let mut text = line[..lead].to_owned();
    let mut used = lead;
    for (index, word) in line.split_whitespace().enumerate() {
        let length = word.chars().count();
        if index > 0 && used + 1 + length > columns {
            text.push('\n');
            text += &" ".repeat(indent);
            used = indent;
        } else if index > 0 {
            text.push(' ');
            used += 1;
        }
        text += word;
        used += length;
    }
    text.push('\n');
    text
}
