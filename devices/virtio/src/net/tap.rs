//! A tap: the host's end of the guest's wire.

// The ioctls have no safe wrapper; each block says why it holds.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};

use super::header;
use super::link::{self, Interface};
use super::{Carrier, Offloads};

pub const TUN: &str = "/dev/net/tun";
/// What every queue of a tap is opened with.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// One queue of a network interface of the host's that frames go to and come from.
#[derive(Debug)]
pub struct Tap {
    file: File,
    interface: Interface,
    attached: Mutex<bool>,
}

/// Why there is no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("'{0}' cannot be the name of a tap; use 1 to 15 letters, digits, '-', '_' or '.'")]
    Name(String),
    #[error("{TUN} is not there; load the module (modprobe tun), or create it (mknod {TUN} c 10 200)")]
    NoTun(#[source] io::Error),
    #[error("{TUN} cannot be opened; run as a user who may, or as root")]
    Forbidden(#[source] io::Error),
    #[error(
        "tap {name} is not this user's; create it for this user (ip tuntap add {name} mode tap user $USER), \
         or run with CAP_NET_ADMIN"
    )]
    NotOurs { name: String, source: io::Error },
    #[error("tap {name} is in use by another program; give the guest another one, or end that program")]
    Busy { name: String, source: io::Error },
    #[error(
        "{name} is a network interface, and not a tap; give the guest one that is (ip tuntap add NAME mode tap)"
    )]
    NotATap { name: String, source: io::Error },
    #[error(
        "tap {name} is for one queue, and the guest's card has {queues} pairs; create it for several \
         (ip tuntap add {name} mode tap multi_queue), or give the card one pair"
    )]
    OneQueue { name: String, queues: u16, source: io::Error },
    #[error(
        "tap {name} is for several queues, and the guest's card has one pair; give the card two pairs or more, or \
         create the tap for one queue (ip tuntap add {name} mode tap)"
    )]
    SeveralQueues { name: String, source: io::Error },
    #[error("tap {name} cannot be used")]
    Other { name: String, source: io::Error },
    #[error(
        "file descriptor {fd} is not open; start this program with a tap open as that number ({fd}<>{TUN}, attached \
         by TUNSETIFF), or give the name of a tap"
    )]
    Closed { fd: i32, source: io::Error },
    #[error("file descriptor {fd} is given twice; each is one pair of queues, so open the tap once for each")]
    Twice { fd: i32 },
    #[error(
        "file descriptor {fd} is no tap; open {TUN} and attach it to one (TUNSETIFF with IFF_TAP | IFF_NO_PI | \
         IFF_VNET_HDR)"
    )]
    NoTapFile { fd: i32, source: io::Error },
    #[error(
        "file descriptor {fd} is {name}, opened in another way than a guest's card needs: it {lacks}; attach it to a \
         tap by TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR"
    )]
    Mode { fd: i32, name: String, lacks: &'static str },
    #[error(
        "file descriptors {fd} and {other} are of {name} and {other_name}; give a card queues of one tap"
    )]
    Differ { fd: i32, name: String, other: i32, other_name: String },
}

impl Tap {
    /// Opens `queues` queues of the tap called `name`, and creates it if there is none and this user may.
    ///
    /// # Errors
    /// [`TapError`] says which step failed and what would help.
    pub fn open(name: &str, queues: u16) -> Result<Vec<Self>, TapError> {
        if !is_name(name) {
            return Err(TapError::Name(name.into()));
        }
        (0..queues.max(1)).map(|_| Self::open_queue(name, queues)).collect()
    }

