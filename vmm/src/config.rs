//! What the user wants: as said in a file and on the command line, and as checked.

mod board_file;
mod device_settings;
mod device_words;
mod devices;
mod names;
mod plugged;
mod text;
mod words;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use ambit_aarch64::board_file::is_file;
use ambit_device_manager::{
    Arch, Board, Diagnostic, HighPart, HostFacts, Length, MachineConfig, MemoryHotplug, OptionError,
    PciConfig, PlanError, Processor, Reserve, Severity, Transport, Vendor, Width, WidthSource, whole_pages,
};
use ambit_resources::PaBits;
use device_settings::Devices;
use serde::Deserialize;

pub use board_file::{BoardFileError, read as read_board};
pub use device_settings::{
    ConsoleSettings, ConsoleTo, DiskSettings, Interface, Limits, NetSettings, PlainSettings, Rate,
};
pub use device_words::{Cache, Engine};
pub use devices::{Console, Disk, Net, Plain, Single};
pub use names::check as check_names;
pub use plugged::Device;
pub use text::{FileError, parse, plain, read, unknown};
pub use words::{Bits, Count, Hole, Kept, Processors, QueueReach, Reach, Size, Switch};

/// As said: nothing is filled in. The keys of a file are these fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table of keys")]
pub struct Config {
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub cmdline: Option<String>,
    pub memory: Option<Size>,
    pub cpus: Option<Count>,
    pub disks: Vec<Disk>,
    pub nets: Vec<Net>,
    pub pa_bits: Option<Bits>,
    pub board: Option<String>,
    pub rng: Option<Single<Plain>>,
    pub console: Option<Single<Console>>,
    pub balloon: Option<Single<Plain>>,
    pub max_memory: Option<Size>,
    pub memory_slots: Option<Count>,
    pub pci: Option<Switch>,
    pub pci_window: Option<Size>,
    pub guest_reach: Option<Reach>,
    pub queue_reach: Option<QueueReach>,
    pub strict: Option<Switch>,
    pub vendor: Option<Processors>,
    pub hole: Option<Hole>,
    pub reserve_ht: Option<Switch>,
    pub reserve: Vec<Kept>,
}

impl Config {
    /// What `over` says replaces what this says; its disks and nets come after these.
    pub fn overridden_by(mut self, over: Self) -> Self {
        self.disks.extend(over.disks);
        self.nets.extend(over.nets);
        self.reserve.extend(over.reserve);
        Self {
            kernel: over.kernel.or(self.kernel),
            initrd: over.initrd.or(self.initrd),
            cmdline: over.cmdline.or(self.cmdline),
            memory: over.memory.or(self.memory),
            cpus: over.cpus.or(self.cpus),
            disks: self.disks,
            nets: self.nets,
            pa_bits: over.pa_bits.or(self.pa_bits),
            board: over.board.or(self.board),
            rng: over.rng.or(self.rng),
            console: over.console.or(self.console),
            balloon: over.balloon.or(self.balloon),
            max_memory: over.max_memory.or(self.max_memory),
            memory_slots: over.memory_slots.or(self.memory_slots),
            pci: over.pci.or(self.pci),
            pci_window: over.pci_window.or(self.pci_window),
            guest_reach: over.guest_reach.or(self.guest_reach),
            queue_reach: over.queue_reach.or(self.queue_reach),
            strict: over.strict.or(self.strict),
            vendor: over.vendor.or(self.vendor),
            hole: over.hole.or(self.hole),
            reserve_ht: over.reserve_ht.or(self.reserve_ht),
            reserve: self.reserve,
        }
    }
}

/// As checked: defaults are filled in, and every device has an id of its own.
#[derive(Clone)]
pub struct Settings<'b> {
    pub board: BoardChoice<'b>,
    /// As said, `key=value` each, sorted.
    pub board_options: Vec<String>,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub cmdline: String,
    /// In bytes.
    pub memory: u64,
    pub cpus: u32,
    pub bits: Bits,
    pub guest_reach: Option<PaBits>,
    pub hotplug: Option<MemoryHotplug>,
    /// `None`: no PCI.
    pub pci: Option<PciConfig>,
    pub queue_reach: Option<u8>,
    /// Nothing of the machine may be left out or cut short.
    pub strict: bool,
    pub reserve: Reserve,
    pub rng: Option<PlainSettings>,
    pub disks: Vec<DiskSettings>,
    pub nets: Vec<NetSettings>,
    pub console: Option<ConsoleSettings>,
    pub balloon: Option<PlainSettings>,
}

