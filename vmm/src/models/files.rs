//! What the user named, opened, checked and locked. Nothing is created and nothing is written.

use std::fs::{self, File, FileType, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ambit_device_manager::Payload;
use ambit_resources::human_size;

use crate::config::{ConfigError, DiskSettings, Settings};

/// Every file of a machine.
#[derive(Debug)]
pub struct Files {
    pub kernel: Vec<u8>,
    pub initrd: Option<Vec<u8>>,
    /// One for each disk of the settings, in their order. Each is locked for as long as it is open, unless it says otherwise.
    pub disks: Vec<File>,
    /// What those are.
    pub seen: Seen,
}

/// Which files are disks of this machine.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<(Identity, DiskSettings)>);

impl Seen {
    /// The file of this disk was closed.
    pub fn forget(&mut self, id: &str) {
        self.0.retain(|(_, disk)| disk.id != id);
    }
}

impl Files {
    /// What the guest is started from; `seed` is for its kernel's random numbers.
    pub fn payload<'a>(&'a self, cmdline: &'a str, seed: Option<[u8; 64]>) -> Payload<'a> {
        Payload { kernel: &self.kernel, initrd: self.initrd.as_deref(), cmdline, seed }
    }
}

/// Why a file cannot be what the user wants it to be. `subject` names it and its part.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{subject} does not exist")]
    Missing { subject: String, path: PathBuf },
    #[error("{subject} is {is}")]
    WrongKind { subject: String, is: &'static str, wanted: &'static str },
    #[error("{subject} is empty")]
    Empty { subject: String, remedy: Option<String> },
    #[error("{subject} cannot be read: {source}")]
    Unreadable { subject: String, source: io::Error },
    #[error("{subject} cannot be written: {source}")]
    Unwritable { subject: String, source: io::Error },
    #[error("{subject} takes {}, and the guest has {} of memory", human_size(*.length), human_size(*.memory))]
    TooLarge { subject: String, length: u64, memory: u64 },
    #[error("{subject} is {length} bytes long, which is not a multiple of {SECTOR}")]
    OddLength { subject: String, path: PathBuf, length: u64 },
    #[error("{first} and {second} are the same file, and {} may write it", if *.both { "both" } else { "one of them" })]
    SameFile { first: String, second: String, both: bool },
    #[error("{subject} is mounted, or otherwise held by this host")]
    Held { subject: String },
    #[error("{subject} is in use by another program, probably another monitor")]
    InUse { subject: String, readonly: bool },
}

/// What a disk's length is counted in (virtio 1.2, 5.2.4).
const SECTOR: u64 = 512;

impl FilesError {
    /// What would help, cheapest first.
    pub fn remedies(&self) -> Vec<String> {
        match self {
            Self::Config(error) => error.remedies(),
            Self::Missing { path, .. } => missing(path).into_iter().collect(),
            Self::WrongKind { wanted, .. } => vec![format!("give {wanted}")],
            Self::Empty { remedy, .. } => remedy.iter().cloned().collect(),
            Self::Unreadable { source, .. } if forbidden(source) => {
                vec!["let this user read it".into()]
            }
            Self::Unreadable { source, .. } if source.raw_os_error() == Some(libc::EMFILE) => {
                vec!["allow the monitor more open files (ulimit -n)".into()]
            }
            Self::Unreadable { .. } => Vec::new(),
            Self::Unwritable { source, .. } => {
                let readonly = "add readonly=on, if the guest need not write it".to_owned();
                let allow = forbidden(source).then(|| "let this user write it".to_owned());
                [readonly].into_iter().chain(allow).collect()
            }
            Self::TooLarge { .. } => {
                vec!["give the guest more memory, if this is the right file".into()]
            }
            Self::OddLength { path, length, .. } => odd_length(path, *length),
            Self::SameFile { .. } => {
                vec!["give each its own copy".into(), "add readonly=on to both".into()]
            }
            Self::Held { .. } => {
                vec!["unmount it".into(), "add readonly=on, if the guest need not write it".into()]
            }
            Self::InUse { readonly, .. } => {
                let neither = "add readonly=on to both, if neither guest need write it".to_owned();
                let neither = (!readonly).then_some(neither);
                let stop = ["stop that one; lslocks names it".to_owned()];
                let share = "add lock=off, if both guests know how to share it".to_owned();
                stop.into_iter().chain(neither).chain([share]).collect()
            }
        }
    }
}

fn missing(path: &Path) -> Option<String> {
    let directory = std::env::current_dir().ok().filter(|_| path.is_relative())?;
    Some(format!("its name is relative to {}", directory.display()))
}

fn forbidden(error: &io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
}

fn odd_length(path: &Path, length: u64) -> Vec<String> {
    let down = length / SECTOR * SECTOR;
    let path = path.display();
    let pad = format!("fill it up with zeros: truncate -s {} {path}", down.saturating_add(SECTOR));
    let cut = format!("cut its end off: truncate -s {down} {path}");
    [pad].into_iter().chain((down > 0).then_some(cut)).collect()
}

/// Opens everything that `settings` names, each at most once, in the order kernel, initrd, disks.
///
/// # Errors
/// [`FilesError`] for the first one that cannot be used.
pub fn open(settings: &Settings<'_>) -> Result<Files, FilesError> {
    settings.check_amounts()?;
    let kernel = settings.kernel.as_deref().ok_or(ConfigError::NoKernel)?;
    let kernel = read("the kernel", kernel, settings.memory)?;
    let initrd = settings.initrd.as_deref();
    let initrd = initrd.map(|path| read("the initrd", path, settings.memory)).transpose()?;
    let mut seen = Seen::default();
    let disks = open_disks(&settings.disks, &mut seen)?;
    Ok(Files { kernel, initrd, disks, seen })
}

