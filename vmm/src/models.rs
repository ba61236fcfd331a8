//! From the user's words to models of devices. The only place that opens a machine's files.

mod files;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use ambit_bus::{Model, Request};
use ambit_device_manager::{Board, Diagnostic, HostFacts, MachineConfig, Plan, Severity, Transport, pci};
use ambit_pci::bridge::HostBridge;
use ambit_platform::endings::{EndingModel, Port};
use ambit_platform::pl011::{Pl011Model, Sink};
use ambit_platform::pl031::Pl031Model;
use ambit_platform::receiver::Receiver;
use ambit_platform::serial::SerialModel;
use ambit_virtio::balloon::{self, Balloon};
use ambit_virtio::console::{self, Console};
use ambit_virtio::device::{Interface, VirtioDevice};
use ambit_virtio::mmio::{self, MmioModel};
use ambit_virtio::net::{Mac, Net, Tap, TapError};
use ambit_virtio::pci::{self as virtio_pci, PciModel};
use ambit_virtio::{block, limit, net, rng};
use rustix::fs::OFlags;
use vmm_sys_util::eventfd::EventFd;

use crate::config::{
    self, Cache, ConsoleSettings, ConsoleTo, DiskSettings, Engine, Limits, NetSettings, PlainSettings,
    Settings,
};
use crate::failure::{Exit, Failure};

pub use files::{Files, FilesError, Seen, open, open_disks};

/// The machine to plan. No file is opened.
pub fn machine_config(settings: &Settings<'_>) -> MachineConfig {
    // What is always there comes first, so that disks and nets do not move it.
    let rng = settings.rng.iter().map(|rng| (&rng.id, rng::KIND, rng.transport));
    let disks = settings.disks.iter().map(|disk| (&disk.id, block::KIND, disk.transport));
    let nets = settings.nets.iter().map(|net| (&net.id, net::KIND, net.transport));
    let console = settings.console.iter().map(|console| (&console.id, console::KIND, console.transport));
    let balloon = settings.balloon.iter().map(|balloon| (&balloon.id, balloon::KIND, balloon.transport));
    let devices = rng.chain(disks).chain(nets).chain(console).chain(balloon);
    MachineConfig {
        cpus: settings.cpus,
        memory: settings.memory,
        hotplug: settings.hotplug,
        pci: settings.pci,
        queue_reach: settings.queue_reach,
        reserve: settings.reserve.clone(),
        alternatives: devices
            .clone()
            .flat_map(|(id, kind, own)| alternatives(settings, id, kind, own))
            .collect(),
        devices: devices.map(|(id, kind, transport)| request(settings, id, kind, transport)).collect(),
    }
}

/// What a device would ask for over each other transport.
fn alternatives(settings: &Settings<'_>, id: &str, kind: &str, own: Transport) -> Vec<Request> {
    let others = Transport::ALL.into_iter().filter(|other| *other != own);
    others.map(|other| request(settings, id, kind, other)).collect()
}

/// How the guest is to reach what asks for this.
pub fn transport(request: &Request) -> Transport {
    Transport::of(&request.needs, request.queue_reach)
}

/// What a virtio device asks of the planner.
fn request(settings: &Settings<'_>, id: &str, kind: &str, transport: Transport) -> Request {
    let request = if transport.is_pci() { virtio_pci::request } else { mmio::request };
    Request { queue_reach: settings.reach_over(transport), ..request(id, kind, interface(transport)) }
}

/// The plan of what `settings` want on `host`, or if none is known, on one like most.
///
/// # Errors
/// [`Failure::Plan`], and [`Failure::Config`] for more address bits than the host has.
pub fn plan(settings: &Settings<'_>, host: Option<&HostFacts>) -> Result<Plan, Failure> {
    let facts = match host {
        Some(host) => settings.facts(host.clone())?,
        None => settings.facts_on_paper(None).0,
    };
    let plan = ambit_device_manager::plan(&*settings.board, &machine_config(settings), &facts)?;
    strictly(settings, plan)
}

/// `plan`, unless it lacks something and the user takes no such machine.
///
/// # Errors
/// [`Failure::Lost`] with all that was left out or cut short.
pub fn strictly(settings: &Settings<'_>, plan: Plan) -> Result<Plan, Failure> {
    let lost = plan.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Warning);
    let lost: Vec<Diagnostic> = lost.filter(|_| settings.strict).cloned().collect();
    if lost.is_empty() { Ok(plan) } else { Err(Failure::Lost(lost)) }
}

