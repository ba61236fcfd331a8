//! A tap: the host's end of the guest's wire.

// The ioctls have no safe wrapper; each block says why it holds.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::{Carrier, Offloads};

const TUN: &str = "/dev/net/tun";

/// A network interface of the host's that frames go to and come from.
#[derive(Debug)]
pub struct Tap {
    file: File,
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
    #[error("tap {name} cannot be used")]
    Other { name: String, source: io::Error },
}

impl Tap {
    /// Opens the tap called `name`, and creates it if there is none and this user may.
    ///
    /// # Errors
    /// [`TapError`] says which step failed and what would help.
    pub fn open(name: &str) -> Result<Self, TapError> {
        if !is_name(name) {
            return Err(TapError::Name(name.into()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(no_tun)?;
        let tap = Self { file };
        tap.attach(name).map_err(|source| refused(name, source))?;
        tap.set_header_size().map_err(|source| TapError::Other { name: name.into(), source })?;
        Ok(tap)
    }

    fn attach(&self, name: &str) -> io::Result<()> {
        // SAFETY: `ifreq` is plain data, for which all zeroes is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
        result(unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETIFF as _, &mut request) })
    }

    fn set_header_size(&self) -> io::Result<()> {
        let size: libc::c_int = 12;
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
        // SAFETY: the argument is a number, not an address.
        result(unsafe {
            libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(flags))
        })
    }
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

fn refused(name: &str, source: io::Error) -> TapError {
    let name = name.into();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotOurs { name, source },
        Some(libc::EBUSY) => TapError::Busy { name, source },
        Some(libc::EINVAL) => TapError::NotATap { name, source },
        _ => TapError::Other { name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_cut_or_read_as_a_path_are_refused() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "..", "tap%d"] {
            assert!(matches!(Tap::open(name), Err(TapError::Name(_))), "{name}");
        }
        assert!(is_name("fifteen-letters"));
    }

    #[test]
    fn a_refusal_names_the_tap_and_what_would_help() {
        let said = |errno| refused("tap7", io::Error::from_raw_os_error(errno)).to_string();

        assert_eq!(
            said(libc::EBUSY),
            "tap tap7 is in use by another program; give the guest another one, or end that program"
        );
        assert!(said(libc::EPERM).contains("ip tuntap add tap7 mode tap user $USER"));
        assert!(said(libc::EINVAL).starts_with("tap7 is a network interface, and not a tap"));
    }
}
