//! The command line, and `ambit plan`, which is done when it has printed.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use ambit_device_manager::{Arch, Board, Diagnostic, HostFacts, MachineConfig, Plan, Severity, Tree};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use crate::board::BoardArgs;
use crate::config::{
    self, Bits, Config, ConfigError, Console, Count, Disk, FileError, Hole, Kept, Net, Plain, Processors,
    QueueReach, Reach, Settings, Single, Size, Switch,
};
use crate::document::DocumentError;
use crate::failure::{Exit, Failure};
use crate::report::{self, Format, PlanFormat, Probe};
use crate::{lock, models, picture, profile};

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
  ambit run --kernel Image --disk root.img,transport=pci,queues=4,cache=none,engine=io_uring \\
            --net tap0,transport=pci --rng transport=pci
  ambit run --kernel Image --disk old.img,transport=mmio-legacy --console on --balloon on
  ambit run --kernel Image --disk data.img,bandwidth=100M/s,iops=500,iops-burst=2000
  ambit run --config guest.toml --memory 1G

The console is standard input and output; ctrl-a x quits, ctrl-a ctrl-a sends ctrl-a.

With --control SOCKET there is a socket for this user, with a request per line and a line for each
answer, which begins with 'ok' or 'error: ':
  plug --disk data.img,id=data   also --net, --rng, --balloon, --console to=FILE; on PCI
  unplug data
  devices                        all that there are, and where
  help
For example: echo devices | socat - UNIX-CONNECT:SOCKET. A Linux guest finds what was plugged by
'echo 1 > /sys/bus/pci/rescan', and lets go of what is to be unplugged by
'echo 1 > /sys/bus/pci/devices/0000:00:03.0/remove'.

