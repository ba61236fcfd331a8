//! What the program prints on standard output: a plan, and what the host's KVM can do.

mod json;
mod scene;
mod table;

use std::ffi::OsStr;
use std::io::{self, ErrorKind, IsTerminal, Write};

use ambit_device_manager::{Arch, Board, Diagnostic, Plan, Region, RegionKind, Severity};

use crate::failure::Failure;
use crate::kvm::{HostKvm, KvmError};

pub use json::{plan as plan_json, probe as probe_json, refusal as refusal_json, write as json};
pub use scene::scene;
pub use table::{Align, Grid, counted, diagnostics, plan as plan_table, probe as probe_table};

/// For people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// The ways there are to see a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanFormat {
    /// For people
    #[default]
    Table,
    /// For programs: vmm/schema/plan.schema.json
    Json,
    /// The guest's device tree as source
    Dts,
    /// The guest's device tree as it is in memory
    Dtb,
    /// A picture of the address map
    Svg,
}

/// Of a device, which one it is; of all else, its kind.
pub fn kind_word<'p>(plan: &'p Plan, region: &Region) -> &'p str {
    match region.kind {
        RegionKind::Ram => "ram",
        RegionKind::RamHotplug => "ram-hotplug",
        RegionKind::Reserved => "reserved",
        RegionKind::InterruptController => "interrupt-controller",
        RegionKind::Pci => "pci",
        RegionKind::Device => plan.device(&region.name).map_or("device", |device| &device.kind),
    }
}

pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// What this host can do for a machine of its own kind.
#[derive(Debug)]
pub struct Probe {
    pub arch: Arch,
    /// `None` if there is no KVM to ask; `problems` says why.
    pub kvm: Option<HostKvm>,
    /// What stands in the way of running guests.
    pub problems: Vec<Diagnostic>,
}

impl Probe {
    /// `found` on this host, and what that means for guests on `boards`.
    pub fn new(found: Result<HostKvm, KvmError>, boards: &[&dyn Board]) -> Self {
        let arch = Arch::host();
        let mut problems = Vec::new();
        let mut problem = |code: &str, message: String| {
            let remedies = Vec::new();
            problems.push(Diagnostic { code: code.into(), severity: Severity::Error, message, remedies });
        };
        let kvm = found.map_err(|error| problem("no-kvm", error.to_string())).ok();
        if !boards.iter().any(|board| board.arch() == arch) {
            let message =
                "this program has no board for hosts of this kind; it can plan guests here, not run them";
            problem("no-board", message.into());
        }
        match kvm.as_ref().filter(|_| arch == Arch::Aarch64).map(|kvm| kvm.gic_versions.as_slice()) {
            Some([]) => problem("no-gic", "this host's KVM has no GIC, which every board needs".into()),
            Some([2]) => problems.push(Diagnostic {
                code: "no-gicv3".into(),
                severity: Severity::Warning,
                message: "this host's KVM has no GICv3, so guests have at most 8 vCPUs and PCI has no MSI"
                    .into(),
                remedies: vec!["choose a board with a GICv2 (--board native,gic-version=2)".into()],
            }),
            _ => {}
        }
        Self { arch, kvm, problems }
    }
}

/// Writes `text` to standard output. A reader that has seen enough is not a failure.
///
/// # Errors
/// [`Failure::Output`] for a full disk and the like.
pub fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// The same of what is not text.
///
/// # Errors
/// [`Failure::Output`].
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Says on standard error what has to be known of an error that follows.
pub fn note(diagnostics: &[Diagnostic]) {
    let text = table::diagnostics(diagnostics.iter(), Paper::default());
    // If nobody can be told, the exit code still says it.
    let _untold = io::stderr().write_all(text.trim_start().as_bytes());
}

/// How to write for whoever reads standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paper {
    /// How many columns there are. `None`: nothing is wrapped.
    pub columns: Option<usize>,
    pub colours: bool,
}

impl Paper {
    /// Standard output's. Colours are for terminals that have not said no (<https://no-color.org>).
    pub fn of_output() -> Self {
        let wants = |name, no: fn(&OsStr) -> bool| !std::env::var_os(name).as_deref().is_some_and(no);
        let terminal = io::stdout().is_terminal();
        let colours =
            terminal && wants("NO_COLOR", |value| !value.is_empty()) && wants("TERM", |term| term == "dumb");
        Self { columns: columns(), colours }
    }
}

/// How many columns standard output has. `None` if it is not a terminal: then nothing is wrapped.
fn columns() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= 40)
}

#[cfg(test)]
mod tests;
