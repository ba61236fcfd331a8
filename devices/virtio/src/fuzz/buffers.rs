//! What is done with the buffers of a request, byte by byte.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use arbitrary::Result;
use vm_memory::GuestAddress;

use super::Input;
use super::model::{Ram, address, length};
use crate::iov::Iov;
use crate::ring::{Buffer, cut, read_front, read_some, total, write_front};

const MOST: usize = 12;
/// Bytes of ours. Miri takes its time for each.
const LONGEST: u16 = if cfg!(miri) { 256 } else { u16::MAX };

pub fn body(input: &mut Input<'_>) -> Result<()> {
    let mut ram = Ram::new();
    let (mut buffers, mut wild) = (Vec::new(), Vec::new());
    for _ in 0..input.int_in_range(0..=MOST)? {
        let (at, len) = (address(input)?, length(input)?);
        let buffer = Buffer { address: GuestAddress(at), len };
        let good = len > 0 && ram.place(at, u64::from(len)).is_some();
        if good { &mut buffers } else { &mut wild }.push(buffer);
    }
    for (at, seed) in buffers.iter().zip(1u8..) {
        let bytes: Vec<u8> = (0..at.len).map(|i| (i as u8).wrapping_mul(3) ^ seed).collect();
        ram.write(at.address.0, &bytes);
    }
    let all = ram.gather(&buffers);
    assert_eq!(total(&buffers), all.len() as u64);
    cuts(input, &ram, &buffers, &all)?;
    reads(input, &ram, &buffers, &all)?;
    writes(input, &mut ram, &buffers, all.len())?;
    moves(input, &mut ram, &buffers)?;
    for wild in wild.iter().filter(|wild| wild.len > 0) {
        let with = [&buffers[..], &[*wild]].concat();
        assert!(Iov::new(&ram.memory, &with).is_none(), "{wild:?} is not in RAM");
    }
    ram.check();
    Ok(())
}

/// Both parts together are the whole, and none of them is empty.
fn cuts(input: &mut Input<'_>, ram: &Ram, buffers: &[Buffer], all: &[u8]) -> Result<()> {
    let at = if input.ratio(1, 8)? { input.arbitrary()? } else { u64::from(input.arbitrary::<u16>()?) };
    let (first, second) = cut(buffers, at);
    let middle = all.len().min(usize::try_from(at).unwrap());
    assert_eq!((ram.gather(&first), ram.gather(&second)), (all[..middle].to_vec(), all[middle..].to_vec()));
    assert!(first.iter().chain(&second).all(|buffer| buffer.len > 0));
    Ok(())
}

fn reads(input: &mut Input<'_>, ram: &Ram, buffers: &[Buffer], all: &[u8]) -> Result<()> {
    let mut bytes = vec![0; usize::from(input.arbitrary::<u16>()? % LONGEST)];
    let count = read_some(&ram.memory, buffers, &mut bytes);
    assert_eq!(bytes[..count], all[..bytes.len().min(all.len())]);
    let front = read_front::<16>(&ram.memory, buffers);
    assert_eq!(front.as_ref().map(<[u8; 16]>::as_slice), all.get(..16));
    Ok(())
}

fn writes(input: &mut Input<'_>, ram: &mut Ram, buffers: &[Buffer], all: usize) -> Result<()> {
    let bytes: Vec<u8> = (0..input.arbitrary::<u16>()? % LONGEST).map(|i| (i as u8) | 0x80).collect();
    let count = bytes.len().min(all);
    assert_eq!(write_front(&ram.memory, buffers, &bytes) as usize, count);
    ram.scatter(buffers, &bytes[..count]);
    Ok(())
}

/// From the buffers to a file, and from a file to them.
fn moves(input: &mut Input<'_>, ram: &mut Ram, buffers: &[Buffer]) -> Result<()> {
    // The file costs more than all else together.
    if buffers.is_empty() || cfg!(miri) || !input.arbitrary::<bool>()? {
        return Ok(());
    }
    let file = super::devices::file();
    let (at, all) = (u64::from(input.arbitrary::<u16>()?), ram.gather(buffers));
    let iov = Iov::new(&ram.memory, buffers).expect("all of them are in RAM");
    assert_eq!(iov.write_at(file.as_fd(), at).unwrap(), all.len());
    let mut there = vec![0; all.len()];
    file.read_exact_at(&mut there, at).unwrap();
    assert_eq!(there, all);
    let content: Vec<u8> = (0..u32::from(input.arbitrary::<u16>()?)).map(|i| i as u8 | 0x40).collect();
    file.set_len(0).unwrap();
    file.write_all_at(&content, 0).unwrap();
    let count = content.len().min(all.len());
    assert_eq!(iov.read_at(file.as_fd(), 0).unwrap(), count);
    assert!(iov.read_at(file.as_fd(), u64::MAX).is_err());
    ram.scatter(buffers, &content[..count]);
    Ok(())
}
