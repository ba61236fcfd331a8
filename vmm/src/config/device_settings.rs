//! Devices as checked: defaults are filled in, and every one has an id and a transport.

use std::fmt;
use std::num::NonZeroU64;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use ambit_device_manager::{Board, Transport};

use super::device_words::{Cache, Engine, Over};
use super::devices::{Console, Disk, Net, NetKeys, Plain, Single};
use super::words::Id;
use super::{Config, ConfigError};

/// Of a device that has nothing to set but how the guest reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainSettings {
    pub id: String,
    pub transport: Transport,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    pub id: String,
    pub path: PathBuf,
    pub readonly: bool,
    pub transport: Transport,
    /// 1 to 16.
    pub queues: u16,
    /// Entries of each; a power of two from 2 to 1024.
    pub queue_size: u16,
    pub cache: Cache,
    pub engine: Engine,
    /// The guest may give room back; never with `readonly`.
    pub discard: bool,
    /// No other monitor that locks its disks has it too, unless neither writes.
    pub lock: bool,
    /// Of both directions together.
    pub limits: Limits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSettings {
    pub id: String,
    pub interface: Interface,
    /// `None`: one is made from the interface and this host.
    pub mac: Option<[u8; 6]>,
    pub transport: Transport,
    /// Pairs, 1 to 8; as many as there are fds.
    pub queues: u16,
    /// Entries of each; a power of two from 2 to 1024.
    pub queue_size: u16,
    /// Checksums and segmentation are left to the other side.
    pub offloads: bool,
    /// A frame may take several of the guest's buffers.
    pub mergeable: bool,
    /// Towards the guest.
    pub rx: Limits,
    /// From the guest.
    pub tx: Limits,
}

/// The host's end of a net.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// Opened, or made, by this name.
    Tap(String),
    /// TAP interfaces that were open when the program started, one for each pair of queues.
    Fds(Vec<RawFd>),
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => f.write_str(name),
            Self::Fds(fds) => {
                let fds: Vec<String> = fds.iter().map(ToString::to_string).collect();
                write!(f, "fd {}", fds.join(":"))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSettings {
    pub id: String,
    pub transport: Transport,
    pub to: ConsoleTo,
}

/// The host's end of a virtio console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConsoleTo {
    /// Standard output, together with the board's console, and standard input instead of it.
    #[default]
    Stdio,
    /// What the guest says is added to this file, and it hears nothing.
    File(PathBuf),
}

/// How much may pass. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In bytes.
    pub bytes: Option<Rate>,
    /// Requests of a disk, frames of a net.
    pub count: Option<Rate>,
}

/// A token bucket: it holds `per_second` and is refilled at that rate all the time; on top is `burst`, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU64,
    pub burst: u64,
}

/// Every device of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    pub rng: Option<PlainSettings>,
    pub disks: Vec<DiskSettings>,
    pub nets: Vec<NetSettings>,
    pub console: Option<ConsoleSettings>,
    pub balloon: Option<PlainSettings>,
}

/// Takes the devices out of `config`. What does not say its transport has that of `board`, as far as there is PCI.
///
/// # Errors
/// [`ConfigError`] for the first one that makes no sense.
pub fn settle(config: &mut Config, board: &dyn Board) -> Result<Devices, ConfigError> {
    let pci = config.pci.is_none_or(|pci| pci.0);
    let default = if pci { board.transport() } else { board.transport().off_pci() };
    let over = |said: Option<Over>| said.map_or(default, |said| said.0);
    let plain =
        |said: Plain, id: &str| PlainSettings { id: named(said.id, id), transport: over(said.transport) };
    let rng = Single::settle(config.rng.take(), true).map(|said| plain(said, "rng0"));
    let balloon = Single::settle(config.balloon.take(), false).map(|said| plain(said, "balloon0"));
    let console = Single::settle(config.console.take(), false);
    let console = console.map(|said: Console| ConsoleSettings {
        id: named(said.id, "console0"),
        transport: over(said.transport),
        to: said.to.filter(|to| to != Path::new("stdio")).map_or(ConsoleTo::Stdio, ConsoleTo::File),
    });
    let disks = std::mem::take(&mut config.disks).into_iter().enumerate();
    let disks = disks.map(|(index, said)| disk(said, index, over)).collect::<Result<_, _>>()?;
    let nets = std::mem::take(&mut config.nets).into_iter().enumerate();
    let nets = nets.map(|(index, said)| net(said, index, over)).collect::<Result<_, _>>()?;
    Ok(Devices { rng, disks, nets, console, balloon })
}

