//! A few machines on a board, planned on paper, and what their guests would be told.

use std::sync::Arc;

use ambit_bus::{Bar, BarSpace, Needs, Request, Trigger};
use ambit_device_manager::{
    Board, HostFacts, MachineConfig, PciConfig, Plan, Refusal, Severity, Width, WidthSource, plan,
};
use ambit_resources::{PaBits, human_size};

use super::check::{SMALL, most_cpus};
use super::finding::Finding;
use super::{BoardFile, Marks};
use crate::gic;
use crate::tree::{Change, Edit, Node, Value};
use crate::{boot, fdt::Chosen};

/// Hosts there are many of, in address bits.
const WIDTHS: [u8; 3] = [36, 40, 48];

/// What an `interrupts` of the GIC is made of: type, number, flags.
const INTERRUPT_CELLS: usize = 3;
/// What refers to the GIC.
const GIC_PHANDLE: u32 = crate::fdt::INTC;

/// Plans the smallest machine and the one with most vCPUs on hosts of some widths.
pub(super) fn run(file: &BoardFile) -> Vec<Finding> {
    let board = &file.board;
    let own = board.spec.width.map(PaBits::get);
    let mut widths: Vec<u8> = WIDTHS.into_iter().map(|bits| own.map_or(bits, |own| own.min(bits))).collect();
    widths.dedup();
    let room = u32::try_from(most_cpus(&board.spec.gic)).unwrap_or(u32::MAX);
    let most = board.spec.max_cpus.min(board.spec.gic.max_cpus()).min(room);
    let mut cpus = vec![1, most];
    cpus.dedup();
    let mut findings: Vec<Finding> = Vec::new();
    for cpus in cpus {
        let mut said = Vec::new();
        // What a narrow host lacks a wide one may have, and who has many vCPUs has a wide one.
        for (index, bits) in widths.iter().enumerate() {
            let hopeless = cpus == 1 && index + 1 == widths.len();
            let vcpus = if cpus == 1 { "1 vCPU".into() } else { format!("{cpus} vCPUs") };
            let on = format!("with {vcpus}, {} and {bits} bits", human_size(SMALL));
            match planned(file, cpus, *bits) {
                Ok(plan) => lost(file, &plan, &on, &mut findings),
                Err(refusal) if hopeless || !said.contains(&refusal.to_string()) => {
                    findings.push(refused(file, &refusal, &on, hopeless));
                    said.push(refusal.to_string());
                }
                Err(_) => {}
            }
        }
    }
    if let Some(Ok(plan)) = widths.last().map(|bits| planned(file, 1, *bits)) {
        tree(file, &plan, &mut findings);
    }
    findings
}

fn planned(file: &BoardFile, cpus: u32, bits: u8) -> Result<Plan, Box<Refusal>> {
    let bits = PaBits::new(bits).unwrap_or(PaBits::MIN);
    let facts = HostFacts { width: Width { bits, source: WidthSource::User }, ..HostFacts::assumed() };
    let pci = file.board.spec.pci.is_some();
    let card = Needs::Pci { bars: vec![Bar { size: 16 << 10, space: BarSpace::Mmio32 }] };
    let disk = Needs::Board { registers: 0x200, irq: Some(Trigger::Edge) };
    let mut devices = vec![request("disk", disk)];
    devices.extend(pci.then(|| request("card", card)));
    let config = MachineConfig {
        cpus,
        memory: SMALL,
        pci: pci.then(PciConfig::default),
        devices,
        ..MachineConfig::default()
    };
    plan(&file.board, &config, &facts).map_err(Box::new)
}

fn request(id: &str, needs: Needs) -> Request {
    Request {
        id: format!("check.{id}"),
        kind: id.into(),
        needs,
        description: Arc::default(),
        queue_reach: None,
    }
}

fn refused(file: &BoardFile, refusal: &Refusal, on: &str, hopeless: bool) -> Finding {
    let severity = if hopeless { Severity::Error } else { Severity::Warning };
    let message = format!("there is no machine {on}: {refusal}");
    Finding {
        severity,
        spot: file.marks.at(&["file"]),
        message,
        help: refusal.remedies.first().map(ToString::to_string),
    }
}

/// What a plan leaves out: once, where it first happens.
fn lost(file: &BoardFile, plan: &Plan, on: &str, findings: &mut Vec<Finding>) {
    for diagnostic in &plan.diagnostics {
        let region = diagnostic.message.split(' ').next().unwrap_or_default();
        let known = |finding: &Finding| finding.message.starts_with(&format!("{region} "));
        if findings.iter().any(known) {
            continue;
        }
        let message = format!("{} ({on})", diagnostic.message);
        let spot = file.marks.at(&[region, region.split('.').next().unwrap_or_default()]);
        findings.push(Finding { severity: Severity::Note, spot, message, help: None });
    }
}

