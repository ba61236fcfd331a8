//! Reports for programs. Their fields are a promise; `schema` counts the times it was broken.

use ambit_device_manager::{
    Arch, Board, Diagnostic, HostFacts, PageTables, Placed, Plan, Processor, Refusal, Region, RegionKind,
    Status, Transport, Width, WidthSource,
};
use ambit_resources::{AddressRange, IrqPin, PaBits};
use ambit_x86_64::e820;
use ambit_x86_64::zero_page::{E820, E820Kind};
use serde::Serialize;

use super::Probe;
use super::scene::window_name;

const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct PlanReport<'a> {
    schema: u32,
    board: &'a str,
    arch: Arch,
    pa_bits: PaBits,
    /// Who set that width.
    pa_bits_source: WidthSource,
    /// Null for a plan that does not fit.
    ipa_bits: Option<PaBits>,
    page_tables: Option<PageTables>,
    cpus: u32,
    regions: Vec<RegionReport<'a>>,
    /// The memory map that x86_64 guests are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    e820: Option<Vec<E820Report>>,
    /// Every device, the host bridge too.
    devices: Vec<DeviceReport<'a>>,
    /// What PCI functions have within those regions.
    functions: Vec<FunctionReport<'a>>,
    irqs: Vec<IrqReport<'a>>,
    /// Null for a plan that does not fit.
    device_pins: Option<PinsReport>,
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
    /// How many vCPUs have a frame in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    /// All that is kept for it, where that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shortfall: Option<ShortfallReport>,
}

#[derive(Serialize)]
struct ShortfallReport {
    wanted: u64,
    bytes: u64,
    needed_bits: Option<u8>,
    limit: Width,
}

#[derive(Serialize)]
struct E820Report {
    base: String,
    size: u64,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct DeviceReport<'a> {
    name: &'a str,
    kind: &'a str,
    /// How the guest reaches it.
    transport: Transport,
}

#[derive(Serialize)]
struct FunctionReport<'a> {
    name: &'a str,
    number: u8,
    windows: Vec<WindowReport>,
}

#[derive(Serialize)]
struct WindowReport {
    name: String,
    base: String,
    size: u64,
}

#[derive(Serialize)]
struct IrqReport<'a> {
    name: &'a str,
    pin: u32,
    intid: u32,
    /// By every PCI function without MSI.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
}

/// The pins of optional devices.
#[derive(Serialize)]
struct PinsReport {
    first: u32,
    last: u32,
    free: u32,
}

fn hex(range: AddressRange) -> String {
    format!("{:#x}", range.first())
}

impl<'a> From<&'a Region> for RegionReport<'a> {
    fn from(region: &'a Region) -> Self {
        let room = region.room.map(AddressRange::size).filter(|room| *room != region.size);
        Self {
            name: &region.name,
            kind: region.kind,
            base: region.range.map(hex),
            size: region.size,
            status: region.status,
            reason: region.reason.as_deref(),
            count: region.frames,
            room,
            shortfall: region.shortfall.map(|short| ShortfallReport {
                wanted: short.wanted,
                bytes: short.bytes,
                needed_bits: short.needed_bits,
                limit: short.limit,
            }),
        }
    }
}

impl<'a> From<&'a Placed> for DeviceReport<'a> {
    fn from(device: &'a Placed) -> Self {
        Self { name: &device.id, kind: &device.kind, transport: device.transport }
    }
}

fn e820_line(line: E820) -> E820Report {
    let kind = match line.kind {
        E820Kind::Ram => "ram",
        _ => "reserved",
    };
    E820Report { base: hex(line.range), size: line.range.size(), kind }
}

fn functions(plan: &Plan) -> Vec<FunctionReport<'_>> {
    let functions = plan.devices.iter().filter_map(|device| {
        let windows = device.slot.windows.iter().enumerate().map(|(index, window)| WindowReport {
            name: window_name(&device.id, index),
            base: hex(*window),
            size: window.size(),
        });
        Some(FunctionReport { name: &device.id, number: device.function?, windows: windows.collect() })
    });
    functions.collect()
}

/// `plan` as one object; `more` are diagnostics that the planner could not know.
pub fn plan(plan: &Plan, board: &dyn Board, more: &[Diagnostic]) -> String {
    let irq = |(pin, name): (IrqPin, _)| IrqReport {
        name,
        pin: pin.0,
        intid: board.interrupt_id(pin),
        shared: plan.intx.contains(&pin),
    };
    let (first, last) = plan.device_pins;
    write(&PlanReport {
        schema: SCHEMA,
        board: &plan.board,
        arch: plan.arch,
        pa_bits: plan.width.bits,
        pa_bits_source: plan.width.source,
        ipa_bits: Some(plan.ipa_bits),
        page_tables: plan.page_tables,
        cpus: plan.cpus,
        regions: plan.regions.iter().map(RegionReport::from).collect(),
        e820: (plan.arch == Arch::X86_64).then(|| e820::planned(plan).into_iter().map(e820_line).collect()),
        devices: plan.devices.iter().map(DeviceReport::from).collect(),
        functions: functions(plan),
        irqs: plan.irqs.owners().map(irq).collect(),
        device_pins: Some(PinsReport { first, last, free: plan.free_device_pins() }),
        diagnostics: more.iter().chain(&plan.diagnostics).cloned().collect(),
    })
}

/// The same object where there is no plan: `refusal` says why, first of the diagnostics.
pub fn refusal(
    board: &dyn Board,
    cpus: u32,
    facts: &HostFacts,
    refusal: &Refusal,
    more: &[Diagnostic],
) -> String {
    write(&PlanReport {
        schema: SCHEMA,
        board: board.name(),
        arch: board.arch(),
        pa_bits: facts.width.bits,
        pa_bits_source: facts.width.source,
        ipa_bits: None,
        page_tables: None,
        cpus,
        regions: Vec::new(),
        e820: (board.arch() == Arch::X86_64).then(Vec::new),
        devices: Vec::new(),
        functions: Vec::new(),
        irqs: Vec::new(),
        device_pins: None,
        diagnostics: [refusal.diagnostic()].into_iter().chain(more.iter().cloned()).collect(),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    processor: Option<&'a Processor>,
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
        processor: kvm.and_then(|kvm| kvm.processor.as_ref()),
        problems: &probe.problems,
    })
}

/// Any report as one object.
pub fn write(report: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(report)
        .expect("strings, numbers and lists of them always have a JSON form");
    text.push('\n');
    text
}
