//! The program: from what the user says to a running guest.

mod cli;
mod config;
mod events;
mod failure;
mod kvm;
mod machine;
mod models;
mod output;
#[allow(dead_code, unused_imports)]
mod picture;
mod report;
mod run;
mod signals;
mod terminal;
mod timings;
#[cfg(test)]
mod toy;
mod vcpu;

use std::process::ExitCode;
use std::time::Instant;

use ambit_device_manager::Board;

use cli::{Cli, Command};
use failure::Failure;
use report::Probe;
use timings::Timings;

/// The whole program, for machines on any of `boards`; the first is the default.
pub fn run(boards: &[&dyn Board]) -> ExitCode {
    let began = Instant::now();
    let cli = Cli::from_arguments();
    cli.start_logging();
    let done = match &cli.command {
        Command::Run(args) => start(args, boards, began),
        Command::Plan(args) => cli::plan(args, boards, || kvm::host_facts().ok()).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => cli::probe(args, &Probe::new(kvm::probe(), boards)).map(Into::into),
    };
    done.unwrap_or_else(|failure| failure.report())
}

fn start(args: &cli::RunArgs, boards: &[&dyn Board], began: Instant) -> Result<ExitCode, Failure> {
    let settings = args.machine.settings(boards, None)?;
    let ended = run::run(&settings, &Timings::new(began, args.timings))?;
    Ok(ExitCode::from(u8::from(ended)))
}
