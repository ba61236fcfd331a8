use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::card::Card;
use super::receive::Receiver;
use super::transmit::Transmitter;
use super::*;
use crate::driver::hand::Hand;
use crate::driver::{EVENT_IDX, Machine, VERSION_1, Vq, WRITE, until};
use crate::worker::Next;

mod amounts;
mod commands;
mod headers;
mod inherited;
mod offers;
mod rules;
mod wire;

const MRG: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
const GUEST_CSUM: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM;
const TSO: u64 = GUEST_CSUM | 1 << VIRTIO_NET_F_GUEST_TSO4;

/// One end of a pair of sockets, and what it was told of offloads.
struct Wire {
    socket: OwnedFd,
    told: Arc<Mutex<Vec<Offloads>>>,
}

impl Carrier for Wire {
    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        self.told.lock().unwrap().push(offloads);
        Ok(())
    }
}

struct Bench {
    id: String,
    machine: Machine,
    rx: Vq,
    tx: Vq,
    /// The other end of the wire.
    far: UnixDatagram,
    told: Arc<Mutex<Vec<Offloads>>>,
}

fn bench(features: u64, size: u16) -> Bench {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    on(near.into(), far, features, size)
}

fn on(socket: OwnedFd, far: UnixDatagram, features: u64, size: u16) -> Bench {
    let told = Arc::default();
    let wire = Wire { socket, told: Arc::clone(&told) };
    let id = crate::driver::unique("net");
    let mut machine =
        Machine::new(Net::new(&id, vec![wire], &Options::new(Mac([2, 0, 0, 0, 0, 1]))).unwrap());
    assert!(machine.negotiate(VERSION_1 | features));
    let (rx, tx) = (machine.queue(0, size), machine.queue(1, size));
    machine.go();
    Bench { id, machine, rx, tx, far, told }
}

/// A frame as the tap gives it: a header of zeroes, then numbered bytes.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; header::SIZE];
    frame.extend((header::SIZE..len).map(|at| (at % 253) as u8));
    frame
}

/// As the guest sees it: the same, with the number of buffers in the header.
fn seen(len: usize, buffers: u16) -> Vec<u8> {
    let mut frame = frame(len);
    frame[10..12].copy_from_slice(&buffers.to_le_bytes());
    frame
}

impl Bench {
    /// Makes a buffer of `len` bytes available; where it is.
    fn post(&mut self, len: u32) -> u64 {
        let at = self.machine.alloc(u64::from(len), 1);
        self.rx.offer(&[(at, len, WRITE)]);
        self.machine.kick(&self.rx);
        at
    }

    /// What the next used receive buffer holds.
    fn received(&mut self, at: u64) -> Vec<u8> {
        let (_, len) = self.rx.wait();
        self.machine.bytes(at, len as usize)
    }

    fn sent(&self) -> Vec<u8> {
        let mut frame = vec![0; 2 * FRAME];
        let len = self.far.recv(&mut frame).unwrap();
        frame.truncate(len);
        frame
    }

    fn send(&mut self, frame: &[u8]) -> u32 {
        let at = self.machine.put(frame);
        self.machine.ask(&mut self.tx, &[(at, frame.len() as u32, 0)])
    }

    fn idles(&self) {
        crate::driver::idles(&self.id);
    }

    fn works(&mut self) {
        let at = self.post(2000);
        self.far.send(&frame(300)).unwrap();
        assert!(self.received(at) == seen(300, 1));
        assert_eq!(self.send(&frame(200)), 0);
        assert!(self.sent() == frame(200));
    }
}

#[test]
fn a_card_sends_and_receives() {
    bench(0, 64).works();
    bench(MRG | TSO, 64).works();
    bench(MRG | TSO | EVENT_IDX, 64).works();
}

#[test]
fn a_frame_may_be_sent_split_at_any_byte() {
    let mut bench = bench(0, 16);
    let sent = frame(80);
    for at in 1..80u32 {
        let from = bench.machine.put(&sent);
        bench.machine.ask(&mut bench.tx, &[(from, at, 0), (from + u64::from(at), 80 - at, 0)]);
        assert!(bench.sent() == sent, "split at {at}");
    }
}

