//! Why the program did not do what was asked: what it says, what would help, and its exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use ambit_device_manager::{BootError, Diagnostic, PlanError, Refusal};

use crate::api::SocketError;
use crate::config::ConfigError;
use crate::document::DocumentError;
use crate::fleet::FleetError;
use crate::kvm::KvmError;
use crate::lock::Moved;
use crate::machine::MachineError;
use crate::models::{FilesError, ModelsError};

/// Everything that can go wrong, from the arguments to the end of the guest.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Moved(#[from] Box<Moved>),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Models(#[from] ModelsError),
    #[error(transparent)]
    Plan(#[from] Refusal),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("signals cannot be heard: {0}")]
    Signals(#[source] io::Error),
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[source] io::Error),
    #[error("the events of the machine cannot be waited for: {0}")]
    Events(#[source] event_manager::Error),
    #[error("there is no entropy for the guest: {0}")]
    Entropy(#[source] io::Error),
    #[error("the output cannot be written: {0}")]
    Output(#[source] io::Error),
    #[error("{} cannot be written: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    /// With `--strict`: what the machine would be without, each with what would help.
    #[error("{}", strictly(.0))]
    Lost(Vec<Diagnostic>),
    #[error("{0}")]
    Format(String),
}

/// A promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// Bad arguments or configuration, whatever the host. Also what clap exits with.
    BadInput = 2,
    /// The plan does not fit.
    DoesNotFit = 3,
    /// The host lacks something, or does not allow it.
    HostLacks = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// How a plan that failed ends the program.
pub fn exit_of_plan(error: &PlanError) -> Exit {
    match error {
        PlanError::HostLacks { .. } => Exit::HostLacks,
        error if error.is_nonsense() => Exit::BadInput,
        _ => Exit::DoesNotFit,
    }
}

impl Failure {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(ConfigError::BitsBeyondHost { .. }) => Exit::HostLacks,
            Self::Config(_) | Self::Document(_) | Self::Fleet(_) | Self::Files(_) | Self::Boot(_) => {
                Exit::BadInput
            }
            Self::Moved(_) => Exit::DoesNotFit,
            Self::Plan(refusal) => exit_of_plan(&refusal.error),
            Self::Models(error) => error.exit(),
            Self::Kvm(error) if error.is_lack() => Exit::HostLacks,
            Self::Machine(error) if error.is_lack() => Exit::HostLacks,
            Self::Entropy(_) => Exit::HostLacks,
            Self::Socket(SocketError::Refused { .. }) => Exit::HostLacks,
            Self::Socket(_) => Exit::BadInput,
            Self::Lost(_) => Exit::DoesNotFit,
            Self::Format(_) => Exit::BadInput,
            Self::Kvm(_)
            | Self::Machine(_)
            | Self::Signals(_)
            | Self::Terminal(_)
            | Self::Events(_)
            | Self::Output(_)
            | Self::Write { .. } => Exit::Failed,
        }
    }

    /// What would help, cheapest first, where the text does not say it.
    pub fn remedies(&self) -> Vec<String> {
        match self {
            Self::Config(error) => error.remedies(),
            Self::Document(error) => error.remedies(),
            Self::Moved(error) => error.remedies(),
            Self::Files(error) => error.remedies(),
            Self::Socket(error) => error.remedies(),
            Self::Plan(refusal) => refusal.remedies.iter().map(ToString::to_string).collect(),
            Self::Lost(lost) => lost.iter().flat_map(|each| each.remedies.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Says it on standard error and gives the exit code.
    pub fn report(&self) -> ExitCode {
        // If nobody can be told, the exit code still says it.
        let _untold = io::stderr().write_all(self.text().as_bytes());
        self.exit().into()
    }

    /// What a user reads: the error, causes that it does not name itself, what would help.
    pub fn text(&self) -> String {
        let mut text = format!("ambit: error: {self}\n");
        for cause in causes(self) {
            line(&mut text, "cause", &cause);
        }
        for remedy in self.remedies() {
            line(&mut text, "help", &remedy);
        }
        text
    }
}

/// The same where there is room for one line and no more.
pub fn one_line(error: &dyn Error, remedies: Vec<String>) -> String {
    let causes = causes(error).into_iter().map(|cause| format!("; cause: {cause}"));
    let remedies = remedies.into_iter().map(|remedy| format!("; help: {remedy}"));
    let text = error.to_string() + &causes.chain(remedies).collect::<String>();
    // Names of files may have anything in them.
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Causes that neither `error` itself nor one before it names.
fn causes(error: &dyn Error) -> Vec<String> {
    let mut said = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.iter().any(|said| said.contains(&text)) {
            said.push(text);
        }
        cause = error.source();
    }
    said.split_off(1)
}

fn strictly(lost: &[Diagnostic]) -> String {
    let lost: Vec<&str> = lost.iter().map(|each| each.message.as_str()).collect();
    format!("{}; --strict takes no machine without it", lost.join("; "))
}

fn line(text: &mut String, label: &str, said: &str) {
    writeln!(text, "  {label}: {said}").expect("a String takes every line");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ambit_device_manager::{Remedy, Width, WidthSource};
    use ambit_resources::PaBits;

    use super::*;
    use crate::config;

    #[test]
    fn a_plan_that_does_not_fit_is_told_with_its_remedies_and_ends_with_3() {
        let width = Width { bits: PaBits::new(36).unwrap(), source: WidthSource::Host };
        let error = PlanError::MemoryBeyondWidth {
            memory: 64 << 30,
            base: 1 << 30,
            last: (65 << 30) - 1,
            needed: 37,
            width,
            short: 1 << 30,
        };
        let failure = Failure::from(Refusal { error, remedies: vec![Remedy::Memory(63 << 30)] });

        assert_eq!(failure.exit(), Exit::DoesNotFit);
        assert_eq!(
            failure.text(),
            "ambit: error: 64 GiB of memory at [0x40000000-0x103fffffff] needs 37 physical address bits, and \
             this host has 36, which is 1 GiB too few\n  help: give the guest at most 63 GiB of memory\n"
        );
    }

    #[test]
    fn a_cause_that_the_error_names_is_not_said_twice() {
        let failure =
            Failure::from(ConfigError::from(config::read(Path::new("/nonexistent/guest.toml")).unwrap_err()));

        assert_eq!(failure.exit(), Exit::BadInput);
        assert_eq!(
            failure.text(),
            "ambit: error: the configuration /nonexistent/guest.toml cannot be read: No such file or directory \
             (os error 2)\n"
        );
    }

    #[test]
    fn a_machine_that_makes_no_sense_anywhere_is_a_bad_argument() {
        let error = PlanError::MemoryNotPages { memory: 1, page_size: 4096 };
        let failure = Failure::from(ConfigError::Amount(error));

        assert_eq!(failure.exit(), Exit::BadInput);
        assert_eq!(
            failure.text(),
            "ambit: error: 1 B of memory is not a multiple of the host's page size, 4 KiB\n  \
             help: give the guest 4 KiB\n"
        );
    }
}