/// Why a configuration is not one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0}")]
    UnknownBoard(String),
    #[error(transparent)]
    BoardOption(#[from] OptionError),
    #[error(transparent)]
    BoardFile(#[from] BoardFileError),
    #[error("board '{0}' is not made of data, so there is no file to show")]
    NotData(String),
    #[error("'{0}' is not of the form key=value; a board is written NAME,key=value,…")]
    BoardWords(String),
    #[error("{what} makes no sense {without}")]
    Pointless { what: &'static str, without: &'static str },
    #[error("{what} of {device} makes no sense {without}")]
    PointlessOf { device: String, what: &'static str, without: &'static str },
    #[error("there is no {} board in this program; it has {has}", .wanted.name())]
    NoBoardFor { wanted: Arch, has: String },
    #[error("board '{board}' is an {} machine, and --arch asks for {}; leave one of them out", .is.name(), .wanted.name())]
    OtherArch { board: String, is: Arch, wanted: Arch },
    #[error("{first} and {second} are both called '{id}'; give one of them another id")]
    SameId { first: String, second: String, id: String },
    #[error("{first} and {second} both want {interface}; give each its own")]
    SameInterface { first: String, second: String, interface: String },
    #[error(
        "net '{id}' has {queues} pairs of queues and {has} open files; give it one fd for each pair, fd=A:B:…"
    )]
    FdsOfNet { id: String, queues: u16, has: usize },
    #[error("the name of {0} is empty")]
    EmptyPath(String),
    #[error("there is no kernel to start; give one with --kernel FILE")]
    NoKernel,
    #[error(transparent)]
    Amount(PlanError),
    #[error("{asked} physical address bits were asked for, and this host has {has}")]
    BitsBeyondHost { asked: PaBits, has: PaBits },
}

impl ConfigError {
    /// What would help, cheapest first, where the text does not say it.
    pub fn remedies(&self) -> Vec<String> {
        match self {
            Self::Amount(PlanError::MemoryNotPages { memory, page_size }) => {
                whole_pages(*memory, *page_size).iter().map(ToString::to_string).collect()
            }
            Self::BitsBeyondHost { has, .. } => {
                vec![format!("ask for at most {has}, or leave --pa-bits out")]
            }
            Self::BoardFile(error) => error.remedies(),
            _ => Vec::new(),
        }
    }
}

const MEMORY: u64 = 512 << 20;

/// Of legacy virtio with pages of 4 KiB: their numbers have 32 bits.
const LEGACY_REACH: u8 = 44;

/// The smallest page of any host.
const PAGE: u64 = 4096;

/// Fills in defaults, and checks all that can be known without looking at any file.
///
/// # Errors
/// [`ConfigError`] for the first thing that makes no sense.
pub fn settle<'b>(
    mut config: Config,
    boards: &[&'b dyn Board],
    arch: Option<Arch>,
) -> Result<Settings<'b>, ConfigError> {
    let board = find_board(boards, config.board.as_deref(), arch)?;
    let options = config.board.iter().flat_map(|words| words.split(',').skip(1));
    let mut board_options: Vec<String> = options.map(str::to_owned).collect();
    board_options.sort_unstable();
    let hotplug = hotplug(&config)?;
    let pci = pci(&config, &*board)?;
    let reserve = reserve(&config, board.arch())?;
    let Devices { rng, disks, nets, console, balloon } = device_settings::settle(&mut config, &*board)?;
    let cmdline = config.cmdline.unwrap_or_else(|| default_cmdline(&*board, console.as_ref()));
    let settings = Settings {
        board,
        board_options,
        hotplug,
        pci,
        reserve,
        guest_reach: config.guest_reach.map(|reach| reach.0),
        queue_reach: config.queue_reach.map(|reach| reach.0),
        strict: config.strict.is_some_and(|strict| strict.0),
        kernel: config.kernel,
        initrd: config.initrd,
        cmdline,
        memory: config.memory.map_or(MEMORY, |memory| memory.0),
        cpus: config.cpus.map_or(1, |cpus| cpus.0),
        bits: config.pa_bits.unwrap_or_default(),
        rng,
        disks,
        nets,
        console,
        balloon,
    };
    names::check(&[&settings])?;
    Ok(settings)
}