//
#[test]
fn what_is_no_frame_is_not_sent_and_its_head_comes_back() {
    let mut bench = bench(0, 16);
    for len in 1..header::SIZE + ETHERNET {
        assert_eq!(bench.send(&vec![0; len]), 0, "{len} bytes");
    }
    assert_eq!(bench.send(&frame(FRAME + 1)), 0);
    let at = bench.machine.put(&frame(100));
    assert_eq!(bench.machine.ask(&mut bench.tx, &[(at, 100, 0), (at, 100, WRITE)]), 0);

    // None of them comes before this one.
    assert_eq!(bench.send(&frame(64)), 0);
    assert!(bench.sent() == frame(64));
}

/// A card without its threads, and the far end of its wire.
fn on_a_wire() -> (Card, UnixDatagram) {
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let wire = Wire { socket: near.into(), told: Arc::default() };
    (Card::new("net", vec![Box::new(wire)], &Options::new(Mac([2, 0, 0, 0, 0, 1]))).unwrap(), far)
}

/// A ring with a frame of 200 bytes, and who sends it.
fn about_to_send() -> (Hand, Transmitter) {
    let mut hand = Hand::new(VERSION_1);
    let mut transmitter = Transmitter::new();
    hand.serve_by(|_, memory| transmitter.begin(VERSION_1, memory));
    let at = hand.machine.put(&frame(200));
    hand.driver.offer(&[(at, 200, 0)]);
    (hand, transmitter)
}

#[test]
fn kicks_are_asked_for_when_a_look_finds_nothing_to_send() {
    let (card, far) = on_a_wire();
    let (mut hand, mut transmitter) = about_to_send();

    let mut look = || {
        let next = hand
            .serve_by(|ring, memory| transmitter.transmit(ring, memory, &*card.carriers[0], &card))
            .unwrap();
        (next, hand.driver.wants_kick(false, 0), hand.driver.used_index())
    };

    assert_eq!([look(), look()], [(Next::Again, false, 1), (Next::Wait, true, 1)]);
    assert_eq!(far.recv(&mut [0; 300]).unwrap(), 200);
}

//
#[test]
fn every_receive_buffer_comes_back_once_though_the_queue_was_stopped_with_a_useless_one_among_them() {
    let (card, far) = on_a_wire();
    let mut hand = Hand::new(VERSION_1);
    let mut receiver = Receiver::new();
    let first = hand.machine.alloc(1000, 1);
    let last = hand.machine.alloc(3000, 1);
    let room = [(first, 1000), (0, 1000), (last, 1500), (0, 1000), (last + 1500, 1500)];
    let heads = room.map(|(at, len)| u32::from(hand.driver.offer(&[(at, len, WRITE)])));
    let mut run = |receiver: &mut Receiver| {
        hand.serve_by(|ring, memory| {
            receiver.begin(VERSION_1 | MRG, None, memory);
            receiver.receive(ring, memory, &*card.carriers[0], &card).unwrap();
            receiver.end(Some(ring));
        });
        std::iter::from_fn(|| hand.driver.poll()).collect::<Vec<_>>()
    };

    let before = run(&mut receiver);
    far.send(&frame(1200)).unwrap();
    far.send(&frame(300)).unwrap();
    let after = run(&mut receiver);

    let [a, useless, b, as_useless, c] = heads;
    assert_eq!(before, []);
    assert_eq!(after, [(a, 1000), (b, 200), (useless, 0), (as_useless, 0), (c, 300)]);
    assert_eq!(hand.machine.bytes(first, 12), seen(1200, 2)[..12]);
}

#[test]
fn what_was_sent_before_a_ring_broke_goes_back() {
    let (card, far) = on_a_wire();
    let (mut hand, mut transmitter) = about_to_send();
    hand.driver.publish(u16::MAX);

    let broken = hand.serve_by(|ring, memory| transmitter.transmit(ring, memory, &*card.carriers[0], &card));

    assert!(broken.is_err());
    assert_eq!(far.recv(&mut [0; 300]).unwrap(), 200);
    assert_eq!(hand.driver.used_index(), 1);
}

#[test]
fn the_longest_frame_is_sent() {
    let mut bench = bench(0, 16);

    bench.send(&frame(FRAME));

    assert!(bench.sent() == frame(FRAME));
}

