//! The command line, and `ambit plan`, which is done when it has printed.

use std::io;
use std::path::PathBuf;

use ambit_device_manager::{Arch, Board, HostFacts, MachineConfig, Severity};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use crate::config::{self, Bits, Config, ConfigError, Count, Disk, FileError, Net, Settings, Size, Switch};
use crate::failure::{Exit, Failure};
use crate::models;
use crate::report::{self, Format, Probe};

const EXAMPLES: &str = "\
Examples:
  ambit run --kernel Image --initrd initrd.gz
  ambit run --kernel Image --disk root.img --cmdline 'console=ttyAMA0 root=/dev/vda rw'
  ambit plan --memory 8G --cpus 4 --pa-bits 36
  ambit probe

Exit codes: 0 done, 1 failed while running, 2 bad arguments or configuration,
3 the plan does not fit, 4 the host lacks something, 128+N ended by signal N.";

const RUN_EXAMPLES: &str = "\
Examples:
  ambit run --kernel Image --initrd initrd.gz
  ambit run --kernel Image --disk root.img --cmdline 'console=ttyAMA0 root=/dev/vda rw'
  ambit run --kernel Image --disk path=root.img,id=root --disk data.img,readonly=on \\
            --net tap=tap0,mac=52:54:00:12:34:56 --memory 2G --cpus 4
  ambit run --config guest.toml --memory 1G

The console is standard input and output; ctrl-a x quits, ctrl-a ctrl-a sends ctrl-a.

