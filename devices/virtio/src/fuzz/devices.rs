//! Each type of device before a guest that puts anything into its rings.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;

use arbitrary::Result;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use super::guest::Guest;
use crate::balloon::{self, Balloon};
use crate::block::{self, Block};
use crate::console::{self, Console};
use crate::driver::{WRITE, until};
use crate::net::{self, Carrier, Mac, Net, Offloads};
use crate::rng::{self, Rng};

/// A file that is nowhere.
pub fn file() -> File {
    memfd_create("fuzz", MemfdFlags::CLOEXEC).unwrap().into()
}

pub fn block(input: &mut Input<'_>) -> Result<()> {
    let file = file();
    file.set_len(64 * 512).unwrap();
    let options = block::Options { queues: 2, ..block::Options::new("disk") };
    let device = Block::new(file.try_clone().unwrap(), &options).unwrap();
    let mut guest = Guest::begin(input, device, 2, u64::MAX)?;
    guest.run(input, |_| {})?;
    let mut queue = guest.again();
    let at = guest.room(1024);
    guest.machine.memory.write_slice(&[0; 1024], GuestAddress(at)).unwrap();
    assert_eq!(guest.machine.ask(&mut queue, &[(at, 16, 0), (at + 16, 513, WRITE)]), 513);
    assert_eq!(guest.machine.bytes(at + 16 + 512, 1), [0]);
    assert_eq!(file.metadata().unwrap().len(), 64 * 512);
    Ok(())
}

pub fn rng(input: &mut Input<'_>) -> Result<()> {
    let device = Rng::new(File::open("/dev/urandom").unwrap(), &rng::Options::new("rng"));
    let mut guest = Guest::begin(input, device, 1, 0)?;
    guest.run(input, |_| {})?;
    let mut queue = guest.again();
    let at = guest.room(64);
    assert_eq!(guest.machine.ask(&mut queue, &[(at, 64, WRITE)]), 64);
    Ok(())
}

pub fn console(input: &mut Input<'_>) -> Result<()> {
    let (console, keys) = Console::new(Box::new(|_| {}), &console::Options::new("console")).unwrap();
    let mut guest = Guest::begin(input, console, 2, u64::MAX)?;
    let typed = keys.clone();
    guest.run(input, |len| {
        typed.push(&vec![b'x'; usize::from(len) * 8]);
    })?;
    let left = console::INPUT_ROOM - keys.room(0);
    let mut queue = guest.again();
    let at = guest.room(16);
    keys.push(b"key");
    let used = guest.machine.ask(&mut queue, &[(at, 16, WRITE)]) as usize;
    // The key may come late where nothing else waits.
    assert!((1..=(left + 3).min(16)).contains(&used), "{used} bytes of {left} and 3");
    Ok(())
}

pub fn balloon(input: &mut Input<'_>) -> Result<()> {
    let (balloon, control) = Balloon::new(&balloon::Options::new("balloon"));
    let mut guest = Guest::begin(input, balloon, 3, u64::MAX)?;
    // What it gives away reads as zeros, and it may give away any page.
    guest.forgive();
    guest.run(input, |pages| control.set_target(u64::from(pages) << 12))?;
    assert_eq!(control.actual(), 0);
    let mut queue = guest.again();
    let page = guest.room(0x1000);
    guest.machine.memory.write_slice(&[7; 0x1000], GuestAddress(page)).unwrap();
    let list = page - 0x1000;
    guest.machine.memory.write_obj(u32::try_from(page >> 12).unwrap().to_le(), GuestAddress(list)).unwrap();
    assert_eq!(guest.machine.ask(&mut queue, &[(list, 4, 0)]), 0);
    assert_eq!(guest.machine.bytes(page, 0x1000), [0; 0x1000]);
    Ok(())
}

struct Wire(UnixDatagram);

impl Carrier for Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: Offloads) -> std::io::Result<()> {
        Ok(())
    }
}

/// Frames of any length come from outside meanwhile.
pub fn net(input: &mut Input<'_>) -> Result<()> {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    let device = Net::new("card", vec![Wire(near)], &net::Options::new(Mac([2; 6]))).unwrap();
    let mut guest = Guest::begin(input, device, 2, u64::MAX)?;
    // A frame that is too long for where it goes may be in the buffer in part, and the buffer come back later.
    guest.run(input, |len| {
        let _full = far.send(&vec![0x44; usize::from(len) * 40]);
        let _none = far.recv(&mut [0; 16]);
    })?;
    while far.recv(&mut [0; 16]).is_ok() {}
    let mut queue = guest.again();
    let at = guest.room(0x8000);
    for _ in 0..80 {
        let head = queue.offer(&[(at, 0x8000, WRITE)]);
        guest.machine.kick(&queue);
        // Full of what came before, the wire has room once the card has taken some of it.
        until("room for a frame", || far.send(&[0; 77]).ok());
        let (id, len) = queue.wait();
        assert_eq!(id, u32::from(head));
        // A header of 12 bytes from the carrier, which for a legacy driver has 10.
        if matches!(len, 75 | 77) {
            return Ok(());
        }
    }
    panic!("the last frame did not come");
}
