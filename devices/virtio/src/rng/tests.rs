use std::io::Write;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::Duration;

use ambit_bus::bench::{BenchHost, RAM_BASE};
use ambit_resources::{AddressRange, PaBits};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::driver::{EVENT_IDX, Face, INDIRECT, Machine, RAM, VERSION_1, Vq, WRITE, idles, unique, until};
use crate::limit::Rate;

fn each(test: impl Fn(Face)) {
    for face in Face::ALL {
        eprintln!("on {face:?}");
        test(face);
    }
}

fn begin(face: Face, source: File, options: &Options) -> (Machine, Vq) {
    let mut machine = Machine::with_face(face, Rng::new(source, options));
    let queue = live(&mut machine);
    (machine, queue)
}

fn live(machine: &mut Machine) -> Vq {
    assert!(machine.negotiate(VERSION_1));
    let queue = machine.queue(0, 64);
    machine.go();
    queue
}

fn zeroes(face: Face) -> (Machine, Vq) {
    begin(face, File::open("/dev/zero").unwrap(), &Options::new("rng0"))
}

/// Bytes of which none is zero, as many as `len`, and then no more.
fn known(len: usize) -> File {
    let (reader, mut writer) = io::pipe().unwrap();
    std::thread::spawn(move || {
        // The device may be gone before it has read them all.
        let _closed = writer.write_all(&bytes(0, len));
    });
    File::from(OwnedFd::from(reader))
}

fn bytes(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at % 251) as u8 | 1).collect()
}

// C-007, C-010
#[test]
fn it_has_no_features_and_no_configuration_of_its_own() {
    let rng = Rng::new(File::open("/dev/zero").unwrap(), &Options::new("rng0"));

    assert_eq!((rng.features(), rng.queue_sizes(), rng.config().len()), (0, &[64][..], 0));
}

// C-255, C-052
#[test]
fn every_request_gets_as_many_bytes_of_the_source_as_it_says_and_no_others_change() {
    each(|face| {
        let (mut machine, mut queue) = begin(face, known(1000), &Options::new("rng0"));
        let at = machine.put(&[0; 200]);
        let mut from = 0;
        for len in [1, 2, 63, 100] {
            let request = [(at, len / 3, WRITE), (at + 100, len - len / 3, WRITE)];

            let used = machine.ask(&mut queue, &request) as usize;

            assert!((1..=len as usize).contains(&used));
            let expected = bytes(from, used);
            let first = used.min(len as usize / 3);
            let mut all = vec![0; 200];
            all[..first].copy_from_slice(&expected[..first]);
            all[100..100 + used - first].copy_from_slice(&expected[first..]);
            assert_eq!(machine.bytes(at, 200), all);
            (from, _) = (from + used, machine.memory.write_slice(&[0; 200], GuestAddress(at)).unwrap());
        }
    });
}

// C-255, C-052
#[test]
fn a_source_that_gives_less_is_not_said_to_have_given_more() {
    let (reader, mut writer) = io::pipe().unwrap();
    let (mut machine, mut queue) =
        begin(Face::Mmio, File::from(OwnedFd::from(reader)), &Options::new("rng0"));
    let at = machine.put(&[0; 10]);
    writer.write_all(&[9; 3]).unwrap();

    assert_eq!(machine.ask(&mut queue, &[(at, 2, WRITE), (at + 2, 8, WRITE)]), 3);

    assert_eq!(machine.bytes(at, 10), [9, 9, 9, 0, 0, 0, 0, 0, 0, 0]);
}

// R-37, C-033
#[test]
fn a_request_may_be_split_anywhere() {
    let (mut machine, mut queue) = begin(Face::Mmio, known(20 * 21 * 21), &Options::new("rng0"));
    let mut from = 0;
    for first in 0..=20 {
        for second in first..=20 {
            let at = machine.put(&[0; 21]);
            let parts = [(0, first), (first, second), (second, 20)]
                .map(|(from, to)| (at + from, (to - from) as u32, WRITE));

            let used = machine.ask(&mut queue, &parts) as usize;

            // A file fills all of what it is asked to.
            let expected = [bytes(from, 20), vec![0]].concat();
            assert_eq!((used, machine.bytes(at, 21)), (20, expected), "at {first} and {second}");
            from += 20;
        }
    }
}

