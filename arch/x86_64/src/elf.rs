//! A static 64-bit ELF program, and why some files are none (System V gABI 4.1 and its x86-64 supplement).
//!
//! Physical addresses count, as loaders of kernels have it; the entry is one of them.

use ambit_resources::AddressRange;

use crate::number::{self, number};

/// A program that can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program<'a> {
    /// Physical address of the first instruction in 64-bit mode; inside a segment.
    pub entry: u64,
    /// The same in 32-bit mode, for loaders of PVH (Xen `docs/misc/pvh.pandoc`). `None`: there is none.
    pub pvh: Option<u64>,
    /// Lowest first; no two share a byte.
    pub segments: Vec<Segment<'a>>,
}

/// What goes to one run of physical addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment<'a> {
    pub range: AddressRange,
    /// No longer than the range; the rest is zeros.
    pub bytes: &'a [u8],
}

impl std::fmt::Debug for Segment<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {}", self.bytes.len(), self.range)
    }
}

/// Why a file is no program for this board. Says what it is, if that can be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    #[error("it is empty")]
    Empty,
    #[error("it is {0}; give it a bzImage or a static 64-bit ELF program")]
    Foreign(&'static str),
    #[error("it is no ELF file; give it a bzImage or a static 64-bit ELF program")]
    NoMagic,
    #[error("it was cut short: it has {has} bytes, and {what} ends at {needs}; copy it again")]
    CutShort { what: String, has: u64, needs: u64 },
    #[error("its program headers have {0} bytes each, and those of 64 bits have 56; it is damaged")]
    HeaderSize(u16),
    #[error("it has no segment to load; it is no program")]
    NoSegments,
    #[error("segment {index} has {file} bytes in the file and {memory} in memory; it is damaged")]
    Shrinks { index: u16, file: u64, memory: u64 },
    #[error("segment {index} passes the end of all addresses; it is damaged")]
    Wraps { index: u16 },
    #[error("its segments {first} and {second} overlap; it is damaged")]
    Overlap { first: AddressRange, second: AddressRange },
    #[error("its note for PVH has {size} bytes, and the entry in it has 4 or 8; it is damaged")]
    Note { size: u32 },
    #[error("it begins at {entry:#x}, where none of its segments is; link it to its physical address")]
    Entry { entry: u64 },
}

// Of the file header.
const IDENT: &[u8; 4] = b"\x7fELF";
const HEADER: u64 = 64;
const CLASS: usize = 4;
const CLASS_64: u8 = 2;
const DATA: usize = 5;
const LITTLE: u8 = 1;
const TYPE: usize = 16;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE: usize = 18;
const MACHINE_X86_64: u16 = 62;
const ENTRY: usize = 24;
const PROGRAM_HEADERS: usize = 32;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;

// Of a program header.
const SEGMENT_HEADER: u16 = 56;
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
const NOTE: u32 = 4;
const OFFSET: usize = 8;
const PHYSICAL: usize = 24;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;