/// What the guest is told.
fn tree(file: &BoardFile, plan: &Plan, findings: &mut Vec<Finding>) {
    let edits = &file.board.spec.edits;
    let chosen = Chosen::default();
    let mut error = |index: usize, message: String, help: &str| {
        let spot = file.marks.at(&[&format!("tree.{index}"), "tree"]);
        findings.push(Finding { severity: Severity::Error, spot, message, help: Some(help.into()) });
    };
    let Ok(mut root) = boot::tree(plan, &chosen, &[]) else { return };
    for (index, edit) in edits.iter().enumerate() {
        if !root.apply(edit) {
            let message = format!("[[tree]] '{}' takes away what is not there", edit.path);
            error(index, message, "leave this entry out, or correct the path");
        }
    }
    for (index, edit) in edits.iter().enumerate() {
        if let Change::Set(values) = &edit.change {
            for (message, help) in values.iter().filter_map(|(name, value)| odd(&root, edit, name, value)) {
                error(index, message, help);
            }
        }
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return;
    }
    if let Err(refused) = file.board.tree(plan, "") {
        let message = format!("the device tree cannot be made: {refused}");
        let (spot, help) = (tree_mark(&file.marks), "see the entries [[tree]]".to_owned());
        findings.push(Finding { severity: Severity::Error, spot, message, help: Some(help) });
    }
}

fn tree_mark(marks: &Marks) -> super::Spot {
    marks.at(&["tree"])
}

/// What is wrong with a property whose cells have a meaning.
fn odd(root: &Node, edit: &Edit, name: &str, value: &Value) -> Option<(String, &'static str)> {
    let path: Vec<&str> = edit.path.split('/').filter(|name| !name.is_empty()).collect();
    // From the root to the node itself.
    let mut nodes = vec![root];
    for name in &path {
        nodes.push(nodes.last()?.children.iter().find(|child| child.name == *name)?);
    }
    let (_, parents) = nodes.split_last()?;
    match name {
        "reg" if !parents.is_empty() => {
            // As Linux looks for them (drivers/of/base.c, of_bus_n_addr_cells).
            let said = |name: &str| parents.iter().rev().find_map(|node| one_cell(node, name));
            let (address, size) = (said("#address-cells").unwrap_or(2), said("#size-cells").unwrap_or(2));
            let whole = u64::from(address) + u64::from(size);
            let has = cell_count(value);
            let fits = has.is_some_and(|has| has > 0 && whole > 0 && (has as u64).is_multiple_of(whole));
            (!fits).then(|| {
                let message = format!(
                    "reg of {} has {}, and its parent wants {address} for an address and {size} for a size",
                    edit.path,
                    cells_text(has)
                );
                (message, "write a multiple of both together; cells64 are two cells each")
            })
        }
        "interrupts" => {
            let parent = nodes.iter().rev().find_map(|node| one_cell(node, "interrupt-parent"));
            let has = cell_count(value);
            if parent != Some(GIC_PHANDLE) {
                return None;
            }
            if !has.is_some_and(|has| has > 0 && has.is_multiple_of(INTERRUPT_CELLS)) {
                let message = format!(
                    "interrupts of {} has {}, and the GIC wants 3 for each",
                    edit.path,
                    cells_text(has)
                );
                return Some((message, "write { cells = [0, PIN, 4] }: shared, its pin, level"));
            }
            let Value::Cells(cells) = value else { return None };
            let beyond =
                cells.chunks(INTERRUPT_CELLS).find(|it| it[0] > 1 || (it[0] == 0 && it[1] >= gic::SPIS));
            beyond.map(|it| {
                let message = format!("interrupts of {} has type {} and number {}", edit.path, it[0], it[1]);
                (message, "write type 0 and a pin from 0 to 959, or type 1 and a number from 0 to 15")
            })
        }
        _ => None,
    }
}

fn one_cell(node: &Node, name: &str) -> Option<u32> {
    let (_, value) = node.properties.iter().find(|(known, _)| known == name)?;
    match value {
        Value::Cells(cells) if cells.len() == 1 => cells.first().copied(),
        _ => None,
    }
}

/// `None` if it is not made of cells.
fn cell_count(value: &Value) -> Option<usize> {
    match value {
        Value::Cells(cells) => Some(cells.len()),
        Value::Cells64(wide) => Some(wide.len() * 2),
        Value::Bytes(bytes) if bytes.len().is_multiple_of(4) => Some(bytes.len() / 4),
        Value::Flag | Value::Strings(_) | Value::Bytes(_) => None,
    }
}

fn cells_text(count: Option<usize>) -> String {
    match count {
        Some(1) => "1 cell".into(),
        Some(count) => format!("{count} cells"),
        None => "no cells".into(),
    }
}