A configuration file is TOML or JSON, with these keys:
  kernel = \"Image\"
  initrd = \"initrd.gz\"
  cmdline = \"console=ttyAMA0 root=/dev/vda rw\"
  memory = \"512M\"
  cpus = 2
  pa_bits = \"auto\"
  board = \"native\"
  vendor = \"host\"
  hole = \"split\"
  reserve_ht = true
  reserve = [\"0x100000000+1G\"]
  rng = true
  disks = [{ path = \"root.img\", id = \"root\", readonly = false }]
  nets = [{ tap = \"tap0\", id = \"net0\", mac = \"52:54:00:12:34:56\" }]
  console = { transport = \"pci\", to = \"guest.log\" }
A device has the same keys there as in its option:

--disk FILE,…
  transport=T           mmio, mmio-legacy, pci or pci-legacy [the board's]
  readonly=on|off       [off]
  queues=N              1 to 16 [1]
  queue-size=N          entries of each, a power of two from 2 to 1024 [256]
  cache=C               writeback: what the guest flushes is stored; writethrough: what it
                        writes is; none: as writeback, past the host's page cache; unsafe:
                        flushes are ignored [writeback]
  engine=E              sync or io_uring [sync]
  discard=on|off        whether the guest gives room back [on, if it may write]
  lock=on|off           whether it is kept from other monitors that lock it [on]
  bandwidth=SIZE[/s]    how many bytes pass in a second, both ways together [no limit]
  bandwidth-burst=SIZE  how many more pass once [0]
  iops=N, iops-burst=N  the same for requests [no limit]
--net NAME,… or --net fd=N,…
  fd=N[:N]…             a TAP interface that is open already, one file for each queue pair
  mac=MAC, transport=T, queue-size=N
  queues=N              pairs, 1 to 8 [1]
  offloads=on|off       whether checksums and segmentation are left to the host [on]
  mergeable=on|off      whether a frame may take several buffers of the guest [on]
  rx-bandwidth=SIZE[/s], rx-packets=N, tx-bandwidth=SIZE[/s], tx-packets=N
                        how much passes to the guest (rx) and from it (tx) in a second; each
                        also with -burst [no limit]
--console on|KEY=VALUE,…
  to=stdio|FILE         stdio: standard output, as the board's console, and standard input
                        instead of it; FILE: what the guest says is added to it [stdio]
  transport=T
--rng, --balloon on|off|KEY=VALUE,…
  transport=T
Each may have an id=ID.

A legacy transport is for drivers from before virtio 1.0. They name a queue by the number of
its page and reach 44 address bits: no machine with RAM beyond that has such a device. With
mmio-legacy the pages are the guest's own, and --queue-reach 46 or 48 says that they have 16
or 64 KiB.";

const PLAN_EXAMPLES: &str = "\
Examples:
  ambit plan
  ambit plan --memory 8G --cpus 4 --pa-bits 36 --disk root.img --net tap0
  ambit plan --config guest.toml --format json
  ambit plan --memory 32G --cpus 124 --pa-bits 36 --html map.html
  ambit plan --memory 8T --disk root.img,transport=mmio-legacy --net tap0,transport=pci
  ambit plan --arch x86_64 --memory 1T --vendor amd --pa-bits 41
  ambit plan --board qemu-q35 --memory 1000G --vendor amd --hole relocate
  ambit plan --board qemu-virt,highmem-ecam=off --memory 4G --max-memory 16G --memory-slots 2
  ambit plan --format svg > map.svg
  ambit plan --config guest.toml --host host.json
  ambit plan --config guest.toml --lock guest.lock
  ambit plan --diff guest.lock guest.toml

Nothing is opened but the configuration file, and no KVM is needed. Where there is one that could
run this machine, its limits are used; otherwise the plan says what it assumes.";

const PROBE_EXAMPLES: &str = "\
Examples:
  ambit probe
  ambit probe --format json
  ambit probe --save host.json";

const VERIFY_EXAMPLES: &str = "\
Examples:
  ambit verify
  ambit verify --memory 8G --cpus 124 --board qemu-virt
  ambit verify --config guest.toml --host other.json --format json

Exits with 0 if the kernel answered as planned, 3 if it refused anything or has another value, 4 if there
is no KVM to ask.";

const FLEET_EXAMPLES: &str = "\
Examples:
  ambit fleet --hosts hosts guest.toml
  ambit fleet --hosts hosts --memory 64G --cpus 16 --format json

Exits with 0 if every host that could be read has the same addresses, 3 if not, 2 if none could be read, and with --strict if
any could not.";

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
    /// List, show and check machine models
    Board(BoardArgs),
    /// Print what this host's KVM can do
    Probe(ProbeArgs),
    /// Ask this host's KVM for a machine as planned, compare its answers, and take it down
    Verify(VerifyArgs),
    /// Say which of many hosts can hold a machine with the very same addresses
    Fleet(FleetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = RUN_EXAMPLES)]
pub struct RunArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Start this machine only if its map is the one in this file of 'ambit plan --lock'
    #[arg(long, value_name = "FILE")]
    pub locked: Option<PathBuf>,
    /// Print how long each phase of the start took, on standard error
    #[arg(long)]
    pub timings: bool,
    /// Listen on this Unix socket for requests to plug and unplug PCI functions while the guest runs
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLES)]
pub struct PlanArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Plan for the host that this file of 'ambit probe --save' describes
    #[arg(long, value_name = "FILE")]
    pub host: Option<PathBuf>,
    /// Write the map and its SHA-256 to this file, for 'ambit run --locked'
    #[arg(long, value_name = "FILE", conflicts_with = "diff")]
    pub lock: Option<PathBuf>,
    /// Say what moved from A to B, each a lock, a plan printed as JSON, or a configuration; like diff, exit
    /// with 1 if anything did
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = ["MachineArgs", "arch", "html"])]
    pub diff: Option<Vec<PathBuf>>,
    /// Plan for the first board of this architecture: aarch64 or x86_64
    #[arg(long, value_parser = parse_arch)]
    pub arch: Option<Arch>,
    /// What to print
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: PlanFormat,
    /// Write a page with the picture, the table and a search to this file, too
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = PROBE_EXAMPLES)]
pub struct ProbeArgs {
    /// Write it as JSON to this file, too: a host profile for 'ambit plan --host' and 'ambit fleet'
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// For people or for programs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub machine: MachineArgs,
    /// Plan for the host that this file of 'ambit probe --save' describes, and try that plan here
    #[arg(long, value_name = "FILE")]
    pub host: Option<PathBuf>,
    /// For people or for programs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

#[derive(Debug, Args)]
#[command(after_help = FLEET_EXAMPLES)]
pub struct FleetArgs {
    /// The machine, as a TOML or JSON file; the same as --config
    #[arg(value_name = "CONFIG", conflicts_with = "config")]
    pub file: Option<PathBuf>,
    /// The directory with a host profile of each host, as 'ambit probe --save' writes them, in *.json
    #[arg(long, value_name = "DIR")]
    pub hosts: PathBuf,
    #[command(flatten)]
    pub machine: MachineArgs,
    /// For people or for programs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// One machine. Sizes take K, M, G and T, powers of 1024.
#[derive(Clone, Debug, Args)]
pub struct MachineArgs {
    /// Begin with this TOML or JSON file. Options given here replace what it says; disks and nets given
    /// here come after its own
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The kernel to start: an arm64 Image, plain or gzip-compressed; on x86_64 a bzImage, or an ELF program
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, all of it, root= included
    /// [default: the board's console, or the virtio one, and panic=-1: 'console=ttyAMA0 panic=-1']
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// How much RAM the guest has [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Size>,
    /// How many vCPUs the guest has [default: 1]
    #[arg(long, value_name = "N")]
    pub cpus: Option<Count>,
    /// Add a disk: a raw image or a block device. Its id is disk0, disk1, … unless given. The first part
    /// may be the bare file name; a comma in a name is written twice. For the other keys see 'ambit run --help'
    #[arg(long = "disk", value_name = "[path=]FILE[,id=ID][,readonly=on][,KEY=VALUE]…")]
    pub disks: Vec<Disk>,
    /// Add a network card on a TAP interface. Its id is net0, net1, … unless given. The first part may
    /// be the bare interface name. Without a MAC address it has one of its own, made from the name of the
    /// interface and this host's machine-id. For the other keys see 'ambit run --help'
    #[arg(long = "net", value_name = "[tap=]NAME[,id=ID][,mac=MAC][,KEY=VALUE]…")]
    pub nets: Vec<Net>,
    /// How many physical address bits the guest may use, 32 to 52; auto: as many as the host has
    /// [default: auto]
    #[arg(long, value_name = "auto|N")]
    pub pa_bits: Option<Bits>,
    /// The machine model, with options of its own, or a file that describes one; see ambit board list
    /// [default: native; to run or verify one on an x86_64 host: pc]
    #[arg(long, value_name = "NAME|FILE.toml[,KEY=VALUE]…")]
    pub board: Option<String>,
    /// How much RAM the guest may come to have, hot-plugged RAM included; room is kept above RAM
    #[arg(long, value_name = "SIZE")]
    pub max_memory: Option<Size>,
    /// In how many pieces that RAM may come [default: 1 if there may be more]
    #[arg(long, value_name = "N")]
    pub memory_slots: Option<Count>,
    /// Whether the guest has a PCI bus, on boards that have one [default: on]
    #[arg(long, value_name = "on|off")]
    pub pci: Option<Switch>,
    /// How long the window for 64-bit PCI BARs is; 0 for none [default: what the devices need, and room]
    #[arg(long, value_name = "SIZE")]
    pub pci_window: Option<Size>,
    /// How many address bits the guest's kernel and firmware can use: a number from 32 to 52, or linux (48),
    /// linux-va39 (38), linux-64k (52), lpae (40), aarch32 (32), hypervisor-fw (37)
    #[arg(long, value_name = "BITS|PROFILE")]
    pub guest_reach: Option<Reach>,
    /// How many address bits the guest's virtio drivers can put a queue at: legacy ones 44 with pages of
    /// 4 KiB, 46 with 16 KiB, 48 with 64 KiB; no RAM is above that. It is also how far devices with
    /// transport=mmio-legacy reach [default: as the transports of the devices have it: no limit, or 44]
    #[arg(long, value_name = "BITS")]
    pub queue_reach: Option<QueueReach>,
    /// Take no machine that lacks something for want of room: what would be left out or cut short is an error
    #[arg(long)]
    pub strict: bool,
    /// Whose processors an x86_64 guest is for: intel, amd, hygon, or host for those of this host. AMD and Hygon
    /// keep 12 GiB below 1 TiB, and nothing of the guest is there [default: host]
    #[arg(long, value_name = "intel|amd|hygon|host")]
    pub vendor: Option<Processors>,
    /// What is done where RAM or a window above 4 GiB would be in a range that is kept free: split draws all of
    /// it around the range, relocate moves all of it above, as QEMU does [default: split]
    #[arg(long, value_name = "split|relocate")]
    pub hole: Option<Hole>,
    /// Keep nothing free that AMD's and Hygon's processors keep: for guests that are never given a device
    #[arg(long)]
    pub no_reserve_ht: bool,
    /// Keep this range free of RAM, windows and BARs; host: all that single devices of this host keep. May be
    /// given more than once
    #[arg(long, value_name = "BASE+SIZE|host")]
    pub reserve: Vec<Kept>,
    /// Whether the guest has a random number generator, rng0, and its options [default: on]
    #[arg(long, value_name = "on|off|KEY=VALUE[,KEY=VALUE]…")]
    pub rng: Option<Single<Plain>>,
    /// Whether the guest has a virtio console, console0, beside the board's own, and its options
    /// [default: off]
    #[arg(long, value_name = "on|off|KEY=VALUE[,KEY=VALUE]…")]
    pub console: Option<Single<Console>>,
    /// Whether the guest has a balloon, balloon0, through which it gives back RAM, and its options
    /// [default: off]
    #[arg(long, value_name = "on|off|KEY=VALUE[,KEY=VALUE]…")]
    pub balloon: Option<Single<Plain>>,
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
            rng: self.rng.clone(),
            console: self.console.clone(),
            balloon: self.balloon.clone(),
            max_memory: self.max_memory,
            memory_slots: self.memory_slots,
            pci: self.pci,
            pci_window: self.pci_window,
            guest_reach: self.guest_reach,
            queue_reach: self.queue_reach,
            strict: self.strict.then_some(Switch(true)),
            vendor: self.vendor,
            hole: self.hole,
            reserve_ht: self.no_reserve_ht.then_some(Switch(false)),
            reserve: self.reserve.clone(),
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