impl<'a> Program<'a> {
    /// # Errors
    /// [`ElfError`] for the first thing that is wrong. Whether there is RAM for it is not looked at.
    pub fn open(file: &'a [u8]) -> Result<Self, ElfError> {
        check_header(file)?;
        let count: u16 = number(file, PROGRAM_HEADER_COUNT);
        let size: u16 = number(file, PROGRAM_HEADER_SIZE);
        if count > 0 && size != SEGMENT_HEADER {
            return Err(ElfError::HeaderSize(size));
        }
        let first: u64 = number(file, PROGRAM_HEADERS);
        let length = u64::from(count) * u64::from(SEGMENT_HEADER);
        let table = part(file, first, length, || "its table of program headers".into())?;
        let mut segments = Vec::new();
        let mut pvh = None;
        for (index, header) in (0..count).zip(table.chunks_exact(SEGMENT_HEADER.into())) {
            segments.extend(segment(file, index, header)?);
            pvh = pvh.or(pvh_note(file, index, header)?);
        }
        segments.sort_by_key(|segment| segment.range.first());
        if let Some((first, second)) = overlapping(&segments) {
            return Err(ElfError::Overlap { first, second });
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        let entry: u64 = number(file, ENTRY);
        let inside =
            |entry: u64, segment: &Segment| (segment.range.first()..=segment.range.last()).contains(&entry);
        for entry in [entry].into_iter().chain(pvh) {
            if !segments.iter().any(|segment| inside(entry, segment)) {
                return Err(ElfError::Entry { entry });
            }
        }
        Ok(Self { entry, pvh, segments })
    }
}

fn check_header(file: &[u8]) -> Result<(), ElfError> {
    if file.is_empty() {
        return Err(ElfError::Empty);
    }
    if !file.starts_with(IDENT) {
        return Err(foreign(file));
    }
    part(file, 0, HEADER, || "its header".into())?;
    let byte = |at: usize| file.get(at).copied().unwrap_or(0);
    if byte(CLASS) != CLASS_64 {
        return Err(ElfError::Foreign("a 32-bit ELF file"));
    }
    if byte(DATA) != LITTLE {
        return Err(ElfError::Foreign("a big-endian ELF file"));
    }
    if number::<u16>(file, MACHINE) != MACHINE_X86_64 {
        return Err(ElfError::Foreign("an ELF file of another processor"));
    }
    match number::<u16>(file, TYPE) {
        TYPE_EXECUTABLE => Ok(()),
        TYPE_SHARED => Err(ElfError::Foreign("a position-independent program or a shared library")),
        _ => Err(ElfError::Foreign("an object or a core dump")),
    }
}

/// A file that is something else, by what it begins with.
fn foreign(file: &[u8]) -> ElfError {
    // Linux `Documentation/arch/arm64/booting.rst`.
    if file.get(56..60) == Some(b"ARM\x64") {
        return ElfError::Foreign("an arm64 Image");
    }
    let known: [(&[u8], &str); 4] = [
        (b"\x1f\x8b", "gzip-compressed"),
        (b"MZ", "an EFI program"),
        (b"070701", "a cpio archive, as an initrd is"),
        (b"#!", "a script"),
    ];
    let found = known.into_iter().find(|(magic, _)| file.starts_with(magic));
    found.map_or(ElfError::NoMagic, |(_, what)| ElfError::Foreign(what))
}

/// `None`: it is not loaded.
fn segment<'a>(file: &'a [u8], index: u16, header: &[u8]) -> Result<Option<Segment<'a>>, ElfError> {
    match number::<u32>(header, 0) {
        LOAD => {}
        DYNAMIC | INTERPRETER => return Err(ElfError::Foreign("a dynamically linked program")),
        _ => return Ok(None),
    }
    let (first, memory): (u64, u64) = (number(header, PHYSICAL), number(header, MEMORY_SIZE));
    let (at, in_file): (u64, u64) = (number(header, OFFSET), number(header, FILE_SIZE));
    if in_file > memory {
        return Err(ElfError::Shrinks { index, file: in_file, memory });
    }
    let bytes = part(file, at, in_file, || format!("its segment {index}"))?;
    if memory == 0 {
        return Ok(None);
    }
    let range = AddressRange::new(first, memory).ok_or(ElfError::Wraps { index })?;
    Ok(Some(Segment { range, bytes }))
}

/// The entry that a segment of notes has for PVH: note 18 of "Xen" (Xen `public/elfnote.h`, XEN_ELFNOTE_PHYS32_ENTRY).
fn pvh_note(file: &[u8], index: u16, header: &[u8]) -> Result<Option<u64>, ElfError> {
    if number::<u32>(header, 0) != NOTE {
        return Ok(None);
    }
    let (at, length): (u64, u64) = (number(header, OFFSET), number(header, FILE_SIZE));
    let mut rest = part(file, at, length, || format!("its segment {index}"))?;
    // Sizes of name and description, the type; then both, each up to a multiple of 4.
    while let Some((head, after)) = rest.split_at_checked(12) {
        let padded = |at| (number::<u32>(head, at) as usize).next_multiple_of(4);
        let Some((name, after)) = after.split_at_checked(padded(0)) else { break };
        if name == b"Xen\0" && number::<u32>(head, 8) == 18 {
            return match number::<u32>(head, 4) {
                4 if after.len() >= 4 => Ok(Some(number::<u32>(after, 0).into())),
                8 if after.len() >= 8 => Ok(Some(number(after, 0))),
                size => Err(ElfError::Note { size }),
            };
        }
        let Some((_, after)) = after.split_at_checked(padded(4)) else { break };
        rest = after;
    }
    Ok(None)
}

/// The first two of `segments`, lowest first, that share a byte.
fn overlapping(segments: &[Segment]) -> Option<(AddressRange, AddressRange)> {
    let pairs = segments.iter().zip(segments.iter().skip(1));
    let mut ranges = pairs.map(|(first, second)| (first.range, second.range));
    ranges.find(|(first, second)| first.overlaps(*second))
}

fn part(file: &[u8], first: u64, length: u64, what: impl Fn() -> String) -> Result<&[u8], ElfError> {
    let cut =
        || ElfError::CutShort { what: what(), has: file.len() as u64, needs: first.saturating_add(length) };
    number::part(file, first, length).ok_or_else(cut)
}

#[cfg(test)]
mod tests;
