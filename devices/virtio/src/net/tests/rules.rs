//! The rules of virtio 1.2, 5.1 over every transport, modern and legacy.

use super::*;
use crate::driver::Face;

const CTRL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
const CTRL_MAC: u64 = CTRL | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;
const MQ: u64 = CTRL | 1 << VIRTIO_NET_F_MQ;
const CSUM: u64 = 1 << VIRTIO_NET_F_CSUM;
const HOST_TSO: u64 = CSUM | 1 << VIRTIO_NET_F_HOST_TSO4;
const MTU: u64 = 1 << VIRTIO_NET_F_MTU;
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OK: u8 = 0;
const ERR: u8 = 1;

/// A card with its driver on one face.
struct Rig {
    id: String,
    machine: Machine,
    rx: Vec<Vq>,
    tx: Vec<Vq>,
    control: Vq,
    far: Vec<UnixDatagram>,
    /// What the first carrier was told.
    told: Arc<Mutex<Vec<Offloads>>>,
    /// Bytes of the guest's header.
    header: usize,
}

fn rig(face: Face, features: u64) -> Rig {
    rig_with(face, features, 1, &Options::new(Mac(OWN)))
}

fn rig_with(face: Face, features: u64, pairs: u16, options: &Options) -> Rig {
    let (mut far, told) = (Vec::new(), Arc::<Mutex<Vec<Offloads>>>::default());
    let wire = |pair: u16| {
        let (near, other) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        far.push(other);
        let told = if pair == 0 { Arc::clone(&told) } else { Arc::default() };
        Wire { socket: near.into(), told }
    };
    let wires = (0..pairs).map(wire).collect();
    let id = crate::driver::unique("rule");
    let mut machine = Machine::with_face(face, Net::new(&id, wires, options).unwrap());
    let all = if face.is_legacy() { features } else { features | VERSION_1 };
    assert!(machine.negotiate(all));
    let used = if features & MQ == MQ { pairs } else { 1 };
    let rx = (0..used).map(|pair| machine.queue(2 * pair, 16)).collect();
    let tx = (0..used).map(|pair| machine.queue(2 * pair + 1, 16)).collect();
    let control = machine.queue(2 * used, 16);
    machine.go();
    Rig { id, machine, rx, tx, control, far, told, header: header::size(all) }
}

impl Rig {
    fn post(&mut self, pair: usize, len: u32) -> u64 {
        let at = self.machine.alloc(u64::from(len), 1);
        self.rx[pair].offer(&[(at, len, WRITE)]);
        self.machine.kick(&self.rx[pair]);
        at
    }

    fn send(&mut self, pair: usize, frame: &[u8]) {
        let at = self.machine.put(frame);
        assert_eq!(self.machine.ask(&mut self.tx[pair], &[(at, frame.len() as u32, 0)]), 0);
    }

