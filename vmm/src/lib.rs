//! The program: from what the user says to a running guest.

mod cli;
mod config;
mod failure;
mod kvm;
mod models;
mod output;
mod report;
mod signals;
mod terminal;
mod timings;
#[cfg(test)]
mod toy;
mod vcpu;

use std::process::ExitCode;

use ambit_device_manager::{Arch, Board};

use cli::{Cli, Command};
use failure::{Exit, Failure};
use kvm::KvmError;
use report::Probe;

/// The whole program, for machines on any of `boards`; the first is the default.
pub fn run(boards: &[&dyn Board]) -> ExitCode {
    let cli = Cli::from_arguments();
    cli.start_logging();
    let done = match &cli.command {
        Command::Run(args) => start(args, boards),
        Command::Plan(args) => cli::plan(args, boards, || kvm::host_facts().ok()).map(|()| Exit::Done),
        Command::Probe(args) => cli::probe(args, &Probe::new(kvm::probe(), boards)),
    };
    done.map_or_else(|failure| failure.report(), Into::into)
}

fn start(args: &cli::RunArgs, boards: &[&dyn Board]) -> Result<Exit, Failure> {
    let settings = args.machine.settings(boards, None)?;
    let _files = models::open(&settings)?;
    let board = settings.board;
    Err(KvmError::WrongArch {
        host: Arch::host().name(),
        board: board.name().into(),
        wanted: board.arch().name(),
    }
    .into())
}
