//! An arm64 Linux `Image`, told from everything else that people pass as a kernel, and unpacked.
//!
//! The header is `Documentation/arch/arm64/booting.rst`. It does not say how long the file is, so a file
//! that was cut short shows only where an EFI header (which every distribution's kernel has) gives the
//! ends of its sections, or in gzip's checksum.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};

use ambit_resources::human_size;
use flate2::bufread::GzDecoder;

/// A kernel that can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// What goes into RAM; the first byte is the first instruction.
    pub bytes: Cow<'a, [u8]>,
    /// How far after a 2 MiB boundary it begins, in bytes.
    pub text_offset: u64,
    /// How much RAM is the kernel's from its first byte on: the file, then what it expects after it.
    pub memory: u64,
}

/// Why a file is not a kernel for this board. Says what it is, if that can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error("it is empty")]
    Empty,
    #[error("it is {0}; give it the arm64 Image (arch/arm64/boot/Image), plain or gzip-compressed")]
    Foreign(String),
    #[error(
        "it has no arm64 Image header (the bytes ARM\\x64 at 56); \
         give it arch/arm64/boot/Image, plain or gzip-compressed"
    )]
    NoMagic,
    #[error("it has {has} bytes, and an Image begins with a header of {HEADER}; it was cut short")]
    NoHeader { has: usize },
    #[error(
        "it is big-endian, and this board starts little-endian kernels; build one without CPU_BIG_ENDIAN"
    )]
    BigEndian,
    #[error("its header does not say how much memory it needs, as before Linux 3.17; use a newer one")]
    NoSize,
    #[error("its header wants it {0:#x} bytes after a 2 MiB boundary, which is past the next; it is damaged")]
    TextOffset(u64),
    #[error("it was cut short: it has {has} bytes, and its last section ends at {needs}; copy it again")]
    CutShort { has: u64, needs: u64 },
    #[error("its gzip data was cut short; copy it again")]
    GzipCutShort,
    #[error("its gzip data is damaged ({0}); copy it again")]
    GzipDamaged(String),
    #[error("it unpacks to more than {}, which is all that memory has for it; it is no kernel, or give the guest more memory", human_size(*.room))]
    GzipTooLong { room: u64 },
    /// Its header wants more memory than there is: `memory` bytes, `text_offset` after a 2 MiB boundary.
    #[error("it takes {memory} bytes of memory")]
    TooLarge { text_offset: u64, memory: u64 },
}

const HEADER: usize = 64;
const TWO_MIB: u64 = 2 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What an `Image` says of itself.
struct Header {
    text_offset: u64,
    image_size: u64,
    big_endian: bool,
}

impl Header {
    fn of(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if bytes.get(56..60) != Some(b"ARM\x64") {
            return Err(match foreign(bytes) {
                Some(what) => ImageError::Foreign(what),
                None if bytes.len() < HEADER => ImageError::NoHeader { has: bytes.len() },
                None => ImageError::NoMagic,
            });
        }
        let field = |at| number::<8>(bytes, at).map(u64::from_le_bytes);
        let short = || ImageError::NoHeader { has: bytes.len() };
        let header = Self {
            text_offset: field(8).ok_or_else(short)?,
            image_size: field(16).ok_or_else(short)?,
            big_endian: field(24).ok_or_else(short)? & 1 != 0,
        };
        match header {
            _ if bytes.len() < HEADER => Err(short()),
            // Before 3.17 there were no flags and fields had the kernel's byte order.
            Self { image_size: 0, .. } => Err(ImageError::NoSize),
            Self { big_endian: true, .. } => Err(ImageError::BigEndian),
            Self { text_offset, .. } if text_offset >= TWO_MIB => Err(ImageError::TextOffset(text_offset)),
            header => Ok(header),
        }
    }

    fn memory(&self, file: u64) -> u64 {
        // Signed kernels carry their signature after everything the header speaks of.
        self.image_size.max(file)
    }
}

impl<'a> Image<'a> {
    /// Reads a plain `Image`, one in gzip, or one in an EFI image that unpacks itself from gzip. Nothing
    /// that takes more than `room` bytes is unpacked.
    ///
    /// # Errors
    /// [`ImageError`] for everything else.
    pub fn open(file: &'a [u8], room: u64) -> Result<Self, ImageError> {
        let bytes = match packed(file)? {
            Some(packed) => Cow::Owned(unpack(packed, room)?),
            None => Cow::Borrowed(file),
        };
        let header = Header::of(&bytes)?;
        let has = bytes.len() as u64;
        match sections_end(&bytes) {
            Some(needs) if needs > has => Err(ImageError::CutShort { has, needs }),
            _ => Ok(Self { text_offset: header.text_offset, memory: header.memory(has), bytes }),
        }
    }
}

