//! Reports for people: aligned columns, and wrapped only where a terminal is narrow.

use ambit_device_manager::{
    Arch, Board, Diagnostic, Plan, Region, RegionKind, Severity, Status, WidthSource,
};
use ambit_resources::human_size;

use super::scene::window_name;
use super::{Paper, Probe, kind_word, severity_word};

/// `plan` as text; `more` are diagnostics that the planner could not know.
pub fn plan(plan: &Plan, board: &dyn Board, more: &[Diagnostic], paper: Paper) -> String {
    let columns = paper.columns;
    let mut text = wrapped(&header(plan), 0, columns);
    text += &wrapped(&width_line(plan), 0, columns);
    text.push('\n');
    text += &regions(plan, board, paper);
    text += &functions(plan);
    if plan.irqs.owners().next().is_some() {
        text.push('\n');
        text += &interrupts(plan, board);
        text += &wrapped(&budget(plan), 0, columns);
    }
    text + &diagnostics(more.iter().chain(&plan.diagnostics), paper)
}

fn header(plan: &Plan) -> String {
    let memory = plan.ram().map(|range| range.size()).sum();
    format!(
        "board {} ({}), {}, {} of memory",
        plan.board,
        plan.arch.name(),
        counted(u64::from(plan.cpus), "vCPU"),
        human_size(memory),
    )
}

/// What was planned with, what KVM is asked for, and what the host makes of that.
pub fn width_line(plan: &Plan) -> String {
    let source = match plan.width.source {
        WidthSource::Host => "of this host",
        WidthSource::User => "allowed",
        WidthSource::Guest => "that the guest can use",
        WidthSource::Board => "of the board",
        WidthSource::Assumed => "assumed",
    };
    let tables = plan.page_tables.map(|tables| {
        let first = match tables.concatenated {
            1 => String::new(),
            count => format!(" ({count} tables side by side)"),
        };
        format!(
            "; stage 2: {} levels from level {}{first}, T0SZ {}, SL0 {}, pages of {}",
            tables.levels,
            tables.start_level,
            tables.t0sz,
            tables.sl0,
            human_size(tables.page_size),
        )
    });
    let (bits, asked) = (plan.width.bits, plan.ipa_bits);
    format!("{bits} address bits {source}, {asked} asked of KVM{}", tables.unwrap_or_default())
}

/// "1 vCPU", "2 vCPUs".
pub fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn regions(plan: &Plan, board: &dyn Board, paper: Paper) -> String {
    let highest = plan.regions.iter().filter_map(|region| region.range).map(|range| range.last()).max();
    let digits = format!("{:x}", highest.unwrap_or(0)).len().max(8);
    let mut grid = Grid::new(&[
        ("BASE", Align::Left),
        ("LAST", Align::Left),
        ("SIZE", Align::Right),
        ("KIND", Align::Left),
        ("NAME", Align::Left),
        ("INTID", Align::Right),
        ("", Align::Left),
    ]);
    for region in &plan.regions {
        let hex = |address: u64| format!("{address:#0width$x}", width = digits + 2);
        let intid = plan.device(&region.name).and_then(|device| device.slot.irq);
        let colour = match region.status {
            Status::Placed => None,
            Status::Shrunk => Some(YELLOW),
            Status::Dropped => Some(RED),
        };
        grid.coloured(
            colour.filter(|_| paper.colours),
            [
                region.range.map_or_else(|| "dropped".into(), |range| hex(range.first())),
                region.range.map_or_else(|| "-".into(), |range| hex(range.last())),
                human_size(region.size),
                kind_word(plan, region).into(),
                region.name.clone(),
                intid.map_or_else(|| "-".into(), |(pin, _)| board.interrupt_id(pin).to_string()),
                remark(plan, region),
            ],
        );
    }
    // The last address follows from base and size.
    if paper.columns.is_some_and(|columns| grid.width() > columns) {
        grid.remove_column(1);
    }
    grid.text()
}

/// What is worth saying beside a region; empty for most.
fn remark(plan: &Plan, region: &Region) -> String {
    if region.kind == RegionKind::Device {
        // Of a device that is there, how the guest reaches it.
        return plan.device(&region.name).map(|device| device.transport.to_string()).unwrap_or_default();
    }
    let wanted = region.shortfall.map(|short| human_size(short.wanted));
    match (region.status, wanted, region.frames) {
        (Status::Shrunk, Some(wanted), _) => format!("shrunk from {wanted}"),
        (Status::Dropped, Some(_), _) => match region.shortfall.and_then(|short| short.needed_bits) {
            Some(bits) => format!("needs {bits} bits"),
            None => "needs more bits than there can be".into(),
        },
        (_, _, Some(frames)) if frames > 0 => counted(u64::from(frames), "vCPU"),
        _ => String::new(),
    }
}

