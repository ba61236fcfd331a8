//! Reports for programs. Their fields are a promise; `schema` counts the times it was broken.

use ambit_device_manager::{Arch, Board, Diagnostic, HostFacts, Plan, PlanError, Region, RegionKind, Status};
use ambit_resources::{IrqPin, PaBits};
use serde::Serialize;

use super::Probe;

const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct PlanReport<'a> {
    schema: u32,
    board: &'a str,
    arch: Arch,
    pa_bits: PaBits,
    /// Null for a plan that does not fit.
    ipa_bits: Option<PaBits>,
    cpus: u32,
    regions: Vec<RegionReport<'a>>,
    irqs: Vec<IrqReport<'a>>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Serialize)]
struct RegionReport<'a> {
    name: &'a str,
    kind: RegionKind,
    base: Option<String>,
    size: u64,
    status: Status,
    reason: Option<&'a str>,
}

#[derive(Serialize)]
struct IrqReport<'a> {
    name: &'a str,
    pin: u32,
    intid: u32,
}

impl<'a> From<&'a Region> for RegionReport<'a> {
    fn from(region: &'a Region) -> Self {
        Self {
            name: &region.name,
            kind: region.kind,
            base: region.range.map(|range| format!("{:#x}", range.first())),
            size: region.size,
            status: region.status,
            reason: region.reason.as_deref(),
        }
    }
}

/// `plan` as one object; `more` are diagnostics that the planner could not know.
pub fn plan(plan: &Plan, board: &dyn Board, more: &[Diagnostic]) -> String {
    let irq = |(pin, name): (IrqPin, _)| IrqReport { name, pin: pin.0, intid: board.interrupt_id(pin) };
    write(&PlanReport {
        schema: SCHEMA,
        board: &plan.board,
        arch: plan.arch,
        pa_bits: plan.width.bits,
        ipa_bits: Some(plan.ipa_bits),
        cpus: plan.cpus,
        regions: plan.regions.iter().map(RegionReport::from).collect(),
        irqs: plan.irqs.owners().map(irq).collect(),
        diagnostics: more.iter().chain(&plan.diagnostics).cloned().collect(),
    })
}

/// The same object where there is no plan: `error` says why, first of the diagnostics.
pub fn refusal(
    board: &dyn Board,
    cpus: u32,
    facts: &HostFacts,
    error: &PlanError,
    more: &[Diagnostic],
) -> String {
    write(&PlanReport {
        schema: SCHEMA,
        board: board.name(),
        arch: board.arch(),
        pa_bits: facts.width.bits,
        ipa_bits: None,
        cpus,
        regions: Vec::new(),
        irqs: Vec::new(),
        diagnostics: [error.diagnostic()].into_iter().chain(more.iter().cloned()).collect(),
    })
}

#[derive(Serialize)]
struct ProbeReport<'a> {
    schema: u32,
    arch: Arch,
    kvm: bool,
    api_version: Option<i32>,
    ipa_bits: Option<u8>,
    ipa_bits_known: Option<bool>,
    gic_versions: Option<&'a [u8]>,
    its: Option<bool>,
    max_cpus: Option<usize>,
    recommended_cpus: Option<usize>,
    memory_slots: Option<usize>,
    page_size: Option<u64>,
    problems: &'a [Diagnostic],
}

/// `probe` as one object; what was not asked is null.
pub fn probe(probe: &Probe) -> String {
    let kvm = probe.kvm.as_ref();
    write(&ProbeReport {
        schema: SCHEMA,
        arch: probe.arch,
        kvm: kvm.is_some(),
        api_version: kvm.map(|kvm| kvm.api_version),
        ipa_bits: kvm.map(|kvm| kvm.ipa_limit),
        ipa_bits_known: kvm.map(|kvm| kvm.ipa_limit_known),
        gic_versions: kvm.map(|kvm| kvm.gic_versions.as_slice()),
        its: kvm.map(|kvm| kvm.its),
        max_cpus: kvm.map(|kvm| kvm.max_vcpus),
        recommended_cpus: kvm.map(|kvm| kvm.recommended_vcpus),
        memory_slots: kvm.map(|kvm| kvm.memory_slots),
        page_size: kvm.map(|kvm| kvm.page_size),
        problems: &probe.problems,
    })
}

fn write(report: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(report)
        .expect("strings, numbers and lists of them always have a JSON form");
    text.push('\n');
    text
}