fn hotplug(config: &Config) -> Result<Option<MemoryHotplug>, ConfigError> {
    match (config.max_memory, config.memory_slots) {
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(ConfigError::Pointless { what: "--memory-slots", without: "without --max-memory" })
        }
        (Some(max), slots) => {
            let memory = config.memory.map_or(MEMORY, |memory| memory.0);
            let slots = slots.map_or(u32::from(max.0 > memory), |slots| slots.0);
            Ok(Some(MemoryHotplug { max_memory: max.0, slots }))
        }
    }
}

fn reserve(config: &Config, arch: Arch) -> Result<Reserve, ConfigError> {
    let of_host = config.reserve.contains(&Kept::Host);
    let said = [
        (config.vendor.is_some(), "--vendor"),
        (config.hole.is_some(), "--hole"),
        (config.reserve_ht == Some(Switch(false)), "--no-reserve-ht"),
        (of_host, "--reserve host"),
    ];
    if let Some((_, what)) = said.into_iter().find(|(said, _)| *said && arch != Arch::X86_64) {
        return Err(ConfigError::Pointless { what, without: "on a board that is no x86_64 machine" });
    }
    let range = |kept: &Kept| match kept {
        Kept::Range(range) => Some(*range),
        Kept::Host => None,
    };
    Ok(Reserve {
        policy: config.hole.map(|hole| hole.0).unwrap_or_default(),
        vendor: config.vendor.and_then(|vendor| vendor.0),
        without_ht: config.reserve_ht == Some(Switch(false)),
        of_devices: of_host,
        ranges: config.reserve.iter().filter_map(range).collect(),
    })
}

fn pci(config: &Config, board: &dyn Board) -> Result<Option<PciConfig>, ConfigError> {
    let window = config.pci_window.map(|window| window.0);
    match config.pci {
        _ if window.is_some() && !leaves_window_open(board) => Err(ConfigError::Pointless {
            what: "--pci-window",
            without: "on a board that has no such window, or one of its own length",
        }),
        Some(Switch(false)) if window.is_some() => {
            Err(ConfigError::Pointless { what: "--pci-window", without: "with --pci off" })
        }
        Some(Switch(false)) => Ok(None),
        _ => Ok(Some(PciConfig { window })),
    }
}

/// Whether the window for 64-bit BARs is as long as the user says. Where the board has no map at all, the
/// planner says why.
fn leaves_window_open(board: &dyn Board) -> bool {
    let map = board.map(&MachineConfig::default(), &HostFacts::assumed());
    let open = |part: &HighPart| matches!(part.size, Length::Bars { .. });
    map.map_or(true, |map| map.above.parts.iter().any(open))
}

/// A board of the program, or one made for this configuration alone.
#[derive(Clone)]
pub enum BoardChoice<'b> {
    Shipped(&'b dyn Board),
    Own(Arc<dyn Board>),
}

impl<'b> Deref for BoardChoice<'b> {
    type Target = dyn Board + 'b;

    fn deref(&self) -> &(dyn Board + 'b) {
        match self {
            Self::Shipped(board) => *board,
            Self::Own(board) => &**board,
        }
    }
}

/// `NAME,key=value,…`: a board with its options set. What ends in `.toml` or has a `/` is a file.
///
/// # Errors
/// [`ConfigError`] for a board that there is not, or not with these options.
pub fn find_board<'b>(
    boards: &[&'b dyn Board],
    words: Option<&str>,
    arch: Option<Arch>,
) -> Result<BoardChoice<'b>, ConfigError> {
    let name = words.and_then(|words| words.split(',').next());
    let options = words.map_or(Ok(Vec::new()), board_options)?;
    if let Some(name) = name.filter(|name| is_file(name)) {
        let board = read_board(name)?.board.with(&options)?;
        fits(&board, arch)?;
        return Ok(BoardChoice::Own(Arc::new(board)));
    }
    let board = find_board_by_name(boards, name, arch)?;
    match options.is_empty() {
        true => Ok(BoardChoice::Shipped(board)),
        false => Ok(BoardChoice::Own(board.with_options(&options)?.into())),
    }
}