/// Opens, checks and locks a file for each of `disks`, beside those that are `seen` already.
///
/// # Errors
/// [`FilesError`] for the first one that cannot be used.
pub fn open_disks(disks: &[DiskSettings], seen: &mut Seen) -> Result<Vec<File>, FilesError> {
    let mut files = Vec::with_capacity(disks.len());
    for disk in disks {
        let (file, identity) = open_disk(disk)?;
        let same = |(other, with): &&(Identity, DiskSettings)| {
            *other == identity && !(with.readonly && disk.readonly)
        };
        if let Some((_, with)) = seen.0.iter().find(same) {
            let both = !with.readonly && !disk.readonly;
            return Err(FilesError::SameFile { first: subject_of(with), second: subject_of(disk), both });
        }
        if disk.lock {
            lock(disk, &file)?;
        }
        seen.0.push((identity, disk.clone()));
        files.push(file);
    }
    Ok(files)
}

/// All of a file that has to fit in `memory` bytes of RAM, so no more than that is ever read.
fn read(what: &str, path: &Path, memory: u64) -> Result<Vec<u8>, FilesError> {
    let subject = || format!("{what} {}", path.display());
    let unreadable = |source| FilesError::Unreadable { subject: subject(), source };
    // Opening some files waits or does something, so what it is comes first.
    let kind = status(path, subject)?.file_type();
    if !kind.is_file() {
        return Err(FilesError::WrongKind { subject: subject(), is: name(kind), wanted: "a regular file" });
    }
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let too_large = |length| Err(FilesError::TooLarge { subject: subject(), length, memory });
    if length > memory {
        return too_large(length);
    }
    let mut bytes = Vec::new();
    let room = usize::try_from(length).unwrap_or(usize::MAX);
    bytes
        .try_reserve_exact(room)
        .map_err(|error| unreadable(io::Error::new(ErrorKind::OutOfMemory, error)))?;
    // It may grow while it is read.
    file.take(memory.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() as u64 {
        0 => Err(FilesError::Empty { subject: subject(), remedy: None }),
        length if length > memory => too_large(length),
        _ => Ok(bytes),
    }
}

fn status(path: &Path, subject: impl Fn() -> String) -> Result<Metadata, FilesError> {
    fs::metadata(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => FilesError::Missing { subject: subject(), path: path.into() },
        _ => FilesError::Unreadable { subject: subject(), source },
    })
}

fn name(kind: FileType) -> &'static str {
    match kind {
        _ if kind.is_file() => "a regular file",
        _ if kind.is_dir() => "a directory",
        _ if kind.is_block_device() => "a block device",
        _ if kind.is_char_device() => "a character device",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "not a file",
    }
}

/// Which file it is, whatever it is called: symlinks, hard links and device nodes are seen through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    File { device: u64, inode: u64 },
    BlockDevice { number: u64 },
}

impl Identity {
    fn of(status: &Metadata) -> Self {
        if status.file_type().is_block_device() {
            return Self::BlockDevice { number: status.rdev() };
        }
        Self::File { device: status.dev(), inode: status.ino() }
    }
}

fn subject_of(disk: &DiskSettings) -> String {
    format!("disk '{}' ({})", disk.id, disk.path.display())
}

fn open_disk(disk: &DiskSettings) -> Result<(File, Identity), FilesError> {
    let subject = || subject_of(disk);
    let unreadable = |source| FilesError::Unreadable { subject: subject(), source };
    let usable = |kind: FileType| kind.is_file() || kind.is_block_device();
    let wrong = |kind| FilesError::WrongKind {
        subject: subject(),
        is: name(kind),
        wanted: "a raw image or a block device",
    };
    let kind = status(&disk.path, subject)?.file_type();
    if !usable(kind) {
        return Err(wrong(kind));
    }
    // For a block device O_EXCL means: not while it is mounted or otherwise held (open(2)).
    let alone = if kind.is_block_device() && !disk.readonly { libc::O_EXCL } else { 0 };
    let opened = OpenOptions::new().read(true).write(!disk.readonly).custom_flags(alone).open(&disk.path);
    let mut file = opened.map_err(|source| match File::open(&disk.path) {
        Ok(_) if source.kind() == ErrorKind::ResourceBusy => FilesError::Held { subject: subject() },
        // If it can be read, writing is what failed.
        Ok(_) => FilesError::Unwritable { subject: subject(), source },
        Err(source) => unreadable(source),
    })?;
    let status = file.metadata().map_err(unreadable)?;
    if !usable(status.file_type()) {
        return Err(wrong(status.file_type()));
    }
    // A block device says its length only so.
    let length = file.seek(SeekFrom::End(0)).and_then(|length| file.rewind().map(|()| length));
    let length = length.map_err(unreadable)?;
    if length == 0 {
        let remedy = format!("make it as large as the disk shall be: truncate -s 1G {}", disk.path.display());
        return Err(FilesError::Empty { subject: subject(), remedy: status.is_file().then_some(remedy) });
    }
    if !length.is_multiple_of(SECTOR) {
        return Err(FilesError::OddLength { subject: subject(), path: disk.path.clone(), length });
    }
    Ok((file, Identity::of(&status)))
}

/// Until `file` is closed no other monitor can write it, nor read it if this one may write.
fn lock(disk: &DiskSettings, file: &File) -> Result<(), FilesError> {
    let locked = if disk.readonly { file.try_lock_shared() } else { file.try_lock() };
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(FilesError::InUse { subject: subject_of(disk), readonly: disk.readonly })
        }
        Err(TryLockError::Error(error)) => {
            let subject = subject_of(disk);
            tracing::warn!("{subject} cannot be locked, so another program may use it too: {error}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
