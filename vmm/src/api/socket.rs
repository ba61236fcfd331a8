//! The socket by which others reach the program: made, and taken away at the end.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// What the kernel keeps of a socket's name, without the zero at its end (unix(7)).
const LONGEST: usize = 107;
/// How many may wait to be let in.
const WAITING: i32 = 16;
/// How often, and how long apart, the directory is asked for.
const TRIES: u32 = 100;
const APART: Duration = Duration::from_millis(10);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("the name of the control socket {} has {} bytes, and a socket's has at most {LONGEST}", .path.display(), .path.as_os_str().len())]
    TooLong { path: PathBuf },
    #[error("the name of the control socket is empty")]
    Empty,
    #[error("the directory {} of the control socket does not exist", .directory.display())]
    NoDirectory { directory: PathBuf },
    #[error("the control socket {} is in use by another program, probably another monitor", .path.display())]
    InUse { path: PathBuf },
    #[error("the control socket {} cannot be made: there is something else that is no socket", .path.display())]
    NoSocket { path: PathBuf },
    #[error("the control socket {} cannot be made: {source}", .path.display())]
    Refused { path: PathBuf, source: io::Error },
}

impl SocketError {
    /// What would help, cheapest first.
    pub fn remedies(&self) -> Vec<String> {
        let remedy = match self {
            Self::TooLong { .. } => "give a shorter name, or one relative to the working directory".into(),
            Self::Empty => "leave --control out, or name a file".into(),
            Self::NoDirectory { directory } => format!("make it: mkdir -p {}", directory.display()),
            Self::InUse { .. } => "give another name, or stop that one; ss -xlp names it".into(),
            Self::NoSocket { .. } => "give another name".into(),
            Self::Refused { .. } => return Vec::new(),
        };
        vec![remedy]
    }
}

/// A socket that listens. Nobody but this user may connect, and its name goes when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file has the name while it is ours.
    identity: Option<(u64, u64)>,
}

impl Socket {
    /// A name that a program left behind which has ended is taken over; one of a program that runs is not.
    ///
    /// # Errors
    /// [`SocketError`]; nothing is there then that was not before, and all that was.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let name = path.as_os_str();
        if name.is_empty() {
            return Err(SocketError::Empty);
        }
        if name.len() > LONGEST {
            return Err(SocketError::TooLong { path: path.into() });
        }
        let directory = directory(path);
        let refused = |source: io::Error| match source.kind() {
            ErrorKind::NotFound => SocketError::NoDirectory { directory: directory.into() },
            _ => SocketError::Refused { path: path.into(), source },
        };
        // Between the look at a socket that nobody listens on and its removal no other monitor takes the name:
        // each has the directory to itself. One that may not be read is not taken anything from.
        let alone = alone_in(directory).map_err(refused)?;
        if let Ok(status) = fs::symlink_metadata(path) {
            make_way(path, &status, alone.is_some())?;
        }
        let listener = listen(name).map_err(|source| match source.kind() {
            ErrorKind::AddrInUse => SocketError::InUse { path: path.into() },
            _ => refused(source),
        })?;
        let identity = fs::symlink_metadata(path).ok().as_ref().map(identity);
        Ok(Self { listener, path: path.into(), identity })
    }

    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path).ok().as_ref().map(identity);
        // Somebody may have removed it, or have put another one there.
        if now.is_some() && now == self.identity {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

fn identity(status: &Metadata) -> (u64, u64) {
    (status.dev(), status.ino())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The lock of `directory`, or nothing if it cannot be had.
///
/// # Errors
/// If there is no such directory.
fn alone_in(directory: &Path) -> io::Result<Option<File>> {
    let file = match File::open(directory) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(error),
        Err(_) => return Ok(None),
    };
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) => thread::sleep(APART),
            Err(TryLockError::Error(_)) => break,
        }
    }
    Ok(None)
}

/// Removes what has the name, if it is a socket that nobody listens on.
fn make_way(path: &Path, status: &Metadata, alone: bool) -> Result<(), SocketError> {
    let path = || path.to_owned();
    if !status.file_type().is_socket() {
        return Err(SocketError::NoSocket { path: path() });
    }
    match knock(&path()) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && alone => {
            fs::remove_file(path()).map_err(|source| SocketError::Refused { path: path(), source })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(SocketError::InUse { path: path() }),
        // A full queue of those who wait means that somebody does listen.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(SocketError::InUse { path: path() }),
        Err(source) => Err(SocketError::Refused { path: path(), source }),
    }
}