/// The gzip data in `file`. `None` if it is not packed.
fn packed(file: &[u8]) -> Result<Option<&[u8]>, ImageError> {
    if file.starts_with(GZIP) {
        return Ok(Some(file));
    }
    // Linux drivers/firmware/efi/libstub/zboot-header.S: offset, size, and the compression's name at 24.
    if !file.starts_with(b"MZ") || file.get(4..8) != Some(b"zimg") {
        return Ok(None);
    }
    let name = file.get(24..56).and_then(|bytes| bytes.split(|byte| *byte == 0).next()).unwrap_or_default();
    if name != b"gzip" {
        let name = String::from_utf8_lossy(name);
        return Err(ImageError::Foreign(format!("an EFI image that unpacks itself from {name}")));
    }
    let field = |at| number::<4>(file, at).map(u32::from_le_bytes);
    let (Some(from), Some(size)) = (field(8), field(12)) else {
        return Err(ImageError::NoHeader { has: file.len() });
    };
    let needs = u64::from(from) + u64::from(size);
    let data = usize::try_from(from).ok().zip(usize::try_from(needs).ok());
    match data.and_then(|(from, to)| file.get(from..to)) {
        Some(data) => Ok(Some(data)),
        None => Err(ImageError::CutShort { has: file.len() as u64, needs }),
    }
}

/// As gzip(1) does: members one after the other, and what follows the last is ignored. What is not a
/// kernel is refused by its first bytes, and what is too large by its header, before it is unpacked.
fn unpack(packed: &[u8], room: u64) -> Result<Vec<u8>, ImageError> {
    let mut image = Vec::with_capacity(HEADER);
    let mut rest = packed;
    while rest.starts_with(GZIP) {
        let mut member = GzDecoder::new(rest);
        if image.len() < HEADER {
            read(&mut member, &mut image, HEADER as u64)?;
            if image.len() >= HEADER {
                let header = Header::of(&image)?;
                let (text_offset, memory) = (header.text_offset, header.memory(0));
                if memory > room {
                    return Err(ImageError::TooLarge { text_offset, memory });
                }
                // Only to be quick: the header may ask for more than will come.
                image.try_reserve_exact(usize::try_from(memory).unwrap_or(0)).ok();
            }
        }
        read(&mut member, &mut image, room.saturating_add(1))?;
        if image.len() as u64 > room {
            return Err(ImageError::GzipTooLong { room });
        }
        rest = member.into_inner();
    }
    Ok(image)
}

/// Reads on until `image` has `limit` bytes or the member ends.
fn read(member: &mut GzDecoder<&[u8]>, image: &mut Vec<u8>, limit: u64) -> Result<(), ImageError> {
    let more = limit.saturating_sub(image.len() as u64);
    match member.take(more).read_to_end(image) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(ImageError::GzipCutShort),
        Err(error) => Err(ImageError::GzipDamaged(error.to_string())),
    }
}

/// Where the last section of the EFI header ends in the file. `None` without such a header.
fn sections_end(image: &[u8]) -> Option<u64> {
    let number16 = |at| number::<2>(image, at).map(u16::from_le_bytes).map(usize::from);
    let number32 = |at| number::<4>(image, at).map(u32::from_le_bytes);
    let header = usize::try_from(number32(60)?).ok().filter(|_| image.starts_with(b"MZ"))?;
    if number(image, header)? != *b"PE\0\0" {
        return None;
    }
    let count = number16(header.checked_add(6)?)?;
    // The sections follow the optional header, which follows 24 bytes; each entry has 40.
    let table = header.checked_add(24)?.checked_add(number16(header.checked_add(20)?)?)?;
    let end = |index: usize| {
        let entry = table + 40 * index;
        Some(u64::from(number32(entry + 16)?) + u64::from(number32(entry + 20)?))
    };
    (0..count).filter_map(end).max()
}

/// What a file that is no arm64 `Image` is.
fn foreign(bytes: &[u8]) -> Option<String> {
    const SIGNS: [(usize, &[u8], &str); 15] = [
        (0x202, b"HdrS", "an x86 bzImage"),
        (36, &[0x18, 0x28, 0x6f, 0x01], "a 32-bit Arm zImage"),
        (56, b"RSC\x05", "a RISC-V Image"),
        (0, b"MZ", "an EFI program, but not an arm64 kernel"),
        (0, &[0x27, 0x05, 0x19, 0x56], "a U-Boot image"),
        (0, &[0xd0, 0x0d, 0xfe, 0xed], "a device tree or a FIT image"),
        (0, b"070701", "a cpio archive, as an initrd is"),
        (0, b"!<arch>\n", "a package or a library"),
        (0, b"#!", "a script"),
        (0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "compressed with xz"),
        (0, &[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd"),
        (0, &[0x04, 0x22, 0x4d, 0x18], "compressed with lz4"),
        (0, &[0x02, 0x21, 0x4c, 0x18], "compressed with lz4"),
        (0, b"BZh", "compressed with bzip2"),
        (0, GZIP, "compressed with gzip twice"),
    ];
    if bytes.starts_with(b"\x7fELF") {
        return Some(elf(bytes));
    }
    let is = |(at, sign, _): &&(usize, &[u8], &str)| bytes.get(*at..at + sign.len()) == Some(*sign);
    SIGNS.iter().find(is).map(|(_, _, what)| (*what).into())
}

fn elf(bytes: &[u8]) -> String {
    let machine = match number::<2>(bytes, 18).map(u16::from_le_bytes) {
        Some(183) => "arm64",
        Some(62) => "x86-64",
        Some(40) => "32-bit Arm",
        Some(243) => "RISC-V",
        _ => "another machine",
    };
    format!("an ELF file for {machine}, as vmlinux is")
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests;