/// A model for every device of a machine, fixtures included.
pub struct Models {
    pub all: Vec<Arc<dyn Model>>,
    /// What the user types into; `None` on a machine without a console.
    pub console: Option<Typed>,
}

/// The guest's end of what the user types.
pub enum Typed {
    Uart(Box<dyn Receiver>),
    Virtio(console::Input),
}

impl Typed {
    /// As many of `bytes` as there is room for; how many that were.
    pub fn push(&self, bytes: &[u8]) -> usize {
        match self {
            Self::Uart(input) => input.push(bytes),
            Self::Virtio(input) => input.push(bytes),
        }
    }

    /// How many bytes there is room for. If fewer than `wanted`, the event tells when there are more.
    pub fn room(&self, wanted: usize) -> usize {
        match self {
            Self::Uart(input) => input.room(wanted),
            Self::Virtio(input) => input.room(wanted),
        }
    }

    pub fn room_event(&self) -> &EventFd {
        match self {
            Self::Uart(input) => input.room_event(),
            Self::Virtio(input) => input.room_event(),
        }
    }
}

/// Where what the guest prints goes.
pub trait Printer: Fn(&[u8]) + Clone + Send + 'static {}

impl<P: Fn(&[u8]) + Clone + Send + 'static> Printer for P {}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    #[error("board '{board}' has a '{kind}' called '{id}', and this program has no such device")]
    Fixture { board: String, id: String, kind: String },
    #[error("{what}: {source}")]
    Host { what: String, source: io::Error },
    #[error("net '{id}': {source}")]
    Tap { id: String, source: TapError },
    #[error(transparent)]
    Disk(#[from] block::BlockError),
    #[error(transparent)]
    Net(#[from] net::NetError),
}

impl ModelsError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Fixture { .. }
            | Self::Tap {
                source:
                    TapError::Name(_)
                    | TapError::NotATap { .. }
                    | TapError::OneQueue { .. }
                    | TapError::SeveralQueues { .. }
                    | TapError::Closed { .. }
                    | TapError::Twice { .. }
                    | TapError::NoTapFile { .. }
                    | TapError::Mode { .. }
                    | TapError::Differ { .. },
                ..
            } => Exit::BadInput,
            Self::Host { .. } | Self::Tap { .. } | Self::Disk(_) | Self::Net(_) => Exit::HostLacks,
        }
    }
}

/// Makes the models of `settings`, with `disks` as [`open`] gave them. What the guest says on its console
/// goes to `output`; `plan` says whether there is a host bridge. Interfaces are created here if need be, so this comes after everything that can be
/// refused without.
///
/// # Errors
/// [`ModelsError`] for the first one that cannot be made.
pub fn make(
    settings: &Settings<'_>,
    plan: &Plan,
    disks: Vec<File>,
    output: impl Printer,
) -> Result<Models, ModelsError> {
    let Models { mut all, console } = fixtures(&*settings.board, Box::new(output.clone()))?;
    if plan.device(pci::BRIDGE).is_some_and(|device| device.function == Some(0)) {
        all.push(Arc::new(HostBridge::new(pci::BRIDGE)));
    }
    let devices = make_devices(settings, disks, output)?;
    all.extend(devices.all);
    Ok(Models { all, console: devices.console.or(console) })
}

/// The same for those devices of `settings` alone that the user asked for.
///
/// # Errors
/// [`ModelsError`] for the first one that cannot be made.
pub fn make_devices(
    settings: &Settings<'_>,
    disks: Vec<File>,
    output: impl Printer,
) -> Result<Models, ModelsError> {
    let (mut all, mut console) = (Vec::new(), None);
    if let Some(PlainSettings { id, transport }) = &settings.rng {
        let source =
            File::open("/dev/urandom").map_err(|source| lacks("/dev/urandom cannot be read", source))?;
        let rng = rng::Rng::new(source, &rng::Options::new(id));
        all.push(over(settings, *transport, id, rng::KIND, rng));
    }
    for (disk, file) in settings.disks.iter().zip(disks) {
        let block = block::Block::new(file, &block_options(disk))?;
        all.push(over(settings, disk.transport, &disk.id, block::KIND, block));
    }
    for net in &settings.nets {
        let taps = match &net.interface {
            config::Interface::Tap(tap) => Tap::open(tap, net.queues),
            config::Interface::Fds(fds) => Tap::from_fds(fds),
        };
        let taps = taps.map_err(|source| ModelsError::Tap { id: net.id.clone(), source })?;
        all.push(over(
            settings,
            net.transport,
            &net.id,
            net::KIND,
            Net::new(&net.id, taps, &net_options(net))?,
        ));
    }
    if let Some(said) = &settings.console {
        let (device, input) = virtio_console(said, output)?;
        if said.to == ConsoleTo::Stdio {
            console = Some(Typed::Virtio(input));
        }
        all.push(over(settings, said.transport, &said.id, console::KIND, device));
    }
    if let Some(PlainSettings { id, transport }) = &settings.balloon {
        let (device, _control) = Balloon::new(&balloon::Options::new(id));
        all.push(over(settings, *transport, id, balloon::KIND, device));
    }
    Ok(Models { all, console })
}