    /// What the other end of the wire gets.
    fn sent(&self, pair: usize) -> Vec<u8> {
        let mut bytes = vec![0; 2 * FRAME];
        let len = self.far[pair].recv(&mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// The guest's header and a payload of `len` bytes.
    fn framed(&self, front: [u8; header::SIZE], len: usize) -> Vec<u8> {
        [&front[..self.header], &payload(len)].concat()
    }

    fn command(&mut self, command: [u8; 2], data: &[u8]) -> u8 {
        let parts = [self.machine.put(&command), self.machine.put(data), self.machine.put(&[0x77])];
        let chain = [(parts[0], 2, 0), (parts[1], data.len() as u32, 0), (parts[2], 1, WRITE)];
        // A descriptor of no bytes is another matter.
        let chain: Vec<_> = chain.into_iter().filter(|(_, len, _)| *len > 0).collect();
        assert_eq!(self.machine.ask(&mut self.control, &chain), 1);
        self.machine.bytes(parts[2], 1)[0]
    }

    fn pairs(&mut self, pairs: u16) -> u8 {
        self.command([4, 0], &pairs.to_le_bytes())
    }

    fn config<const N: usize>(&self, at: u64) -> [u8; N] {
        std::array::from_fn(|i| self.machine.get::<1>(self.machine.spots.config.plus(at + i as u64))[0])
    }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn on_the_wire(front: [u8; header::SIZE], len: usize) -> Vec<u8> {
    [&front[..], &payload(len)].concat()
}

const PLAIN: [u8; header::SIZE] = [0; header::SIZE];

// C-215, C-220, R-50
#[test]
fn a_header_is_ten_bytes_for_a_legacy_driver_without_mergeable_buffers_and_twelve_for_others() {
    for (face, features) in Face::ALL.into_iter().flat_map(|face| [(face, 0), (face, MRG)]) {
        let mut rig = rig(face, features);
        let expected = if face.is_legacy() && features == 0 { 10 } else { 12 };
        assert_eq!(rig.header, expected, "{face:?}");
        rig.send(0, &rig.framed(PLAIN, 60));
        assert_eq!(rig.sent(0), on_the_wire(PLAIN, 60), "{face:?}");

        let at = rig.post(0, 1600);
        rig.far[0].send(&on_the_wire(PLAIN, 70)).unwrap();

        let (_, len) = rig.rx[0].wait();
        let one = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(rig.machine.bytes(at, len as usize), rig.framed(one, 70), "{face:?}");
    }
}

// C-221
#[test]
fn a_header_may_have_a_descriptor_of_its_own() {
    for face in Face::ALL {
        let mut rig = rig(face, 0);
        let (header, own) = (rig.header as u32, rig.machine.put(&PLAIN));
        let body = rig.machine.put(&payload(60));
        rig.machine.ask(&mut rig.tx[0], &[(own, header, 0), (body, 60, 0)]);
        assert_eq!(rig.sent(0), on_the_wire(PLAIN, 60), "{face:?}");

        let into = rig.machine.alloc(1514, 1);
        rig.rx[0].offer(&[(own, header, WRITE), (into, 1514, WRITE)]);
        rig.machine.kick(&rig.rx[0]);
        rig.far[0].send(&on_the_wire(PLAIN, 80)).unwrap();

        assert_eq!(rig.rx[0].wait().1, header + 80, "{face:?}");
        assert_eq!(rig.machine.bytes(into, 80), payload(80), "{face:?}");
    }
}

// C-222, C-223
#[test]
fn only_a_legacy_driver_writes_the_address_into_the_configuration() {
    for face in Face::ALL {
        let rig = rig(face, 0);
        let new = [2, 9, 8, 7, 6, 5];
        for (at, byte) in (0..).zip(new) {
            rig.machine.put_at(rig.machine.spots.config.plus(at), &[byte]);
        }
        // What follows it never changes.
        rig.machine.put_at(rig.machine.spots.config.plus(6), &[0xff]);

        assert_eq!(rig.config(0), if face.is_legacy() { new } else { OWN }, "{face:?}");
        assert_eq!(rig.config(6), [1, 0], "{face:?}");
    }
}

// C-224
#[test]
fn a_command_that_makes_no_sense_is_an_error_and_changes_nothing() {
    for face in Face::ALL {
        let mut rig = rig(face, CTRL_MAC);
        for (command, data) in [
            ([0, 0], &[1][..]),
            ([1, 1], &[]),
            ([1, 1], &[2, 9, 9, 9, 9]),
            ([1, 1], &[2, 9, 9, 9, 9, 9, 9]),
            ([1, 9], &[2, 9, 9, 9, 9, 9]),
            ([99, 0], &[0; 6]),
            // Not agreed on.
            ([4, 0], &[1, 0]),
            ([5, 0], &[0; 8]),
        ] {
            assert_eq!(rig.command(command, data), ERR, "{face:?} {command:?} {data:?}");
        }
        // Too short to be a command, and one that nobody could be told of.
        let (at, answer) = (rig.machine.put(&[1, 1, 2, 2, 2, 2, 2, 2]), rig.machine.put(&[0x77]));
        assert_eq!(rig.machine.ask(&mut rig.control, &[(at, 1, 0), (answer, 1, WRITE)]), 1);
        assert_eq!(rig.machine.bytes(answer, 1), [ERR]);
        assert_eq!(rig.machine.ask(&mut rig.control, &[(at, 8, 0)]), 0);

        assert_eq!(rig.config(0), OWN, "{face:?}");
    }
}

// C-033, R-37
#[test]
fn a_command_may_be_split_at_any_two_bytes() {
    for face in Face::ALL {
        let mut rig = rig(face, CTRL_MAC);
        for first in 0..=8 {
            for second in first..=8 {
                let address = [2, 5, 5, 5, first, second];
                let at = rig.machine.put(&[&[1, 1], &address[..]].concat());
                let answer = rig.machine.put(&[0x77]);
                let (one, two) = (u64::from(first), u64::from(second));
                let parts = [(0, one), (one, two), (two, 8)];
                let parts = parts.map(|(from, to)| (at + from, (to - from) as u32, 0));
                let chain = [parts.as_slice(), &[(answer, 1, WRITE)]].concat();

                assert_eq!(rig.machine.ask(&mut rig.control, &chain), 1);

                let done = (rig.machine.bytes(answer, 1), rig.config(0));
                assert_eq!(done, (vec![OK], address), "{face:?}, at {first} and {second}");
            }
        }
    }
}

// C-225
#[test]
fn an_address_is_set_before_its_command_is_used_and_forgotten_by_a_reset() {
    for face in Face::ALL {
        let mut rig = rig(face, CTRL_MAC);

        assert_eq!(rig.command([1, 1], &[2, 5, 5, 5, 5, 5]), OK);

        assert_eq!(rig.config(0), [2, 5, 5, 5, 5, 5], "{face:?}");
        rig.machine.set_status(0);
        assert_eq!(rig.config(0), OWN, "{face:?}");
    }
}

// C-228
#[test]
fn only_the_pairs_that_the_driver_asked_for_are_used() {
    for face in Face::ALL {
        let mut rig = rig_with(face, MQ, 2, &Options::new(Mac(OWN)));
        let at = rig.post(1, 1600);
        rig.far[1].send(&on_the_wire(PLAIN, 60)).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(rig.rx[1].poll(), None, "{face:?}: before it is asked for");

        assert_eq!(rig.pairs(2), OK);
        assert_eq!(rig.rx[1].wait().1, rig.header as u32 + 60, "{face:?}");
        assert_eq!(rig.machine.bytes(at + rig.header as u64, 60), payload(60));
        rig.send(1, &rig.framed(PLAIN, 50));
        assert_eq!(rig.sent(1), on_the_wire(PLAIN, 50));

        rig.post(1, 1600);
        assert_eq!(rig.pairs(1), OK);
        rig.far[1].send(&on_the_wire(PLAIN, 60)).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(rig.rx[1].poll(), None, "{face:?}: after it was given back");
        rig.send(0, &rig.framed(PLAIN, 50));
        assert_eq!(rig.sent(0), on_the_wire(PLAIN, 50));
    }
}

//
#[test]
fn pairs_that_are_not_there_are_an_error() {
    for face in Face::ALL {
        let mut rig = rig_with(face, MQ, 2, &Options::new(Mac(OWN)));

        for pairs in [0, 3, 0x8000, 0xffff] {
            assert_eq!(rig.pairs(pairs), ERR, "{face:?} {pairs}");
        }
        assert_eq!(rig.pairs(2), OK, "{face:?}");
    }
}

// C-210
#[test]
fn the_configuration_tells_pairs_and_mtu_and_both_stay() {
    for face in Face::ALL {
        let options = Options { mtu: Some(1400), ..Options::new(Mac(OWN)) };
        let rig = rig_with(face, MQ | MTU, 3, &options);
        let expected = [3, 0, 0x78, 5];
        assert_eq!(rig.config(8), expected, "{face:?}");

        for at in 8..12 {
            rig.machine.put_at(rig.machine.spots.config.plus(at), &[0xff]);
        }

        assert_eq!(rig.config(8), expected, "{face:?}");
    }
}

// C-211
#[test]
fn a_frame_beyond_the_mtu_is_not_passed_on_once_that_was_agreed() {
    let options = Options { mtu: Some(1400), ..Options::new(Mac(OWN)) };
    for (face, features) in Face::ALL.into_iter().flat_map(|face| [(face, 0), (face, MTU)]) {
        let mut rig = rig_with(face, features, 1, &options);
        for _ in 0..2 {
            rig.post(0, 1600);
        }
        for len in [1415, 1414] {
            rig.far[0].send(&on_the_wire(PLAIN, len)).unwrap();
        }

        let first = if features == 0 { 1415 } else { 1414 };
        assert_eq!(rig.rx[0].wait().1, rig.header as u32 + first, "{face:?} {features:#x}");
    }
}

// C-211
#[test]
fn a_segment_may_be_longer_than_the_mtu_and_so_may_a_frame_by_its_vlan() {
    let options = Options { mtu: Some(1400), ..Options::new(Mac(OWN)) };
    let tagged = |kind: [u8; 2], len| {
        let mut frame = on_the_wire(PLAIN, len);
        frame[header::SIZE + 12..header::SIZE + 14].copy_from_slice(&kind);
        frame
    };
    for face in Face::ALL {
        let mut rig = rig_with(face, MTU | TSO, 1, &options);
        let header = rig.header as u32;
        for _ in 0..3 {
            rig.post(0, 4000);
        }
        rig.far[0].send(&tagged([0x81, 0x00], 1419)).unwrap();
        rig.far[0].send(&tagged([0x08, 0x00], 1418)).unwrap();
        rig.far[0].send(&tagged([0x81, 0x00], 1418)).unwrap();
        rig.far[0].send(&tagged([0x88, 0xa8], 1418)).unwrap();
        rig.far[0].send(&on_the_wire([1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0], 3000)).unwrap();

        let lens: Vec<u32> = (0..3).map(|_| rig.rx[0].wait().1 - header).collect();
        assert_eq!(lens, [1418, 1418, 3000], "{face:?}");
    }
}

// C-212, C-213, C-214
#[test]
fn of_a_senders_header_only_what_was_agreed_reaches_the_host() {
    for face in Face::ALL {
        // Unknown flags, a length of headers beyond the frame, a sum that nobody asked for.
        let wild = [0xff, 0, 0xff, 0xff, 0xaa, 0xaa, 7, 0, 8, 0, 9, 9];
        let told = [0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut without = rig(face, 0);
        without.send(0, &without.framed(wild, 60));
        assert_eq!(without.sent(0), on_the_wire(told, 60), "{face:?}");

        let mut with = rig(face, CSUM);
        let sums = [0xff, 0, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0];
        with.send(0, &with.framed(sums, 60));
        let told = [1, 0, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0];
        assert_eq!(with.sent(0), on_the_wire(told, 60), "{face:?}");
    }
}

// F-19
#[test]
fn a_header_that_asks_for_what_was_not_agreed_costs_one_frame() {
    for face in Face::ALL {
        let mut rig = rig(face, HOST_TSO);
        // UDP, TCP over IPv6, one without a meaning, congestion marks.
        for gso in [3, 4, 5, 0x7f, 0x81] {
            rig.send(0, &rig.framed([1, gso, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0], 200));
        }
        let segment = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0];

        rig.send(0, &rig.framed(segment, 300));

        assert_eq!(rig.sent(0), on_the_wire(segment, 300), "{face:?}");
    }
}

// C-217, C-218
#[test]
fn no_segment_comes_that_was_not_agreed_and_each_has_a_sum_to_make_and_a_size() {
    let segment = [1, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0];
    let wrong = [
        [1, 4, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0],
        [0, 1, 54, 0, 100, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0],
    ];
    for face in Face::ALL {
        let mut with = rig(face, TSO);
        let at = with.post(0, 2000);
        for front in wrong {
            with.far[0].send(&on_the_wire(front, 100)).unwrap();
        }
        with.far[0].send(&on_the_wire(segment, 500)).unwrap();
        let (_, len) = with.rx[0].wait();
        let mut told = segment;
        told[10] = 1;
        assert_eq!(with.machine.bytes(at, len as usize), with.framed(told, 500), "{face:?}");

        let mut without = rig(face, 0);
        let at = without.post(0, 2000);
        without.far[0].send(&on_the_wire(segment, 500)).unwrap();
        without.far[0].send(&on_the_wire(PLAIN, 60)).unwrap();
        let (_, len) = without.rx[0].wait();
        let one = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(without.machine.bytes(at, len as usize), without.framed(one, 60), "{face:?}");
    }
}

// C-216
#[test]
fn a_mergeable_frame_fills_buffer_after_buffer_and_says_how_many() {
    for face in Face::ALL {
        let mut rig = rig(face, MRG);
        let first = rig.post(0, 100);
        for _ in 0..5 {
            rig.post(0, 100);
        }
        rig.far[0].send(&on_the_wire(PLAIN, 338)).unwrap();

        let lens: Vec<u32> = (0..4).map(|_| rig.rx[0].wait().1).collect();
        assert_eq!((lens, rig.rx[0].poll()), (vec![100, 100, 100, 50], None), "{face:?}");
        let four = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        assert_eq!(rig.machine.bytes(first, 350), rig.framed(four, 338), "{face:?}");
    }
}

// C-217
#[test]
fn a_sum_that_is_known_to_be_good_is_told_of_to_who_agreed_to_sums() {
    let good = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (face, features) in Face::ALL.into_iter().flat_map(|face| [(face, 0), (face, GUEST_CSUM)]) {
        let mut rig = rig(face, features);
        let at = rig.post(0, 1600);
        rig.far[0].send(&on_the_wire(good, 60)).unwrap();
        rig.rx[0].wait();

        assert_eq!(rig.machine.bytes(at, 1), [if features == 0 { 0 } else { 2 }], "{face:?}");
    }
}

// C-219
#[test]
fn at_every_start_the_carrier_does_what_was_agreed_then() {
    for face in Face::ALL {
        let rig = rig(face, TSO);
        rig.machine.set_status(0);
        assert!(rig.machine.negotiate(if face.is_legacy() { GUEST_CSUM } else { VERSION_1 | GUEST_CSUM }));
        rig.machine.go();

        let csum = Offloads { csum: true, ..Offloads::default() };
        let mut told = rig.told.lock().unwrap().clone();
        // A legacy queue that comes into use is a start of its own.
        told.dedup();
        assert_eq!(told, [Offloads { tso4: true, ..csum }, csum], "{face:?}");
    }
}

// C-231, R-50
#[test]
fn frames_too_short_to_be_any_are_dropped_and_their_heads_come_back() {
    for face in Face::ALL {
        let mut rig = rig(face, 0);
        for len in 1..rig.header + ETHERNET {
            rig.send(0, &vec![0; len]);
        }

        rig.send(0, &rig.framed(PLAIN, ETHERNET));

        assert_eq!(rig.sent(0), on_the_wire(PLAIN, ETHERNET), "{face:?}");
    }
}

// C-230, R-36
#[test]
fn receive_buffers_that_are_not_ram_come_back_once_each_and_cost_nothing() {
    for face in Face::ALL {
        let mut rig = rig(face, 0);
        for round in 0..2000u64 {
            let wild = [0, 0x200_0000, u64::MAX - 7, ambit_bus::bench::RAM_BASE + crate::driver::RAM - 4];
            let at = wild[(round % 4) as usize];
            assert_eq!(rig.machine.ask(&mut rig.rx[0], &[(at, 1600, WRITE)]), 0, "{face:?} {at:#x}");
        }
        rig.post(0, 1600);
        rig.far[0].send(&on_the_wire(PLAIN, 60)).unwrap();

        assert_eq!(rig.rx[0].wait().1, rig.header as u32 + 60, "{face:?}");
        assert_eq!(rig.rx[0].poll(), None);
    }
}

// F-17
#[test]
fn a_carrier_without_room_is_asked_again_a_few_times_and_then_frames_are_lost() {
    for face in Face::ALL {
        let mut rig = rig(face, 0);
        // Far more than a socket holds, and nobody reads.
        for _ in 0..400 {
            rig.send(0, &rig.framed(PLAIN, 100));
        }
        crate::driver::idles(&rig.id);
        rig.far[0].set_nonblocking(true).unwrap();
        while rig.far[0].recv(&mut [0; 200]).is_ok() {}
        rig.far[0].set_nonblocking(false).unwrap();

        rig.send(0, &rig.framed(PLAIN, 77));

        assert_eq!(rig.sent(0), on_the_wire(PLAIN, 77), "{face:?}");
    }
}

// F-18, R-48
#[test]
fn a_flood_without_buffers_costs_no_time_and_is_over_when_there_are_some() {
    for face in Face::ALL {
        let mut rig = rig(face, 0);
        rig.far[0].set_nonblocking(true).unwrap();
        let sent = (0..100_000).take_while(|_| rig.far[0].send(&on_the_wire(PLAIN, 60)).is_ok()).count();
        crate::driver::idles(&rig.id);

        let at = rig.machine.alloc(1600, 1);
        let header = rig.header as u32;
        for _ in 0..sent {
            assert_eq!(rig.machine.ask(&mut rig.rx[0], &[(at, 1600, WRITE)]), header + 60, "{face:?}");
        }
        rig.far[0].send(&on_the_wire(PLAIN, 61)).unwrap();
        assert_eq!(rig.machine.ask(&mut rig.rx[0], &[(at, 1600, WRITE)]), header + 61, "{face:?}");
    }
}

#[test]
fn a_limit_holds_back_what_is_above_it_in_either_direction() {
    use crate::limit::Rate;
    let one = Limits {
        operations: Some(Rate::per_second(std::num::NonZeroU64::new(1).unwrap())),
        ..Limits::default()
    };
    let options = Options { rx: one, tx: one, ..Options::new(Mac(OWN)) };
    let mut rig = rig_with(Face::Mmio, 0, 1, &options);
    let start = std::time::Instant::now();
    for _ in 0..2 {
        rig.post(0, 1600);
        rig.far[0].send(&on_the_wire(PLAIN, 60)).unwrap();
    }
    for _ in 0..2 {
        rig.send(0, &rig.framed(PLAIN, 60));
    }
    assert!(start.elapsed() > Duration::from_millis(900), "sent at once");

    let start = std::time::Instant::now();
    for _ in 0..2 {
        rig.post(0, 1600);
        rig.far[0].send(&on_the_wire(PLAIN, 60)).unwrap();
    }
    for _ in 0..4 {
        rig.rx[0].wait();
    }
    assert!(start.elapsed() > Duration::from_millis(900), "received at once");
}
