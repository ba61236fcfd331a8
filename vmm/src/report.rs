//! What the program prints on standard output: a plan, and what the host's KVM can do.

mod json;
mod table;

use std::io::{self, ErrorKind, IsTerminal, Write};

use ambit_device_manager::{Arch, Board, Diagnostic, Severity};

use crate::failure::Failure;
use crate::kvm::{HostKvm, KvmError};

pub use json::{plan as plan_json, probe as probe_json, refusal as refusal_json};
pub use table::{plan as plan_table, probe as probe_table};

/// For people or for programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
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
        let gic = |kvm: &HostKvm| kvm.gic_versions.contains(&3);
        if arch == Arch::Aarch64 && kvm.as_ref().is_some_and(|kvm| !gic(kvm)) {
            problem("no-gicv3", "this host's KVM has no GICv3, which every board needs".into());
        }
        Self { arch, kvm, problems }
    }
}

/// Writes `text` to standard output. A reader that has seen enough is not a failure.
///
/// # Errors
/// [`Failure::Output`] for a full disk and the like.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Says on standard error what has to be known of an error that follows.
pub fn note(diagnostics: &[Diagnostic]) {
    let text = table::diagnostics(diagnostics.iter(), None);
    // If nobody can be told, the exit code still says it.
    let _untold = io::stderr().write_all(text.trim_start().as_bytes());
}

/// How many columns standard output has. `None` if it is not a terminal: then nothing is wrapped.
pub fn columns() -> Option<usize> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns >= 40)
}

#[cfg(test)]
mod tests;