/// What comes after the name of a board.
///
/// # Errors
/// [`ConfigError::BoardWords`] for what is no `key=value`.
pub fn board_options(words: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let words = words.split(',').skip(1);
    let options = words.map(|word| {
        let (key, value) = word.split_once('=').ok_or_else(|| ConfigError::BoardWords(word.into()))?;
        Ok((key.to_owned(), value.to_owned()))
    });
    options.collect()
}

fn fits(board: &dyn Board, arch: Option<Arch>) -> Result<(), ConfigError> {
    match arch {
        Some(wanted) if wanted != board.arch() => {
            Err(ConfigError::OtherArch { board: board.name().into(), is: board.arch(), wanted })
        }
        _ => Ok(()),
    }
}

fn find_board_by_name<'b>(
    boards: &[&'b dyn Board],
    name: Option<&str>,
    arch: Option<Arch>,
) -> Result<&'b dyn Board, ConfigError> {
    if let Some(name) = name {
        let names: Vec<&str> = boards.iter().map(|board| board.name()).collect();
        let board = boards.iter().find(|board| board.name() == name).copied();
        let board = board.ok_or_else(|| ConfigError::UnknownBoard(text::unknown("board", name, &names)))?;
        return fits(board, arch).map(|()| board);
    }
    let fits = |board: &&&dyn Board| arch.is_none_or(|arch| arch == board.arch());
    boards.iter().find(fits).copied().ok_or_else(|| {
        let has: Vec<String> =
            boards.iter().map(|board| format!("{} ({})", board.name(), board.arch().name())).collect();
        ConfigError::NoBoardFor { wanted: arch.unwrap_or(Arch::host()), has: has.join(", ") }
    })
}

/// Where the kernel speaks, and that it gives up rather than hang when it is lost.
fn default_cmdline(board: &dyn Board, console: Option<&ConsoleSettings>) -> String {
    if console.is_some_and(|console| console.to == ConsoleTo::Stdio) {
        return "console=hvc0 panic=-1".into();
    }
    let console = board.fixtures().into_iter().find_map(|fixture| match fixture.request.kind.as_str() {
        "pl011" => Some("console=ttyAMA0 "),
        "uart16550" => Some("console=ttyS0 "),
        _ => None,
    });
    format!("{}panic=-1", console.unwrap_or_default())
}