    fn open_queue(name: &str, queues: u16) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(no_tun)?;
        let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let mut request = request(name, FLAGS | several);
        ioctl(&file, libc::TUNSETIFF, &mut request)
            .map_err(|source| refused(name, queues, source, other_kind))?;
        let other = |source| TapError::Other { name: name.into(), source };
        let tap = Self { interface: interface(&file).map_err(other)?, file, attached: Mutex::new(true) };
        tap.set_header_size().map_err(other)?;
        Ok(tap)
    }

    /// Takes queues that someone else has opened and attached, all of one tap. The files stay open.
    ///
    /// # Errors
    /// [`TapError`] says what is wrong with which, and how to open it.
    pub fn from_fds(fds: &[RawFd]) -> Result<Vec<Self>, TapError> {
        let several = fds.len() > 1;
        let mut taps: Vec<(RawFd, Self)> = Vec::with_capacity(fds.len());
        for fd in fds {
            if taps.iter().any(|(other, _)| other == fd) {
                return Err(TapError::Twice { fd: *fd });
            }
            let tap = Self::from_fd(*fd, several)?;
            if let Some((other, first)) = taps.first()
                && first.interface != tap.interface
            {
                let (name, other_name) = (first.interface.name.clone(), tap.interface.name);
                return Err(TapError::Differ { fd: *other, name, other: *fd, other_name });
            }
            taps.push((*fd, tap));
        }
        Ok(taps.into_iter().map(|(_, tap)| tap).collect())
    }

    /// Takes one queue that someone else has opened and attached, to a tap of `several` queues if so.
    ///
    /// # Errors
    /// As [`Tap::from_fds`].
    pub fn from_fd(fd: RawFd, several: bool) -> Result<Self, TapError> {
        let file = File::from(duplicate(fd).map_err(|source| TapError::Closed { fd, source })?);
        let mut request = request("", 0);
        ioctl(&file, libc::TUNGETIFF, &mut request).map_err(|source| TapError::NoTapFile { fd, source })?;
        let (name, flags) = (name_of(&request), flags_of(&request));
        let needed = [
            (libc::IFF_TAP, "carries packets and not frames"),
            (libc::IFF_VNET_HDR, "has no virtio header before every frame"),
            (
                if several { libc::IFF_MULTI_QUEUE } else { libc::IFF_TAP },
                "is for one queue (IFF_MULTI_QUEUE)",
            ),
        ];
        if let Some((_, lacks)) = needed.into_iter().find(|(bit, _)| flags & bit == 0) {
            return Err(TapError::Mode { fd, name, lacks });
        }
        let other = |source| TapError::Other { name: name.clone(), source };
        let interface = interface(&file).map_err(other)?;
        // Where nobody tells, it is as was asked for.
        if let Ok(Some(true)) = link::has_packet_info(&interface) {
            return Err(TapError::Mode { fd, name, lacks: "has packet information before every frame" });
        }
        never_blocks(&file).map_err(other)?;
        let tap = Self { interface, file, attached: Mutex::new(true) };
        tap.set_header_size().map_err(other)?;
        Ok(tap)
    }

    fn set_header_size(&self) -> io::Result<()> {
        let size = libc::c_int::try_from(header::SIZE).map_err(io::Error::other)?;
        // SAFETY: the kernel reads one `int`, which outlives the call.
        result(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &size) })
    }
}

impl Carrier for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let bits = [
            (offloads.csum, libc::TUN_F_CSUM),
            (offloads.tso4, libc::TUN_F_TSO4),
            (offloads.tso6, libc::TUN_F_TSO6),
            (offloads.ecn, libc::TUN_F_TSO_ECN),
        ];
        let flags = bits.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit);
        // Whoever else has the tap open may have changed it.
        self.set_header_size()?;
        // SAFETY: the argument is a number, not an address.
        result(unsafe {
            libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
        })
    }

    /// A queue that is not attached gets no frames; the host sends them to the others.
    fn attach(&self, attached: bool) -> io::Result<()> {
        // A thread that panicked has ended the program.
        let mut now = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != attached {
            let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
            ioctl(&self.file, libc::TUNSETQUEUE, &mut request("", flag))?;
            *now = attached;
        }
        Ok(())
    }

    /// Also while it is not attached.
    fn is_gone(&self) -> bool {
        ioctl(&self.file, libc::TUNGETIFF, &mut request("", 0)).is_err()
    }

    fn interface(&self) -> Option<&Interface> {
        Some(&self.interface)
    }
}

/// Another number for the open file `fd`, which programs that we start do not inherit.
fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is touched; a number that is not open is refused.
    let fd = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    result(fd)?;
    // SAFETY: the kernel has just opened it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn never_blocks(file: &File) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(())
}

// Of another type than other calls' where the C library is musl.
#[allow(clippy::cast_possible_truncation, reason = "the numbers of calls have 32 bits")]
const HARDWARE_ADDRESS: libc::Ioctl = libc::SIOCGIFHWADDR as libc::Ioctl;

/// The interface that `file` is a queue of.
fn interface(file: &File) -> io::Result<Interface> {
    let mut answer = request("", 0);
    ioctl(file, libc::TUNGETIFF, &mut answer)?;
    let name = name_of(&answer);
    ioctl(file, HARDWARE_ADDRESS, &mut answer)?;
    // SAFETY: the kernel has filled this variant, and any bytes are a value of it.
    let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
    let mut bytes = address.sa_data.into_iter().map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()));
    Ok(Interface { name, address: std::array::from_fn(|_| bytes.next().unwrap_or(0)) })
}

fn request(name: &str, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // All flags of a tap are in the lower half.
    let [low, high, ..] = flags.to_le_bytes();
    request.ifr_ifru.ifru_flags = libc::c_short::from_le_bytes([low, high]);
    request
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()));
    String::from_utf8_lossy(&bytes.take_while(|byte| *byte != 0).collect::<Vec<_>>()).into_owned()
}

fn flags_of(request: &libc::ifreq) -> libc::c_int {
    // SAFETY: the kernel has filled this variant, and any bytes are a value of it.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    libc::c_int::from(flags.cast_unsigned())
}

