//! The program: from what the user says to a running guest.

mod api;
mod board;
mod cli;
mod compare;
mod config;
mod document;
mod events;
mod failure;
mod fleet;
#[doc(hidden)]
pub mod fuzz;
mod kvm;
mod lock;
mod machine;
mod map;
mod models;
mod output;
mod picture;
mod profile;
mod report;
mod run;
mod signals;
mod terminal;
mod timings;
#[cfg(test)]
mod toy;
mod vcpu;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ambit_device_manager::Board;

use cli::{Cli, Command};
use document::Kind;
use failure::{Exit, Failure};
use report::{Format, PlanFormat, Probe};
use timings::Timings;

/// The whole program, for machines on any of `boards`; the first is the default, and to run one, that for this host.
pub fn run(boards: &[&dyn Board]) -> ExitCode {
    let began = Instant::now();
    let cli = Cli::from_arguments();
    cli.start_logging();
    let done = match &cli.command {
        Command::Run(args) => start(args, boards, began),
        Command::Plan(cli::PlanArgs { diff: Some(files), host, format, .. }) => {
            diff(files, host.as_deref(), boards, *format).map(Into::into)
        }
        Command::Plan(args) => cli::plan(args, boards, || kvm::host_facts().ok()).map(|()| ExitCode::SUCCESS),
        Command::Board(args) => board::run(args, boards).map(Into::into),
        Command::Probe(args) => probe(args, boards).map(Into::into),
        Command::Verify(args) => verify::verify(args, boards).map(Into::into),
        Command::Fleet(args) => fleet::fleet(args, boards).map(Into::into),
    };
    done.unwrap_or_else(|failure| failure.report())
}

fn start(args: &cli::RunArgs, boards: &[&dyn Board], began: Instant) -> Result<ExitCode, Failure> {
    let locked = args.locked.as_deref().map(lock::read).transpose()?;
    let settings = args.machine.settings_here(boards, locked.as_ref().map(|lock| lock.map.arch))?;
    let ended =
        run::run(&settings, locked.as_ref(), args.control.as_deref(), &Timings::new(began, args.timings))?;
    Ok(ExitCode::from(u8::from(ended)))
}

fn diff(
    files: &[PathBuf],
    host: Option<&Path>,
    boards: &[&dyn Board],
    format: PlanFormat,
) -> Result<Exit, Failure> {
    let format = match format {
        PlanFormat::Table => Format::Table,
        PlanFormat::Json => Format::Json,
        _ => return Err(Failure::Format("what moved is told as --format table or json".into())),
    };
    let [before, after] = files else { unreachable!("--diff takes two files") };
    compare::diff(before, after, boards, host, &|| kvm::host_facts().ok(), format)
}

fn probe(args: &cli::ProbeArgs, boards: &[&dyn Board]) -> Result<Exit, Failure> {
    let found = kvm::probe();
    // A host without KVM has no profile.
    let found = if args.save.is_some() { Ok(found?) } else { found };
    let probe = Probe::new(found, boards);
    if let Some(path) = &args.save {
        document::write(Kind::Profile, path, &report::probe_json(&probe))?;
    }
    cli::probe(args, &probe)
}
