//! Little-endian numbers and runs of bytes in files that may be damaged.

pub(crate) trait Number: Default {
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

number!(u8, u16, u32, u64);

/// The number at `at`, of headers whose length was checked.
pub(crate) fn number<T: Number>(bytes: &[u8], at: usize) -> T {
    bytes.get(at..).and_then(T::from_bytes).unwrap_or_default()
}

/// `None`: the file ends before it does.
pub(crate) fn part(file: &[u8], first: u64, length: u64) -> Option<&[u8]> {
    let end = usize::try_from(first.checked_add(length)?).ok()?;
    file.get(usize::try_from(first).ok()?..end)
}