impl Settings<'_> {
    /// What no host could have, said before files are looked at; the planner says it in any case.
    ///
    /// # Errors
    /// [`ConfigError::Amount`] for no vCPU, no memory, or memory that is not whole pages.
    pub fn check_amounts(&self) -> Result<(), ConfigError> {
        let refused = match (self.cpus, self.memory) {
            (0, _) => PlanError::NoCpus,
            (_, 0) => PlanError::NoMemory,
            (_, memory) if !memory.is_multiple_of(PAGE) => {
                PlanError::MemoryNotPages { memory, page_size: PAGE }
            }
            _ => return Ok(()),
        };
        Err(ConfigError::Amount(refused))
    }

    fn transports(&self) -> impl Iterator<Item = Transport> {
        let rng = self.rng.iter().map(|rng| rng.transport);
        let disks = self.disks.iter().map(|disk| disk.transport);
        let nets = self.nets.iter().map(|net| net.transport);
        let console = self.console.iter().map(|console| console.transport);
        let balloon = self.balloon.iter().map(|balloon| balloon.transport);
        rng.chain(disks).chain(nets).chain(console).chain(balloon)
    }

    /// How many address bits a queue's place has over `transport`. `None`: no limit.
    pub fn reach_over(&self, transport: Transport) -> Option<u8> {
        // virtio 1.2, 4.2.4: the driver says how large a page is, and only the user knows what it will say.
        let mmio = || self.queue_reach.unwrap_or(LEGACY_REACH).max(LEGACY_REACH);
        match transport {
            Transport::Mmio | Transport::Pci => None,
            Transport::MmioLegacy => Some(mmio()),
            // 4.1.5.1.3: its pages have 4 KiB whatever the guest's have.
            Transport::PciLegacy => Some(LEGACY_REACH),
        }
    }

    /// Every limit to addresses that is known, in bits, with whose it is.
    pub fn limits(&self, host: Option<&HostFacts>) -> Vec<(u8, &'static str)> {
        let assumed = HostFacts::assumed();
        let whose = if host.is_some() { "this host" } else { "assumed of a host" };
        let host = host.unwrap_or(&assumed).width.bits.get();
        let user = match self.bits {
            Bits::Auto => None,
            Bits::Of(bits) => Some((bits.get(), "allowed")),
        };
        let guest = self.guest_reach.map(|bits| (bits.get(), "the guest's reach"));
        let least = self.transports().filter_map(|transport| self.reach_over(transport));
        let least = least.chain(self.queue_reach).min();
        let queues = least.map(|bits| (bits, "reach of the guest's queues"));
        [Some((host, whose)), user, guest, queues].into_iter().flatten().collect()
    }

    /// What to plan with on `host`. The user's number of bits comes before the host's.
    ///
    /// # Errors
    /// [`ConfigError::BitsBeyondHost`] if the user allows more than there are.
    pub fn facts(&self, host: HostFacts) -> Result<HostFacts, ConfigError> {
        match self.bits {
            Bits::Of(asked) if asked > host.width.bits => {
                Err(ConfigError::BitsBeyondHost { asked, has: host.width.bits })
            }
            _ => Ok(self.facts_wherever(host)),
        }
    }

    /// The same where nothing is to be started: without a host, what most arm64 hosts have. What was
    /// assumed, or goes past the host, is said.
    pub fn facts_on_paper(&self, host: Option<HostFacts>) -> (HostFacts, Vec<Diagnostic>) {
        let said = match &host {
            None => Some(self.assumption()),
            Some(host) => self.facts(host.clone()).err().map(|error| Diagnostic {
                code: "pa-bits-beyond-host".into(),
                severity: Severity::Warning,
                message: error.to_string(),
                remedies: error.remedies(),
            }),
        };
        (self.facts_wherever(host.unwrap_or_else(|| self.assumed())), said.into_iter().collect())
    }

    /// The narrowest of what the host has or the user allows, and what the guest can use.
    fn facts_wherever(&self, host: HostFacts) -> HostFacts {
        let allowed = match self.bits {
            Bits::Auto => host.width,
            Bits::Of(bits) => Width { bits, source: WidthSource::User },
        };
        let guest = self.guest_reach.filter(|reach| *reach < allowed.bits);
        let width = guest.map_or(allowed, |bits| Width { bits, source: WidthSource::Guest });
        HostFacts { width, ..host }
    }

    /// A host like most. On paper an x86_64 machine keeps out of what any processor keeps, as it costs nothing.
    pub fn assumed(&self) -> HostFacts {
        let any = Processor { vendor: Vendor::Amd, family: 0, pa_bits: 0, iommu: None };
        let processor = Some(any).filter(|_| self.board.arch() == Arch::X86_64);
        HostFacts { processor, ..HostFacts::assumed() }
    }

    fn assumption(&self) -> Diagnostic {
        let host = HostFacts::assumed();
        let (bits, remedy) = match self.bits {
            Bits::Auto => {
                let bits = format!("{} physical address bits, ", host.width.bits);
                (bits, "plan on the host itself, or say its bits with --pa-bits")
            }
            Bits::Of(_) => (String::new(), "plan on the host itself"),
        };
        let (page_size, cpus) = (host.page_size, host.max_cpus);
        let rest = match self.board.arch() {
            Arch::Aarch64 => format!("{cpus} vCPUs and an ITS"),
            Arch::X86_64 => format!("{cpus} vCPUs and AMD's processors"),
        };
        Diagnostic {
            code: "host-assumed".into(),
            severity: Severity::Note,
            message: format!(
                "no host was asked; assumed is one with {bits}pages of {page_size} bytes, {rest}"
            ),
            remedies: vec![remedy.into()],
        }
    }
}

#[cfg(test)]
mod tests;