#[test]
fn a_frame_that_fits_exactly_is_received() {
    let mut bench = bench(0, 16);
    let at = bench.post(1530);
    bench.far.send(&frame(1530)).unwrap();

    assert!(bench.received(at) == seen(1530, 1));
}

//
#[test]
fn a_frame_longer_than_its_buffer_is_dropped_and_the_buffer_is_kept() {
    let mut bench = bench(0, 16);
    let at = bench.post(1530);
    bench.post(1530);
    for len in [1531, 1600, FRAME] {
        bench.far.send(&frame(len)).unwrap();
    }
    bench.far.send(&frame(90)).unwrap();

    assert!(bench.received(at) == seen(90, 1));
    assert_eq!(bench.rx.poll(), None);
}

#[test]
fn a_mergeable_frame_fills_all_buffers_but_the_last() {
    let mut bench = bench(MRG | TSO, 64);
    let first = bench.post(100);
    for _ in 0..15 {
        bench.post(100);
    }
    bench.far.send(&frame(350)).unwrap();

    let lens: Vec<u32> = (0..4).map(|_| bench.rx.wait().1).collect();
    assert_eq!(lens, [100, 100, 100, 50]);
    assert!(bench.machine.bytes(first, 350) == seen(350, 4));
    assert_eq!(bench.rx.poll(), None);
}

#[test]
fn a_mergeable_frame_is_published_whole() {
    let mut bench = bench(MRG, 64);
    let at = bench.machine.alloc(20, 1);
    for _ in 0..2000 {
        for _ in 0..5 {
            bench.rx.offer(&[(at, 20, WRITE)]);
        }
        bench.machine.kick(&bench.rx);
        bench.far.send(&frame(100)).unwrap();
        let before = bench.rx.seen;
        until("a frame", || (bench.rx.used_index() != before).then_some(()));
        assert_eq!(bench.rx.used_index().wrapping_sub(before), 5);
        while bench.rx.poll().is_some() {}
    }
}

#[test]
fn a_frame_with_too_little_room_waits_for_buffers() {
    let mut bench = bench(MRG | TSO, 64);
    let first = bench.post(1000);
    bench.far.send(&frame(3500)).unwrap();
    bench.far.send(&frame(60)).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(bench.rx.poll(), None);
    for _ in 0..3 {
        bench.post(1000);
    }
    let next = bench.post(1000);

    let lens: Vec<u32> = (0..4).map(|_| bench.rx.wait().1).collect();
    assert_eq!(lens, [1000, 1000, 1000, 500]);
    assert!(bench.machine.bytes(first, 3500) == seen(3500, 4));
    assert!(bench.received(next) == seen(60, 1));
}

//
#[test]
fn a_frame_that_no_ring_of_the_guests_can_hold_is_dropped() {
    let mut bench = bench(MRG | TSO, 4);
    let first = bench.post(100);
    for _ in 0..3 {
        bench.post(100);
    }
    bench.far.send(&frame(401)).unwrap();
    bench.far.send(&frame(400)).unwrap();

    let lens: Vec<u32> = (0..4).map(|_| bench.rx.wait().1).collect();
    assert_eq!(lens, [100; 4]);
    assert!(bench.machine.bytes(first, 400) == seen(400, 4));
}

#[test]
fn a_held_frame_is_dropped_when_the_whole_ring_is_too_small_for_it() {
    let mut bench = bench(MRG | TSO, 4);
    bench.post(100);
    bench.far.send(&frame(1000)).unwrap();
    std::thread::sleep(Duration::from_millis(5));
    for _ in 0..3 {
        bench.post(100);
    }
    bench.far.send(&frame(50)).unwrap();

    assert_eq!(bench.rx.wait().1, 50);
}