fn named(said: Option<Id>, otherwise: &str) -> String {
    said.map_or_else(|| otherwise.to_owned(), |id| id.to_string())
}

fn disk(
    said: Disk,
    index: usize,
    over: impl Fn(Option<Over>) -> Transport,
) -> Result<DiskSettings, ConfigError> {
    let id = named(said.id, &format!("disk{index}"));
    let readonly = said.readonly.is_some_and(|readonly| readonly.0);
    let pointless = |what, without| pointless("disk", &id, what, without);
    if readonly && said.discard.is_some_and(|discard| discard.0) {
        return Err(pointless("discard=on", "with readonly=on"));
    }
    Ok(DiskSettings {
        path: said.path,
        readonly,
        transport: over(said.transport),
        queues: said.queues.map_or(1, |queues| queues.0),
        queue_size: said.queue_size.unwrap_or_default().0,
        cache: said.cache.unwrap_or_default(),
        engine: said.engine.unwrap_or_default(),
        discard: said.discard.map_or(!readonly, |discard| discard.0),
        lock: said.lock.is_none_or(|lock| lock.0),
        limits: Limits {
            bytes: rate(said.bandwidth, said.bandwidth_burst)
                .ok_or_else(|| pointless("bandwidth-burst", "without bandwidth"))?,
            count: rate(said.iops, said.iops_burst).ok_or_else(|| pointless("iops-burst", "without iops"))?,
        },
        id,
    })
}

fn net(
    Net(said): Net,
    index: usize,
    over: impl Fn(Option<Over>) -> Transport,
) -> Result<NetSettings, ConfigError> {
    let id = named(said.id.clone(), &format!("net{index}"));
    let (rx, tx) = limits(&said, &id)?;
    let queues = said.queues.map(|queues| queues.0);
    let (interface, queues) = match (said.tap, said.fd) {
        (Some(tap), _) => (Interface::Tap(tap.to_string()), queues.unwrap_or(1)),
        (None, fds) => {
            let fds = fds.map(|fds| fds.0).unwrap_or_default();
            let has = fds.len();
            // Of a TAP interface each open file is one pair of queues (Linux drivers/net/tun.c).
            let queues = queues.or_else(|| u16::try_from(has).ok().filter(|has| *has <= 8)).unwrap_or(8);
            if usize::from(queues) != has {
                return Err(ConfigError::FdsOfNet { id, queues, has });
            }
            (Interface::Fds(fds), queues)
        }
    };
    Ok(NetSettings {
        id,
        interface,
        mac: said.mac.map(|mac| mac.0),
        transport: over(said.transport),
        queues,
        queue_size: said.queue_size.unwrap_or_default().0,
        offloads: said.offloads.is_none_or(|offloads| offloads.0),
        mergeable: said.mergeable.is_none_or(|mergeable| mergeable.0),
        rx,
        tx,
    })
}

/// Towards the guest, and from it.
fn limits(said: &NetKeys, id: &str) -> Result<(Limits, Limits), ConfigError> {
    let pointless = |what, without| move || pointless("net", id, what, without);
    let rx = Limits {
        bytes: rate(said.rx_bandwidth, said.rx_bandwidth_burst)
            .ok_or_else(pointless("rx-bandwidth-burst", "without rx-bandwidth"))?,
        count: rate(said.rx_packets, said.rx_packets_burst)
            .ok_or_else(pointless("rx-packets-burst", "without rx-packets"))?,
    };
    let tx = Limits {
        bytes: rate(said.tx_bandwidth, said.tx_bandwidth_burst)
            .ok_or_else(pointless("tx-bandwidth-burst", "without tx-bandwidth"))?,
        count: rate(said.tx_packets, said.tx_packets_burst)
            .ok_or_else(pointless("tx-packets-burst", "without tx-packets"))?,
    };
    Ok((rx, tx))
}

fn pointless(kind: &str, id: &str, what: &'static str, without: &'static str) -> ConfigError {
    ConfigError::PointlessOf { device: format!("{kind} '{id}'"), what, without }
}

/// `None`: there is a burst and no rate.
fn rate<T: Into<NonZeroU64>>(per_second: Option<T>, burst: Option<T>) -> Option<Option<Rate>> {
    match (per_second, burst) {
        (None, Some(_)) => None,
        (None, None) => Some(None),
        (Some(per_second), burst) => {
            let burst = burst.map_or(0, |burst| burst.into().get());
            Some(Some(Rate { per_second: per_second.into(), burst }))
        }
    }
}
