//! A static 64-bit ELF program, and why some files are none (System V gABI 4.1 and its x86-64 supplement).
//!
//! Physical addresses count, as loaders of kernels have it; the entry is one of them.

use ambit_resources::AddressRange;

/// A program that can be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program<'a> {
    /// Physical address of the first instruction; inside a segment.
    pub entry: u64,
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
    #[error("it is {0}; give it a static 64-bit ELF program")]
    Foreign(&'static str),
    #[error("it is no ELF file; give it a static 64-bit ELF program")]
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
        for (index, header) in (0..count).zip(table.chunks_exact(SEGMENT_HEADER.into())) {
            segments.extend(segment(file, index, header)?);
        }
        segments.sort_by_key(|segment| segment.range.first());
        if let Some((first, second)) = overlapping(&segments) {
            return Err(ElfError::Overlap { first, second });
        }
        if segments.is_empty() {
            return Err(ElfError::NoSegments);
        }
        let entry: u64 = number(file, ENTRY);
        let inside = |segment: &Segment| (segment.range.first()..=segment.range.last()).contains(&entry);
        if !segments.iter().any(inside) {
            return Err(ElfError::Entry { entry });
        }
        Ok(Self { entry, segments })
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
    // Linux `Documentation/arch/x86/boot.rst`: the magic of the setup header.
    if file.get(0x202..0x206) == Some(b"HdrS") {
        return ElfError::Foreign("a bzImage, which this board does not start yet");
    }
    let known: [(&[u8], &str); 3] =
        [(b"\x1f\x8b", "gzip-compressed"), (b"MZ", "an EFI program"), (b"#!", "a script")];
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

/// The first two of `segments`, lowest first, that share a byte.
fn overlapping(segments: &[Segment]) -> Option<(AddressRange, AddressRange)> {
    let pairs = segments.iter().zip(segments.iter().skip(1));
    let mut ranges = pairs.map(|(first, second)| (first.range, second.range));
    ranges.find(|(first, second)| first.overlaps(*second))
}

fn part(file: &[u8], first: u64, length: u64, what: impl Fn() -> String) -> Result<&[u8], ElfError> {
    let end = first.saturating_add(length);
    let range = usize::try_from(first).ok().zip(usize::try_from(end).ok());
    let bytes = range.and_then(|(first, end)| file.get(first..end));
    bytes.ok_or_else(|| ElfError::CutShort { what: what(), has: file.len() as u64, needs: end })
}

trait Number: Default {
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Number for $type {
            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.first_chunk().map(|bytes| Self::from_le_bytes(*bytes))
            }
        }
    )*};
}

number!(u16, u32, u64);

/// The little-endian number at `at`, of headers whose length was checked.
fn number<T: Number>(bytes: &[u8], at: usize) -> T {
    bytes.get(at..).and_then(T::from_bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests;