/// Succeeds if somebody listens, and does not wait until they open.
fn knock(path: &Path) -> io::Result<()> {
    Ok(rustix::net::connect(&socket()?, &SocketAddrUnix::new(path)?)?)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn listen(name: &OsStr) -> io::Result<UnixListener> {
    let socket = socket()?;
    // What bind(2) makes has the mode of the socket, as far as the mask allows (Linux net/unix/af_unix.c).
    rustix::fs::fchmod(socket.as_fd(), Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(name.as_bytes())?)?;
    rustix::net::listen(&socket, WAITING)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn refusal(path: &Path) -> String {
        let error = Socket::bind(path).unwrap_err();
        format!("{error}; {}", error.remedies().join("; "))
    }

    #[test]
    fn a_socket_is_this_users_alone_and_goes_when_it_is_not_needed() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("control");

        let socket = Socket::bind(&path).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0);
    }

    // F-27
    #[test]
    fn a_name_that_somebody_listens_on_is_refused_and_goes_on() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("control");
        let first = Socket::bind(&path).unwrap();

        let said = refusal(&path);

        assert_eq!(
            said,
            format!(
                "the control socket {} is in use by another program, probably another monitor; give another name, \
                 or stop that one; ss -xlp names it",
                path.display()
            )
        );
        assert!(UnixStream::connect(&path).is_ok());
        drop(first);
    }

    // F-27
    #[test]
    fn a_name_that_somebody_listens_on_who_opens_to_nobody_is_refused_at_once() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("control");
        let first = Socket::bind(&path).unwrap();
        let at_the_door: Vec<OwnedFd> = std::iter::from_fn(|| {
            let socket = socket().unwrap();
            rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()).ok().map(|()| socket)
        })
        .collect();

        assert!(at_the_door.len() > 1);
        assert!(refusal(&path).contains(" is in use by another program, "));
        drop(first);
    }

    // F-27
    #[test]
    fn a_name_that_a_dead_program_left_is_taken_over() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let socket = Socket::bind(&path).unwrap();

        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
    }

    // F-27
    #[test]
    fn what_is_no_socket_is_left_alone() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("control");
        fs::write(&path, "mine").unwrap();

        let said = refusal(&path);

        assert_eq!(
            said,
            format!(
                "the control socket {} cannot be made: there is something else that is no socket; give another name",
                path.display()
            )
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    // F-27
    #[test]
    fn a_name_without_a_directory_or_too_long_or_empty_is_refused_exactly() {
        let long = format!("/tmp/{}", "x".repeat(103));

        assert_eq!(
            refusal(Path::new("/nonexistent/a/control")),
            "the directory /nonexistent/a of the control socket does not exist; make it: mkdir -p /nonexistent/a"
        );
        assert_eq!(
            refusal(Path::new(&long)),
            format!(
                "the name of the control socket {long} has 108 bytes, and a socket's has at most 107; give a shorter \
                 name, or one relative to the working directory"
            )
        );
        assert_eq!(
            refusal(Path::new("")),
            "the name of the control socket is empty; leave --control out, or name a file"
        );
        let fits = format!("/tmp/{}", "y".repeat(102));
        assert!(Socket::bind(Path::new(&fits)).is_ok());
    }

    #[test]
    fn a_name_that_another_took_over_is_not_removed() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("control");
        let socket = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();

        drop(socket);

        assert!(path.exists());
    }

    // F-27
    #[test]
    fn of_many_that_want_a_dead_name_at_once_one_has_it() {
        for _ in 0..20 {
            let desk = tempfile::tempdir().unwrap();
            let path = desk.path().join("control");
            drop(UnixListener::bind(&path).unwrap());

            let sockets: Vec<_> = thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| Socket::bind(&path))).collect();
                all.into_iter().map(|one| one.join().unwrap()).collect()
            });

            assert_eq!(sockets.iter().filter(|socket| socket.is_ok()).count(), 1);
        }
    }
}