fn virtio_console(
    said: &ConsoleSettings,
    output: impl Printer,
) -> Result<(Console, console::Input), ModelsError> {
    let sink: console::Sink = match &said.to {
        ConsoleTo::Stdio => Box::new(output),
        ConsoleTo::File(path) => {
            let mut file = add_to(path).map_err(|source| {
                let is_pipe = fs::metadata(path).is_ok_and(|about| about.file_type().is_fifo());
                let unread = is_pipe && source.raw_os_error() == Some(libc::ENXIO);
                let why = if unread { ": nobody reads that pipe; start its reader first" } else { "" };
                lacks(&format!("'{}' cannot be written for the virtio console{why}", path.display()), source)
            })?;
            Box::new(move |bytes| {
                if let Err(error) = file.write_all(bytes) {
                    tracing::debug!("what the guest printed is lost: {error}");
                }
            })
        }
    };
    let options = console::Options::new(&said.id);
    Console::new(sink, &options).map_err(|source| lacks("the virtio console cannot be made", source))
}

/// A file for what is said. A pipe must have a reader: to wait for one would be to wait without a word.
fn add_to(path: &Path) -> io::Result<File> {
    let file = File::options().append(true).create(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

fn block_options(disk: &DiskSettings) -> block::Options {
    block::Options {
        id: disk.id.clone(),
        readonly: disk.readonly,
        queues: disk.queues,
        queue_size: disk.queue_size,
        cache: match disk.cache {
            Cache::Writeback => block::Cache::Writeback,
            Cache::Writethrough => block::Cache::Writethrough,
            Cache::None => block::Cache::Direct,
            Cache::Unsafe => block::Cache::Unsafe,
        },
        engine: match disk.engine {
            Engine::Sync => block::Engine::Sync,
            Engine::IoUring => block::Engine::Uring,
        },
        discard: disk.discard,
        limits: limits(disk.limits),
    }
}

fn net_options(net: &NetSettings) -> net::Options {
    net::Options {
        mac: mac(net),
        queue_size: net.queue_size,
        offloads: net.offloads,
        mergeable: net.mergeable,
        mtu: None,
        rx: limits(net.rx),
        tx: limits(net.tx),
    }
}

fn limits(said: Limits) -> limit::Limits {
    let rate =
        |rate: config::Rate| limit::Rate { burst: rate.burst, ..limit::Rate::per_second(rate.per_second) };
    limit::Limits { bytes: said.bytes.map(rate), operations: said.count.map(rate) }
}

/// `device` as the guest reaches it.
fn over(
    settings: &Settings<'_>,
    transport: Transport,
    id: &str,
    kind: &'static str,
    device: impl VirtioDevice + 'static,
) -> Arc<dyn Model> {
    let interface = interface(transport);
    if transport.is_pci() {
        Arc::new(PciModel::new(id, kind, interface, device))
    } else {
        Arc::new(MmioModel::new(id, kind, interface, device).reaching(settings.reach_over(transport)))
    }
}

fn interface(transport: Transport) -> Interface {
    if transport.is_legacy() { Interface::Legacy } else { Interface::Modern }
}

fn fixtures(board: &dyn Board, output: Sink) -> Result<Models, ModelsError> {
    let mut all: Vec<Arc<dyn Model>> = Vec::new();
    let (mut output, mut console) = (Some(output), None::<Typed>);
    let refused = |source| lacks("the console cannot be made", source);
    for fixture in board.fixtures() {
        if let Some(model) = board.model(&fixture.request) {
            all.push(model);
            continue;
        }
        let id = fixture.request.id;
        match fixture.request.kind.as_str() {
            "pl011" => {
                // The first is the console; nobody listens to another.
                let sink = output.take().unwrap_or_else(|| Box::new(|_| {}));
                let (model, input) = Pl011Model::new(&id, sink).map_err(refused)?;
                all.push(Arc::new(model));
                console.get_or_insert(Typed::Uart(Box::new(input)));
            }
            "uart16550" => {
                let sink = output.take().unwrap_or_else(|| Box::new(|_| {}));
                let (model, input) = SerialModel::new(&id, sink).map_err(refused)?;
                all.push(Arc::new(model));
                console.get_or_insert(Typed::Uart(Box::new(input)));
            }
            "pl031" => all.push(Arc::new(Pl031Model::new(&id))),
            kind => match Port::of_kind(kind) {
                Some(port) => all.push(Arc::new(EndingModel::new(&id, port))),
                None => {
                    return Err(ModelsError::Fixture { board: board.name().into(), id, kind: kind.into() });
                }
            },
        }
    }
    Ok(Models { all, console })
}

fn lacks(what: &str, source: io::Error) -> ModelsError {
    ModelsError::Host { what: what.into(), source }
}

/// The user's, or one that stays the same on this host and differs between hosts and interfaces.
fn mac(net: &NetSettings) -> Mac {
    let host = || fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let interface = match &net.interface {
        config::Interface::Tap(name) => name,
        // A number says nothing of the interface.
        config::Interface::Fds(_) => &net.id,
    };
    net.mac.map_or_else(|| Mac::for_id(&format!("{}{interface}", host())), Mac)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::process::Command;

    use ambit_bus::{Bar, BarSpace, Needs};

    use super::*;
    use crate::config::{Config, settle};
    use crate::toy::{ODD, PC};

    fn net(tap: &str) -> NetSettings {
        let said = format!("{tap},id=net0").parse().unwrap();
        let settings = settle(Config { nets: vec![said], ..Config::default() }, &[&PC], None).unwrap();
        settings.nets[0].clone()
    }

    #[test]
    fn a_console_goes_to_a_pipe_that_somebody_reads() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let config =
            Config { console: Some(format!("to={}", pipe.display()).parse().unwrap()), ..Config::default() };
        let native = ambit_aarch64::native();
        let settings = settle(config, &[&native], None).unwrap();
        let plan = plan(&settings, None).unwrap();
        let made = || make(&settings, &plan, Vec::new(), |_: &[u8]| {}).map(drop);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());

        let refusal = made().unwrap_err().to_string();
        let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&pipe).unwrap();
        made().unwrap();

        let expected =
            "' cannot be written for the virtio console: nobody reads that pipe; start its reader first: ";
        assert!(refusal.contains(expected), "{refusal}");
        drop(reader);
    }

    #[test]
    fn every_model_asks_for_what_was_planned_for_it() {
        let disk = "path=anywhere,id=root".parse().unwrap();
        let native = ambit_aarch64::native();
        let legacy = "path=anywhere,id=old,transport=mmio-legacy".parse().unwrap();
        let config = Config {
            disks: vec![disk, legacy],
            queue_reach: Some("46".parse().unwrap()),
            ..Config::default()
        };
        let settings = settle(config, &[&native], None).unwrap();

        let plan = plan(&settings, None).unwrap();
        let files = vec![tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        let models = make(&settings, &plan, files, |_: &[u8]| {}).unwrap();

        let fixtures = native.fixtures().into_iter().map(|fixture| fixture.request);
        let bridge = fixtures.chain([HostBridge::new(pci::BRIDGE).request()]);
        let planned: Vec<_> = bridge.chain(machine_config(&settings).devices).collect();
        let asked: Vec<_> = models.all.iter().map(|model| model.request()).collect();
        assert_eq!(asked, planned);
        let placed: Vec<_> = plan.devices.iter().map(|it| (it.id.clone(), it.kind.clone())).collect();
        assert_eq!(planned.into_iter().map(|it| (it.id, it.kind)).collect::<Vec<_>>(), placed);
        assert!(models.console.is_some());
    }

    fn settled(disk: &str) -> Settings<'static> {
        let config = Config { disks: vec![disk.parse().unwrap()], ..Config::default() };
        settle(config, &[&PC], None).unwrap()
    }

    #[test]
    fn a_device_asks_for_what_its_transport_takes() {
        let asked = |transport: &str| {
            let mut devices = machine_config(&settled(&format!("a,transport={transport}"))).devices;
            let disk = devices.pop().unwrap();
            (disk.needs, disk.queue_reach, disk.description.node.clone())
        };
        let window = || mmio::request("", "", Interface::Modern).needs;
        let bar = |size, space| Bar { size, space };
        let registers = bar(0x4000, BarSpace::Mmio32);

        assert_eq!(asked("mmio"), (window(), None, "virtio_mmio".into()));
        assert_eq!(asked("mmio-legacy"), (window(), Some(44), "virtio_mmio".into()));
        assert_eq!(asked("pci"), (Needs::Pci { bars: vec![registers] }, None, String::new()));
        let bars = vec![bar(0x80, BarSpace::Io), registers];
        assert_eq!(asked("pci-legacy"), (Needs::Pci { bars }, Some(44), String::new()));
    }

    #[test]
    fn every_other_transport_of_a_device_may_be_a_remedy() {
        let machine = machine_config(&settled("a,transport=pci"));

        let of = |request: &Request| Transport::of(&request.needs, request.queue_reach);
        let disks = machine.alternatives.iter().filter(|other| other.id == "disk0");
        assert_eq!(
            disks.map(of).collect::<Vec<_>>(),
            [Transport::Mmio, Transport::MmioLegacy, Transport::PciLegacy]
        );
    }

    #[test]
    fn a_net_on_a_file_that_is_not_open_is_refused_by_its_number() {
        let native = ambit_aarch64::native();
        let net = "fd=2147418112,id=x".parse().unwrap();
        let settings = settle(Config { nets: vec![net], ..Config::default() }, &[&native], None).unwrap();
        let plan = plan(&settings, None).unwrap();

        let refused = make(&settings, &plan, Vec::new(), |_: &[u8]| {}).err().unwrap();

        assert!(
            refused.to_string().starts_with("net 'x': file descriptor 2147418112 is not open; "),
            "{refused}"
        );
        assert_eq!(refused.exit(), Exit::BadInput);
    }

    #[test]
    fn all_that_is_said_of_a_net_reaches_its_card() {
        let said = net(
            "tap0,mac=02:00:00:00:00:01,queue-size=512,offloads=off,mergeable=off,rx-bandwidth=1M,rx-packets=10,tx-bandwidth=2M,tx-packets=20,tx-packets-burst=5",
        );

        let per = |per_second| Some(limit::Rate::per_second(NonZeroU64::new(per_second).unwrap()));
        let burst = limit::Rate { burst: 5, ..per(20).unwrap() };
        let expected = net::Options {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            queue_size: 512,
            offloads: false,
            mergeable: false,
            mtu: None,
            rx: limit::Limits { bytes: per(1 << 20), operations: per(10) },
            tx: limit::Limits { bytes: per(2 << 20), operations: Some(burst) },
        };
        assert_eq!(net_options(&said), expected);
    }

    #[test]
    fn a_fixture_that_this_program_does_not_have_is_named() {
        let settings = settle(Config::default(), &[&ODD], None).unwrap();

        let plan = plan(&settings, None).unwrap();
        let error = make(&settings, &plan, Vec::new(), |_: &[u8]| {}).err().unwrap();

        assert_eq!(
            error.to_string(),
            "board 'odd' has a 'uart82510' called 'uart0', and this program has no such device"
        );
    }

    #[test]
    fn a_card_without_an_address_gets_one_by_its_interface() {
        assert_eq!(mac(&net("tap0")), mac(&net("tap0")));
        assert_ne!(mac(&net("tap0")), mac(&net("tap1")));

        let own = NetSettings { mac: Some([2, 0, 0, 0, 0, 1]), ..net("tap0") };
        assert_eq!(mac(&own), Mac([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn a_tap_that_the_host_does_not_give_is_the_hosts_lack_and_a_wrong_name_is_not() {
        let exit = |source| ModelsError::Tap { id: "net0".into(), source }.exit();
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        let name = || "tap0".to_owned();

        assert_eq!(exit(TapError::Forbidden(refused())), Exit::HostLacks);
        assert_eq!(exit(TapError::Busy { name: name(), source: refused() }), Exit::HostLacks);
        assert_eq!(exit(TapError::NotATap { name: name(), source: refused() }), Exit::BadInput);
    }
}
