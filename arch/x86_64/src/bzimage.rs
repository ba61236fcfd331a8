//! A Linux bzImage as distributions ship it, told from kernels that have no 64-bit entry and from damaged ones.
//!
//! Linux `Documentation/arch/x86/boot.rst`: the setup header, and the 64-bit boot protocol of 2.12.

use crate::number::{number, part};

/// A kernel that unpacks itself where it is put.
#[derive(Clone, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// The setup header as the file has it, for the zero page.
    pub header: &'a [u8],
    /// What goes into RAM; the 64-bit entry is [`ENTRY`] bytes into it.
    pub code: &'a [u8],
    /// Where it is put. It can be higher and unpacks itself there, but lower only to move itself here. At or above 1 MiB.
    pub preferred: u64,
    /// How much RAM is its own from its first byte on, the file among it; it does not pass the end of all addresses.
    pub memory: u64,
    /// The last address that the initrd may have.
    pub initrd_last: u64,
    /// The most characters of a command line, without the final NUL.
    pub cmdline: u64,
}

impl std::fmt::Debug for BzImage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, preferred, memory, .. } = self;
        write!(f, "{} of {memory:#x} bytes for {preferred:#x}", code.len())
    }
}

/// Why a file is no kernel for this board, where it claims to be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    #[error("it was cut short: it has {has} bytes, and {what} ends at {needs}; copy it again")]
    CutShort { what: &'static str, has: u64, needs: u64 },
    #[error("it lacks the boot flag 0xaa55 at 510; it is damaged, copy it again")]
    BootFlag,
    #[error(
        "its boot protocol is {}.{:02}, and the 64-bit entry came with 2.12; use Linux 3.8 or newer",
        .0 >> 8, .0 & 0xff
    )]
    Version(u16),
    #[error("it is a zImage, which is loaded below 1 MiB; build a bzImage")]
    LoadedLow,
    #[error("it is a 32-bit kernel, and this board starts kernels by their 64-bit entry; use one for amd64")]
    Only32Bits,
    #[error("its setup header has {has} bytes, and that of 2.12 has {needs}; it is damaged, copy it again")]
    Header { has: u64, needs: u64 },
    #[error("its code has {has} bytes, and its 64-bit entry is at {ENTRY}; it is damaged, copy it again")]
    NoEntry { has: u64 },
    #[error(
        "its pref_address is {0:#x}, and the first MiB is what it is started with; it is damaged, copy it again"
    )]
    Preferred(u64),
    #[error(
        "its init_size is {size:#x}, and from its pref_address {preferred:#x} that passes the end of all addresses; it is damaged, copy it again"
    )]
    Wraps { preferred: u64, size: u32 },
}

/// Where the 64-bit entry is in the code.
pub const ENTRY: u64 = 0x200;
/// Where the setup header begins, in the file and in the zero page.
pub const HEADER: usize = 0x1f1;

// Places in the file, and in the zero page what is in both.
const SETUP_SECTORS: usize = 0x1f1;
const CODE_SIZE: usize = 0x1f4;
pub(crate) const BOOT_FLAG: usize = 0x1fe;
/// How far the header goes past [`MAGIC`].
const HEADER_LENGTH: usize = 0x201;
pub(crate) const MAGIC: usize = 0x202;
pub(crate) const VERSION: usize = 0x206;
pub(crate) const LOAD_FLAGS: usize = 0x211;
const INITRD_LAST: usize = 0x22c;
const MORE_FLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PREFERRED: usize = 0x258;
const INIT_SIZE: usize = 0x260;
/// Where the zero page has other things again.
const HEADER_MOST: usize = 0x290;

/// What of the header is read, in the order it lies there.
const FIELDS: [(&str, usize, usize); 12] = [
    ("its setup_sects", SETUP_SECTORS, 1),
    ("its syssize", CODE_SIZE, 4),
    ("its boot_flag", BOOT_FLAG, 2),
    ("its jump", HEADER_LENGTH, 1),
    ("its header magic", MAGIC, 4),
    ("its version", VERSION, 2),
    ("its loadflags", LOAD_FLAGS, 1),
    ("its initrd_addr_max", INITRD_LAST, 4),
    ("its xloadflags", MORE_FLAGS, 2),
    ("its cmdline_size", CMDLINE_SIZE, 4),
    ("its pref_address", PREFERRED, 8),
    ("its init_size", INIT_SIZE, 4),
];

const FIRST_64_BITS: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const KERNEL_64: u16 = 1;
const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Whether a file claims to be one, whole or not.
pub fn claims(file: &[u8]) -> bool {
    match file.get(MAGIC..MAGIC + 4) {
        Some(magic) => magic == b"HdrS",
        // Those of today begin as EFI programs, and no whole program is as short as this.
        None => file.starts_with(b"MZ"),
    }
}

impl<'a> BzImage<'a> {
    /// # Errors
    /// [`BzImageError`] for the first thing that is wrong. Whether there is RAM for it is not looked at.
    pub fn open(file: &'a [u8]) -> Result<Self, BzImageError> {
        let has = file.len() as u64;
        let cut = |what, needs| BzImageError::CutShort { what, has, needs };
        for (what, at, size) in FIELDS {
            let needs = (at + size) as u64;
            if has < needs {
                return Err(cut(what, needs));
            }
        }
        check(file)?;
        let end = MAGIC + usize::from(number::<u8>(file, HEADER_LENGTH));
        let needs = INIT_SIZE + 4;
        if end < needs {
            let length = |end| (end - HEADER) as u64;
            return Err(BzImageError::Header { has: length(end), needs: length(needs) });
        }
        let end = end.min(HEADER_MOST);
        let header = file.get(HEADER..end).ok_or_else(|| cut("its setup header", end as u64))?;
        // 0 means 4, for very old kernels' sake.
        let sectors = Some(number::<u8>(file, SETUP_SECTORS)).filter(|sectors| *sectors > 0).unwrap_or(4);
        let from = (u64::from(sectors) + 1) * SECTOR;
        let size = u64::from(number::<u32>(file, CODE_SIZE)) * 16;
        let code = part(file, from, size).ok_or_else(|| cut("its code", from + size))?;
        if size <= ENTRY {
            return Err(BzImageError::NoEntry { has: size });
        }
        let (preferred, memory): (u64, u32) = (number(file, PREFERRED), number(file, INIT_SIZE));
        if preferred < MIB {
            return Err(BzImageError::Preferred(preferred));
        }
        let own = u64::from(memory).max(size);
        preferred.checked_add(own).ok_or(BzImageError::Wraps { preferred, size: memory })?;
        Ok(Self {
            header,
            code,
            preferred,
            memory: own,
            initrd_last: number::<u32>(file, INITRD_LAST).into(),
            cmdline: number::<u32>(file, CMDLINE_SIZE).into(),
        })
    }
}

/// Whether it is a kernel with a 64-bit entry at all.
fn check(file: &[u8]) -> Result<(), BzImageError> {
    if number::<u16>(file, BOOT_FLAG) != 0xaa55 {
        return Err(BzImageError::BootFlag);
    }
    let version: u16 = number(file, VERSION);
    if number::<u8>(file, LOAD_FLAGS) & LOADED_HIGH == 0 {
        return Err(BzImageError::LoadedLow);
    }
    // What lay there before was padding.
    if version < FIRST_64_BITS {
        return Err(BzImageError::Version(version));
    }
    if number::<u16>(file, MORE_FLAGS) & KERNEL_64 == 0 {
        return Err(BzImageError::Only32Bits);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