//
#[test]
fn a_request_gets_64_kib_at_most() {
    each(|face| {
        let (mut machine, mut queue) = zeroes(face);
        let at = machine.alloc(1 << 20, 1);

        assert_eq!(machine.ask(&mut queue, &[(at, 1 << 20, WRITE)]), 64 << 10);
        assert_eq!(machine.ask(&mut queue, &[(at, 64 << 10, WRITE), (at, 1, WRITE)]), 64 << 10);
        assert_eq!(machine.ask(&mut queue, &[(at, 3, WRITE)]), 3);
    });
}

//
#[test]
fn a_request_of_4_gib_costs_no_memory() {
    const GIB: u64 = 1 << 30;
    let host = BenchHost::with_ram(&[AddressRange::fixed(RAM_BASE, 5 * GIB)], PaBits::MAX);
    let source = File::open("/dev/urandom").unwrap();
    let mut machine = Machine::with_host(host, Rng::new(source, &Options::new("rng0")));
    let mut queue = live(&mut machine);
    let large = RAM_BASE + GIB / 2;

    for _ in 0..20 {
        assert_eq!(machine.ask(&mut queue, &[(large, u32::MAX, WRITE)]), 64 << 10);
    }

    // Written once, and nothing behind.
    assert_ne!(machine.bytes(large, 64 << 10), [0; 64 << 10]);
    assert_eq!(machine.bytes(large + (64 << 10), 1 << 20), [0; 1 << 20]);
}

// C-255, C-035, C-039
#[test]
fn readable_buffers_are_refused() {
    each(|face| {
        let (mut machine, mut queue) = zeroes(face);
        let at = machine.put(&[7; 8]);

        assert_eq!(machine.ask(&mut queue, &[(at, 4, 0)]), 0);
        assert_eq!(machine.ask(&mut queue, &[(at, 4, 0), (at + 4, 4, WRITE)]), 0);
        assert_eq!(machine.ask(&mut queue, &[(at, 4, WRITE), (at + 4, 4, 0)]), 0);
        assert_eq!(machine.bytes(at, 8), [7; 8]);
        assert_eq!(machine.ask(&mut queue, &[(at, 8, WRITE)]), 8);
    });
}

//
#[test]
fn a_request_without_a_byte_comes_back_without_one() {
    let (mut machine, mut queue) = zeroes(Face::Mmio);
    let at = machine.put(&[7; 8]);

    assert_eq!(machine.ask(&mut queue, &[(at, 0, WRITE)]), 0);
    assert_eq!(machine.ask(&mut queue, &[(at, 0, WRITE), (0, 0, WRITE), (u64::MAX, 0, WRITE)]), 0);
    assert_eq!(machine.ask(&mut queue, &[(at, 0, WRITE), (at, 3, WRITE)]), 3);
}

//
#[test]
fn buffers_outside_ram_come_back_with_nothing_done() {
    each(|face| {
        let (mut machine, mut queue) = begin(face, known(8), &Options::new("rng0"));
        let wild = [0x200_0050, 0, RAM_BASE - 4, RAM_BASE + RAM, RAM_BASE + RAM - 4, u64::MAX - 7];
        for round in 0..10_000 {
            assert_eq!(machine.ask(&mut queue, &[(wild[round % wild.len()], 8, WRITE)]), 0);
        }

        let at = machine.put(&[0; 8]);
        let used = machine.ask(&mut queue, &[(at, 8, WRITE)]) as usize;
        assert_eq!(machine.bytes(at, used), bytes(0, used), "the source lost nothing");
    });
}

// C-255, C-002, C-003
#[test]
fn a_source_that_has_ended_is_an_error_and_not_a_request_without_bytes() {
    each(|face| {
        let id = unique("rng");
        let (mut machine, mut queue) = begin(face, known(0), &Options::new(&id));
        let at = machine.put(&[7; 8]);
        queue.offer(&[(at, 8, WRITE)]);
        machine.kick(&queue);

        if face.is_legacy() {
            // Such a driver has no word for it.
            std::thread::sleep(Duration::from_millis(20));
        } else {
            machine.wait_until("the wish for a reset", |machine| machine.status() & 64 != 0);
            assert_eq!(machine.acknowledge(), 2);
        }
        assert_eq!((queue.poll(), machine.bytes(at, 8)), (None, vec![7; 8]));
        idles(&id);
        machine.set_status(0);
        assert_eq!(machine.status(), 0);
    });
}