/// What PCI functions have within the windows above. Empty if there are none.
fn functions(plan: &Plan) -> String {
    let mut grid = Grid::new(&[
        ("BASE", Align::Left),
        ("SIZE", Align::Right),
        ("DEVICE", Align::Left),
        ("KIND", Align::Left),
        ("NAME", Align::Left),
        ("", Align::Left),
    ]);
    let mut any = false;
    for device in &plan.devices {
        let Some(number) = device.function else { continue };
        any = true;
        for (index, window) in device.slot.windows.iter().enumerate() {
            grid.row([
                format!("{:#x}", window.first()),
                human_size(window.size()),
                format!("00:{number:02x}.0"),
                device.kind.clone(),
                window_name(&device.id, index),
                device.transport.to_string(),
            ]);
        }
    }
    if any { format!("\n{}", grid.text()) } else { String::new() }
}

fn interrupts(plan: &Plan, board: &dyn Board) -> String {
    let mut grid = Grid::new(&[
        ("PIN", Align::Right),
        ("INTID", Align::Right),
        ("NAME", Align::Left),
        ("", Align::Left),
    ]);
    for (pin, owner) in plan.irqs.owners() {
        let shared = if plan.intx.contains(&pin) { "shared by PCI functions without MSI" } else { "" };
        grid.row([pin.to_string(), board.interrupt_id(pin).to_string(), owner.into(), shared.into()]);
    }
    grid.text()
}

/// What is left for more devices.
fn budget(plan: &Plan) -> String {
    let (first, last) = plan.device_pins;
    let all = (u64::from(last) + 1).saturating_sub(u64::from(first));
    format!("{} of {all} pins for devices ({first} to {last}) are free", plan.free_device_pins())
}

/// Each after an empty line.
pub fn diagnostics<'d>(all: impl Iterator<Item = &'d Diagnostic>, paper: Paper) -> String {
    let mut text = String::new();
    for diagnostic in all {
        let severity = severity_word(diagnostic.severity);
        let columns = paper.columns;
        text.push('\n');
        let said = wrapped(&format!("{severity}: {}", diagnostic.message), 2, columns);
        let colour = match diagnostic.severity {
            Severity::Note => None,
            Severity::Warning => Some(YELLOW),
            Severity::Error => Some(RED),
        };
        text += &match colour.filter(|_| paper.colours) {
            Some(colour) => said.replacen(severity, &format!("{colour}{severity}{PLAIN}"), 1),
            None => said,
        };
        for remedy in &diagnostic.remedies {
            text += &wrapped(&format!("  help: {remedy}"), 4, columns);
        }
    }
    text
}

/// `probe` as text.
pub fn probe(probe: &Probe, paper: Paper) -> String {
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
    grid.text() + &diagnostics(probe.problems.iter(), paper)
}

#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

// ECMA-48, 8.3.117.
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const PLAIN: &str = "\x1b[0m";

/// Rows of cells, each column as wide as its widest cell.
pub struct Grid {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
    /// Rows that are not plain, by number.
    colours: Vec<(usize, &'static str)>,
}

impl Grid {
    /// Without columns there is no title row, and every cell is aligned to the left.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).into()).collect();
        let rows = if titles.is_empty() { Vec::new() } else { vec![titles] };
        Self { aligns: columns.iter().map(|(_, align)| *align).collect(), rows, colours: Vec::new() }
    }

    fn coloured<const N: usize>(&mut self, colour: Option<&'static str>, cells: [String; N]) {
        self.colours.extend(colour.map(|colour| (self.rows.len(), colour)));
        self.row(cells);
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
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

    pub fn text(&self) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let colour = self.colours.iter().find(|(row, _)| *row == number).map(|(_, colour)| *colour);
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| match self.aligns.get(column) {
                    Some(Align::Right) => format!("{cell:>width$}"),
                    _ => format!("{cell:<width$}"),
                })
                .collect();
            text += colour.unwrap_or_default();
            text += cells.join("  ").trim_end();
            text += colour.map_or("", |_| PLAIN);
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
