use std::io::Write;

use super::*;
use crate::driver::{Machine, VERSION_1, Vq, WRITE};

/// An entropy device whose bytes are known, as many as `len`.
fn rng(len: usize) -> (Machine, Vq) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8 | 1).collect();
        // The device may be gone before it has read them all.
        let _closed = writer.write_all(&bytes);
    });
    begin(File::from(std::os::fd::OwnedFd::from(reader)))
}

fn begin(source: File) -> (Machine, Vq) {
    let mut machine = Machine::new(Rng::new("rng0", source));
    assert!(machine.negotiate(VERSION_1));
    let queue = machine.queue(0, 16);
    machine.go();
    (machine, queue)
}

#[test]
fn every_byte_it_says_it_wrote_is_from_the_source() {
    let (mut machine, mut queue) = rng(1000);
    let at = machine.put(&[0; 100]);

    let used = machine.ask(&mut queue, &[(at, 10, WRITE), (at + 10, 90, WRITE)]);

    let bytes = machine.bytes(at, 100);
    assert!((1..=100).contains(&used));
    assert!(bytes[..used as usize].iter().all(|byte| *byte != 0));
    assert!(bytes[used as usize..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_request_gets_64_kib_at_most() {
    let (mut machine, mut queue) = begin(File::open("/dev/zero").unwrap());
    let at = machine.alloc(1 << 20, 1);

    assert_eq!(machine.ask(&mut queue, &[(at, 1 << 20, WRITE)]), 64 << 10);
    assert_eq!(machine.ask(&mut queue, &[(at, 64 << 10, WRITE), (at, 1, WRITE)]), 64 << 10);
    assert_eq!(machine.ask(&mut queue, &[(at, 3, WRITE)]), 3);
}

#[test]
fn readable_buffers_are_refused() {
    let (mut machine, mut queue) = begin(File::open("/dev/zero").unwrap());
    let at = machine.put(&[7; 8]);

    assert_eq!(machine.ask(&mut queue, &[(at, 4, 0)]), 0);
    assert_eq!(machine.ask(&mut queue, &[(at, 4, 0), (at + 4, 4, WRITE)]), 0);
    assert_eq!(machine.bytes(at, 8), [7; 8]);
}

#[test]
fn a_source_that_has_ended_gives_nothing_and_the_device_lives() {
    let (mut machine, mut queue) = rng(0);
    let at = machine.put(&[7; 8]);

    for _ in 0..3 {
        assert_eq!(machine.ask(&mut queue, &[(at, 8, WRITE)]), 0);
    }
}

#[test]
fn random_bytes_are_not_the_same_twice() {
    let (mut machine, mut queue) = begin(File::open("/dev/urandom").unwrap());
    let at = machine.put(&[0; 64]);

    assert_eq!(machine.ask(&mut queue, &[(at, 32, WRITE)]), 32);
    assert_eq!(machine.ask(&mut queue, &[(at + 32, 32, WRITE)]), 32);
    assert_ne!(machine.bytes(at, 32), machine.bytes(at + 32, 32));
}