// C-015, C-016, R-13
#[test]
fn a_reset_gives_back_the_state_of_power_on() {
    each(|face| {
        let mut machine =
            Machine::with_face(face, Rng::new(File::open("/dev/zero").unwrap(), &Options::new("rng0")));
        let power_on = machine.dump();
        assert!(machine.negotiate(VERSION_1 | INDIRECT | EVENT_IDX));
        let mut queue = machine.queue(0, 64);
        machine.go();
        let at = machine.put(&[7; 8]);
        machine.ask(&mut queue, &[(at, 8, WRITE)]);

        machine.set_status(0);

        assert_eq!(machine.dump(), power_on);
    });
}

fn per_second(tokens: u64) -> Option<Rate> {
    Some(Rate::per_second(NonZeroU64::new(tokens).unwrap()))
}

#[test]
fn a_limit_holds_requests_back_and_loses_none() {
    for limits in [
        Limits { bytes: per_second(2000), operations: None },
        Limits { bytes: None, operations: per_second(20) },
    ] {
        let id = unique("rng");
        let options = Options { limits, ..Options::new(&id) };
        let (mut machine, mut queue) = begin(Face::Mmio, File::open("/dev/zero").unwrap(), &options);
        let at = machine.alloc(100, 1);
        let start = Instant::now();

        // A second's worth at once, and half of one more.
        for _ in 0..30 {
            queue.offer(&[(at, 100, WRITE)]);
        }
        machine.kick(&queue);
        (0..30).for_each(|_| assert_eq!(queue.wait().1, 100));

        assert!(start.elapsed() >= Duration::from_millis(490), "{:?}", start.elapsed());
        idles(&id);
    }
}

#[test]
fn a_guest_that_waits_for_a_limit_can_be_reset() {
    let id = unique("rng");
    let options = Options {
        limits: Limits {
            bytes: None,
            operations: Some(Rate { size: NonZeroU64::MIN, refill: Duration::from_secs(3600), burst: 0 }),
        },
        ..Options::new(&id)
    };
    let (mut machine, mut queue) = begin(Face::Mmio, File::open("/dev/zero").unwrap(), &options);
    let at = machine.alloc(100, 1);
    assert_eq!(machine.ask(&mut queue, &[(at, 100, WRITE)]), 100);
    queue.offer(&[(at, 100, WRITE)]);
    machine.kick(&queue);
    idles(&id);

    machine.set_status(0);

    assert_eq!((machine.status(), queue.poll()), (0, None));
}

#[test]
fn the_guest_is_interrupted_when_it_has_its_bytes() {
    each(|face| {
        let (mut machine, mut queue) = zeroes(face);
        let at = machine.alloc(100, 1);

        machine.ask(&mut queue, &[(at, 100, WRITE)]);

        until("an interrupt", || (machine.acknowledge() == 1).then_some(()));
    });
}

// C-056
#[test]
fn kicks_are_asked_for_again_when_the_ring_is_empty() {
    for features in [0, EVENT_IDX] {
        let rng = Rng::new(File::open("/dev/zero").unwrap(), &Options::new("rng0"));
        let mut machine = Machine::new(rng);
        assert!(machine.negotiate(VERSION_1 | features));
        let mut queue = machine.queue(0, 64);
        machine.go();
        let at = machine.alloc(100, 1);
        machine.ask(&mut queue, &[(at, 100, WRITE)]);

        let before = queue.slot;
        queue.offer(&[(at, 100, WRITE)]);
        until("to be wanted", || queue.wants_kick(features != 0, before).then_some(()));
        machine.kick(&queue);
        queue.wait();
    }
}

#[test]
fn random_bytes_are_not_the_same_twice() {
    let source = File::open("/dev/urandom").unwrap();
    let (mut machine, mut queue) = begin(Face::Mmio, source, &Options::new("rng0"));
    let at = machine.put(&[0; 64]);

    assert_eq!(machine.ask(&mut queue, &[(at, 32, WRITE)]), 32);
    assert_eq!(machine.ask(&mut queue, &[(at + 32, 32, WRITE)]), 32);
    assert_ne!(machine.bytes(at, 32), machine.bytes(at + 32, 32));
}
