//! Configuration space, byte by byte.

use ambit_bus::{Bar, BarSpace, Offset};
use arbitrary::Result;

use super::Input;
use crate::{ConfigSpace, Function, Identity};

const BARS: [Bar; 3] = [
    Bar { size: 0x40, space: BarSpace::Io },
    Bar { size: 0x1000, space: BarSpace::Mmio32 },
    Bar { size: 0x4000, space: BarSpace::Mmio64 },
];
/// The register of each BAR, and how many bytes it has.
const REGISTERS: [(u64, usize); 3] = [(0x10, 4), (0x14, 4), (0x18, 8)];

/// Which bits the guest can change.
const WRITABLE: &[(usize, &[u8])] = &[
    (0x04, &[0x07, 0x04]),
    (0x0c, &[0xff]),
    (0x10, &[0xc0, 0xff, 0xff, 0xff, 0, 0xf0, 0xff, 0xff, 0, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
    (0x3c, &[0xff]),
    (0x43, &[0xf0, 0x0f]),
];

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let identity = Identity { vendor: 0x1af4, device: 0x1042, class: 0x01_8000, ..Identity::default() };
    let mut config = ConfigSpace::new(identity, &BARS, true).unwrap();
    config.append(0x09, &[4, 0xaa, 0xbb], &[0, 0xf0, 0x0f]).unwrap();
    let mut function = Function::new(config, None, None);
    let power_on = all(&mut function);
    let mut bytes = power_on.clone();
    let mut writable = vec![0; bytes.len()];
    for (at, bits) in WRITABLE {
        writable[*at..at + bits.len()].copy_from_slice(bits);
    }
    while !input.is_empty() {
        if input.ratio(1, 64)? {
            function.reset();
            bytes.clone_from(&power_on);
        }
        let byte = match input.int_in_range(0..=15)? {
            0 => input.arbitrary()?,
            1 => u64::MAX - u64::from(input.arbitrary::<u8>()? % 8),
            2 => u64::from(input.arbitrary::<u16>()? % 0x1008),
            _ => u64::from(input.arbitrary::<u8>()?),
        };
        let len = usize::from(input.int_in_range(0..=9u8)?);
        let new: [u8; 9] = input.arbitrary()?;
        let before = places(&bytes);
        let change = function.write(Offset { window: 0, byte }, &new[..len]).unwrap();
        let inside = |at: &u128| *at < power_on.len() as u128;
        for (at, new) in (u128::from(byte)..).zip(&new[..len]).filter(|(at, _)| inside(at)) {
            let at = at as usize;
            bytes[at] = bytes[at] & !writable[at] | new & writable[at];
        }
        assert_eq!(all(&mut function), bytes, "{len} bytes at {byte:#x}");
        assert_eq!(function.places(), places(&bytes));
        assert_eq!(change.remap, places(&bytes) != before);
        read(input, &mut function, &bytes)?;
    }
    Ok(())
}

fn all(function: &mut Function) -> Vec<u8> {
    let mut bytes = vec![0x55; 264];
    assert!(function.read(Offset { window: 0, byte: 0 }, &mut bytes));
    bytes
}

/// Bytes beyond the end are zeros.
fn read(input: &mut Input<'_>, function: &mut Function, bytes: &[u8]) -> Result<()> {
    let byte = u64::from(input.arbitrary::<u16>()? % 0x1010);
    let mut data = [0x55; 9];
    let len = usize::from(input.int_in_range(0..=9u8)?);
    assert!(function.read(Offset { window: 0, byte }, &mut data[..len]));
    let there = bytes.iter().chain(std::iter::repeat(&0)).skip(byte as usize).take(len);
    assert!(data[..len].iter().eq(there));
    assert_eq!(data[len..], [0x55; 9][len..]);
    Ok(())
}

/// A BAR is decoded where its register says, unless that is 0 or the top, and not before the command allows it.
fn places(bytes: &[u8]) -> Vec<Option<u64>> {
    let place = |(bar, (at, len)): (&Bar, (u64, usize))| {
        let enable = if bar.space == BarSpace::Io { 1 } else { 2 };
        let at = at as usize;
        let value = bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let highest = u64::MAX >> (64 - 8 * len);
        let (address, top) = (value & !(bar.size - 1), highest & !(bar.size - 1));
        (bytes[4] & enable != 0 && address != 0 && address != top).then_some(address)
    };
    BARS.iter().zip(REGISTERS).map(place).collect()
}