A configuration file is TOML or JSON, with these keys:
  kernel = \"Image\"
  initrd = \"initrd.gz\"
  cmdline = \"console=ttyAMA0 root=/dev/vda rw\"
  memory = \"512M\"
  cpus = 2
  pa_bits = \"auto\"
  board = \"native\"
  rng = true
  disks = [{ path = \"root.img\", id = \"root\", readonly = false }]
  nets = [{ tap = \"tap0\", id = \"net0\", mac = \"52:54:00:12:34:56\" }]";

const PLAN_EXAMPLES: &str = "\
Examples:
  ambit plan
  ambit plan --memory 8G --cpus 4 --pa-bits 36 --disk root.img --net tap0
  ambit plan --config guest.toml --format json

Nothing is opened but the configuration file, and no KVM is needed. Where there is one that could
run this machine, its limits are used; otherwise the plan says what it assumes.";

const PROBE_EXAMPLES: &str = "\
Examples:
  ambit probe
  ambit probe --format json";

/// A microVM monitor for Linux KVM that decides every address before it builds anything.
#[derive(Debug, Parser)]
#[command(name = "ambit", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to tell on standard error besides errors
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", display_order = 90)]
    log: Level,
    /// Tell more: -v is --log info, -vv is --log debug, -vvv is --log trace
    #[arg(short, global = true, action = ArgAction::Count, conflicts_with = "log", display_order = 91)]
    verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a guest and wait for its end
    Run(RunArgs),
    /// Print every address and interrupt of a guest, without starting it
    Plan(PlanArgs),
    /// Print what this host's KVM can do
    Probe(ProbeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Print how long each phase of the start took, on standard error
    #[arg(long)]
    pub timings: bool,
}

#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLES)]
pub struct PlanArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Plan for the first board of this architecture: aarch64 or x86_64
    #[arg(long, value_parser = parse_arch)]
    pub arch: Option<Arch>,
    /// For people or for programs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = PROBE_EXAMPLES)]
pub struct ProbeArgs {
    /// For people or for programs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// One machine. Sizes take K, M, G and T, powers of 1024.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Begin with this TOML or JSON file. Options given here replace what it says; disks and nets given
    /// here come after its own
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The kernel to start: an arm64 Image, plain or gzip-compressed
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, all of it, root= included
    /// [default: the board's console and panic=-1: 'console=ttyAMA0 panic=-1']
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// How much RAM the guest has [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// How many vCPUs the guest has [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<Count>,
    /// Add a disk: a raw image or a block device. Its id is disk0, disk1, … unless given. The first part
    /// may be the bare file name; a comma in a name is written twice
    #[arg(long = "disk", value_name = "[path=]FILE[,id=ID][,readonly=on]")]
    pub disks: Vec<Disk>,
    /// Add a network card on a TAP interface. Its id is net0, net1, … unless given. The first part may
    /// be the bare interface name. Without a MAC address it has one of its own, made from the name of the
    /// interface and this host's machine-id
    #[arg(long = "net", value_name = "[tap=]NAME[,id=ID][,mac=MAC]")]
    pub nets: Vec<Net>,
    /// How many physical address bits the guest may use, 32 to 52; auto: as many as the host has
    /// [default: auto]
    #[arg(long, value_name = "auto|N")]
    pub pa_bits: Option<Bits>,
    /// The machine model [default: native]
    #[arg(long, value_name = "NAME")]
    pub board: Option<String>,
    /// Whether the guest has a random number generator, rng0 [default: on]
    #[arg(long, value_name = "on|off")]
    pub rng: Option<Switch>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

fn parse_arch(text: &str) -> Result<Arch, String> {
    match text {
        "aarch64" | "arm64" => Ok(Arch::Aarch64),
        "x86_64" | "amd64" => Ok(Arch::X86_64),
        _ => Err("write aarch64 or x86_64".into()),
    }
}

impl Cli {
    /// The arguments this program was started with. Ends it with 2 if they are none, and with 0 after
    /// help.
    pub fn from_arguments() -> Self {
        Self::parse()
    }

    /// From here on what is logged goes to standard error. Once per process.
    pub fn start_logging(&self) {
        let level = match (self.verbose, self.log) {
            (1, _) => LevelFilter::INFO,
            (2, _) => LevelFilter::DEBUG,
            (3.., _) => LevelFilter::TRACE,
            (0, Level::Off) => LevelFilter::OFF,
            (0, Level::Error) => LevelFilter::ERROR,
            (0, Level::Warn) => LevelFilter::WARN,
            (0, Level::Info) => LevelFilter::INFO,
            (0, Level::Debug) => LevelFilter::DEBUG,
            (0, Level::Trace) => LevelFilter::TRACE,
        };
        tracing_subscriber::fmt()
            .with_writer(io::stderr)
            .with_max_level(level)
            .with_target(false)
            .without_time()
            .init();
    }
}

impl MachineArgs {
    /// The configuration file, if there is one, and over it what the options say.
    fn said(&self) -> Result<Config, FileError> {
        let base = self.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
        Ok(base.overridden_by(Config {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            memory: self.memory,
            cpus: self.cpus,
            disks: self.disks.clone(),
            nets: self.nets.clone(),
            pa_bits: self.pa_bits,
            board: self.board.clone(),
            rng: self.rng,
        }))
    }

    /// The machine as the user wants it, on one of `boards`. No file is opened but the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that makes no sense.
    pub fn settings<'b>(
        &self,
        boards: &[&'b dyn Board],
        arch: Option<Arch>,
    ) -> Result<Settings<'b>, ConfigError> {
        config::settle(self.said()?, boards, arch)
    }
}

/// `ambit plan`. `host` is asked only if it could run the machine.
///
/// # Errors
/// [`Failure`] if there is no plan; as JSON that is printed, too.
pub fn plan(
    args: &PlanArgs,
    boards: &[&dyn Board],
    host: impl FnOnce() -> Option<HostFacts>,
) -> Result<(), Failure> {
    let settings = args.machine.settings(boards, args.arch)?;
    let board = settings.board;
    let host = if board.arch() == Arch::host() { host() } else { None };
    let (facts, notes) = settings.facts_on_paper(host);
    let wanted: MachineConfig = models::machine_config(&settings);
    let planned = ambit_device_manager::plan(board, &wanted, &facts);
    let text = match (&planned, args.format) {
        (Ok(plan), Format::Table) => report::plan_table(plan, board, &notes, report::columns()),
        (Ok(plan), Format::Json) => report::plan_json(plan, board, &notes),
        (Err(error), Format::Json) => report::refusal_json(board, settings.cpus, &facts, error, &notes),
        (Err(error), Format::Table) => {
            if !error.is_nonsense() {
                report::note(&notes);
            }
            String::new()
        }
    };
    report::print(&text)?;
    Ok(planned.map(drop)?)
}

/// `ambit probe`.
///
/// # Errors
/// [`Failure::Output`]. A host that can run no guests is an answer, with an exit code of its own.
pub fn probe(args: &ProbeArgs, probe: &Probe) -> Result<Exit, Failure> {
    report::print(&match args.format {
        Format::Table => report::probe_table(probe, report::columns()),
        Format::Json => report::probe_json(probe),
    })?;
    let serious = probe.problems.iter().any(|problem| problem.severity == Severity::Error);
    Ok(if serious { Exit::HostLacks } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        Cli::command().debug_assert();
    }
}
