//! How an access of any width meets a 32-bit register, and one of several bytes registers of one.
//!
//! The device owns the words of its window. An access that begins at a word is an access to that
//! register: a short one reads its low bytes and writes zeros to the others, a long one goes on with
//! zeros and ignores what it writes there. An access that begins anywhere else reads as zero and
//! writes nothing.

use ambit_bus::Offset;

/// Size in bytes of the window of every PrimeCell.
pub const WINDOW: u64 = 0x1000;

/// The byte offset of the register that an access at `at` is for.
pub(crate) fn register(at: Offset) -> Option<u16> {
    let exists = at.window == 0 && at.byte < WINDOW && at.byte.is_multiple_of(4);
    u16::try_from(at.byte).ok().filter(|_| exists)
}

/// The register that byte `index` of an access at `at` is for, in a device whose registers are bytes.
pub(crate) fn byte_register(at: Offset, index: u64) -> Option<u8> {
    u8::try_from(at.byte.checked_add(index)?).ok()
}

pub(crate) fn answer(data: &mut [u8], value: u32) {
    data.fill(0);
    for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
}

pub(crate) fn written(data: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered<const N: usize>() -> [u8; N] {
        let mut data = [0x55; N];
        answer(&mut data, 0x4433_2211);
        data
    }

    fn at(byte: u64) -> Offset {
        Offset { window: 0, byte }
    }

    #[test]
    fn a_short_read_gets_the_low_bytes() {
        assert_eq!(answered(), [0x11]);
        assert_eq!(answered(), [0x11, 0x22]);
        assert_eq!(answered(), [0x11, 0x22, 0x33, 0x44]);
    }

    #[test]
    fn a_long_read_goes_on_with_zeros() {
        assert_eq!(answered(), [0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0]);
    }

    #[test]
    fn a_short_write_writes_zeros_to_the_other_bytes() {
        assert_eq!(written(&[0x11]), 0x11);
        assert_eq!(written(&[0x11, 0x22]), 0x2211);
    }

    #[test]
    fn a_long_write_writes_its_first_four_bytes() {
        assert_eq!(written(&[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]), 0x4433_2211);
    }

    #[test]
    fn only_the_words_of_the_window_are_registers() {
        assert_eq!(register(at(0)), Some(0));
        assert_eq!(register(at(0xffc)), Some(0xffc));
        assert_eq!(register(at(2)), None);
        assert_eq!(register(at(0x1000)), None);
        assert_eq!(register(at(0x1_0000)), None);
        assert_eq!(register(Offset { window: 1, byte: 0 }), None);
    }
}