//
#[test]
fn frames_of_every_length_meet_buffers_of_every_size() {
    for (features, size) in [(0, 16), (TSO, 16), (MRG, 16), (MRG | TSO, 16)] {
        for room in [12u32, 13, 100, 1526, 4096, 70_000] {
            let mut bench = bench(features, size);
            let at: Vec<u64> = (0..size).map(|_| bench.post(room)).collect();
            let buffers = if features & MRG == 0 { 1 } else { usize::from(size) };
            let fits = |len: usize| len <= room as usize * buffers;
            for len in [12, 13, 26, 99, 100, 101, 1526, 4097, 60_000, FRAME] {
                bench.far.send(&frame(len)).unwrap();
                if !fits(len) {
                    continue;
                }
                let needed = len.div_ceil(room as usize);
                let mut got = Vec::new();
                for _ in 0..needed {
                    let (head, used) = bench.rx.wait();
                    got.extend(bench.machine.bytes(at[head as usize], used as usize));
                    bench.rx.publish(head as u16);
                }
                bench.machine.kick(&bench.rx);
                let buffers = if features & MRG == 0 { 1 } else { needed as u16 };
                assert!(got == seen(len, buffers), "{len} bytes into {room}, features {features:#x}");
            }
            assert_eq!(bench.rx.poll(), None);
        }
    }
}

//
#[test]
fn buffers_of_no_use_come_back_empty() {
    let mut bench = bench(0, 16);
    let at = bench.machine.alloc(4096, 1);
    for useless in [vec![(at, 11, WRITE)], vec![(at, 2000, 0)], vec![(at, 12, 0), (at, 2000, WRITE)]] {
        assert_eq!(bench.machine.ask(&mut bench.rx, &useless), 0, "{useless:?}");
    }
    bench.works();
}

#[test]
fn frames_without_room_do_not_keep_the_thread_busy() {
    let mut bench = bench(0, 16);
    for _ in 0..20 {
        bench.far.send(&frame(100)).unwrap();
    }
    bench.idles();
    let at = bench.post(1530);
    assert!(bench.received(at) == seen(100, 1));
}

#[test]
fn the_header_says_nothing_of_checksums_unless_the_guest_does_them() {
    // What a tap says of a frame whose checksum is known to be good.
    let mut good = frame(100);
    good[0] = 2;
    let mut without = bench(0, 16);
    let at = without.post(1530);
    without.far.send(&good).unwrap();
    assert_eq!(without.received(at)[0], 0);

    let mut with = bench(GUEST_CSUM, 16);
    let at = with.post(1530);
    with.far.send(&good).unwrap();
    assert_eq!(with.received(at)[0], 2);
}

#[test]
fn the_carrier_is_told_what_was_negotiated_at_every_start() {
    let bench = bench(TSO, 16);
    assert!(bench.machine.negotiate(VERSION_1));
    bench.machine.go();

    let tso = Offloads { csum: true, tso4: true, ..Offloads::default() };
    assert_eq!(*bench.told.lock().unwrap(), [tso, Offloads::default()]);
}

#[test]
fn features_without_what_they_require_are_refused_and_every_other_choice_is_taken() {
    let bench = bench(0, 16);
    let bits = bench.machine.offered() & 0x00ff_ffff;
    let bits: Vec<u64> = (0..24).map(|bit| 1 << bit).filter(|bit| bits & bit != 0).collect();
    let has = |features: u64, bit: u32| features & 1 << bit != 0;
    for choice in 0..1u64 << bits.len() {
        let features =
            bits.iter().enumerate().filter(|(i, _)| choice >> i & 1 == 1).fold(0, |all, (_, b)| all | b);
        // 5.1.3.1, as a list: what it is, and what it takes one of.
        let requires: [(u32, &[u32]); 7] =
            [(11, &[0]), (12, &[0]), (13, &[11, 12]), (7, &[1]), (8, &[1]), (9, &[7, 8]), (23, &[17])];
        // bit 0 CSUM, 1 GUEST_CSUM, 7 GUEST_TSO4, 8 GUEST_TSO6, 9 GUEST_ECN, 11 HOST_TSO4, 12 HOST_TSO6, 13 HOST_ECN,
        // 17 CTRL_VQ, 23 CTRL_MAC_ADDR
        let makes_sense = requires
            .iter()
            .all(|(bit, any)| !has(features, *bit) || any.iter().any(|bit| has(features, *bit)));

        assert_eq!(bench.machine.negotiate(VERSION_1 | features), makes_sense, "{features:#x}");
    }
}