    /// The same machine, to be made here. Where nobody names a board, it is on the first for the architecture of
    /// `locked`, if it has to be as it was locked, else for this host's, if there is one.
    ///
    /// # Errors
    /// As [`MachineArgs::settings`].
    pub fn settings_here<'b>(
        &self,
        boards: &[&'b dyn Board],
        locked: Option<Arch>,
    ) -> Result<Settings<'b>, ConfigError> {
        let config = self.said()?;
        let here = locked.unwrap_or(Arch::host());
        let is_there = boards.iter().any(|board| board.arch() == here);
        let arch = Some(here).filter(|_| config.board.is_none() && is_there);
        config::settle(config, boards, arch)
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
    let board = &*settings.board;
    let (host, note) = host_for(args.host.as_deref(), board.arch(), host)?;
    let limits = settings.limits(host.as_ref());
    let (facts, mut notes) = settings.facts_on_paper(host);
    notes.extend(note);
    let wanted: MachineConfig = models::machine_config(&settings);
    let planned = ambit_device_manager::plan(board, &wanted, &facts);
    let plan = match planned {
        Ok(plan) => plan,
        Err(refusal) if args.format == PlanFormat::Json => {
            report::print(&report::refusal_json(board, settings.cpus, &facts, &refusal, &notes))?;
            return Err(refusal.into());
        }
        Err(refusal) => {
            if !refusal.error.is_nonsense() {
                report::note(&notes);
            }
            return Err(refusal.into());
        }
    };
    let scene = || report::scene(&plan, &limits, board, &notes);
    if let Some(path) = &args.html {
        let written = std::fs::write(path, picture::html(&scene()));
        written.map_err(|source| Failure::Write { path: path.clone(), source })?;
    }
    match args.format {
        PlanFormat::Table => {
            report::print(&report::plan_table(&plan, board, &notes, report::Paper::of_output()))?
        }
        PlanFormat::Json => report::print(&report::plan_json(&plan, board, &notes))?,
        PlanFormat::Svg => report::print(&picture::svg(&scene()))?,
        PlanFormat::Dts => report::print(&tree(board, &plan, &settings.cmdline)?.source)?,
        PlanFormat::Dtb if io::stdout().is_terminal() => {
            let why =
                "a device tree in memory is no text; send it to a file (> guest.dtb), or use --format dts";
            return Err(Failure::Format(why.into()));
        }
        PlanFormat::Dtb => report::print_bytes(&tree(board, &plan, &settings.cmdline)?.blob)?,
    }
    let plan = models::strictly(&settings, plan)?;
    args.lock.as_deref().map_or(Ok(()), |path| lock::write(path, &plan, &settings))?;
    Ok(())
}

fn tree(board: &dyn Board, plan: &Plan, cmdline: &str) -> Result<Tree, Failure> {
    let none = || Failure::Format(format!("guests of board {} have no device tree", board.name()));
    board.tree(plan, cmdline)?.ok_or_else(none)
}

/// The host of the profile in the file at `path`, with a note that says so; else this one, if it is of that kind.
///
/// # Errors
/// [`DocumentError`] for what is no profile, or of another kind.
pub fn host_for(
    path: Option<&Path>,
    arch: Arch,
    host: impl FnOnce() -> Option<HostFacts>,
) -> Result<(Option<HostFacts>, Option<Diagnostic>), DocumentError> {
    match path {
        Some(path) => profile::facts(path, arch).map(|(facts, note)| (Some(facts), Some(note))),
        None if arch == Arch::host() => Ok((host(), None)),
        None => Ok((None, None)),
    }
}

/// `ambit probe`.
///
/// # Errors
/// [`Failure::Output`]. A host that can run no guests is an answer, with an exit code of its own.
pub fn probe(args: &ProbeArgs, probe: &Probe) -> Result<Exit, Failure> {
    report::print(&match args.format {
        Format::Table => report::probe_table(probe, report::Paper::of_output()),
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

    #[test]
    fn a_machine_is_made_on_the_first_board_for_this_host_where_nobody_names_one() {
        let (native, kvmtool) = (ambit_aarch64::native(), ambit_aarch64::kvmtool());
        let (pc, q35) = (ambit_x86_64::pc(), ambit_x86_64::q35());
        let all: [&dyn Board; 4] = [&native, &kvmtool, &pc, &q35];
        let (own, other, foreign) = match Arch::host() {
            Arch::Aarch64 => ("native", Arch::X86_64, &all[2..]),
            Arch::X86_64 => ("pc", Arch::Aarch64, &all[..2]),
        };
        let board = |words: &[&str], boards: &[&dyn Board], locked| {
            let line = ["ambit", "run"].iter().chain(words);
            let Command::Run(args) = Cli::parse_from(line).command else { panic!("it is run") };
            args.machine.settings_here(boards, locked).unwrap().board.name().to_owned()
        };

        assert_eq!(board(&[], &all, None), own);
        assert_eq!(board(&["--board", "kvmtool"], &all, None), "kvmtool");
        assert_eq!(board(&["--board", "qemu-q35"], &all, None), "qemu-q35");
        // As it was locked, and so refused on a host of another kind.
        assert_eq!(board(&[], &all, Some(other)), foreign[0].name());
        // A program without a board for this host says so later, by its first.
        assert_eq!(board(&[], foreign, None), foreign[0].name());
    }
}