/// Does one of the calls whose argument is an `ifreq`.
fn ioctl(file: &File, call: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
    result(unsafe { libc::ioctl(file.as_raw_fd(), call as _, request) })
}

fn result(value: libc::c_int) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn is_name(name: &str) -> bool {
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    fits && plain && name != "." && name != ".."
}

fn no_tun(source: io::Error) -> TapError {
    match source.kind() {
        io::ErrorKind::PermissionDenied => TapError::Forbidden(source),
        _ => TapError::NoTun(source),
    }
}

/// What a tap that exists is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OneQueue,
    SeveralQueues,
}

/// What the tap called `name` is for, if it is not what was asked for. Only the kernel knows for sure, and says so by
/// taking a queue that fits.
fn other_kind(name: &str, queues: u16) -> Option<Kind> {
    let (kind, several) =
        if queues > 1 { (Kind::OneQueue, 0) } else { (Kind::SeveralQueues, libc::IFF_MULTI_QUEUE) };
    let file = OpenOptions::new().read(true).write(true).open(TUN).ok()?;
    match ioctl(&file, libc::TUNSETIFF, &mut request(name, FLAGS | several)) {
        Err(error) if error.raw_os_error() != Some(libc::EBUSY) => None,
        _ => Some(kind),
    }
}

fn refused(
    name: &str,
    queues: u16,
    source: io::Error,
    other_kind: fn(&str, u16) -> Option<Kind>,
) -> TapError {
    let own = || name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotOurs { name: own(), source },
        Some(libc::EBUSY) => TapError::Busy { name: own(), source },
        // The kernel says so of all that is of another kind.
        Some(libc::EINVAL) => match other_kind(name, queues) {
            Some(Kind::OneQueue) => TapError::OneQueue { name: own(), queues, source },
            Some(Kind::SeveralQueues) => TapError::SeveralQueues { name: own(), source },
            None => TapError::NotATap { name: own(), source },
        },
        _ => TapError::Other { name: own(), source },
    }
}

/// A queue as another program would open and attach it, with no more than `flags` for settings.
///
/// # Errors
/// If this user may not, or the kernel has no such queue.
#[cfg(test)]
pub fn attached(name: &str, flags: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(TUN)?;
    ioctl(&file, libc::TUNSETIFF, &mut request(name, flags))?;
    Ok(file)
}

/// Gives this thread, and those it makes, a network of its own without any interface that is up.
///
/// # Errors
/// If this user may not.
#[cfg(test)]
pub fn enter_own_network() -> io::Result<()> {
    // SAFETY: only this thread's view of the network changes.
    result(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_cut_or_read_as_a_path_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "..", "tap%d"] {
            assert!(matches!(Tap::open(name, 1), Err(TapError::Name(_))), "{name}");
        }
        assert!(is_name("fifteen-letters"));
    }

    #[test]
    fn a_refusal_names_the_tap_and_what_would_help() {
        let said = |errno, queues, other_kind| {
            refused("tap7", queues, io::Error::from_raw_os_error(errno), other_kind).to_string()
        };

        assert_eq!(
            said(libc::EBUSY, 1, |_, _| None),
            "tap tap7 is in use by another program; give the guest another one, or end that program"
        );
        assert!(said(libc::EPERM, 1, |_, _| None).contains("ip tuntap add tap7 mode tap user $USER"));
        assert!(said(libc::EINVAL, 1, |_, _| None).starts_with("tap7 is a network interface, and not a tap"));
        assert_eq!(
            said(libc::EINVAL, 4, |_, _| Some(Kind::OneQueue)),
            "tap tap7 is for one queue, and the guest's card has 4 pairs; create it for several \
             (ip tuntap add tap7 mode tap multi_queue), or give the card one pair"
        );
        assert_eq!(
            said(libc::EINVAL, 1, |_, _| Some(Kind::SeveralQueues)),
            "tap tap7 is for several queues, and the guest's card has one pair; give the card two pairs or more, or \
             create the tap for one queue (ip tuntap add tap7 mode tap)"
        );
    }

    #[test]
    fn a_file_that_is_no_tap_is_named_by_its_number_and_stays_open() {
        let file = File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();

        let error = Tap::from_fds(&[number]).unwrap_err();

        let said = error.to_string();
        assert!(
            said.starts_with(&format!("file descriptor {number} is no tap; open /dev/net/tun")),
            "{said}"
        );
        assert!(file.metadata().is_ok());
    }

    #[test]
    fn a_number_that_is_not_open_is_named() {
        // More than a process may have.
        let error = Tap::from_fds(&[0x7fff_0000]).unwrap_err();

        assert!(error.to_string().starts_with("file descriptor 2147418112 is not open; "), "{error}");
    }
}