#[test]
fn buffers_are_still_the_guests_after_the_other_queue_stops() {
    let mut bench = bench(0, 16);
    let at = bench.post(1530);
    // The device takes the buffer, and holds it until there is a frame.
    std::thread::sleep(Duration::from_millis(20));
    bench.machine.write(0x30, 1);
    bench.machine.write(0x44, 0);
    bench.far.send(&frame(100)).unwrap();

    assert!(bench.received(at) == seen(100, 1));
    assert_eq!(bench.rx.poll(), None);
}

//
#[test]
fn a_carrier_that_hangs_up_is_left_alone_and_sending_still_returns_heads() {
    let (near, gone) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let mut bench = on(near.into(), UnixDatagram::unbound().unwrap(), 0, 16);
    bench.post(1530);
    drop(gone);

    assert_eq!(bench.send(&frame(100)), 0);
    std::thread::sleep(Duration::from_millis(20));
    bench.idles();
    assert_eq!(bench.send(&frame(100)), 0);
}

/// What a tap says after its interface was deleted, at every call.
struct Deleted(UnixDatagram);

impl Carrier for Deleted {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EBADFD))
    }
}

#[test]
fn a_card_whose_tap_was_deleted_starts_and_hears_nothing() {
    let (near, far) = UnixDatagram::pair().unwrap();
    let mut machine =
        Machine::new(Net::new("deleted", vec![Deleted(near)], &Options::new(Mac([2; 6]))).unwrap());
    assert!(machine.negotiate(VERSION_1));
    let mut rx = machine.queue(0, 16);
    machine.go();
    let at = machine.alloc(2000, 1);
    rx.offer(&[(at, 2000, WRITE)]);
    machine.kick(&rx);
    far.send(&frame(100)).unwrap();
    std::thread::sleep(Duration::from_millis(20));

    assert_eq!((machine.status(), rx.poll()), (15, None));
}

//
#[test]
fn a_flood_with_few_buffers_ends_with_a_card_that_works() {
    let mut bench = bench(MRG, 4);
    bench.far.set_nonblocking(true).unwrap();
    let at = bench.machine.alloc(4 * 2000, 1);
    // As a driver does: without the kick that the card did not ask for.
    let offer = |bench: &mut Bench, at| {
        let before = bench.rx.slot;
        bench.rx.offer(&[(at, 2000, WRITE)]);
        if bench.rx.wants_kick(false, before) {
            bench.machine.kick(&bench.rx);
        }
    };
    let (mut seen, mut round) = (0, 0u64);
    let mut step = || {
        let _full = bench.far.send(&frame(100));
        round += 1;
        if round.is_multiple_of(3) && bench.rx.slot.wrapping_sub(bench.rx.seen) < 4 {
            offer(&mut bench, at + 2000 * (round % 4));
        }
        seen += usize::from(bench.rx.poll().is_some());
        seen
    };
    // Many steps between two pauses, of which each may be long where others work.
    until("1000 frames", || (0..200).any(|_| step() >= 1000).then_some(()));
    // What is left of the flood goes first.
    until("the end of the flood", || {
        if bench.rx.slot.wrapping_sub(bench.rx.seen) < 4 {
            offer(&mut bench, at);
        }
        bench.rx.poll().is_none().then_some(())
    });
    until("room on the wire", || bench.far.send(&frame(300)).ok());
    until("the last frame", || {
        let (_, len) = bench.rx.poll()?;
        offer(&mut bench, at);
        (len == 300).then_some(())
    });
}

#[test]
fn the_address_of_a_card_is_read_from_its_configuration_and_cannot_be_written() {
    let bench = bench(0, 16);
    bench.machine.store(0x100, &[0xff; 4]);

    let mut mac = [0; 6];
    for (at, byte) in (0x100..).zip(&mut mac) {
        bench.machine.access(at, std::slice::from_mut(byte));
    }
    assert_eq!(mac, [2, 0, 0, 0, 0, 1]);
}

#[test]
fn an_address_of_our_own_is_local_unicast_and_stays_the_same() {
    let Mac(mac) = Mac::for_id("net0");

    assert_eq!(mac[0] & 3, 2);
    assert_eq!(Mac(mac), Mac::for_id("net0"));
    assert_ne!(Mac(mac), Mac::for_id("net1"));
}
