//! Whether a network interface of the host's is up, as rtnetlink tells it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind, recvfrom, sendto,
    socket_with,
};

/// An interface by what its carrier knows of it. Another one in another network namespace may have the same name,
/// but hardly the same address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub address: [u8; 6],
}

/// What was told of it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Up,
    Down,
    /// It is not here any more: deleted, or in another network namespace.
    Left,
}

/// Follows one interface.
pub struct Watch {
    socket: OwnedFd,
    index: i32,
    buffer: Box<[u8]>,
}

/// As long as the kernel's own longest (`NLMSG_GOODSIZE`); links have far shorter ones.
const LONGEST: usize = 32 << 10;
/// How many messages are looked at before something else has its turn.
const TURN: usize = 64;

impl Watch {
    /// `None` if there is no such interface in this network namespace. It does not wait for anything.
    ///
    /// # Errors
    /// If the kernel does not talk of interfaces.
    pub fn new(interface: &Interface) -> io::Result<Option<(Self, State)>> {
        let mut watch = Self::open()?;
        let found = watch.find(interface, |link| (link.index, link.state()))?;
        Ok(found.map(|(index, state)| (Self { index, ..watch }, state)))
    }

    fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        let groups = u32::try_from(libc::RTMGRP_LINK).map_err(io::Error::other)?;
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, index: 0, buffer: vec![0; LONGEST].into() })
    }

    /// Asks for the interface, and what `of` makes of the answer. `None` if there is none.
    fn find<T>(&mut self, interface: &Interface, of: impl Fn(&Link<'_>) -> T) -> io::Result<Option<T>> {
        self.ask(Some(&interface.name))?;
        // The answer is there when the question was taken.
        for _ in 0..TURN {
            let Some(len) = self.next()? else { break };
            let messages = Messages(self.buffer.get(..len).unwrap_or_default());
            let named = |link: &Link<'_>| {
                link.name() == Some(interface.name.as_bytes())
                    && link.address() == Some(&interface.address[..])
            };
            if let Some(link) = messages.filter_map(Link::of).filter(named).last() {
                return Ok(Some(of(&link)));
            }
        }
        Ok(None)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The newest of what was told since the last time.
    ///
    /// # Errors
    /// If nothing will be told any more.
    pub fn look(&mut self) -> io::Result<Option<State>> {
        let mut state = None;
        for _ in 0..TURN {
            match self.next() {
                Ok(None) => break,
                Ok(Some(len)) => {
                    let messages = Messages(self.buffer.get(..len).unwrap_or_default());
                    let index = self.index;
                    let links = messages.filter_map(Link::of).filter(|link| link.index == index);
                    state = links.last().map(|link| link.state()).or(state);
                }
                // Messages were lost: there was no room for them.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.ask(None)?,
                Err(error) => return Err(error),
            }
        }
        Ok(state)
    }

    /// What it is now, even if nothing was told.
    ///
    /// # Errors
    /// As [`Watch::look`].
    pub fn refresh(&mut self) -> io::Result<Option<State>> {
        self.ask(None)?;
        self.look()
    }

    /// Asks for the interface, by its name if it has no number yet.
    fn ask(&self, name: Option<&str>) -> io::Result<()> {
        let attribute = name.map(|name| attribute(libc::IFLA_IFNAME, name.as_bytes())).unwrap_or_default();
        let len = u32::try_from(LINK.saturating_add(attribute.len())).map_err(io::Error::other)?;
        let flags = u16::try_from(libc::NLM_F_REQUEST).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(LINK.saturating_add(attribute.len()));
        message.extend(len.to_ne_bytes());
        message.extend(libc::RTM_GETLINK.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence number and sender, then of the interface: family, type, number, flags, mask.
        message.extend([0; 8]);
        message.extend([0; 4]);
        message.extend(self.index.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(attribute);
        sendto(&self.socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// The length of the next datagram from the kernel, which is in the buffer.
    fn next(&mut self) -> io::Result<Option<usize>> {
        loop {
            match recvfrom(&self.socket, &mut *self.buffer, RecvFlags::empty()) {
                // What another program sends says nothing.
                Ok((len, _, from)) => return Ok(Some(if is_kernel(from) { len } else { 0 })),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a tap has packet information before every frame; `None` where nobody tells. The tap itself does not: what
/// TUNGETIFF has for it is the number of another flag too, which is nearly always set (`IFF_NOFILTER`).
///
/// # Errors
/// If the kernel does not talk of interfaces.
pub fn has_packet_info(interface: &Interface) -> io::Result<Option<bool>> {
    Ok(Watch::open()?.find(interface, |link| link.has_packet_info())?.flatten())
}

fn is_kernel(from: Option<SocketAddrAny>) -> bool {
    from.and_then(|from| SocketAddrNetlink::try_from(from).ok()).is_some_and(|from| from.pid() == 0)
}

// Headers: of a message (`struct nlmsghdr`), and with what follows it in those of links (`struct ifinfomsg`).
const HEADER: usize = 16;
const LINK: usize = 32;

/// The messages of one datagram: their types, and what follows the header.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::try_from(u32::from_ne_bytes(*self.0.first_chunk()?)).ok()?;
        let kind = u16::from_ne_bytes(*self.0.get(4..)?.first_chunk()?);
        // One that was cut off is as long as it is.
        let body = self.0.get(HEADER..len.min(self.0.len()))?;
        self.0 = self.0.get(len.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some((kind, body))
    }
}

/// An interface, as a message tells of it.
struct Link<'a> {
    index: i32,
    flags: i32,
    left: bool,
    attributes: &'a [u8],
}

impl<'a> Link<'a> {
    fn of((kind, body): (u16, &'a [u8])) -> Option<Self> {
        let left = match kind {
            libc::RTM_NEWLINK => false,
            libc::RTM_DELLINK => true,
            _ => return None,
        };
        // A bridge tells of its ports in messages of its own, which say nothing of the interface.
        if i32::from(*body.first()?) != libc::AF_UNSPEC {
            return None;
        }
        let index = i32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
        let flags = i32::from_ne_bytes(*body.get(8..)?.first_chunk()?);
        Some(Self { index, flags, left, attributes: body.get(16..)? })
    }

    fn state(&self) -> State {
        let needed = libc::IFF_UP | libc::IFF_LOWER_UP;
        match self.flags & needed == needed {
            _ if self.left => State::Left,
            true => State::Up,
            false => State::Down,
        }
    }

    fn name(&self) -> Option<&'a [u8]> {
        find(self.attributes, libc::IFLA_IFNAME)?.strip_suffix(&[0])
    }

    fn address(&self) -> Option<&'a [u8]> {
        find(self.attributes, libc::IFLA_ADDRESS)
    }

    fn has_packet_info(&self) -> Option<bool> {
        let kind = find(self.attributes, libc::IFLA_LINKINFO)?;
        let of_tun = find(kind, libc::IFLA_INFO_DATA)?;
        find(of_tun, IFLA_TUN_PI)?.first().map(|has| *has != 0)
    }
}

/// Of what is told of an interface of the driver tun (`linux/if_link.h`).
const IFLA_TUN_PI: u16 = 4;

/// The value of the first attribute of a kind.
fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let len = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        rest = rest.get(len.checked_next_multiple_of(4)?..)?;
    }
}

/// `value` as an attribute, ended by a zero.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = value.len().saturating_add(5);
    let mut bytes = Vec::with_capacity(len.next_multiple_of(4));
    bytes.extend(u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(len.next_multiple_of(4), 0);
    bytes
}
